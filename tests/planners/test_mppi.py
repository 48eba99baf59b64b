"""MPPI against hand-computed weights and smoothing, and from the candidates it drew."""

import jax.numpy as jnp
import numpy as np
import pytest

from planners import mppi, search_space
from planners.mppi import smooth, weights
from tests.planners.toy import SPACE, TARGET, Recorder, quadratic, returns_of, run


def test_weights_of_three_candidates():
    # exp(0), exp(-1), exp(-2) over their sum 1.5032147
    expected = [0.66524096, 0.24472847, 0.09003057]
    np.testing.assert_allclose(weights(jnp.array([7.0, 6.0, 5.0]), 1.0), expected, rtol=1e-5)
    np.testing.assert_allclose(weights(jnp.array([70.0, 60.0, 50.0]), 0.1), expected, rtol=1e-5)


def test_invalid_candidates_have_no_weight():
    result = weights(jnp.array([-jnp.inf, 2.0, 2.0]), 1.0)
    np.testing.assert_array_equal(result, [0.0, 0.5, 0.5])
    np.testing.assert_array_equal(weights(jnp.full(3, -jnp.inf), 1.0), jnp.zeros(3))


def test_smoothing_starts_from_the_action_executed_last():
    # 0.25 * 0 + 0.75 * 1 = 0.75; 0.25 * 1 + 0.75 * 0.75; 0.25 * -1 + 0.75 * 0.8125
    actions = jnp.array([0.0, 1.0, -1.0])[None, :, None]
    result = smooth(actions, jnp.ones((1, 1)), 0.25)
    np.testing.assert_allclose(result[0, :, 0], [0.75, 0.8125, 0.359375])


def test_the_plan_is_the_weighted_mean_of_the_candidates():
    recorder = Recorder()
    output = run(mppi(recorder, SPACE, num_candidates=50, num_iterations=2, gamma=3.0))
    candidates = recorder.candidates[1]
    returns = returns_of(candidates)
    weight = np.exp(3.0 * returns) / np.exp(3.0 * returns).sum()
    np.testing.assert_allclose(output.plan, np.tensordot(weight, candidates, 1), atol=1e-5)
    assert output.value == pytest.approx((weight * returns).sum(), rel=1e-4)
    np.testing.assert_array_equal(output.state, output.plan)
    np.testing.assert_array_equal(output.action, output.plan[0])


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_sigma_and_smoothing_make_the_spread(sigma):
    recorder = Recorder()
    space = search_space(horizon=4, action_size=2, low=[-1, -2], high=[1, 4])
    flat = lambda params, key, observation, actions, *_: jnp.zeros(len(actions))  # noqa: E731
    recorder.evaluate = flat
    run(mppi(recorder, space, num_candidates=20_000, num_iterations=1, sigma=sigma, beta=0.6))
    noise_std = sigma * np.array([1.0, 3.0])
    # x_t = sum of 0.6 * 0.4^k n_{t-k}
    factor = [0.6 * np.sqrt(sum(0.4 ** (2 * k) for k in range(t + 1))) for t in range(4)]
    std = recorder.candidates[0].std(0)
    np.testing.assert_allclose(std, np.outer(factor, noise_std), rtol=0.03)


def test_candidates_follow_the_previous_plan_shifted_and_smoothed():
    recorder = Recorder()
    planner = mppi(recorder, SPACE, num_candidates=10, num_iterations=1, sigma=1e-6, beta=0.5)
    run(planner, state=jnp.array([[0.8, -0.8], [0.4, 0.0], [0.2, 0.2]]))
    # shifted: 0.4, 0.2, 0 after the executed 0.8; halves of sums
    expected = [[0.6, -0.4], [0.4, -0.1], [0.2, -0.05]]
    np.testing.assert_allclose(
        recorder.candidates[0], np.broadcast_to(expected, (10, 3, 2)), atol=1e-5
    )


def test_it_converges_on_a_quadratic():
    options = {"num_candidates": 500, "num_iterations": 30, "gamma": 100.0, "sigma": 0.2}
    output = run(mppi(quadratic, SPACE, **options, beta=1.0))
    np.testing.assert_allclose(output.plan, TARGET, atol=0.05)


def test_without_a_valid_candidate_the_plan_stays():
    planner = mppi(Recorder(lambda *args: jnp.full(10, -jnp.inf)), SPACE, num_candidates=10)
    state = jnp.array([[0.8, -0.8], [0.4, 0.0], [0.2, 0.2]])
    output = run(planner, state=state)
    np.testing.assert_allclose(output.plan, [[0.4, 0.0], [0.2, 0.2], [0.0, 0.0]])
    assert output.value == -jnp.inf
