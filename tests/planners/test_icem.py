"""iCEM against the algorithm of its paper, from the candidates it drew."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from planners import icem, search_space
from planners.icem import population
from tests.planners.toy import SPACE, TARGET, Recorder, quadratic, returns_of, run

OPTIONS = {
    "num_candidates": 60,
    "num_elites": 10,
    "num_iterations": 4,
    "decay": 1.5,
    "smoothing": 0.75,
}
KEPT = 3  # 0.3 of the elites


def best_of(candidates, num):
    return candidates[np.argsort(-returns_of(candidates))[:num]]


def test_the_population_decays_down_to_two_elite_sets():
    # 200 / 1.3^i = 200, 153.8, 118.3, 91.03, 70.03; rounded up to sevens they are the published
    # 203, 154, 119, 98, 77
    assert [population(200, 20, 1.3, i) for i in range(5)] == [200, 154, 119, 92, 71]
    assert [population(60, 10, 1.5, i) for i in range(4)] == [60, 40, 27, 20]  # not 17.8


class Episode(NamedTuple):
    """Two plans of an episode: what was drawn in each iteration, and the results."""

    first: list
    second: list
    outputs: list


@pytest.fixture(scope="module")
def episode():
    recorder = Recorder()
    planner = icem(recorder, SPACE, **OPTIONS)
    one = run(planner)
    two = run(planner, key=1, state=one.state)
    return Episode(recorder.candidates[:4], recorder.candidates[4:], [one, two])


def test_kept_elites_come_on_top_and_the_mean_in_the_last_iteration(episode):
    for drawn in (episode.first, episode.second):
        assert [len(candidates) for candidates in drawn] == [63, 43, 30, 24]
        for before, after in itertools.pairwise(drawn):
            np.testing.assert_array_equal(after[:KEPT], best_of(before, KEPT))


def test_mean_and_variance_follow_the_elites_and_the_mean_is_tried(episode):
    start = np.zeros((3, 2))
    for drawn, output in zip((episode.first, episode.second), episode.outputs):
        mean, variance = start, np.full((3, 2), 0.25)
        for iteration, candidates in enumerate(drawn):
            if iteration == 3:
                np.testing.assert_allclose(candidates[-1], mean, atol=1e-5)
            elites = best_of(candidates, 10)
            mean = 0.75 * elites.mean(0) + 0.25 * mean
            variance = 0.75 * elites.var(0) + 0.25 * variance
        np.testing.assert_allclose(output.state.mean, mean, atol=1e-5)
        assert output.metrics["planner/std"] == pytest.approx(np.sqrt(variance).mean(), rel=1e-3)
        start = np.concatenate([mean[1:], np.zeros((1, 2))])


def test_the_best_of_the_last_iteration_is_executed(episode):
    for drawn, output in zip((episode.first, episode.second), episode.outputs):
        best = best_of(drawn[-1], 1)
        np.testing.assert_array_equal(output.plan, best[0])
        np.testing.assert_array_equal(output.action, best[0, 0])
        assert output.value == pytest.approx(returns_of(best)[0], rel=1e-4)


def test_the_next_plan_starts_from_shifted_elites(episode):
    again = episode.second[0][:KEPT]
    np.testing.assert_array_equal(again[:, :-1], best_of(episode.first[-1], KEPT)[:, 1:])
    assert np.abs(again[:, -1]).min() > 0  # drawn, not copied


def test_an_episode_starts_without_elites(episode):
    assert len(np.unique(episode.first[0], axis=0)) == 63  # no copies of anything
    fresh = icem(quadratic, SPACE, **OPTIONS).init()
    assert (fresh.kept.returns == -jnp.inf).all()
    assert np.isfinite(episode.outputs[0].state.kept.returns).all()


def test_noise_along_time_is_coloured():
    recorder = Recorder(lambda params, key, observation, actions, *_: actions.sum((1, 2)))
    wide = search_space(horizon=10, action_size=1)
    options = {"num_candidates": 20_000, "num_elites": 4, "num_iterations": 1}
    correlations = []
    for beta in (0.0, 2.0):
        recorder.candidates.clear()
        run(icem(recorder, wide, **options, noise_beta=beta))
        draws = recorder.candidates[0][2:-1, :, 0]  # after kept elites and before the mean
        correlations.append(np.corrcoef(draws[:, 3], draws[:, 4])[0, 1])
    assert abs(correlations[0]) < 4 / np.sqrt(20_000)
    # test_noise.py has the closed form, 0.659; the bounds, two standard deviations away, cost a bit
    assert 0.62 < correlations[1] < 0.66


def test_its_mean_converges_on_a_quadratic():
    options = {"num_candidates": 100, "num_elites": 20, "num_iterations": 8, "decay": 1.0}
    output = run(icem(quadratic, SPACE, **options, execute_best=False))
    np.testing.assert_allclose(output.plan, TARGET, atol=0.05)
    np.testing.assert_array_equal(output.plan, output.state.mean)


def test_a_fraction_of_zero_keeps_nothing():
    recorder = Recorder()
    run(icem(recorder, SPACE, **OPTIONS | {"kept_fraction": 0.0, "num_iterations": 2}))
    assert [len(c) for c in recorder.candidates] == [60, 41]
    best = best_of(recorder.candidates[0], 1)
    assert not np.isclose(recorder.candidates[1], best, atol=1e-6).all((1, 2)).any()
