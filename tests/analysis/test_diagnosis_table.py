import io

import numpy as np
import pytest

from analysis import diagnosis_table as table
from models.diagnostics import OneStep
from replay import Transition


def example():
    return table.tidy(
        "mbpo on Toy-v0",
        {
            4: [("a/x", 1.0, "all", 0.1), ("a/x", 2.0, "all", 1 / 3), ("a/x", 1.0, "10", 5.0)],
            7: [("a/x", 1.0, "all", np.nan), ("a/x", 2.0, "all", 2.0), ("a/x", 1.0, "2", 6.0)],
        },
    )


def test_undefined_numbers_have_no_row():
    frame = example()
    assert frame.columns.tolist() == ["run", "seed", "quantity", "at", "dimension", "value"]
    assert len(frame) == 5
    assert set(frame.run) == {"mbpo on Toy-v0"}


def test_a_csv_file_gives_the_same_table_back():
    frame = example()
    again = table.read(io.StringIO(frame.to_csv(index=False)))
    assert again.equals(frame)
    assert again.dtypes.equals(frame.dtypes)


def test_quantities_are_found_by_place_and_seed():
    frame = example()
    found = table.select(frame, "a/x")
    assert found.index.tolist() == [1.0, 2.0]
    assert found.columns.tolist() == [4, 7]
    assert np.isnan(found.loc[1.0, 7])
    assert table.at(frame, "a/x", 1.0).to_dict() == {4: 0.1}
    assert table.only(frame, "a/x").to_dict() == {4: 1 / 3, 7: 2.0}
    assert table.at(frame, "a/x", 9.0).empty
    assert table.only(frame, "b").empty


def test_dimensions_are_in_numerical_order_with_the_reward_last():
    rows = [("a", 0.0, name, 1.0) for name in ("reward", "10", "all", "9")]
    assert table.dimensions(table.tidy("", {0: rows}), "a") == ["9", "10", "reward"]


def test_half_widths_of_independent_seeds_add_in_squares():
    rows = {0: [("w", 1.0, "all", 3.0)], 1: [("w", 1.0, "all", 4.0)]}
    pooled = table.pooled_half_width(table.select(table.tidy("", rows), "w"))
    assert pooled.to_dict() == {1.0: 2.5}  # sqrt(9 + 16) / 2


def test_targets_that_never_change_are_left_out_of_the_likelihood():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(20, 3)).astype(np.float32)
    target[:, 2] = 1.0  # the reward
    mean = np.tile(target, (2, 1, 1))
    mean[..., 2] = 100.0  # would ruin everything
    observation = np.zeros((20, 2), np.float32)
    predictions = OneStep(mean, np.zeros_like(mean), target, mean[..., :2], np.zeros((2, 20), bool))
    zeros = np.zeros(20)
    real = Transition(observation, zeros[:, None], zeros + 1, target[:, :2], zeros, zeros)
    frame = table.tidy("", {0: table.one_step_rows(predictions, real, np.ones(2))})
    assert table.dimensions(frame, "data/constant_target") == ["reward"]
    assert table.dimensions(frame, "nll/elites") == ["0", "1"]
    # The others are predicted exactly, with standard deviation 1.
    expected = 0.5 * np.log(2 * np.pi)
    assert table.only(frame, "nll/elites")[0] == pytest.approx(expected)
    assert table.only(frame, "nll/mixture")[0] == pytest.approx(expected)
    assert table.only(frame, "calibration/overconfidence")[0] == 0.0


def test_padding_has_no_influence_on_single_steps():
    rng = np.random.default_rng(1)
    mean, log_variance = rng.normal(size=(2, 2, 30, 3))
    target, terminated = rng.normal(size=(30, 3)), rng.random((2, 30)) < 0.3
    full = OneStep(mean, log_variance, target, mean[..., :2], terminated)
    cut = OneStep(
        mean[:, :20], log_variance[:, :20], target[:20], mean[:, :20, :2], terminated[:, :20]
    )
    zeros = np.zeros(20)
    real = Transition(target[:20, :2], zeros[:, None], zeros, target[:20, :2] + 1, zeros, zeros)
    padded = table.one_step_rows(full, real, np.ones(2))
    assert table.tidy("", {0: padded}).equals(
        table.tidy("", {0: table.one_step_rows(cut, real, np.ones(2))})
    )
