"""Rollouts that a policy can be differentiated through, in the toy world computed by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.imagination import Noise, draw_noise, make_imagination, reordered
from tests.models.toy import toy_config, toy_model, toy_parts, toy_spec

ROWS, HORIZON, ELITES = 6, 3, 2


def policy_at(policy, observation, noise):
    """a = gain s_1 + noise / 2, and the log-probability says what it was computed from."""
    action = policy * observation[:, 1:] + 0.5 * noise
    return action, observation[:, 0] + 10.0 * noise[:, 0]


@functools.cache
def imagination(threshold=np.inf, deterministic=False):
    """`imagine` of the toy world, where elites is given as a ModelState of all members."""
    config = toy_config(deterministic=deterministic, num_elites=ELITES)
    parts = toy_parts(config, toy_spec(threshold), None)
    imagine = make_imagination(config, parts, policy_at)
    run = jax.jit(lambda policy, model, *rest: imagine(policy, chosen(model), *rest))
    return run, parts


def chosen(model):
    return model.replace(params=model.elite_params())


def noise_of(seed, parts=None, rows=ROWS):
    return draw_noise(jax.random.key(seed), HORIZON, rows, parts or imagination()[1])


def starts(rows=ROWS):
    return jnp.stack([jnp.linspace(-1.0, 1.0, rows), jnp.linspace(1.0, 2.0, rows)], axis=1)


MODEL = toy_model([np.nan, 1.0, 2.0], [1, 2], log_variance=2 * np.log(0.1))


def by_hand(policy, start, noise, sigma, deltas=(1.0, 2.0)):
    """The toy world in NumPy: s_0 grows by delta + a, s_1 is halved, r = s_0."""
    state, states, actions = np.float64(start), [], []
    noise = jax.tree.map(np.float64, noise)
    for t in range(HORIZON):
        action = policy * state[:, 1:] + 0.5 * noise.policy[t]
        following = np.zeros_like(state)
        order = np.argsort(noise.deal[t], stable=True)
        for place, row in enumerate(order):
            delta = deltas[place // (ROWS // ELITES)]
            change = np.array([delta + action[row, 0], -0.5 * state[row, 1]])
            following[row] = state[row] + change + sigma * noise.model[t][place]
        states, actions, state = [*states, state], [*actions, action], following
    states.append(state)
    actions.append(policy * state[:, 1:] + 0.5 * noise.policy[HORIZON])
    return np.array(states), np.array(actions)


def test_rollouts_follow_policy_and_model_with_their_noise():
    imagine, parts = imagination()
    noise = noise_of(0, parts)
    found = imagine(jnp.float32(0.25), MODEL, starts(), noise)
    states, actions = by_hand(0.25, starts(), noise, sigma=0.1)
    np.testing.assert_allclose(found.first_action, actions[0], atol=1e-5)
    np.testing.assert_allclose(found.reward, states[:HORIZON, :, 0], atol=1e-5)  # without noise
    expected = states[..., 0] + 10.0 * np.asarray(noise.policy)[..., 0]
    np.testing.assert_allclose(found.log_prob, expected, atol=1e-4)
    np.testing.assert_allclose(found.last_observation, states[-1], atol=1e-5)
    np.testing.assert_allclose(found.last_action, actions[-1], atol=1e-5)
    np.testing.assert_array_equal(found.alive, np.ones((HORIZON + 1, ROWS)))


def test_a_deterministic_rollout_has_no_noise_of_the_model():
    imagine, parts = imagination(deterministic=True)
    noise = noise_of(0, parts)
    found = imagine(jnp.float32(0.25), MODEL, starts(), noise)
    states, _ = by_hand(0.25, starts(), noise, sigma=0.0)
    np.testing.assert_allclose(found.last_observation, states[-1], atol=1e-5)


def test_rows_are_dealt_out_anew_at_every_step_to_equal_shares():
    rows, still = 100, jnp.zeros((HORIZON + 1, 100, 1))
    noise = noise_of(1, rows=rows)._replace(policy=still)
    run, _ = imagination(deterministic=True)
    found = run(jnp.float32(0.0), MODEL, jnp.zeros((rows, 2)), noise)
    states = np.concatenate([found.reward, found.last_observation[None, :, 0]])
    deltas = np.diff(states, axis=0)
    np.testing.assert_array_equal((deltas == 2.0).sum(axis=1), [rows // 2] * HORIZON)
    np.testing.assert_array_equal(np.unique(deltas), [1.0, 2.0])
    for step in range(HORIZON - 1):  # deviation 0.05
        assert abs((deltas[step] == deltas[step + 1]).mean() - 0.5) < 0.2


def test_rows_are_alive_up_to_the_step_that_terminates_and_predictions_go_on():
    imagine, parts = imagination(threshold=2.5)
    noise, deltas = noise_of(0, parts), (-3.0, 3.0)  # so that rows come back from beyond
    model = toy_model([np.nan, *deltas], [1, 2], log_variance=2 * np.log(0.1))
    found = imagine(jnp.float32(0.25), model, starts(), noise)
    states, _ = by_hand(0.25, starts(), noise, 0.1, deltas)
    beyond = states[1:, :, 0] > 2.5
    assert (beyond[:-1] & ~beyond[1:]).any()
    alive = np.cumprod(~beyond, axis=0)
    assert 0 < alive[-1].sum() < alive[0].sum() < ROWS
    np.testing.assert_array_equal(found.alive, np.concatenate([np.ones((1, ROWS)), alive]))
    np.testing.assert_allclose(found.last_observation, states[-1], atol=1e-5)


def test_a_state_that_is_not_finite_ends_its_row_which_stays_where_it_was():
    imagine, parts = imagination()
    noise = noise_of(0, parts)
    broken = toy_model([np.nan, 1.0, np.inf], [1, 2], log_variance=2 * np.log(0.1))
    found = imagine(jnp.float32(0.25), broken, starts(), noise)
    half = ROWS // ELITES
    ends = np.argsort(np.asarray(noise.deal), axis=1, stable=True)[:, half:]
    alive = np.ones((HORIZON + 1, ROWS))
    for t, rows in enumerate(ends):
        alive[t + 1 :, rows] = 0.0
    np.testing.assert_array_equal(found.alive, alive)
    for leaf in found:
        assert np.isfinite(leaf).all()
    second = found.log_prob[1] - 10.0 * noise.policy[1, :, 0]  # the first coordinate after a step
    stayed = np.isclose(second, starts()[:, 0], atol=1e-5)
    np.testing.assert_array_equal(stayed, np.isin(np.arange(ROWS), ends[0]))
    gradient = jax.grad(lambda policy: imagine(policy, broken, starts(), noise).reward.sum())
    assert np.isfinite(gradient(jnp.float32(0.25)))


def test_the_gradient_goes_through_all_steps_and_not_through_the_ends():
    imagine, parts = imagination(threshold=2.5, deterministic=True)
    noise = jax.tree.map(jnp.zeros_like, noise_of(0, parts))
    noise = noise._replace(deal=jnp.arange(ROWS * HORIZON).reshape(HORIZON, ROWS) / 100.0)

    def last(policy):
        found = imagine(policy, MODEL, starts(), noise)
        return found.last_observation[:, 0].sum(), found.alive.sum()

    gradient = jax.grad(lambda policy: last(policy)[0])(jnp.float32(0.25))
    # s_0 ends as the start + deltas + gain s_1 (1 + 1/2 + 1/4)
    np.testing.assert_allclose(gradient, np.asarray(starts())[:, 1].sum() * 1.75, rtol=1e-5)
    assert float(jax.grad(lambda policy: last(policy)[1])(jnp.float32(0.25))) == 0.0


def test_reordered_is_a_gather_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    x, weight = (jnp.float32(rng.normal(size=(7, 3))) for _ in range(2))
    order = jnp.asarray(rng.permutation(7))
    np.testing.assert_array_equal(reordered(x, order), np.asarray(x)[np.asarray(order)])

    def loss(gather):
        return lambda x: (jnp.sin(gather(x)) * weight).sum()

    found = jax.jit(jax.grad(loss(lambda x: reordered(x, order))))(x)
    expected = jax.grad(loss(lambda x: x[order]))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    text = jax.jit(jax.grad(loss(lambda x: reordered(x, order)))).lower(x).as_text()
    assert "gather" in text
    assert "scatter" not in text


def test_noise_is_standard_normal_for_actions_and_states_and_uniform_for_the_deal():
    noise = draw_noise(jax.random.key(0), 4, 5_000, imagination()[1])
    assert isinstance(noise, Noise)
    assert [x.shape for x in noise] == [(5, 5_000, 1), (4, 5_000, 2), (4, 5_000)]
    for normal in (noise.policy, noise.model):
        # 20,000 numbers and more: standard errors of mean and std are 0.007 and 0.005
        assert abs(float(normal.mean())) < 0.03
        assert abs(float(normal.std()) - 1.0) < 0.02
    together = np.concatenate([noise.policy[:4], noise.model], axis=-1).reshape(-1, 3)
    assert np.abs(np.corrcoef(together.T) - np.eye(3)).max() < 0.04
    steps = np.corrcoef(np.asarray(noise.policy[..., 0])) - np.eye(5)
    assert np.abs(steps).max() < 0.07
    assert noise.deal.min() >= 0.0
    assert noise.deal.max() < 1.0
    assert abs(float(noise.deal.mean()) - 0.5) < 0.01
