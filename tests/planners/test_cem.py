"""CEM against its formulas, recomputed in NumPy from the candidates it drew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from planners import cem, search_space
from planners import gaussian as gaussians
from planners.gaussian import Elites, Gaussian
from tests.planners.toy import CS285, PETS, SPACE, TARGET, Recorder, quadratic, returns_of, run

UNIFORM_STD = np.sqrt(1 / 3)  # of U(-1, 1)


def elites_of(candidates, num):
    return candidates[np.argsort(-returns_of(candidates))[:num]]


def small(options, **changes):
    return {**options, "num_candidates": 200, "num_elites": 10, **changes}


def test_one_iteration_returns_the_elite_mean_of_uniform_samples():
    recorder = Recorder()
    output = run(cem(recorder, SPACE, **CS285 | {"num_iterations": 1}))
    (candidates,) = recorder.candidates
    assert candidates.shape == (1000, 3, 2)
    assert np.abs(candidates.std(0) / UNIFORM_STD - 1).max() < 0.1
    elites = elites_of(candidates, 5)
    np.testing.assert_allclose(output.plan, elites.mean(0), atol=1e-6)
    np.testing.assert_array_equal(output.action, output.plan[0])
    assert output.value == pytest.approx(returns_of(elites).mean(), rel=1e-5)
    best = returns_of(candidates).max()
    assert output.metrics["planner/best_return"] == pytest.approx(best, rel=1e-5)
    assert output.metrics["planner/valid_fraction"] == 1.0
    assert output.metrics["planner/std"] == pytest.approx(elites.std(0).mean(), rel=1e-4)


def test_smoothing_mixes_with_the_previous_moments_except_at_first():
    recorder = Recorder()
    output = run(cem(recorder, SPACE, **small(CS285, smoothing=0.5, num_iterations=3)))
    first, second, third = (elites_of(candidates, 10) for candidates in recorder.candidates)
    mean = 0.5 * third.mean(0) + 0.25 * second.mean(0) + 0.25 * first.mean(0)
    variance = 0.5 * third.var(0) + 0.25 * second.var(0) + 0.25 * first.var(0)
    np.testing.assert_allclose(output.plan, mean, atol=1e-5)
    assert output.metrics["planner/std"] == pytest.approx(np.sqrt(variance).mean(), rel=1e-3)


def test_later_iterations_draw_from_the_elites_moments():
    recorder = Recorder()
    run(cem(recorder, SPACE, **small(CS285, num_candidates=5000, num_iterations=2)))
    first, second = recorder.candidates
    elites = elites_of(first, 10)
    inside = np.abs(elites.mean(0)) + 4 * elites.std(0) < 1  # where nothing is clipped
    assert inside.any()
    error = (second.mean(0) - elites.mean(0)) / (elites.std(0) / np.sqrt(5000))
    assert np.abs(error[inside]).max() < 4
    ratio = second.std(0) / elites.std(0)
    assert np.abs(ratio[inside] - 1).max() < 4 / np.sqrt(2 * 5000)


@pytest.mark.parametrize("preset", [CS285, PETS])
def test_it_converges_on_a_quadratic(preset):
    output = run(cem(quadratic, SPACE, **small(preset, num_iterations=12)))
    np.testing.assert_allclose(output.plan, TARGET, atol=0.01)
    assert output.value == pytest.approx(0.0, abs=1e-3)


def test_a_warm_start_draws_around_the_previous_plan_one_step_later():
    recorder = Recorder()
    planner = cem(recorder, SPACE, **small(PETS, num_candidates=20_000, num_iterations=1))
    state = jnp.array([[0.9, 0.9], [0.1, -0.2], [0.5, -0.8]])
    run(planner, state=state)
    run(planner)
    warm, cold = recorder.candidates
    shifted = np.array([[0.1, -0.2], [0.5, -0.8], [0.0, 0.0]])
    # a quarter of the bounds' distance, or half the distance to the nearer bound; truncation
    # at two standard deviations leaves 0.8796 of each
    std = 0.8796 * np.array([[0.45, 0.4], [0.25, 0.1], [0.5, 0.5]])
    for candidates, mean, spread in [(warm, shifted, std), (cold, 0 * std, 0.8796 * 0.5)]:
        assert np.abs((candidates.mean(0) - mean) / (spread / np.sqrt(20_000))).max() < 4.5
        np.testing.assert_allclose(candidates.std(0), np.broadcast_to(spread, (3, 2)), rtol=0.02)


def test_pets_mixes_with_the_gaussian_it_started_from():
    recorder = Recorder()
    output = run(cem(recorder, SPACE, **small(PETS, num_iterations=1)))
    elites = elites_of(recorder.candidates[0], 10)
    np.testing.assert_allclose(output.plan, 0.9 * elites.mean(0), atol=1e-6)  # and 0.1 * 0
    std = np.sqrt(0.9 * elites.var(0) + 0.1 * 0.25).mean()
    assert output.metrics["planner/std"] == pytest.approx(std, rel=1e-4)
    np.testing.assert_array_equal(output.state, output.plan)


def test_without_a_warm_start_the_previous_plan_does_not_matter():
    planner = cem(quadratic, SPACE, **small(CS285))
    cold, warm = run(planner), run(planner, state=jnp.full((3, 2), 0.7))
    np.testing.assert_array_equal(cold.plan, warm.plan)


def test_the_best_candidate_of_all_iterations_can_be_executed():
    recorder = Recorder()
    output = run(cem(recorder, SPACE, **small(CS285, execute_best=True, num_elites=100)))
    candidates = np.concatenate(recorder.candidates)
    best = candidates[returns_of(candidates).argmax()]
    np.testing.assert_array_equal(output.plan, best)
    assert output.value == pytest.approx(returns_of(best[None])[0], rel=1e-5)


def test_truncated_samples_use_the_published_limited_variance():
    space = search_space(horizon=1, action_size=2)
    gaussian = Gaussian(jnp.array([[0.0, 0.8]]), jnp.full((1, 2), 0.25))
    samples = gaussians.sample_truncated(jax.random.key(0), gaussian, space, 50_000)
    # mean 0: 0.25 stays; mean 0.8: (0.2 / 2)^2 = 0.01
    np.testing.assert_allclose(samples.std(0), 0.8796 * np.array([[0.5, 0.1]]), rtol=0.01)
    np.testing.assert_allclose(samples.max(0), [[1.0, 1.0]], atol=1e-3)
    np.testing.assert_allclose(samples.min(0), [[-1.0, 0.6]], atol=1e-3)


def test_elites_that_are_not_valid_do_not_count():
    old = Gaussian(jnp.full((1, 1), -5.0), jnp.full((1, 1), 7.0))
    actions = jnp.array([1.0, 3.0, 100.0])[:, None, None]
    mixed = Elites(actions, jnp.array([2.0, 1.0, -jnp.inf]))
    new = gaussians.refit(old, mixed, 1.0)
    np.testing.assert_allclose([new.mean[0, 0], new.variance[0, 0]], [2.0, 1.0])
    assert gaussians.mean_return(mixed) == 1.5
    none = Elites(actions, jnp.full(3, -jnp.inf))
    jax.tree.map(np.testing.assert_array_equal, gaussians.refit(old, none, 1.0), old)
    assert gaussians.mean_return(none) == -jnp.inf


def test_mistakes_are_named():
    with pytest.raises(UserError, match="'uniform': use one of clipped, truncated"):
        cem(quadratic, SPACE, **small(CS285, sampler="uniform"))
    with pytest.raises(UserError, match="num_elites 201: use 1 to 200"):
        cem(quadratic, SPACE, **small(CS285, num_elites=201))
