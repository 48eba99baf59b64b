import copy
import json

import pytest

from configs import default
from errors import UserError
from experiment import restore, run_folder
from experiment.former_fields import FORMER, with_present_names
from experiment.run_folder import flatten, read_config
from tests.integration import tiny

TABLE = {
    "planner.precision": "precision",
    "speed": "model.rate",
    "model.old": "new.name",
    "x": None,
}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"planner": {"precision": "bfloat16"}}, {"planner": {}, "precision": "bfloat16"}),
        ({"planner": {"precision": None, "name": "cem"}}, {"planner": {"name": "cem"}}),
        (
            {"planner": {"precision": "float32"}, "precision": "bfloat16"},
            {"planner": {}, "precision": "bfloat16"},
        ),
        ({"speed": 3, "model": {"width": 2}}, {"model": {"width": 2, "rate": 3}}),
        ({"model": {"old": 0}}, {"model": {}, "new": {"name": 0}}),
        ({"x": 1, "y": 2}, {"y": 2}),
        ({"planner": 3, "model": {"rate": 1}}, {"planner": 3, "model": {"rate": 1}}),
        ({}, {}),
    ],
)
def test_former_fields_give_their_values_to_present_ones(stored, expected):
    before = copy.deepcopy(stored)
    assert with_present_names(stored, TABLE) == expected
    assert stored == before


def test_the_table_leads_from_names_that_are_gone_to_names_that_exist():
    known = flatten(default.get_config().to_dict()).keys()
    assert not known & FORMER.keys()
    assert set(FORMER.values()) - {None} <= known


@pytest.fixture
def old_run(tmp_path):
    """A run of a planner, as it was stored before one field said the precision of everything."""
    config = tiny.config("mpc").to_dict()
    del config["precision"], config["dhmbpo"], config["model"]["variance"]
    config["planner"]["precision"] = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "environment": {}}))
    return tmp_path


def test_an_old_run_is_read_with_present_names(old_run):
    config = read_config(old_run)["config"]
    assert config["precision"] == "bfloat16"
    assert "precision" not in config["planner"]


def test_an_old_run_is_configured_as_it_was(old_run):
    assert restore.stored_config(old_run) == tiny.config("mpc", precision="bfloat16")


def test_an_old_run_is_not_resumed_with_fields_that_it_had_not(old_run):
    with pytest.raises(UserError, match=r"model\.variance: in .* \(absent\), given \"head\"") as e:
        run_folder.open_run(old_run, tiny.config("mpc", precision="bfloat16").to_dict(), {})
    run_folder.close_run(old_run)
    assert "planner.precision" not in str(e.value)
