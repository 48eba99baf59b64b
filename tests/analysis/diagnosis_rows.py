"""The rows of a diagnosis of three steps whose statements can be read off."""

import numpy as np

from analysis import calibration

DIMENSIONS = ("0", "1", "reward")


def curve(quantity, values, first=1):
    return [(quantity, float(first + k), "all", value) for k, value in enumerate(values)]


def by_dimension(quantity, step, values):
    return [(quantity, step, name, value) for name, value in zip(DIMENSIONS, values)]


def terminations(kind, steps, hits, false_alarms, missed):
    numbers = {"true_positives": hits, "false_positives": false_alarms, "false_negatives": missed}
    if hits + false_alarms:
        numbers["precision"] = hits / (hits + false_alarms)
    if hits + missed:
        numbers["recall"] = hits / (hits + missed)
    return [(f"termination/{kind}_{name}", steps, "all", n) for name, n in numbers.items()]


def rows(
    error=(0.1, 0.5, 1.5),
    no_change=(0.4, 0.8, 1.2),
    factor=2.0,
    held=0.6,
    spearman=(0.7, 0.6),
    deciles=tuple(range(1, 11)),
    one_step=(9, 1, 1),
    mean=50.0,
    std=20.0,
    bias=5.0,
    rmse=(10.0, 8.0),
    environment=100.0,
    model=80.0,
    width=4.0,
    diverged=0,
):
    return [
        ("data/episodes", 0.0, "all", 10),
        ("data/transitions", 0.0, "all", 500),
        *curve("open_loop/segments", [500, 490, 480]),
        *curve("open_loop/error", error),
        *curve("open_loop/spread", [0.05, 0.1, 0.3]),
        *curve("open_loop/no_change", no_change),
        *by_dimension("open_loop/error", 1.0, [0.1, 0.2, 0.3]),
        *by_dimension("open_loop/error", 3.0, [error[-1], 0.8, 0.9]),
        *by_dimension("open_loop/spread", 3.0, [0.4, 0.5]),
        ("nll/elites", 1.0, "all", -1.0),
        ("nll/mixture", 1.0, "all", -1.5),
        ("nll/constant", 1.0, "all", 0.5),
        ("calibration/overconfidence", 1.0, "all", factor),
        *[("calibration/coverage", level, "all", held) for level in calibration.LEVELS],
        ("disagreement/one_step_spearman", 1.0, "all", spearman[0]),
        ("disagreement/open_loop_spearman", 3.0, "all", spearman[1]),
        *curve("disagreement/one_step_error", deciles),
        *curve("disagreement/open_loop_error", 2 * np.array(deciles)),
        *terminations("one_step", 1.0, *one_step),
        *terminations("open_loop", 3.0, *(3 * count for count in one_step)),
        ("value/positions", 0.0, "all", 400),
        ("value/return_mean", 0.0, "all", mean),
        ("value/return_std", 0.0, "all", std),
        *curve("value/bias", [bias, bias], first=0),
        *curve("value/rmse", rmse, first=0),
        ("return/rollouts", 100.0, "all", 50),
        ("return/diverged", 100.0, "all", diverged),
        ("return/environment", 100.0, "all", environment),
        ("return/model", 100.0, "all", model),
        ("return/gap", 100.0, "all", model - environment),
        ("return/gap_half_width", 100.0, "all", width),
        ("return/environment_half_width", 100.0, "all", width),
        ("return/model_half_width", 100.0, "all", width),
    ]


def value_rows():
    """Returns what there is of an algorithm without a model."""
    return [row for row in rows() if row[0].startswith(("data/", "value/")) and row[1] == 0.0]
