"""Double-horizon MBPO as an agent: what each stage of a refresh changes, and how often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import dhmbpo
from agents.scaled_networks import Policy, make_scaled_networks
from replay import Transition, buffer, example_transition
from tests.integration import tiny

STORED = 100  # transitions
END = 0.3  # the episode ends where the first coordinate is beyond
RESET = 2  # refreshes between resets of the optimisers


def config(**changes):
    fixed = tiny.DOUBLE_HORIZON | {
        "replay_capacity": 500,
        "dhmbpo__refreshes_per_reset": RESET,
    }
    return tiny.config("dhmbpo", "InvertedPendulum-v5", **(fixed | changes))


def termination(observation, action, next_observation):
    return next_observation[..., 0] > END


def linear_world(key, n=STORED):
    """Transitions of s' = 0.9 s + 0.1 a, r = s_0, from s around (0, 1, 2) in episodes of 20."""
    state_key, action_key = jax.random.split(key)
    observation = jax.random.uniform(state_key, (n, 3), minval=-1.0) * 0.5 + jnp.arange(3.0)[None]
    action = jax.random.uniform(action_key, (n, 1), minval=-1.0)
    following = 0.9 * observation + 0.1 * action
    truncated = (jnp.arange(n) % 20 == 19).astype(jnp.float32)
    return Transition(observation, action, observation[:, 0], following, jnp.zeros(n), truncated)


def filled(agent, settings, learned):
    """A state after `learned` steps of learning, with transitions of the linear world."""
    state = jax.jit(agent.init)(jax.random.key(1))
    data = linear_world(jax.random.key(2))
    replay = buffer.add_masked(state.replay, data, jnp.ones(STORED, bool))
    return state.replace(replay=replay, env_steps=jnp.int32(settings.initial_steps + learned))


@functools.cache
def built(**changes):
    """Configuration, agent, and its compiled stages by name."""
    settings = config(**changes)
    agent = dhmbpo.make_agent(settings, tiny.spec(termination=termination))
    return settings, agent, {stage.name: jax.jit(stage.run) for stage in agent.refresh}


def refreshed(state, stages):
    """The states before and after every stage, by name, and all metrics."""
    passed, metrics = {}, {}
    for name, run in stages.items():
        after, more = run(state)
        passed[name], state = (state, after), after
        metrics |= more
    return passed, metrics


@functools.cache
def first_refresh():
    settings, agent, stages = built()
    return refreshed(filled(agent, settings, 0), stages)


def changed(before, after):
    """The fields of the state in which any number differs."""

    def numbers(tree):
        leaves = jax.tree.leaves(tree)
        keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        return [jax.random.key_data(leaf) if k else leaf for leaf, k in zip(leaves, keys)]

    names = vars(before)
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in names}
    return {
        name
        for name, (a, b) in pairs.items()
        if any(not np.array_equal(x, y) for x, y in zip(numbers(a), numbers(b), strict=True))
    }


def test_every_stage_changes_its_own_part_of_the_state_and_nothing_else():
    passed, metrics = first_refresh()
    found = {name: changed(*states) for name, states in passed.items()}
    assert found == {"model": {"model"}, "updates": {"learner", "ring", "key"}}
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert int(metrics["model/fit_steps"]) == 30  # the first fit's own cap


@pytest.mark.parametrize(
    ("learned", "updates", "reset"),
    [(0, 64 * 2, True), (50, 50 * 2, False), (100, 50 * 2, True), (150, 50 * 2, False)],
)
def test_the_first_refresh_makes_up_for_exploration_and_optimisers_forget_now_and_then(
    learned, updates, reset
):
    settings, _, stages = built()
    state = first_refresh()[0]["updates"][0]
    aged = jax.tree.map(lambda leaf: leaf + 1, state.learner.optimizer)
    state = state.replace(
        env_steps=jnp.int32(settings.initial_steps + learned),
        learner=state.learner.replace(optimizer=aged),
    )
    after, _ = stages["updates"](state)
    assert int(after.learner.updates) == 5 + updates  # critics alone first
    counts = np.array([int(part[0].count) for part in after.learner.optimizer])
    np.testing.assert_array_equal(counts - (not reset), [updates, 5 + updates, updates])


def test_the_ring_has_starts_of_the_replay_and_what_follows_them_alive():
    passed, metrics = first_refresh()
    state = passed["updates"][1]
    items, valid = buffer.contents(state.ring)
    states = np.asarray(items)[np.asarray(valid)]
    real = {tuple(row) for row in np.asarray(state.replay.rows)[:STORED, :3].tolist()}
    assert all(tuple(row) in real for row in states[:20].tolist())  # 20 starts, in one block
    assert not any(tuple(row) in real for row in states[20:].tolist())
    terminated = round(float(metrics["rollout/terminated_fraction"]) * 20)
    assert len(states) == 20 + int(metrics["rollout/transitions"]) - terminated
    assert int(metrics["rollout/length"]) == 3
    assert (states[20:, 0] <= END).all()
    assert terminated > 0


def fingerprint(policy):
    """A state that tells policies apart."""
    return jnp.full(3, sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(policy.net)))


def test_rollouts_begin_anew_after_so_many_updates_with_the_policy_of_then(monkeypatch):
    def make_rollout(*_):
        def generate(model, policy, filter_state, replay, ring, length, key):
            return buffer.add(ring, fingerprint(policy)), {"rollout/length": length}

        return generate

    monkeypatch.setattr(dhmbpo, "make_rollout", make_rollout)
    settings = config(dhmbpo__updates_per_rollout=50, sac__learning_rate=0.01)
    agent = dhmbpo.make_agent(settings, tiny.spec())
    state = filled(agent, settings, 0)
    after, metrics = jax.jit(dict(agent.refresh)["updates"])(state)
    assert int(after.learner.updates) == 5 + 64 * 2  # in rounds of 50, 50 and 28
    assert int(after.ring.size) == 3
    first, second, third = np.asarray(after.ring.rows)[:3, 0]
    np.testing.assert_allclose(first, fingerprint(agent.policy(state))[0], rtol=1e-6)
    last = float(fingerprint(agent.policy(after))[0])
    assert len({first, second, third, last}) == 4
    assert float(metrics["rollout/length"]) == 3.0


def test_policy_and_critics_see_scored_observations_of_the_replay():
    settings, agent, _ = built()
    state = first_refresh()[0]["updates"][1]
    rows = np.asarray(state.replay.rows, np.float64)[:STORED, :3]
    policy = agent.policy(state)
    np.testing.assert_allclose(policy.observations.mean, rows.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(policy.observations.std, rows.std(axis=0, ddof=1), rtol=1e-4)
    net = make_scaled_networks(settings, tiny.spec())
    seen = jnp.float32(rows[:5])
    expected = net.greedy(Policy(state.learner.policy, policy.observations), seen)
    np.testing.assert_array_equal(agent.act(policy, (), seen)[0], expected)


def test_a_step_stores_and_acts_and_does_not_learn():
    settings, agent, _ = built()
    state = first_refresh()[0]["updates"][1]
    step = jax.jit(agent.step)
    new = example_transition(3, 1)._replace(reward=jnp.float32(7.0))
    actions = []
    for _ in range(3):
        after, action, metrics = step(state, new, jnp.ones(3))
        assert changed(state, after) == {"key", "replay", "env_steps"}
        assert metrics == {}
        state, actions = after, [*actions, float(action[0])]
    assert int(state.replay.size) == STORED + 3
    assert int(state.env_steps) == settings.initial_steps + 3
    assert float(buffer.gather(state.replay, jnp.int32(0)).reward) == 7.0
    assert len(set(actions)) == 3  # samples
    assert max(map(abs, actions)) < 1.0


def test_internals_are_what_the_learner_backs_up():
    _, agent, _ = built()
    state = first_refresh()[0]["updates"][1]
    observation = jnp.zeros((4, 3))
    value = agent.internals.value(state, observation, jax.random.key(0))
    assert value.shape == (4,)
    bounds = state.learner.bounds
    assert float(bounds.low) - 5.0 < value.min()  # the entropy bonus may lie beyond
    assert value.max() < float(bounds.high) + 5.0
    alpha = float(agent.internals.temperature(state))
    np.testing.assert_allclose(alpha, np.exp(float(state.learner.log_temperature)), rtol=1e-6)
    action, log_prob = agent.internals.sample(state, observation, jax.random.key(0))
    assert action.shape == (4, 1)
    assert log_prob.shape == (4,)


def test_metrics_are_means_over_so_many_steps():
    def step(i, total):
        return total + i, {"number": 2.0 * i}

    total, metrics = jax.jit(lambda n: dhmbpo.mean_over(n, step, jnp.int32(0)))(4)
    assert int(total) == 0 + 1 + 2 + 3
    assert float(metrics["number"]) == 3.0
    _, metrics = dhmbpo.mean_over(0, step, jnp.int32(0))
    assert float(metrics["number"]) == 0.0


def test_a_share_of_the_starts_is_early_in_an_episode():
    replay = buffer.init(STORED, example_transition(3, 1))
    data = linear_world(jax.random.key(0))._replace(
        observation=jnp.tile(jnp.arange(float(STORED))[:, None], (1, 3))
    )
    replay = buffer.add_masked(replay, data, jnp.ones(STORED, bool))
    draw = jax.jit(dhmbpo.make_starts(0.3, 2), static_argnums=2)
    found = np.asarray(draw(replay, jax.random.key(1), 10_000))[:, 0]
    early = found % 20 < 2
    # 0.3 and a tenth of the other 0.7; the deviation is 0.005
    np.testing.assert_allclose(early.mean(), 0.3 + 0.7 * 0.1, atol=0.02)
    assert dhmbpo.make_starts(0.0, 2) is dhmbpo.real_states


# --- objectives and filters ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vaml", "omd"])
def test_a_decision_aware_objective_trains_the_model(objective):
    settings, agent, stages = built(
        model__objective=objective, model__num_members=2, omd__inner_steps=2
    )
    state = filled(agent, settings, 0)
    # value functions that are not constant
    key = jax.random.key(3)
    critics = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(key, leaf.shape), state.learner.critics
    )
    learner = state.learner.replace(critics=critics, target_critics=critics)
    before = state.replace(learner=learner)
    after, metrics = stages["model"](before)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert int(metrics["model/fit_steps"]) > 0
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.model.params, before.model.params)
    assert max(jax.tree.leaves(moved["net"])) > 1e-3
    if objective == "omd":  # critics of its own follow the model, with scales that stay
        own = after.model.objective.online
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), own.net, critics)
        assert max(jax.tree.leaves(moved)) > 1e-4
        scale = 0.5 * (own.bounds.high - own.bounds.low)
        np.testing.assert_allclose(scale, np.ones(3), rtol=1e-6)


@pytest.mark.slow
def test_a_filter_acts_on_the_distribution_rollouts():
    settings, agent, stages = built(rollout__filter="flow_discriminator")
    assert list(stages) == ["model", "flows", "updates"]
    state = filled(agent, settings, 0)
    after, metrics = stages["flows"](state)
    assert changed(state, after) == {"filter"}
    assert np.isfinite(metrics["flow/threshold"])
    assert int(after.filter.flows.joint.steps) == 6  # the warm-up
    kept = []
    for threshold in (np.inf, float(metrics["flow/threshold"]), -np.inf):
        told = after.replace(filter=after.filter.replace(threshold=jnp.float32(threshold)))
        filled_ring, metrics = stages["updates"](told)
        assert changed(told, filled_ring) == {"ring", "learner", "key"}
        kept.append(int(metrics["rollout/transitions"]))
        ended = round(20 * float(metrics["rollout/terminated_fraction"]))
        assert int(filled_ring.ring.size) == 20 + kept[-1] - ended
    assert kept[0] > kept[1] > kept[2] == 0
