"""The two-state MDP and models of it against hand-made numbers and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omd import implicit, tabular

GAMMA, ALPHA = 0.9, 0.01


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def mdp():
    return tabular.two_state_mdp()


def iterate(believed, steps=400):
    """Applies the Bellman operator in plain NumPy, from 0."""
    p, r = np.asarray(believed.transition), np.asarray(believed.reward)
    q = np.zeros_like(r)
    for _ in range(steps):
        largest = q.max(axis=1)
        value = largest + ALPHA * np.log(np.exp((q - largest[:, None]) / ALPHA).sum(axis=1))
        q = r + GAMMA * np.einsum("ast,t->sa", p, value)
    return q


def optimal(believed):
    apply = partial(tabular.bellman, believed)
    return implicit.fixed_point(apply, jnp.zeros((2, 2)), tolerance=1e-14).value


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_the_optimal_q_of_the_mdp(mdp):
    q = optimal(mdp)
    close(q, [[0.16363807, 0.06282009], [1.89091046, 0.66282009]], 1e-8)
    close(q, iterate(mdp), 1e-8)
    assert jnp.abs(tabular.bellman(mdp, q) - q).max() < 1e-9
    assert tabular.expected_return(mdp, q) == pytest.approx(1.0272550903, abs=1e-9)
    assert mdp.start @ tabular.soft_value(q, ALPHA) == pytest.approx(1.0272744745, abs=1e-8)


def test_the_return_of_a_policy_is_a_sum_over_time(mdp):
    q = jnp.array([[0.003, 0.01], [0.02, -0.005]])  # a policy that is not deterministic
    policy = np.exp(np.asarray(q) / ALPHA)
    policy /= policy.sum(axis=1, keepdims=True)
    assert policy.min() > 0.05
    state, total = np.array([0.5, 0.5]), 0.0
    for step in range(400):
        joint = state[:, None] * policy
        total += GAMMA**step * (joint * np.asarray(mdp.reward)).sum()
        state = np.einsum("sa,ast->t", joint, np.asarray(mdp.transition))
    assert tabular.expected_return(mdp, q) == pytest.approx(total, abs=1e-12)


def test_the_operator_contracts(mdp):
    first, second = jax.random.normal(jax.random.key(0), (2, 1000, 2, 2))
    apply = jax.vmap(partial(tabular.bellman, mdp))
    before = jnp.abs(first - second).max(axis=(1, 2))
    after = jnp.abs(apply(first) - apply(second)).max(axis=(1, 2))
    assert (after <= GAMMA * before + 1e-12).all()
    assert (after > 0.8 * before).any()  # the modulus is not smaller than it has to be


def test_the_soft_value_exceeds_the_maximum_by_at_most_alpha_log_actions():
    q = 0.03 * jax.random.normal(jax.random.key(1), (1000, 2))
    excess = tabular.soft_value(q, ALPHA) - q.max(axis=-1)
    assert (excess >= 0).all()
    assert (excess <= ALPHA * np.log(2) + 1e-15).all()
    assert tabular.soft_value(jnp.ones((1, 2)), ALPHA)[0] == pytest.approx(1 + ALPHA * np.log(2))


def test_at_temperature_zero_the_operator_is_that_of_value_iteration(mdp):
    q = jax.random.normal(jax.random.key(2), (2, 2))
    hard = mdp.reward + GAMMA * jnp.einsum("ast,t->sa", mdp.transition, q.max(axis=-1))
    close(tabular.bellman(mdp._replace(temperature=1e-9), q), hard, 1e-8)


def test_a_constant_added_to_a_row_of_logits_changes_nothing(mdp):
    model = tabular.exact_model(mdp)
    shifted = model._replace(logits=model.logits + jnp.array([[[0.3], [-1.0]], [[2.0], [0.0]]]))
    found, expected = (tabular.imagined(mdp, m).transition for m in (shifted, model))
    close(found, expected, 1e-13)


def test_the_exact_model_is_the_mdp(mdp):
    model = tabular.exact_model(mdp)
    close(tabular.imagined(mdp, model).transition, mdp.transition, 1e-15)
    assert tabular.mle_loss(mdp, model) == pytest.approx(0.0, abs=1e-15)
    # by hand: each row adds log(p / (1 - p))^2 / 2, the rewards 0.7125
    odds = np.log([0.7 / 0.3, 0.8 / 0.2, 99.0, 99.0])
    length = np.sqrt((odds**2 / 2).sum() + 0.7125)
    assert length == pytest.approx(4.811, abs=1e-3)
    assert jnp.sqrt((model.logits**2).sum() / ALPHA**2 + 0.7125) == pytest.approx(length)


@pytest.mark.parametrize("seed", range(3))
def test_every_transition_has_a_reward_with_the_same_optimal_q(mdp, seed):
    q = optimal(mdp)
    transition = jax.nn.softmax(3 * jax.random.normal(jax.random.key(seed), (2, 2, 2)))
    reward = tabular.equivalent_reward(mdp, transition, q)
    believed = mdp._replace(transition=transition, reward=reward)
    close(iterate(believed), q, 1e-8)
    assert jnp.abs(transition - mdp.transition).max() > 0.1

    def loss(log_transition, reward):  # 400 plain steps, differentiated through
        model = tabular.Model(ALPHA * log_transition, reward)
        apply = partial(tabular.bellman, tabular.imagined(mdp, model))
        return tabular.bellman_error(
            mdp, jax.lax.fori_loop(0, 400, lambda _, q: apply(q), jnp.zeros((2, 2)))
        )

    for slope in jax.grad(loss, (0, 1))(jnp.log(transition), reward):
        close(slope, jnp.zeros_like(slope), 1e-10)


def test_the_alternative_model_of_figure_2(mdp):
    # deterministic: state 0 stays with action 0 and leaves with action 1, state 1 is absorbing
    transition = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    reward = tabular.equivalent_reward(mdp, transition, optimal(mdp))
    close(reward, [[0.0163638, -1.6390], [0.1890910, -1.0390]], 1e-4)


def test_the_bounds_of_theorem_2_by_hand(mdp):
    guess = jnp.array([[[0.5, 0.5], [0.2, 0.8]], [[0.99, 0.01], [0.99, 0.01]]])
    believed = mdp._replace(transition=guess, reward=mdp.reward.at[1, 0].add(0.3))
    # e_r = 0.3, e_p = 0.4, r_max = 0.5: 0.3 / 0.1 + 0.9 * 0.4 * 0.5 / (2 * 0.01)
    assert tabular.mle_bound(mdp, believed) == pytest.approx(3.0 + 9.0)
    q = iterate(believed)
    values = q.max(axis=1) + ALPHA * np.log(np.exp((q - q.max(axis=1)[:, None]) / ALPHA).sum(1))
    differences = [abs(0.2 * GAMMA * (values[0] - values[1])), 0.3]  # at (0, 0) and (1, 0)
    assert tabular.omd_bound(mdp, believed, q) == pytest.approx(10 * max(differences))


def test_no_model_breaks_the_bound_on_its_q(mdp):
    keys = jax.random.split(jax.random.key(3), 200)
    target = optimal(mdp)

    def error_and_bound(key):
        logits_key, reward_key = jax.random.split(key)
        model = tabular.Model(
            0.05 * jax.random.normal(logits_key, (2, 2, 2)), jax.random.normal(reward_key, (2, 2))
        )
        believed = tabular.imagined(mdp, model)
        q = optimal(believed)
        return jnp.abs(target - q).max(), tabular.omd_bound(mdp, believed, q)

    error, bound = jax.jit(jax.vmap(error_and_bound))(keys)
    assert (error <= bound + 1e-8).all()
    assert (error > 0.3 * bound).any()
