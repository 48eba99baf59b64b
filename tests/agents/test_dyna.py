"""One-step agents: what happens in an update, in which order, on which rows."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from agents import dyna
from agents.learner import Learner
from envs import terminations
from envs.spec import EnvSpec
from models.objectives.omd import Outcome, imagination_key
from replay import Transition, buffer, example_transition
from tests.integration import tiny

MEMBERS, ROWS, STEPS = 2, 16, 3
RATE, TAU = 3e-4, 0.01

# --- the order, with parts that count ------------------------------------------------------------


class Counters(struct.PyTreeNode):
    """A learner whose every update adds 1 to critics and optimizer."""

    critics: jax.Array
    target_critics: jax.Array
    optimizer: dict


def counters(critics, target_critics, optimizer):
    numbers = map(jnp.float32, (critics, target_critics))
    return Counters(*numbers, {"count": jnp.int32(optimizer), "mean": jnp.float32(optimizer)})


def count(state, batch, key):
    del key
    metrics = {
        "critics": state.critics,
        "targets": state.target_critics,
        "count": state.optimizer["count"].astype(jnp.float32),
        "rewards": batch.reward.sum(),
        "aligned": (batch.observation[:, 0] == batch.action[:, 0]).mean(),
        "next": batch.next_observation.mean(),
    }
    assert batch.reward.shape == (ROWS,)
    return jax.tree.map(lambda x: x + jnp.ones_like(x), state), metrics


COUNTING = Learner(
    init=lambda key: counters(100.0, 200.0, 300),
    update=count,
    explore=None,
    behave=None,
    context=lambda state, normalizers: SimpleNamespace(critics=state.critics),
    parts=None,
    policy=None,
    act=None,
)
MODEL = SimpleNamespace(params=jnp.float32(1000.0), normalizers=())


def update(make, **changes):
    """One update, from critics 10, targets 20, optimizer 30 and a model of rewards + 1000.

    Returns:
      The new learner and model, the metrics, and the keys that were used.
    """
    sizes = {"omd__inner_steps": STEPS, "sac__batch_size": ROWS, "model__num_members": MEMBERS}
    config = tiny.config("omd", "CartPole-v1", **sizes | changes)
    keys = []

    def step_model(model, batch, context, key):
        keys.append(jax.random.key_data(key).tolist())
        assert batch.reward.shape == (MEMBERS, ROWS // MEMBERS)
        metrics = {"critics": context.critics, "rewards": batch.reward.sum()}
        return SimpleNamespace(params=model.params + 1000.0, normalizers=()), metrics

    def imagine(params, batch, context, key):
        keys.append(jax.random.key_data(key).tolist())
        return Outcome(batch.next_observation + 2.0, batch.reward + params)

    learner, model, metrics = make(config, COUNTING, step_model, imagine)(
        counters(10.0, 20.0, 30), MODEL, replay(), jax.random.key(1)
    )
    return learner, model, {name: float(value) for name, value in metrics.items()}, keys


def replay():
    """100 rows whose rewards tell which they are."""
    state = buffer.init(100, example_transition(3, 2))
    numbers = np.float32(2.0 ** np.arange(100) % 101)  # all sums of rows differ
    rows = Transition(
        np.tile(numbers[:, None], (1, 3)),
        np.tile(numbers[:, None], (1, 2)),
        numbers,
        np.zeros((100, 3)),
        np.zeros(100),
        np.zeros(100),
    )
    return buffer.add_masked(state, jax.tree.map(jnp.float32, rows), jnp.ones(100, bool))


def test_the_critics_learn_first_and_the_model_from_what_they_became():
    learner, model, metrics, _ = update(dyna.critics_first, omd__fresh_optimizer=False)
    assert learner.critics == 10.0 + STEPS
    assert model.params == 2000.0
    assert metrics["critics"] == 11.0  # the mean of 10, 11 and 12
    assert metrics["model/critics"] == 13.0
    # they saw the same rows, imagined by the model as it was
    assert metrics["rewards"] == metrics["model/rewards"] + ROWS * 1000.0


def test_the_model_learns_first_and_the_critics_from_what_it_became():
    learner, model, metrics, _ = update(dyna.model_first, omd__fresh_batch=False)
    assert learner.critics == 10.0 + STEPS
    assert model.params == 2000.0
    assert metrics["model/critics"] == 10.0
    assert metrics["rewards"] == metrics["model/rewards"] + ROWS * 2000.0


def test_the_critics_may_get_other_rows_than_the_model():
    _, _, metrics, _ = update(dyna.model_first, omd__fresh_batch=True)
    assert metrics["rewards"] != metrics["model/rewards"] + ROWS * 2000.0
    _, _, metrics, _ = update(dyna.critics_first, omd__fresh_batch=True)  # not with OMD
    assert metrics["rewards"] == metrics["model/rewards"] + ROWS * 1000.0


@pytest.mark.parametrize(("fresh", "first"), [(True, 0), (False, 30)])
def test_the_optimizer_is_fresh_once_per_hypergradient(fresh, first):
    learner, _, metrics, _ = update(dyna.critics_first, omd__fresh_optimizer=fresh)
    assert metrics["count"] == first + 1  # the mean of three updates
    assert learner.optimizer["count"] == learner.optimizer["mean"] == first + STEPS
    assert learner.optimizer["count"].dtype == jnp.int32
    _, _, metrics, _ = update(dyna.model_first, omd__fresh_optimizer=fresh)
    assert metrics["count"] == 31


def test_fresh_critics_come_with_their_targets_and_keep_the_optimizer():
    learner, _, metrics, _ = update(
        dyna.critics_first, omd__fresh_critics=True, omd__fresh_optimizer=False
    )
    assert (metrics["critics"], metrics["targets"], metrics["count"]) == (101.0, 201.0, 31.0)
    assert metrics["model/critics"] == 103.0
    assert (learner.critics, learner.target_critics) == (103.0, 203.0)


@pytest.mark.parametrize("steps", [1, 5])
def test_inner_steps_are_counted(steps):
    for make in (dyna.critics_first, dyna.model_first):
        learner, _, metrics, _ = update(
            make, omd__inner_steps=steps, omd__fresh_optimizer=False, omd__fresh_batch=False
        )
        assert learner.critics == 10.0 + steps
        assert metrics["critics"] == 10.0 + (steps - 1) / 2


@pytest.mark.parametrize("make", [dyna.critics_first, dyna.model_first])
def test_rows_stay_whole_and_keys_are_used_once(make):
    _, _, metrics, keys = update(make)
    assert (metrics["aligned"], metrics["next"]) == (1.0, 2.0)
    assert len({tuple(key) for key in keys}) == len(keys) == 2


def test_the_critics_learn_from_the_sample_of_the_hypergradient():
    *_, (imagined, hypergradient) = update(dyna.critics_first)
    key = imagination_key(jax.random.wrap_key_data(jnp.uint32(hypergradient)))
    assert imagined == jax.random.key_data(key).tolist()


def test_members_share_a_batch():
    config = tiny.config("omd", "CartPole-v1", model__num_members=4, sac__batch_size=12)
    batch = jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.arange(12.0).reshape(12, *[1] * x.ndim), (12, *x.shape)),
        example_transition(3, 2),
    )
    dealt = dyna.deal(config, batch)
    assert dealt.observation.shape == (4, 3, 3)
    for rows in (dealt.reward, dealt.action[..., 0], dealt.next_observation[..., 2]):
        assert sorted(np.ravel(rows)) == list(range(12))
        np.testing.assert_array_equal(rows, dealt.reward)


def test_the_errors_of_states_are_summed_over_dimensions_and_averaged_over_rows():
    zeros = jnp.zeros((2, 2))
    real = Transition(zeros[..., None], zeros[..., None], zeros, jnp.zeros((2, 2, 3)), zeros, zeros)
    imagined = real._replace(
        next_observation=jnp.float32([[[1, 2, 2], [0, 0, 0]], [[3, 0, 0], [0, 1, 0]]]),
        reward=jnp.float32([[1, -1], [0, 4]]),
    )
    errors = dyna.errors(real, imagined)
    assert errors["model/next_state_mse"] == (9 + 0 + 9 + 1) / 4
    assert errors["model/reward_mse"] == (1 + 1 + 0 + 16) / 4


# --- whole agents --------------------------------------------------------------------------------

DISCRETE = EnvSpec("Toy-v0", 3, 2, (0.0,) * 2, (1.0,) * 2, terminations.never, None, True)
CONTINUOUS = tiny.spec(3, 2)
AGENTS = {("omd", "CartPole-v1"): DISCRETE, ("mle", "InvertedPendulum-v5"): CONTINUOUS}


@functools.cache
def agent_and_state(algo, env):
    """A compiled agent, and its state with a few transitions in its replay."""
    sizes = {"updates_per_step": 1, "model__num_members": MEMBERS, "model__num_elites": 1}
    fixed = {"sac__learning_rate": RATE, "sac__target_update_rate": TAU}
    # compiled faster than the orthogonal one
    changes = {"model__initializer": "truncated_normal", "omd__diagnose_every": 250}
    config = tiny.config(algo, env, **sizes | fixed | changes)
    agent = dyna.make_agent(config, AGENTS[algo, env])
    agent = agent._replace(step=jax.jit(agent.step), observe=jax.jit(agent.observe))
    state = jax.jit(agent.init)(jax.random.key(0))
    for seed in range(20):
        state = agent.observe(state, transition(seed))
    return agent, state


def transition(seed, terminated=0.0, truncated=0.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.float32(rng.normal(size=shape))  # noqa: E731
    ends = jnp.float32(terminated), jnp.float32(truncated)
    return Transition(draw(3), jnp.eye(2)[seed % 2], draw(), draw(3), *ends)


CRITIC = {"critic/loss", "critic/q", "critic/target"}
POLICY = {"policy/loss", "policy/entropy", "policy/temperature"}
ERRORS = {"model/next_state_mse", "model/reward_mse"}


@pytest.mark.parametrize(
    ("algo", "env", "names"),
    [
        ("omd", "CartPole-v1", {"model/real_bellman"}),
        ("mle", "InvertedPendulum-v5", {"model/train_mse", *POLICY}),
    ],
)
def test_a_step_learns_and_tells_what(algo, env, names):
    agent, state = agent_and_state(algo, env)
    new, action, metrics = agent.step(state, transition(20), jnp.zeros(3))
    assert set(metrics) == CRITIC | ERRORS | names
    assert all(np.isfinite(value) and value.shape == () for value in metrics.values())
    assert (int(state.env_steps), int(new.env_steps), int(new.replay.size)) == (20, 21, 21)
    assert (int(state.learner.updates), int(new.learner.updates)) == (0, 1)
    assert largest_change(state.model.params["net"], new.model.params["net"]) > 0.0
    assert largest_change(state.learner.critics, new.learner.critics) > 0.0
    if env == "CartPole-v1":
        assert sorted(action.tolist()) == [0.0, 1.0]
    again, other, _ = agent.step(new, transition(20), jnp.zeros(3))
    assert (jax.random.key_data(again.key) != jax.random.key_data(new.key)).any()
    assert other.shape == (2,)


def largest_change(before, after):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (before, after))))


def test_with_one_inner_step_and_a_fresh_optimizer_the_critics_descend_signs():
    agent, state = agent_and_state("omd", "CartPole-v1")
    for seed in range(20, 23):
        new, *_ = agent.step(state, transition(seed), jnp.zeros(3))
        for before, critic, target, followed in zip(
            *map(
                jax.tree.leaves,
                (
                    state.learner.critics,
                    new.learner.critics,
                    state.learner.target_critics,
                    new.learner.target_critics,
                ),
            )
        ):
            moves = np.abs(np.float64(critic) - np.float64(before))
            # but where a gradient is as small as Adam's epsilon
            assert moves.max() < 1.001 * RATE
            assert ((moves == 0) | (moves > 0.95 * RATE)).mean() > 0.8
            expected = TAU * np.float64(critic) + (1 - TAU) * np.float64(target)
            np.testing.assert_allclose(followed, expected, atol=1e-7)
        state = new


def test_a_time_limit_is_bootstrapped_and_a_termination_is_not():
    agent, state = agent_and_state("omd", "CartPole-v1")
    critics = jax.tree.map(jnp.zeros_like, state.learner.target_critics)
    critics["params"]["layer_2"]["bias"] += 100.0  # of every state
    state = state.replace(learner=state.learner.replace(target_critics=critics))
    targets = {}
    for ends in ((0, 0), (0, 1), (1, 0), (1, 1)):
        filled = state
        for seed in range(20):  # the newest, which push out those before
            filled = agent.observe(filled, transition(seed, *ends))
        rows = filled.replay.rows.at[:20].set(filled.replay.rows[20:40])
        filled = filled.replace(replay=filled.replay.replace(rows=rows))
        targets[ends] = float(
            agent.step(filled, transition(20, *ends), jnp.zeros(3))[2]["critic/target"]
        )
    reward = targets[1, 0]  # the predictions of a model that has learned nothing
    assert abs(reward) < 0.5
    assert targets[1, 1] == reward
    # the soft maximum of two equal values adds 0.01 log 2
    expected = pytest.approx(reward + 0.99 * (100.0 + 0.01 * np.log(2.0)), abs=1e-3)
    assert targets[0, 0] == targets[0, 1] == expected


def test_diagnostics_are_taken_now_and_then_or_never():
    agent, state = agent_and_state("omd", "CartPole-v1")
    assert agent.refresh_every == 250
    (stage,) = agent.refresh
    after, metrics = jax.jit(stage.run)(state)
    assert stage.name == "diagnostics"
    names = ("inner_gradient", "alignment", "cg_residual", "cg_failed", "cosine_identity_cg")
    assert set(metrics) == {f"omd/{name}" for name in names}
    assert (jax.random.key_data(after.key) != jax.random.key_data(state.key)).any()
    np.testing.assert_array_equal(after.replay.rows, state.replay.rows)
    config = tiny.config("mle", "CartPole-v1", model__num_members=1, omd__diagnose_every=0)
    never = dyna.make_agent(config, DISCRETE)
    assert (never.refresh, never.refresh_every) == ((), 0)


def test_exploration_draws_new_numbers_at_every_step():
    for (algo, env), spec in AGENTS.items():
        agent, state = agent_and_state(algo, env)
        explore = jax.jit(lambda state, agent=agent: agent.explore(state, jnp.zeros(3)))
        first, action = explore(state)
        second, other = explore(first)
        assert action.shape == other.shape == (spec.action_size,)
        keys = [jax.random.key_data(s.key).tolist() for s in (state, first, second)]
        assert len({tuple(key) for key in keys}) == 3


def test_what_diagnosis_looks_at_belongs_to_the_learner():
    for (algo, env), temperature in zip(AGENTS, (0.01, 1.0)):
        agent, state = agent_and_state(algo, env)
        inside, seen = agent.internals, jnp.zeros((5, 3))
        action, log_prob = inside.sample(state, seen, jax.random.key(0))
        assert (action.shape, log_prob.shape) == ((5, 2), (5,))
        assert inside.value(state, seen, jax.random.key(0)).shape == (5,)
        assert inside.temperature(state) == pytest.approx(temperature)
        assert inside.model(state) is state.model
        assert agent.act(agent.policy(state), (), seen)[0].shape == (5, 2)
