import re

import gymnasium
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from configs import environments
from envs import distractors, make, register, registry, spec, terminations
from errors import UserError
from experiment import configuration
from tests.integration import tiny

KINDS = ("noise", "linear", "sinusoidal", "chaotic")
SMOOTH = ("linear", "sinusoidal")


def states(process, steps, seed=0):
    """The states [steps + 1, n] of one episode."""
    generator = np.random.default_rng(seed)
    found = [process.initial(generator)]
    for _ in range(steps):
        found.append(process.advance(found[-1], generator))
    return np.array(found)


def trajectory(kind, size, steps, seed=0):
    """What is observed of one episode, [steps + 1, n]."""
    process = distractors.KINDS[kind](size)
    return process.observe(states(process, steps, seed))


def bent(u):
    """The sine's part of the sinusoidal process, not yet scaled."""
    return u + distractors.SINE_AMPLITUDE * np.sin(distractors.SINE_FREQUENCY * u)


def bent_scale():
    variance = integrate.quad(lambda u: bent(u) ** 2 * stats.norm.pdf(u), -12, 12)[0]
    return np.sqrt(variance)


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_specs", {})


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as raised:
        call(*arguments, **options)
    return str(raised.value)


def test_the_kinds_are_those_that_are_tested():
    assert tuple(distractors.KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_over_episodes_every_dimension_has_mean_0_and_variance_1_at_every_step(kind):
    episodes = np.array([trajectory(kind, 5, 20, seed) for seed in range(2000)])
    # Standard errors: 0.022 of the mean; at most 0.032 of the variance (normal numbers).
    np.testing.assert_allclose(episodes.mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(episodes.var(axis=0), 1.0, atol=0.15)
    np.testing.assert_allclose(episodes.mean(axis=(0, 1)), 0.0, atol=0.08)
    np.testing.assert_allclose(np.mean(episodes**2), 1.0, atol=0.03)
    across = np.corrcoef(episodes[:, 20].T) - np.eye(5)
    np.testing.assert_allclose(across, 0.0, atol=0.1)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 11])
def test_the_matrix_is_orthogonal_and_leaves_no_direction_as_it_is(size):
    matrix = distractors.rotation(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-14)
    assert np.abs(np.linalg.eigvals(matrix) - 1).min() > 0.1
    assert (np.abs(np.linalg.eigvals(matrix) + 1) < 1e-12).sum() == size % 2


def test_the_linear_process_applies_its_matrix_and_keeps_its_norm():
    z = trajectory("linear", 7, 1000)
    np.testing.assert_allclose(z[1:], z[:-1] @ distractors.rotation(7).T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.linalg.norm(z[0]), rtol=1e-12)


def test_one_linear_dimension_changes_its_sign():
    np.testing.assert_array_equal(distractors.rotation(1), [[-1.0]])


def test_what_is_seen_of_the_sinusoidal_process_determines_what_comes_next():
    z = trajectory("sinusoidal", 6, 40, seed=3)
    scale = bent_scale()

    def unbent(value):
        return optimize.brentq(lambda u: bent(u) / scale - value, -20, 20, xtol=1e-14)

    u = np.array([[unbent(value) for value in row] for row in z[:-1]])
    np.testing.assert_allclose(z[1:], bent(u @ distractors.rotation(6).T) / scale, atol=1e-9)
    # It is bounded by its start.
    bound = (np.linalg.norm(u[0]) + distractors.SINE_AMPLITUDE) / scale
    assert np.abs(trajectory("sinusoidal", 6, 1000, seed=3)).max() < bound


def test_a_linear_prediction_of_the_sinusoidal_process_leaves_a_tenth():
    episodes = np.array([trajectory("sinusoidal", 10, 50, seed) for seed in range(200)])
    now, after = (part.reshape(-1, 10) for part in (episodes[:, :-1], episodes[:, 1:]))
    left = after - now @ np.linalg.lstsq(now, after)[0]
    assert left.var() / after.var() == pytest.approx(0.09, abs=0.015)


def test_the_chaotic_process_is_the_logistic_map():
    z = trajectory("chaotic", 4, 12)
    x = (z[0] / np.sqrt(2) + 1) / 2
    for after in z[1:]:
        x = 4 * x * (1 - x)  # with the sign of y = 2 x - 1 turned around
        np.testing.assert_allclose(after, -np.sqrt(2) * (2 * x - 1), atol=1e-10)
        x = 1 - x
