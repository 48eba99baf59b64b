import numpy as np
import pytest
import scipy.stats

from analysis import value_error


def test_soft_return_of_three_steps_by_hand():
    reward, bonus = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.0, 1.0])
    # Terminated: G2 = 5, G1 = 2 + 5/2 = 4.5, G0 = 1.5 + 4.5/2 = 3.75.
    returns = value_error.soft_returns(reward, bonus, 0.5, tail=0.0)
    np.testing.assert_allclose(returns, [3.75, 4.5, 5.0])
    # Cut by a time limit, the critic's 8 follows: it adds 8/8, 8/4 and 8/2.
    returns = value_error.soft_returns(reward, bonus, 0.5, tail=8.0)
    np.testing.assert_allclose(returns, [4.75, 6.5, 9.0])


def test_tail_weight_is_the_discount_until_the_cut():
    np.testing.assert_allclose(value_error.tail_weights(3, 0.5, False), [0.125, 0.25, 0.5])
    assert value_error.tail_weights(3, 0.5, True).tolist() == [0.0, 0.0, 0.0]


def test_model_values_put_the_critic_after_the_model_steps():
    # Rollout 0: rewards 1, 2 and bonuses 1, 0, values 10, 20, 40. Rollout 1 ends with step 1.
    reward = np.array([[[1.0], [3.0]], [[2.0], [99.0]]])
    bonus = np.array([[[1.0], [0.0]], [[0.0], [99.0]]])
    alive = np.array([[[True], [True]], [[True], [False]], [[True], [False]]])
    value = np.array([[[10.0], [30.0]], [[20.0], [99.0]], [[40.0], [99.0]]])
    both = np.zeros((2, 1), bool)
    estimates = value_error.model_values(reward, bonus, alive, value, both, discount=0.5)
    # Rollout 0: 10; 2 + 20/2 = 12; 2 + 2/2 + 40/4 = 13. Rollout 1: 30; 3; 3.
    np.testing.assert_allclose(estimates[:, 0], [20.0, 7.5, 8.0])
    reward[:, 1] = np.nan
    second = np.array([[False], [True]])
    without = value_error.model_values(reward, bonus, alive, value, second, discount=0.5)
    np.testing.assert_allclose(without[:, 0], [10.0, 12.0, 13.0])
    none = value_error.model_values(reward, bonus, alive, value, ~both, discount=0.5)
    assert np.isnan(none).all()


def test_value_errors_by_hand():
    returns = np.array([1.0, 2.0, 3.0])
    estimates = np.array([[2.0, 3.0, 4.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 2.0, 5.0]])
    errors = value_error.value_errors(estimates, returns)
    np.testing.assert_allclose(errors.bias, [1.0, 0.0, -2.0, 1.0])
    np.testing.assert_allclose(errors.rmse, [1.0, (8 / 3) ** 0.5, (14 / 3) ** 0.5, 2**0.5])
    np.testing.assert_allclose(errors.correlation, [1.0, -1.0, np.nan, 1.0])


def test_value_errors_without_estimates_are_undefined():
    errors = value_error.value_errors(np.full((2, 3), np.nan), np.zeros(3))
    assert np.isnan(errors).all()


def test_return_gap_follows_each_kind_of_episode():
    # Episodes: reward 1 for 2 steps, then terminated; reward 2 for 2 steps, then cut; reward 0 for
    # 3 steps. Rollouts: reward 3 a step, of which the second from the first start ends after one.
    real = [(np.ones(2), True), (2 * np.ones(2), False), (np.zeros(3), False)]
    reward = np.full((3, 2, 3), 3.0)
    alive = np.ones((3, 2, 3), bool)
    alive[1:, 1, 0] = False
    reward[1:, 1, 0] = np.nan
    gap = value_error.return_gap(real, reward, alive, np.zeros((2, 3), bool))
    # Environment: (1, 2, 2), (2, 4, -), (0, 0, 0); model: (3, 4.5, 6), (3, 6, -), (3, 6, 9).
    np.testing.assert_allclose(gap.environment, [1.0, 2.0, 1.0])
    np.testing.assert_allclose(gap.model, [3.0, 5.5, 7.5])
    np.testing.assert_allclose(gap.gap, [2.0, 3.5, 6.5])
    low, high = scipy.stats.t.interval(0.95, 2, 3.5, scipy.stats.sem([2.5, 2.0, 6.0]))
    assert gap.gap_half_width[1] == pytest.approx((high - low) / 2)
    assert np.isnan(gap.gap_half_width[2])  # two episodes are too few


def test_diverged_rollouts_count_on_neither_side():
    real = [(np.ones(1), True), (np.full(1, 5.0), True)]
    reward = np.array([[[4.0, np.inf], [2.0, 7.0]]])
    diverged = np.array([[False, True], [False, True]])
    gap = value_error.return_gap(real, reward, np.ones((1, 2, 2), bool), diverged)
    assert (gap.environment.item(), gap.model.item(), gap.gap.item()) == (1.0, 3.0, 2.0)
    gap = value_error.return_gap(real, reward, np.ones((1, 2, 2), bool), np.ones((2, 2), bool))
    assert np.isnan(gap.gap).all()
