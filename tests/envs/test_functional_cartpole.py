"""CartPole-v1 as pure functions against Gymnasium's own CartPole-v1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import envs
from envs import functional_cartpole, make, spec
from envs.functional_cartpole import CartPoleState

LEFT, RIGHT = np.eye(2, dtype=np.float32)
ENV = functional_cartpole.cartpole
reset, step = jax.jit(ENV.reset), jax.jit(ENV.step)


def balancing(observation, generator):
    """Pushes to where the pole and the cart go."""
    return RIGHT if observation @ [0.05, 0.1, 1.0, 0.3] > 0 else LEFT


def random(observation, generator):
    return (LEFT, RIGHT)[generator.integers(2)]


def started(simulator):
    """The functional state at the simulator's."""
    physics = jnp.asarray(simulator.unwrapped.state, jnp.float32)
    return CartPoleState(physics, jnp.zeros((), jnp.int32))


@pytest.mark.parametrize(
    ("policy", "episodes"), [(balancing, 1), (random, 10)], ids=["balancing", "random"]
)
def test_every_step_of_an_episode_is_the_simulators(policy, episodes):
    # In float32 and float64 an unstable pole goes different ways, so each step starts anew.
    simulator, generator = make("CartPole-v1"), np.random.default_rng(0)
    for episode in range(episodes):
        observation, _ = simulator.reset(seed=episode)
        state, over = started(simulator), False
        while not over:
            action = policy(observation, generator)
            simulator.unwrapped.state = np.asarray(state.physics, np.float64)
            observation, *others, _ = simulator.step(action)
            state, ours, *our_others = step(state, action)
            np.testing.assert_allclose(ours, observation, rtol=1e-6, atol=3e-7)
            assert [float(other) for other in our_others] == others
            over = others[1] or others[2]
        assert others[1:] == [policy is random, policy is balancing]
        assert (state.steps == 500) == (policy is balancing)


def test_whole_episodes_of_random_actions_are_the_simulators():
    simulator, generator = make("CartPole-v1"), np.random.default_rng(1)
    lengths = []
    for episode in range(20):
        simulator.reset(seed=episode)
        state, ends = started(simulator), (False, False)
        while not any(ends):
            action = random(None, generator)
            observation, _, *ends, _ = simulator.step(action)
            state, ours, _, *our_ends = step(state, action)
            np.testing.assert_allclose(ours, observation, rtol=1e-4, atol=1e-5)
            assert [float(end) for end in our_ends] == ends
        lengths.append(int(state.steps))
    assert max(lengths) > 30


def test_a_fall_at_the_time_limit_is_both_as_in_the_simulator():
    simulator = make("CartPole-v1")
    simulator.reset(seed=0)
    for _ in range(499):
        simulator.unwrapped.state = np.zeros(4)
        assert simulator.step(RIGHT)[2:4] == (False, False)
    falling = np.array([0.0, 0.0, 0.2, 3.0])
    simulator.unwrapped.state = falling
    assert simulator.step(RIGHT)[2:4] == (True, True)

    def ends(steps):
        state = CartPoleState(jnp.asarray(falling, jnp.float32), jnp.asarray(steps, jnp.int32))
        return [float(end) for end in step(state, RIGHT)[3:]]

    assert ends(499) == [1.0, 1.0]
    assert ends(498) == [1.0, 0.0]


def test_the_time_limit_is_the_registered_one():
    assert ENV.max_steps == make("CartPole-v1").spec.max_episode_steps == 500


def test_the_fall_is_what_the_termination_function_says_and_every_step_pays_1():
    key, action_key = jax.random.split(jax.random.key(0))
    physics = jax.random.uniform(key, (10_000, 4), minval=-1.0, maxval=1.0)
    physics *= jnp.array([[3.0, 5.0, 0.3, 5.0]])
    actions = jax.nn.one_hot(jax.random.randint(action_key, (10_000,), 0, 2), 2)
    states = CartPoleState(physics, jnp.zeros(10_000, jnp.int32))
    results = jax.jit(jax.vmap(ENV.step))(states, actions)
    after, observation, reward, terminated, truncated = results
    np.testing.assert_array_equal(observation, after.physics)
    verdicts = spec("CartPole-v1").termination(physics, actions, observation)
    np.testing.assert_array_equal(terminated, verdicts)
    assert 0.05 < verdicts.mean() < 0.95
    np.testing.assert_array_equal(reward, np.ones(10_000))
    np.testing.assert_array_equal(truncated, np.zeros(10_000))


def test_the_largest_entry_of_an_action_is_the_choice():
    state, _ = reset(jax.random.key(0))
    left, right = (step(state, action)[1] for action in (LEFT, RIGHT))
    assert left[1] < state.physics[1] < right[1]
    for action, expected in (
        ([-3.0, -2.0], right),
        ([0.7, 0.3], left),
        ([0.5, 0.5], left),  # as at the boundary: the first of the largest
    ):
        np.testing.assert_array_equal(step(state, jnp.array(action))[1], expected)


def test_starts_are_uniform_and_independent():
    keys = jax.random.split(jax.random.key(0), 5000)
    state, observation = jax.jit(jax.vmap(ENV.reset))(keys)
    np.testing.assert_array_equal(observation, state.physics)
    np.testing.assert_array_equal(state.steps, np.zeros(5000))
    for column in np.asarray(observation).T:
        assert stats.kstest(column, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-3
    # The standard error of a correlation is 0.014.
    np.testing.assert_allclose(np.corrcoef(observation.T), np.eye(4), atol=0.06)


def test_many_episodes_in_one_program_are_what_they_are_alone():
    key, action_key = jax.random.split(jax.random.key(3))
    keys = jax.random.split(key, 8)
    actions = jax.random.normal(action_key, (10, 8, 2))

    @jax.jit
    def together(keys, actions):
        state, first = jax.vmap(ENV.reset)(keys)

        def advance(state, action):
            state, *others = jax.vmap(ENV.step)(state, action)
            return state, others

        return first, jax.lax.scan(advance, state, actions)

    first, (last, (observations, *_)) = together(keys, actions)
    np.testing.assert_array_equal(last.steps, np.full(8, 10))
    assert np.unique(np.asarray(first)).size == 32
    for k in (0, 7):
        state, observation = reset(keys[k])
        np.testing.assert_array_equal(first[k], observation)
        for t in range(10):
            state, observation, *_ = step(state, actions[t, k])
            np.testing.assert_allclose(observations[t, k], observation, rtol=1e-5, atol=1e-6)


def test_it_stays_float32_where_jax_computes_in_float64():
    with jax.enable_x64(True):
        assert envs.functional("CartPole-v1") is ENV  # this checks the types
        noisy = envs.functional("CartPole-v1+noise2")
        assert jax.eval_shape(noisy.reset, jax.random.key(0))[1].dtype == jnp.float32
