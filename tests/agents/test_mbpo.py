"""What MBPO does with its two replays, seen through the mean target of planted rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import mbpo, sac
from replay import Transition, WeightedTransition, buffer
from tests.integration import tiny


def config(**changes):
    fixed = {"updates_per_step": 1, "replay_capacity": 500}
    return tiny.config("mbpo", "InvertedPendulum-v5", **(fixed | changes))


def terminal(rewards):
    """Returns transitions whose target is their reward."""
    n = len(rewards)
    zeros, ones = jnp.zeros((n, 3)), jnp.ones(n)
    return Transition(
        zeros, zeros[:, :1], jnp.asarray(rewards, jnp.float32), zeros, ones, jnp.zeros(n)
    )


def one(batch):
    return jax.tree.map(lambda leaf: leaf[0], batch)


def planted(agent, real, model, env_steps=100, weight=1.0):
    """Returns a state whose replays hold terminal transitions with these rewards, oldest first.

    Those of the model all have the same weight.
    """
    state = agent.init(jax.random.key(0))

    def fill(replay, items, n):
        return buffer.add_masked(replay, items, jnp.ones(n, bool))

    weighted = WeightedTransition(terminal(model), jnp.full(len(model), weight))
    return state.replace(
        replay=fill(state.replay, terminal(real), len(real)),
        model_replay=fill(state.model_replay, weighted, len(model)),
        env_steps=jnp.int32(env_steps),
        window=jnp.int32(len(model)),
    )


@pytest.mark.parametrize(("ratio", "real_rows"), [(0.05, 12), (0.0, 0), (0.999, 255), (0.5, 128)])
def test_a_batch_has_the_given_share_of_real_rows(ratio, real_rows):
    agent = mbpo.make_agent(config(rollout__real_ratio=ratio, sac__batch_size=256), tiny.spec())
    state = planted(agent, real=[1.0] * 50, model=[0.0] * 60)
    _, _, metrics = jax.jit(agent.step)(state, one(terminal([1.0])), jnp.zeros(3))
    np.testing.assert_allclose(metrics["critic/target"], real_rows / 256, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_weights_count_model_rows_in_the_critic_loss_and_real_rows_count_once(weight):
    settings = config(rollout__real_ratio=0.25, sac__batch_size=64)
    agent = mbpo.make_agent(settings, tiny.spec())
    state = planted(agent, real=[1.0] * 50, model=[5.0] * 60, weight=weight)
    q_values = sac.make_sac(settings, tiny.spec()).q_values
    q = q_values(state.sac.critics, jnp.zeros((1, 3)), jnp.zeros((1, 1)))[:, 0]
    _, _, metrics = jax.jit(agent.step)(state, one(terminal([1.0])), jnp.zeros(3))
    expected = 0.5 * sum(0.25 * (q - 1.0) ** 2 + 0.75 * weight * (q - 5.0) ** 2)
    np.testing.assert_allclose(metrics["critic/loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/target"], 0.25 * 1.0 + 0.75 * 5.0, rtol=1e-6)


def test_real_rows_stand_in_when_no_model_row_was_kept():
    agent = mbpo.make_agent(config(rollout__real_ratio=0.05), tiny.spec())
    state = planted(agent, real=[2.0] * 50, model=[0.0] * 60, weight=7.0)
    q_values = sac.make_sac(config(), tiny.spec()).q_values
    q = q_values(state.sac.critics, jnp.zeros((1, 3)), jnp.zeros((1, 1)))[:, 0]
    _, _, metrics = jax.jit(agent.step)(
        state.replace(window=jnp.int32(0)), one(terminal([2.0])), jnp.zeros(3)
    )
    np.testing.assert_allclose(metrics["critic/target"], 2.0, atol=1e-6)
    np.testing.assert_allclose(metrics["critic/loss"], 0.5 * sum((q - 2.0) ** 2), rtol=1e-5)


@pytest.mark.parametrize("name", ["step", "observe"])
def test_the_transition_is_stored_and_counted(name):
    agent = mbpo.make_agent(config(), tiny.spec())
    state = planted(agent, real=[1.0, 2.0], model=[3.0] * 5, env_steps=70)
    stored = Transition(
        jnp.array([0.1, 0.2, 0.3]),
        jnp.array([-0.4]),
        jnp.float32(0.5),
        jnp.array([0.6, 0.7, 0.8]),
        jnp.float32(0.0),
        jnp.float32(1.0),
    )
    if name == "step":
        state, _, _ = jax.jit(agent.step)(state, stored, jnp.zeros(3))
    else:
        state = agent.observe(state, stored)
    assert int(state.env_steps) == 71
    assert int(state.replay.size) == 3
    assert int(state.model_replay.size) == 5
    newest = buffer.gather(state.replay, jnp.int32(0))
    for actual, expected in zip(newest, stored):
        np.testing.assert_array_equal(actual, expected)


def linear_world(key, n):
    """Returns transitions of s' = 0.9 s + 0.1 a, r = s_0, from s in [-1, 1]^3."""
    state_key, action_key = jax.random.split(key)
    observation = jax.random.uniform(state_key, (n, 3), minval=-1.0)
    action = jax.random.uniform(action_key, (n, 1), minval=-1.0)
    next_observation = 0.9 * observation + 0.1 * action
    flags = jnp.zeros(n)
    return Transition(observation, action, observation[:, 0], next_observation, flags, flags)


def refreshed(settings, spec, learned):
    """Returns the states before and after the refresh at `learned` steps of learning."""
    agent = mbpo.make_agent(settings, spec)
    state = agent.init(jax.random.key(1))
    data = linear_world(jax.random.key(2), 200)
    state = state.replace(
        replay=buffer.add_masked(state.replay, data, jnp.ones(200, bool)),
        env_steps=jnp.int32(settings.initial_steps + learned),
    )
    return state, *tiny.refresh(agent)(state)


def model_rows(state):
    """Returns the slots of the model replay, and which of them hold a transition."""
    items, valid = jax.tree.map(np.asarray, buffer.contents(state.model_replay))
    np.testing.assert_array_equal(items.weight[valid], np.ones(valid.sum()))
    return items.transition, valid


@pytest.mark.parametrize(("learned", "length"), [(0, 1), (150, 2), (300, 3)])
def test_a_refresh_generates_rollouts_of_the_scheduled_length(learned, length):
    before, after, metrics = refreshed(config(), tiny.spec(), learned)
    assert int(before.model_replay.size) == 0
    assert int(after.model_replay.size) == 20 * length
    assert int(metrics["rollout/transitions"]) == 20 * length
    assert int(metrics["rollout/length"]) == length
    rows, valid = model_rows(after)
    real = {tuple(row) for row in np.asarray(before.replay.rows)[:200, :3].tolist()}
    starts = [tuple(row) in real for row in rows.observation[valid].tolist()]
    assert sum(starts) == 20  # the first step of every rollout, and no other, is a real state
    assert not rows.truncated.any()
    assert not rows.terminated.any()
    assert np.abs(rows.action).max() <= 1.0
    for field in ("replay", "sac", "env_steps"):  # a refresh reads them
        pairs = zip(*(jax.tree.leaves(getattr(state, field)) for state in (before, after)))
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_rollouts_stop_where_the_environment_terminates():
    def termination(observation, action, next_observation):
        return next_observation[..., 0] > 0.0

    _, after, _ = refreshed(config(), tiny.spec(termination=termination), 300)
    rows, valid = model_rows(after)
    terminated = rows.terminated[valid] > 0
    np.testing.assert_array_equal(terminated, rows.next_observation[valid][:, 0] > 0.0)
    assert 0 < terminated.sum() < 20
    ends = {tuple(row) for row in rows.next_observation[valid][terminated].tolist()}
    assert not any(tuple(row) in ends for row in rows.observation[valid].tolist())


def test_two_refreshes_generate_different_rollouts():
    settings = config()
    _, first, _ = refreshed(settings, tiny.spec(), 0)
    second, _ = tiny.refresh(mbpo.make_agent(settings, tiny.spec()))(first)
    assert int(second.model_replay.size) == 40
    rows, valid = model_rows(second)
    # 40 branches from 200 states: a repeated one is likely, a repeated transition is not
    distinct = {tuple(row) for row in rows.next_observation[valid].tolist()}
    assert len(distinct) == 40


@pytest.mark.slow
def test_a_learned_model_predicts_the_linear_world():
    settings = config(
        model__hidden_width=32, model__max_gradient_steps=500, rollout__deterministic=True
    )
    _, after, _ = refreshed(settings, tiny.spec(), 0)
    rows, valid = model_rows(after)
    expected = 0.9 * rows.observation[valid] + 0.1 * rows.action[valid]
    # states move by up to 0.2 in a step; the mean error has to be a small part of that
    assert np.abs(rows.next_observation[valid] - expected).mean() < 0.04
    assert np.abs(rows.reward[valid] - rows.observation[valid][:, 0]).mean() < 0.1


@pytest.mark.slow
def test_donating_the_state_changes_nothing():
    settings = config()
    agent = mbpo.make_agent(settings, tiny.spec())

    def run(refresh, step):
        state = agent.init(jax.random.key(1))
        data = linear_world(jax.random.key(2), 70)
        state = state.replace(replay=buffer.add_masked(state.replay, data, jnp.ones(70, bool)))
        state, _ = refresh(state)
        for t in range(3):
            state, action, _ = step(state, jax.tree.map(lambda x, t=t: x[t], data), jnp.zeros(3))
        return state, action

    plain = run(tiny.refresh(agent), jax.jit(agent.step))
    donated = run(tiny.refresh(agent, donate_argnums=0), jax.jit(agent.step, donate_argnums=0))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(donated)):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow  # a refresh is compiled
def test_supervised_noise_is_in_the_models_data_alone():
    before, after, _ = refreshed(config(model__sl_noise=0.01), tiny.spec(), 0)
    np.testing.assert_array_equal(after.replay.rows, before.replay.rows)
    fitted = after.training_data.replay
    assert (fitted.rows[:200, :3] != after.replay.rows[:200, :3]).all()
    rows, valid = model_rows(after)
    real = {tuple(row) for row in np.asarray(before.replay.rows)[:200, :3].tolist()}
    assert all(tuple(row) in real for row in rows.observation[valid].tolist())


@pytest.mark.slow
def test_omd_fits_the_model_with_critics_that_follow_it():
    settings = tiny.config(
        "omd", "InvertedPendulum-v5", agent="mbpo", omd__inverse="cg", omd__inner_steps=2
    )
    agent = mbpo.make_agent(settings, tiny.spec())
    state = planted(agent, real=np.linspace(-1.0, 1.0, 64), model=[0.0])
    fit = next(stage.run for stage in agent.refresh if stage.name == "model")
    refreshed, metrics = jax.jit(fit)(state)
    assert {"model/real_bellman", "model/hessian_residual", "omd/alignment"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    critics = refreshed.model.objective
    steps = int(metrics["model/fit_steps"])
    assert steps > 0
    assert int(critics.optimizer[0].count) == 2 * steps
    # they started as the agent's, which stood still, and steps of Adam are about this long
    longest = 2 * steps * settings.sac.critic_learning_rate
    moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), critics.online, state.sac.critics)
    assert 0.1 * longest < max(jax.tree.leaves(moves)) < 1.5 * longest
    jax.tree.map(np.testing.assert_array_equal, refreshed.sac.critics, state.sac.critics)
