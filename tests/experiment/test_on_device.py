"""Environments within compiled programs. The tests have two CPU devices."""

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.registry import make_agent
from envs import FunctionalEnv
from errors import UserError
from experiment import on_device, seeds
from experiment.actors import EVALUATION, TRAINING, episode_seed
from experiment.checkpoint import Checkpointer
from experiment.on_device import DeviceEnvironments
from experiment.stopwatch import Stopwatch
from replay import ReplayState, Transition, buffer, example_transition
from tests.experiment import toy
from tests.integration import tiny

SEED, EPISODE, CAPACITY = 3, 5, 20_000
EXPLORED, LEARNED = 20, 33


def data(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_equal(left, right, tolerance=0.0):
    paths, _ = jax.tree_util.tree_flatten_with_path(left)
    for (path, leaf), other in zip(paths, jax.tree.leaves(right), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(data(leaf), data(other), rtol=0, atol=tolerance, err_msg=name)


def first_key(seed):
    """Returns the key of the resets of a seed's training environment."""
    return jax.random.key(episode_seed(seed, TRAINING))


def make(agent, env_id, run_seeds, **fields):
    """Returns the lifted agent and its environments."""
    config = tiny.config("sac", env_id, num_seeds=len(run_seeds), **fields)
    assert config.env_on_device
    lifted = seeds.lift(agent or make_agent(config, envs.spec(env_id)), len(run_seeds))
    return lifted, DeviceEnvironments(config, lifted, run_seeds, Stopwatch())


@pytest.fixture(scope="module")
def noisy_clock():
    """A clock whose state has a random key."""
    return toy.register_functional("DeviceClock-v0", toy.clock(EPISODE, True)) + "+noise1"


@pytest.fixture(scope="module")
def single(noisy_clock):
    """Soft actor-critic with one seed, and its environments at the very start."""
    agent, environments = make(None, noisy_clock, [SEED], replay_capacity=CAPACITY)
    environments.begin(agent.init([SEED]))
    return agent, environments, environments.log()


def act_for(single, explore, learn):
    """Acts from the very start for so many steps a call; returns agent state, metrics and log."""
    agent, environments, start = single
    environments.restore(start)
    state = environments.begin(agent.init([SEED]))
    for at_most in explore:
        state, metrics, steps = environments.explore(state, at_most)
        assert (metrics, steps) == ({}, at_most)
    sums = []
    for at_most in learn:
        state, metrics, steps = environments.learn(state, at_most)
        assert steps == at_most
        sums.append(metrics)
    totals = jax.tree.map(lambda *parts: sum(parts), *sums) if sums else {}
    return state, totals, environments.log()


def test_a_chunk_equals_the_same_functions_called_step_by_step(single, noisy_clock):
    agent, env = single[0].single, envs.functional(noisy_clock)
    key, episode = first_key(SEED), 0
    explore, observe, step = map(jax.jit, (agent.explore, agent.observe, agent.step))
    apply = jax.jit(env.step)
    state = agent.init(jax.random.key(SEED))
    env_state, observation = env.reset(jax.random.fold_in(key, episode))
    state, action = explore(state, observation)
    sums = Counter()
    for time in range(EXPLORED + LEARNED):
        env_state, seen, reward, terminated, truncated = apply(env_state, action)
        transition = Transition(observation, action, reward, seen, terminated, truncated)
        observation = seen
        if terminated or truncated:
            episode += 1
            env_state, observation = env.reset(jax.random.fold_in(key, episode))
        if time < EXPLORED:
            state, action = explore(observe(state, transition), observation)
        else:
            state, action, metrics = step(state, transition, observation)
            sums.update({name: float(value) for name, value in metrics.items()})
    assert episode == (EXPLORED + LEARNED) // EPISODE

    actual, metrics, log = act_for(single, [EXPLORED], [LEARNED])
    assert_equal(jax.tree.map(lambda leaf: leaf[0], actual), state, tolerance=1e-5)
    assert metrics.keys() == sums.keys() != set()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, [sums[name]], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(log["action"][0], action, atol=1e-5)
    expected = key, episode, (EXPLORED + LEARNED) % EPISODE, env_state, observation
    for stored, leaf in zip(log["actor"], map(jnp.asarray, jax.tree.leaves(expected)), strict=True):
        np.testing.assert_allclose(stored[0], data(leaf), atol=1e-6)


def test_it_does_not_matter_how_many_steps_are_done_at_once(single):
    expected = act_for(single, [EXPLORED], [LEARNED])
    for chunk in (1, 7):
        explore = [chunk] * (EXPLORED // chunk) + [EXPLORED % chunk] * (EXPLORED % chunk > 0)
        learn = [chunk] * (LEARNED // chunk) + [LEARNED % chunk] * (LEARNED % chunk > 0)
        state, metrics, log = act_for(single, explore, learn)
        assert_equal(state, expected[0])
        assert_equal(metrics, expected[1], tolerance=1e-4)
        assert_equal(log, expected[2])


def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_happened(single, tmp_path):
    agent, environments, _ = single
    state, _, log = act_for(single, [EXPLORED], [13])
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(EXPLORED + 13, state, log)
    expected, metrics, _ = environments.learn(state, LEARNED)
    after = environments.log()
    act_for(single, [4], [5])  # elsewhere

    _, state, driver = checkpointer.restore(agent.state_shape)
    environments.restore(driver)
    state, again, _ = environments.learn(state, LEARNED)
    assert_equal((state, again, environments.log()), (expected, metrics, after))
    assert after["actor"][1] > driver["actor"][1] > 0  # episodes
    programs = environments._explore, environments._learn
    assert [program._cache_size() for program in programs] == [1, 1]


def test_steps_of_learning_are_timed_as_the_policy(single):
    environments = single[1]
    environments._watch.lap()
    act_for(single, [1], [])
    assert set(environments._watch.lap()) == {"environment"}
    act_for(single, [], [1])
    assert set(environments._watch.lap()) == {"policy"}


def test_the_replay_is_not_copied(single):
    agent, environments, start = single
    environments.restore(start)
    state = environments.begin(agent.init([SEED]))
    carry = state, environments._actor, environments.action
    program = environments._learn.lower(carry, np.int32(2)).compile()
    replay = state.replay.rows.nbytes
    assert program.memory_analysis().temp_size_in_bytes < replay / 10
    assert program.memory_analysis().alias_size_in_bytes > replay


class Wanderer(NamedTuple):
    """A cheap agent that learns: its actions are random around the mean reward of a batch."""

    key: jax.Array
    replay: ReplayState
    mean: jax.Array  # []


def wandering():
    """Returns the agent of that state."""

    def explore(state, observation):
        key, action_key = jax.random.split(state.key)
        return state._replace(key=key), state.mean + jax.random.normal(action_key, (1,))

    def observe(state, transition):
        return state._replace(replay=buffer.add(state.replay, transition))

    def step(state, transition, next_observation):
        key, batch_key = jax.random.split(state.key)
        state = observe(state, transition)._replace(key=key)
        batch = buffer.sample(state.replay, batch_key, 8)
        state = state._replace(mean=0.9 * state.mean + 0.1 * batch.reward.mean())
        return *explore(state, next_observation), {"policy/mean": state.mean}

    return toy.agent()._replace(
        init=lambda key: Wanderer(key, buffer.init(99, example_transition(3, 1)), jnp.ones(())),
        explore=explore,
        observe=observe,
        step=step,
    )


def wander(env_id, run_seeds):
    """Returns what there is after exploring and learning with that agent, all with a seed axis."""
    agent, environments = make(wandering(), env_id, run_seeds)
    state = environments.begin(agent.init(run_seeds))
    state, _, _ = environments.explore(state, EXPLORED)
    state, sums, _ = environments.learn(state, LEARNED)
    return state, sums, environments.log()


@pytest.fixture(scope="module")
def alone(noisy_clock):
    return wander(noisy_clock, [SEED])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # one seed after the other, and vectorised
def test_a_seed_among_others_equals_the_seed_on_its_own(alone, noisy_clock, backend, monkeypatch):
    monkeypatch.setattr(seeds.jax, "default_backend", lambda: backend)
    together = wander(noisy_clock, [SEED - 1, SEED, SEED + 1])  # on one device
    monkeypatch.undo()
    found = [data(leaf)[1] for leaf in jax.tree.leaves(together)]
    assert_equal(found, [data(leaf)[0] for leaf in jax.tree.leaves(alone)], tolerance=1e-5)
    state, sums, log = together
    assert len(np.unique(sums["policy/mean"])) == len(np.unique(log["action"])) == 3
    assert (np.asarray(state.replay.size) == EXPLORED + LEARNED).all()


class Record(NamedTuple):
    """Every transition, and what was to act on next."""

    count: jax.Array  # int32 []
    transitions: Transition  # [N, ...]
    next_observations: jax.Array  # [N, O]


def record(state, transition, next_observation):
    """Stores what it is given; the n-th action is n / 100."""
    put = lambda rows, row: rows.at[state.count].set(row)  # noqa: E731
    state = Record(
        state.count + 1,
        jax.tree.map(put, state.transitions, transition),
        put(state.next_observations, next_observation),
    )
    action = state.count.astype(jnp.float32)[None] / 100
    return state, action, {"count": state.count}


def recorded(env, steps, first_action=0.0):
    """Returns the record [steps] of an environment of seed 7, sums of metrics, and the fault."""
    actor = on_device.first_episode(env, jnp.uint32(episode_seed(7, TRAINING)))
    rows = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape)), example_transition(2, 1))
    state = Record(jnp.zeros((), jnp.int32), rows, rows.observation)
    chunk = jax.jit(on_device.make_chunk(env, record))
    carry = state, actor, jnp.full((1,), first_action)
    (state, actor, action), sums, fault = chunk(carry, steps)
    np.testing.assert_allclose(action, [steps / 100])
    return state, actor, sums, fault


@pytest.mark.parametrize("terminates", [True, False])
def test_ends_of_episodes_are_stored_as_what_they_are(terminates):
    state, actor, sums, fault = recorded(toy.clock(3, terminates), 7)
    taken = state.transitions
    draws = [jax.random.uniform(jax.random.fold_in(first_key(7), k)) for k in (0, 0, 0, 1, 1, 1, 2)]
    np.testing.assert_array_equal(taken.observation, np.column_stack([draws, [0, 1, 2] * 2 + [0]]))
    # the true last observation of an episode, not the first of the next one
    seen = np.column_stack([draws, [1, 2, 3] * 2 + [1]])
    np.testing.assert_array_equal(taken.next_observation, seen)
    np.testing.assert_array_equal(taken.reward, [1, 2, 3, 1, 2, 3, 1])
    over = np.array([0, 0, 1, 0, 0, 1, 0], np.float32)
    np.testing.assert_array_equal(taken.terminated, over * terminates)
    np.testing.assert_array_equal(taken.truncated, over * (not terminates))
    np.testing.assert_allclose(taken.action[:, 0], np.arange(7) / 100)
    # what is acted on next is the first observation of the new episode
    np.testing.assert_array_equal(state.next_observations[:-1], taken.observation[1:])
    assert (int(actor.episode), int(actor.steps)) == (2, 1)
    assert float(sums["count"]) == sum(range(1, 8))
    assert int(fault.step) == 0
    assert len(set(map(float, draws))) == 3


def broken_clock(reward, observation):
    """From its third step on these are added; an action that is not finite breaks it too."""
    whole = toy.clock(9, False)

    def step(state, action):
        state, seen, paid, *ends = whole.step(state, action)
        late = state.time >= 3
        paid += jnp.where(late, reward, 0.0)
        seen += jnp.where(late, observation, 0.0) + 0.0 * action[0]
        return state, seen, paid, *ends

    return whole._replace(step=step)


@pytest.mark.parametrize(("reward", "observation"), [(np.nan, 0.0), (0.0, -np.inf)])
def test_numbers_that_are_not_finite_name_environment_seed_and_step(reward, observation):
    env_id = toy.register_functional("DeviceBroken-v0", broken_clock(reward, observation))
    agent, environments = make(toy.agent(), env_id, [5])
    state, _, _ = environments.explore(environments.begin(agent.init([5])), 2)
    with pytest.raises(UserError, match=r"DeviceBroken-v0 .*seed 5, episode 0, step 3\)"):
        environments.learn(state, 9)


def test_the_first_fault_is_reported_unless_the_action_is_to_blame():
    *_, fault = recorded(broken_clock(np.inf, np.nan), 9)
    assert (int(fault.step), int(fault.episode), float(fault.reward)) == (3, 0, np.inf)
    *_, fault = recorded(broken_clock(0.0, 0.0), 2, first_action=np.nan)
    assert int(fault.step) == 0


def draw_episodes():
    """The reset draws how long an episode takes, and how it ends; the reward is the action."""

    def reset(key):
        length = jax.random.randint(key, (), 1, 12)
        state = jnp.stack([length, length]).astype(jnp.float32)
        return state, state

    def step(state, action):
        state = state - jnp.array([0.0, 1.0])
        over, odd = (state[1] == 0).astype(jnp.float32), state[0] % 2
        # after the end it means nothing
        reward = jnp.where(state[1] < 0, jnp.nan, action[0])
        return state, state, reward, over * odd, over * (1 - odd)

    return FunctionalEnv(reset, step, 11)


def drawn(seed, position, episode):
    key = jax.random.fold_in(jax.random.key(episode_seed(seed, EVALUATION, position)), episode)
    return int(jax.random.randint(key, (), 1, 12))


def test_returns_and_lengths_are_those_of_each_episode():
    env_id = toy.register_functional("DeviceDraw-v0", draw_episodes())

    def evaluate(run_seeds, position):
        act = lambda policy, observations: policy * observations[:, 1:]  # noqa: E731
        environments = make(toy.agent(act), env_id, run_seeds, eval_episodes=8)[1]
        factors = jnp.asarray(run_seeds, jnp.float32)
        evaluation = environments.evaluate(factors, position)
        again = environments.evaluate(factors, position)
        np.testing.assert_array_equal(evaluation.lengths, again.lengths)
        return evaluation

    lengths = np.array([[drawn(seed, 300, n) for n in range(8)] for seed in (4, 9)])
    evaluation = evaluate([4, 9], 300)
    np.testing.assert_array_equal(evaluation.lengths, lengths)
    # reward (steps left) times seed: L + (L - 1) + ... + 1 over an episode
    expected = lengths * (lengths + 1) / 2 * np.array([[4], [9]])
    np.testing.assert_allclose(evaluation.returns, expected)
    assert evaluation.returns.dtype == np.float64
    assert len(np.unique(lengths)) > 3
    np.testing.assert_array_equal(evaluate([9], 300).lengths, lengths[1:])
    assert (evaluate([9], 400).lengths != lengths[1:]).any()


def test_a_policy_keeps_its_memory_during_an_evaluation():
    env_id = toy.register_functional("DeviceMemory-v0", draw_episodes())
    agent = toy.agent()._replace(
        begin=lambda policy, episodes: 100.0 * jnp.arange(episodes),
        act=lambda policy, memory, observations: (memory[:, None], memory + 1.0),
    )
    environments = make(agent, env_id, [4], eval_episodes=3)[1]
    for _ in range(2):
        found = environments.evaluate(jnp.zeros(1), 300)
        lengths = np.array([drawn(4, 300, n) for n in range(3)])
        # 100 n + (0 + 1 + ... + L - 1) over an episode
        expected = lengths * (lengths - 1) / 2 + 100 * np.arange(3) * lengths
        np.testing.assert_allclose(found.returns, [expected])


def test_every_program_is_traced_once_whatever_its_length():
    traces = Counter()

    def counted(name, function):
        def wrapper(*args):
            traces[name] += 1
            return function(*args)

        return wrapper

    env_id = toy.register_functional("DeviceTraced-v0", toy.clock(3, True))
    agent = toy.agent()
    agent = agent._replace(
        step=counted("step", agent.step), observe=counted("observe", agent.observe)
    )
    agent, environments = make(agent, env_id, [0, 1])
    state = environments.begin(agent.init([0, 1]))
    done = []
    for at_most in (1, 7, 100, 5000):
        state, _, steps = environments.explore(state, at_most)
        state, _, again = environments.learn(state, at_most)
        done.append((steps, again))
    most = on_device.MOST_UPDATES // 2  # there are two per step
    assert done == [(1, 1), (7, 7), (100, 100), (most, most)]
    np.testing.assert_array_equal(state, 2 * (108 + most))
    assert traces == {"step": 1, "observe": 1}
    environments.close()
