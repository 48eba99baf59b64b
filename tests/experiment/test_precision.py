import json

import pytest
from ml_collections import ConfigDict

from experiment import precision
from models.mlp import PRODUCTS


@pytest.fixture
def timed(monkeypatch):
    """Seconds that each precision seems to take."""
    seconds = {"float32": 2e-3, "bfloat16": 1e-3}
    names = {product: name for name, product in PRODUCTS.items()}
    monkeypatch.setattr(precision, "measure", lambda product: seconds[names[product]])
    return seconds


def test_the_faster_precision_is_taken_and_its_times_are_told(timed, tmp_path):
    config, note = precision.settle(ConfigDict({"precision": "auto", "seed": 3}), tmp_path)
    assert (config.precision, config.seed) == ("bfloat16", 3)
    assert note.startswith("auto: bfloat16")
    assert "float32 2.00 ms, bfloat16 1.00 ms" in note
    timed["bfloat16"] = 3e-3
    assert precision.settle(ConfigDict({"precision": "auto"}), tmp_path)[0].precision == "float32"


def test_a_precision_that_was_given_is_not_measured(timed, tmp_path):
    timed.clear()
    config = ConfigDict({"precision": "bfloat16"})
    assert precision.settle(config, tmp_path) == (config, "")


def test_a_resumed_run_keeps_the_precision_it_was_begun_with(timed, tmp_path):
    for stored in ({"precision": "float32"}, {}):  # the second is older than the field
        content = {"config": stored, "environment": {}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        config, note = precision.settle(ConfigDict({"precision": "auto"}), tmp_path)
        assert config.precision == "float32"
        assert note == "auto: float32, with which this run was begun"


def test_products_and_their_gradients_are_timed(monkeypatch):
    monkeypatch.setattr(precision, "WIDTH", 4)
    called = []

    def product(x, kernel, bias):
        called.append(x.shape)
        return PRODUCTS["float32"](x, kernel, bias)

    assert precision.measure(product) > 0
    assert called[0] == (precision.ROWS, 4)
