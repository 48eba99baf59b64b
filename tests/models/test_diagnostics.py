import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flows import diagnostics as flow_diagnostics
from models import diagnostics
from replay import Transition
from tests.models.toy import toy_config, toy_model, toy_parts, toy_spec

KEY = jax.random.key(0)
ROWS, STEPS = 12, 4


def ensemble():
    return toy_parts(toy_config(), toy_spec(), None).ensemble


def still(observation, key):
    """Action 0, log-probability -7."""
    shape = observation.shape[:-1]
    return jnp.zeros((*shape, 1)), jnp.full(shape, -7.0)


def states(rows=ROWS):
    return jnp.float32(np.random.default_rng(0).normal(size=(rows, 2)))


def rollout(model, start, steps=STEPS, spec=None, policy=still, deterministic=True, key=KEY):
    run = functools.partial(
        diagnostics.policy_rollout, ensemble(), spec or toy_spec(), model, policy
    )
    return jax.jit(functools.partial(run, steps=steps, deterministic=deterministic))(start, key)


def test_one_step_predicts_with_every_elite_and_no_other_member():
    model = toy_model([0.25, -9.0, 0.5], elites=[2, 0], log_variance=-3.0)
    start, action = states(), jnp.linspace(-1, 1, ROWS)[:, None]
    zeros = jnp.zeros(ROWS)
    batch = Transition(start, action, zeros + 3.0, 2.0 * start, zeros, zeros)
    threshold = 0.6
    found = diagnostics.one_step(ensemble(), toy_spec(threshold), model, batch)
    x, y = np.asarray(start).T
    for row, delta in enumerate([0.5, 0.25]):
        change = delta + action[:, 0]
        expected = np.stack([change, -0.5 * y, x], axis=1)
        np.testing.assert_allclose(found.mean[row], expected, rtol=1e-6)
        np.testing.assert_allclose(
            found.next_observation[row], np.stack([x + change, 0.5 * y], axis=1), rtol=1e-5
        )
        np.testing.assert_array_equal(found.terminated[row], x + change > threshold)
    assert 0 < found.terminated.sum() < found.terminated.size
    np.testing.assert_allclose(found.log_variance, -3.0)
    np.testing.assert_allclose(found.target, np.stack([x, y, np.full(ROWS, 3.0)], axis=1))


def test_open_loop_feeds_every_elite_its_own_mean():
    model = toy_model([0.25, -9.0, 0.5], elites=[0, 2])
    start = states()
    actions = jnp.float32(np.random.default_rng(1).normal(size=(ROWS, STEPS, 1)))
    found = diagnostics.open_loop(ensemble(), toy_spec(1.0), model, start, actions)
    for k in range(STEPS):
        moved = np.asarray(start[:, 0] + actions[:, : k + 1, 0].sum(axis=1))
        before = np.asarray(start[:, 0] + actions[:, :k, 0].sum(axis=1))
        for row, delta in enumerate([0.25, 0.5]):
            x = moved + (k + 1) * delta
            np.testing.assert_allclose(found.next_observation[k, row, :, 0], x, atol=1e-5)
            np.testing.assert_allclose(
                found.next_observation[k, row, :, 1], 0.5 ** (k + 1) * start[:, 1], rtol=1e-5
            )
            np.testing.assert_allclose(found.reward[k, row], before + k * delta, atol=1e-5)
            np.testing.assert_array_equal(
                found.terminated[k, row], found.next_observation[k, row, :, 0] > 1.0
            )
    assert 0 < found.terminated.sum() < found.terminated.size


def test_open_loop_agrees_with_the_error_reported_in_training():
    model = toy_model([0.25, -0.5], elites=[0, 1])
    rng = np.random.default_rng(2)
    observations, actions = rng.normal(size=(ROWS, STEPS + 1, 2)), rng.normal(size=(ROWS, STEPS, 1))
    observations, actions = jnp.float32(observations), jnp.float32(actions)
    zeros = jnp.zeros((ROWS, STEPS))
    segments = Transition(observations[:, :-1], actions, zeros, observations[:, 1:], zeros, zeros)
    scale = jnp.array([2.0, 0.5])
    expected = flow_diagnostics.open_loop_errors(
        ensemble(), model.params, model.normalizers, segments, jnp.ones((ROWS, STEPS), bool), scale
    )
    found = diagnostics.open_loop(ensemble(), toy_spec(), model, observations[:, 0], actions)
    reached = jnp.swapaxes(observations[:, 1:], 0, 1)[:, None]
    error = (found.next_observation - jnp.broadcast_to(reached, found.next_observation.shape)) / (
        scale[None, None, None]
    )
    np.testing.assert_allclose(jnp.sqrt(jnp.square(error).mean(axis=(2, 3))).T, expected, rtol=1e-5)


def test_every_step_deals_the_rollouts_of_a_state_to_different_elites():
    model = toy_model([1.0, 10.0, 100.0], elites=[0, 1, 2])
    start = states(50)
    found = rollout(model, start)
    x = np.asarray(found.observation[..., 0])
    np.testing.assert_allclose(x[0], np.tile(start[:, 0], (3, 1)))
    drawn = np.rint(np.diff(x, axis=0)).astype(int)  # [H, K, N]
    assert (np.sort(drawn, axis=1) == np.array([1, 10, 100])[None, :, None]).all()
    assert len({tuple(row) for row in drawn[:, 0].T}) > 20  # of 3 ** 4 sequences of elites
    np.testing.assert_allclose(found.reward, x[:-1], rtol=1e-5)  # each rollout gets its own back
    share = (drawn == 100).mean(axis=(0, 2))
    np.testing.assert_allclose(share, 1 / 3, atol=0.1)


def test_a_rollout_follows_the_policy_and_reports_its_log_probability():
    def policy(observation, key):
        return 0.25 * observation[..., 1:], observation[..., 0]

    found = rollout(toy_model([0.5], elites=[0]), states(), policy=policy)
    x, y = np.asarray(states()).T
    for k in range(STEPS):
        np.testing.assert_allclose(found.reward[k, 0], x, atol=1e-5)
        np.testing.assert_allclose(found.log_prob[k, 0], x, atol=1e-5)
        x, y = x + 0.5 + 0.25 * y, 0.5 * y
        np.testing.assert_allclose(found.observation[k + 1, 0, :, 0], x, atol=1e-5)
    assert found.alive.all()
    assert not found.diverged.any()


def test_what_follows_a_termination_does_not_count():
    model = toy_model([1.0], elites=[0])
    start = jnp.array([[0.0, 0.0], [1.0, 0.0], [-9.0, 0.0]])
    alive = rollout(model, start, spec=toy_spec(threshold=2.5)).alive
    assert alive[:, 0, 0].tolist() == [True, True, True, False, False]  # 1, 2, 3: over
    assert alive[:, 0, 1].tolist() == [True, True, False, False, False]  # 2, 3: over
    assert alive[:, 0, 2].all()


@pytest.mark.parametrize(("threshold", "diverges"), [(jnp.inf, True), (1e30, False)])
def test_only_a_rollout_that_is_not_over_diverges(threshold, diverges):
    model = toy_model([2e38], elites=[0])
    found = rollout(model, jnp.zeros((2, 2)), spec=toy_spec(threshold))
    assert not np.isfinite(found.observation[2, 0, :, 0]).any()
    assert found.diverged.tolist() == [[diverges, diverges]]


def test_predictions_are_sampled_unless_deterministic():
    model = toy_model([0.5, 0.5], elites=[0, 1], log_variance=np.log(4.0))
    start = jnp.zeros((5000, 2))
    change = np.asarray(rollout(model, start, steps=1, deterministic=False).observation[1])
    np.testing.assert_allclose(change.mean(axis=(0, 1)), [0.5, 0.0], atol=0.1)  # 5 std errors
    np.testing.assert_allclose(change.std(axis=(0, 1)), 2.0, atol=0.1)
    fixed = np.asarray(rollout(model, start, steps=1).observation[1])
    assert (fixed == np.array([0.5, 0.0])).all()


def test_values_keep_shapes_and_draw_anew_for_every_block():
    def value(observation, key):
        return observation[:, 0] + jax.random.normal(key, observation.shape[:1])

    observation = jnp.broadcast_to(states(3)[None, None], (4, 5, 3, 2))
    found = diagnostics.values(value, observation, KEY)
    noise = np.asarray(found - observation[..., 0])
    assert found.shape == (4, 5, 3)
    assert len(np.unique(noise.round(5))) == noise.size
