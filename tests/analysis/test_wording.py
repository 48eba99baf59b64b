import numpy as np
import pytest

from analysis import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (-100.4, "-100"),
        (56.78, "56.8"),
        (1.2345, "1.23"),
        (7.0, "7"),
        (-2.5e30, "-2.5e+30"),
        (float("inf"), "–"),
        (float("nan"), "–"),
    ],
)
def test_numbers_are_as_long_as_they_need_to_be(value, text):
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 seeds"),
        (1, "1 seed"),
        (np.float64(1), "1 seed"),
        (np.float64(5), "5 seeds"),
        (20_000, "20,000 seeds"),
    ],
)
def test_counts_agree_with_their_noun(count, text):
    assert wording.counted(count, "seed") == text


@pytest.mark.parametrize(
    ("names", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_end_with_and(names, text):
    assert wording.joined(names) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "0:01:00"), (96_000.0, "26:40:00"), (float("nan"), "–")]
)
def test_times_have_hours_minutes_and_seconds(seconds, text):
    assert wording.time_taken(seconds) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"cpu": "A", "cores": 2, "devices": ["cpu: cpu"]}, "A, 2 cores, cpu: cpu"),
        ({"cpu": "A", "cores": 64, "devices": ["gpu: B"] * 8}, "A, 64 cores, gpu: B"),
        ({}, "unknown processor, ? cores"),
    ],
)
def test_hardware_is_as_much_as_is_known(found, text):
    assert wording.hardware(found) == text
