"""Seeds are an axis: each one trains as it would on its own. The tests have two CPU devices."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.base import Stage
from agents.registry import make_agent
from experiment import loop, run_folder, seeds
from experiment.interrupt import Interrupt
from replay import Transition
from tests.integration import tiny

INITIAL, LEARNED = 64, 100  # steps; two updates per step of learning


def data(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def toy_step(observation, action, time):
    """Returns the transition and the next observation to act on: a spring, and episodes of 20."""
    position, velocity, phase = observation
    velocity = 0.9 * velocity - 0.2 * position + 0.2 * action[0]
    after = np.array([position + 0.2 * velocity, velocity, np.sin(0.1 * time)], np.float32)
    truncated = np.float32(time % 20 == 19)
    reward = np.float32(-(position**2) - 0.1 * action[0] ** 2 + 0.01 * phase)
    transition = Transition(observation, action, reward, after, np.float32(0), truncated)
    return transition, np.array([0.5, 0, 0], np.float32) if truncated else after


def train(run_seeds, learned=LEARNED, perturbed=None, agent=None):
    """Returns the lifted agent's state after `learned` steps with the spring.

    The rewards of the seed at place `perturbed` are shifted.
    """
    num_seeds = len(run_seeds)
    lifted = agent or lift(num_seeds)
    state = lifted.init(run_seeds)
    observation = np.stack([np.array([0.1 * k, 0, 0], np.float32) for k in run_seeds])
    state, action = lifted.explore(state, observation)
    for time in range(INITIAL + learned):
        steps = [toy_step(o, a, time) for o, a in zip(observation, np.asarray(action))]
        transition = Transition(*(np.stack(field) for field in zip(*(t for t, _ in steps))))
        if perturbed is not None:
            transition.reward[perturbed] += 1.0
        observation = np.stack([o for _, o in steps])
        if time < INITIAL:
            state = lifted.observe(state, transition)
            state, action = lifted.explore(state, observation)
            continue
        if (time - INITIAL) % lifted.refresh_every == 0:
            for stage in lifted.refresh:
                state, _ = stage.run(state)
        state, action, _ = lifted.step(state, transition, observation)
    return state


def lift(num_seeds, algo="mbpo", **fields):
    sizes = tiny.DOUBLE_HORIZON if algo == "dhmbpo" else {"rollout__schedule": (0, 40, 1, 3)}
    config = tiny.config(algo, num_seeds=num_seeds, **sizes | fields)
    return seeds.lift(make_agent(config, tiny.spec()), num_seeds)


def seed_leaves(state, place):
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): data(leaf)[place] for path, leaf in paths}


def distance(left, right):
    unequal = left != right  # equal infinities are not apart
    return np.abs(left[unequal].astype(float) - right[unequal]).max(initial=0.0)


def differences(state, place, other, other_place):
    """Returns the largest difference of every leaf that differs."""
    left, right = seed_leaves(state, place), seed_leaves(other, other_place)
    found = {name: distance(left[name], right[name]) for name in left}
    return {name: value for name, value in found.items() if value != 0}


@pytest.fixture(scope="module")
def alone():
    """The state of a run of seed k on its own, by k."""
    agent = lift(1)
    return [train([k], agent=agent) for k in range(4)]


@pytest.mark.parametrize(("num_seeds", "devices"), [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)])
def test_seeds_are_spread_over_as_many_devices_as_divide_them(num_seeds, devices):
    assert len(jax.devices()) == 2
    sharding = seeds.seed_sharding(num_seeds)
    assert len(sharding.device_set) == devices
    assert sharding.shard_shape((num_seeds, 7)) == (num_seeds // devices, 7)


def test_the_toy_run_is_one_in_which_everything_learns(alone):
    state = alone[0]
    assert int(state.sac.updates[0]) == 2 * LEARNED
    assert int(state.replay.size[0]) == INITIAL + LEARNED
    assert int(state.model_replay.size[0]) == 80  # refreshes of length 1 and 3
    untrained = lift(1).init([0])
    moved = differences(state, 0, untrained, 0)
    for part in (".sac.policy", ".sac.critics", ".sac.log_temperature", ".model.params", ".key"):
        assert any(name.startswith(part) and value > 1e-3 for name, value in moved.items()), part


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_a_seed_among_others_equals_the_seed_on_its_own(alone, num_seeds):
    # 2: one seed per device; 3: all on one, one after the other; 4: two on each of two devices
    together = train(list(range(num_seeds)))
    for k in range(num_seeds):
        far = {n: d for n, d in differences(together, k, alone[k], 0).items() if d > 1e-5}
        assert not far, f"seed {k}"
    key = seed_leaves(together, 1)[".key"]
    np.testing.assert_array_equal(key, seed_leaves(alone[1], 0)[".key"])
    assert differences(together, 0, together, 1)[".replay.rows"] > 0.1


@pytest.fixture(scope="module")
def two_with_flows():
    return lift(2, "cf_mbpo")


@pytest.mark.long
def test_a_seed_with_flows_equals_the_seed_on_its_own(two_with_flows):
    learned = 10  # one refresh
    single = lift(1, "cf_mbpo")
    together = train([0, 1], learned, agent=two_with_flows)
    untrained = two_with_flows.init([0, 1])
    for k in (0, 1):
        alone = train([k], learned, agent=single)
        assert int(alone.filter.flows.joint.steps[0]) == 6 + 2  # warm-up and refinement
        far = {n: d for n, d in differences(together, k, alone, 0).items() if d > 1e-5}
        assert not far, f"seed {k}"
        moved = differences(together, k, untrained, k)
        for part in (".filter.flows.joint.model", ".filter.flows.joint.real", ".model.params"):
            assert any(n.startswith(part) and d > 1e-3 for n, d in moved.items()), part
    assert any(n.startswith(".filter.flows.joint.") for n in differences(together, 0, together, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_seeds", "learned", "algo", "fields"),
    [
        (3, 20, "mbpo", {}),
        (2, 5, "vaml", {"refit__interval": 5}),
        pytest.param(2, 5, "dhmbpo", {}, marks=pytest.mark.long),
    ],
)
def test_vectorised_seeds_equal_seeds_on_their_own(num_seeds, learned, algo, fields, monkeypatch):
    # The program that accelerators run, here on the CPU, where it sums in another order.
    single = lift(1, algo, **fields)
    expected = [train([k], learned, agent=single) for k in range(num_seeds)]
    monkeypatch.setattr(seeds.jax, "default_backend", lambda: "gpu")
    agent = lift(num_seeds, algo, **fields)
    monkeypatch.undo()
    together = train(list(range(num_seeds)), learned, agent=agent)
    for k in range(num_seeds):
        found = differences(together, k, expected[k], 0)
        assert ".key" not in found
        assert not {name: value for name, value in found.items() if value > 1e-4}
    if algo == "dhmbpo":
        assert together.learner.updates.tolist() == [5 + 2 * INITIAL] * num_seeds
        return
    refitted = np.asarray(together.sac.optimizer[1][0].count) > 2 * learned  # critic updates
    assert refitted.tolist() == [algo == "vaml"] * num_seeds


def test_first_seed_counts_not_its_place():
    state = lift(2).init([1, 3])
    single = lift(1)
    for place, seed in enumerate([1, 3]):
        assert not differences(state, place, single.init([seed]), 0)


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [2, 3])
def test_what_happens_to_one_seed_leaves_another_bit_identical(num_seeds):
    agent = lift(num_seeds)
    run_seeds = list(range(num_seeds))
    plain = train(run_seeds, 60, agent=agent)
    shifted = train(run_seeds, 60, perturbed=1, agent=agent)
    assert not differences(plain, 0, shifted, 0)
    changed = differences(plain, 1, shifted, 1)
    for part in (".replay.rows", ".model_replay.rows", ".sac.policy", ".model.params"):
        assert any(name.startswith(part) for name in changed), part


@pytest.mark.slow
def test_what_happens_to_one_seed_leaves_the_ring_of_another_bit_identical():
    agent = lift(2, "dhmbpo")
    plain = train([0, 1], 60, agent=agent)  # two refreshes
    shifted = train([0, 1], 60, perturbed=1, agent=agent)
    assert plain.learner.updates.tolist() == [5 + 2 * INITIAL + 5 + 2 * 50] * 2
    assert not differences(plain, 0, shifted, 0)
    changed = differences(plain, 1, shifted, 1)
    for part in (
        ".replay.rows",
        ".ring.rows",
        ".learner.policy",
        ".learner.bounds",
        ".model.params",
    ):
        assert any(name.startswith(part) for name in changed), part


@pytest.mark.slow
def test_what_happens_to_one_seed_leaves_the_flows_of_another_bit_identical(two_with_flows):
    plain = train([0, 1], 60, agent=two_with_flows)  # two refreshes
    shifted = train([0, 1], 60, perturbed=1, agent=two_with_flows)
    assert not differences(plain, 0, shifted, 0)
    changed = differences(plain, 1, shifted, 1)
    for part in (".flows.joint.", ".flows.normalizer.", ".flows.centre", ".mean_weight"):
        assert any(name.startswith(f".filter{part}") for name in changed), part


def test_the_old_state_is_given_up():
    agent = lift(2)
    state = agent.init([0, 1])
    observation = np.zeros((2, 3), np.float32)
    transition = Transition(
        observation,
        np.zeros((2, 1), np.float32),
        np.zeros(2, np.float32),
        observation,
        np.zeros(2, np.float32),
        np.zeros(2, np.float32),
    )
    calls = [
        lambda state: agent.explore(state, observation)[0],
        lambda state: agent.observe(state, transition),
        *(lambda state, run=stage.run: run(state)[0] for stage in agent.refresh),
        lambda state: agent.step(state, transition, observation)[0],
    ]
    for call in calls:
        after = call(state)
        paths, _ = jax.tree_util.tree_flatten_with_path(state)
        kept = [jax.tree_util.keystr(path) for path, leaf in paths if not leaf.is_deleted()]
        # a fit overwrites these without reading them, so they are no input of its program
        unread = (".model.normalizers", ".model.elites")
        assert not [name for name in kept if not name.startswith(unread)]
        state = after
    memory = agent.begin(agent.policy(state), 5)
    agent.act(agent.policy(state), memory, np.zeros((2, 5, 3), np.float32))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("algo", ["sac", "omd"])
def test_a_step_does_not_copy_the_replay(algo):
    ensemble = {"model__num_members": 1, "model__num_elites": 1} if algo == "omd" else {}
    agent = lift(2, algo, replay_capacity=20_000, **ensemble)
    row = {name: jax.ShapeDtypeStruct((2,), jnp.float32) for name in ("reward", "over")}
    observation, action = (jax.ShapeDtypeStruct((2, n), jnp.float32) for n in (3, 1))
    transition = Transition(
        observation, action, row["reward"], observation, row["over"], row["over"]
    )
    program = agent.step.lower(agent.state_shape, transition, observation).compile()
    replay = agent.state_shape.replay.rows
    size = replay.size // 2 * replay.dtype.itemsize  # of one seed's
    assert program.memory_analysis().temp_size_in_bytes < size / 2
    assert program.memory_analysis().alias_size_in_bytes > size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "stages"),
    [
        ("mbpo", ("model", "rollouts")),
        ("cf_mbpo", ("model", "flows", "rollouts")),
        ("dhmbpo", ("model", "updates")),
    ],
)
def test_a_run_traces_every_program_once(tmp_path, monkeypatch, algo, stages):
    traces = Counter()
    names = ("init", "explore", "observe", "step", "act")

    def counted(name, function):
        def wrapper(*args):
            traces[name] += 1
            return function(*args)

        return wrapper

    def counting_agent(config, spec):
        agent = make_agent(config, spec)
        functions = {name: counted(name, getattr(agent, name)) for name in names}
        stages = [Stage(name, counted(name, run)) for name, run in agent.refresh]
        return agent._replace(**functions, refresh=tuple(stages))

    monkeypatch.setattr(loop, "make_agent", counting_agent)
    sizes = tiny.DOUBLE_HORIZON if algo == "dhmbpo" else {}
    config = tiny.config(algo, num_seeds=2, eval_episodes=2, **sizes)
    run_folder.open_run(tmp_path, config.to_dict(), {})
    run = loop.Run(config, tmp_path)
    run.train(Interrupt())
    if algo == "dhmbpo":  # eight refreshes, the first of which makes up for exploration
        assert int(run._state.learner.updates[0]) == 8 * 5 + 2 * 64 + 7 * 2 * 50
        assert int(run._state.ring.size[0]) == 200
    else:
        assert int(run._state.sac.updates[0]) == 2 * 400
        # eight refreshes: three of length 1, two of 2, three of 3 (the ring keeps the newest)
        assert int(run._state.model_replay.size[0]) > 40
    assert max(run._environments.log()["episodes"]) > 5
    run_folder.close_run(tmp_path)
    assert traces == dict.fromkeys((*names, *stages), 1)
    if algo == "cf_mbpo":
        flows = run._state.filter.flows
        assert (flows.joint.steps >= 6 + 7 * 2).all()  # a warm-up and seven later refreshes


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_an_argument_that_seeds_share_has_no_seed_axis(num_seeds, backend, monkeypatch):
    monkeypatch.setattr(seeds.jax, "default_backend", lambda: backend)

    def powers(number, steps):
        assert steps.shape == ()
        return jax.lax.fori_loop(0, steps, lambda _, total: total * number, jnp.ones(()))

    program = seeds.compiled(powers, num_seeds, donate=False, shared=True)
    numbers = jnp.arange(2.0, 2.0 + num_seeds)
    for steps in (0, 3):
        np.testing.assert_allclose(program(numbers, np.int32(steps)), np.asarray(numbers) ** steps)
    assert program._cache_size() == 1


def test_keys_depend_on_the_seed_alone():
    state = lift(3).init([0, 1, 2])
    agent = make_agent(tiny.config("mbpo"), tiny.spec())
    for k in range(3):
        expected = agent.init(jax.random.key(jnp.uint32(k)))
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected)):
            np.testing.assert_allclose(data(a)[k], data(b), atol=1e-6)
