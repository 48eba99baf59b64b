"""Termination functions against the simulator, at random states and along real episodes."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from envs import make, spec, terminations
from envs.spec import TerminationFn

NUM_STATES = 10_000
NUM_STEPS = 1_000
EDGE = 1e-5  # float32 observations cannot decide states that are nearer to a threshold

# Per family: {index in qpos: (lowest and highest sample, thresholds)}.
SAMPLED: dict[str, dict[int, tuple[tuple[float, float], tuple[float, ...]]]] = {
    "InvertedPendulum": {1: ((-0.4, 0.4), (-0.2, 0.2))},
    "InvertedDoublePendulum": {1: ((-0.8, 0.8), ()), 2: ((-0.8, 0.8), ())},
    "Hopper": {1: ((0.6, 1.4), (0.7,)), 2: ((-0.3, 0.3), (-0.2, 0.2))},
    "Walker2d": {1: ((0.5, 2.3), (0.8, 2.0)), 2: ((-1.4, 1.4), (-1.0, 1.0))},
    "Ant": {2: ((0.0, 1.3), (0.2, 1.0))},
    "AntTruncated": {2: ((0.0, 1.3), (0.2, 1.0))},
    "Humanoid": {2: ((0.7, 2.4), (1.0, 2.0))},
    "HumanoidTruncated": {2: ((0.7, 2.4), (1.0, 2.0))},
}
MUJOCO_TERMINATING = [f"{family}-{version}" for family in SAMPLED for version in ("v4", "v5")]
TERMINATING = ["CartPole-v1", *MUJOCO_TERMINATING]
NEVER_TERMINATING = [
    "Pendulum-v1",
    "Pusher-v5",
    *(f"{n}-{v}" for n in ("HalfCheetah", "Swimmer", "Reacher") for v in ("v4", "v5")),
]


def random_states(
    env_id: str, num_states: int, generator: np.random.Generator, environment: gymnasium.Env
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [N, nq] and velocities [N, nv] around the thresholds of one environment."""
    family = env_id.partition("-")[0]
    simulator = environment.unwrapped
    positions = simulator.init_qpos + generator.uniform(-0.2, 0.2, (num_states, simulator.model.nq))
    # Below the 10 of the observation's clipping and the 100 of the Hopper's own rule.
    velocities = generator.uniform(-9.0, 9.0, (num_states, simulator.model.nv))
    for index, ((low, high), thresholds) in SAMPLED[family].items():
        values = generator.uniform(low, high, num_states)
        for threshold in thresholds:
            values = np.where(abs(values - threshold) < EDGE, threshold + 2 * EDGE, values)
        positions[:, index] = values
    if family == "Hopper":
        wound_up = generator.uniform(size=num_states) < 0.05
        positions[wound_up, 3] = generator.choice([-150.0, -90.0, 90.0, 150.0], wound_up.sum())
    return positions, velocities


def decided(env_id: str, next_observations: np.ndarray, margin: float) -> np.ndarray:
    """False for states too near a threshold that depends on several coordinates [N]."""
    if not env_id.startswith("InvertedDoublePendulum"):
        return np.ones(len(next_observations), bool)
    sin_a, sin_b, cos_a, cos_b = next_observations[:, 1:5].T
    angle_a, angle_b = np.arctan2(sin_a, cos_a), np.arctan2(sin_b, cos_b)
    return abs(0.6 * np.cos(angle_a) + 0.6 * np.cos(angle_a + angle_b) - 1.0) > margin


def terminated_by_us(env_id: str, next_observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Our verdict on each row [N]; the rule must not depend on the observation before the step."""
    before = jnp.full(next_observations.shape, jnp.nan)
    return np.asarray(
        spec(env_id).termination(before, jnp.asarray(actions), jnp.asarray(next_observations))
    )


@pytest.mark.filterwarnings("ignore:.*divide", "ignore:.*invalid value", "ignore:.*NaN value")
@pytest.mark.parametrize("env_id", MUJOCO_TERMINATING)
def test_agrees_with_the_simulator_at_random_states(env_id: str) -> None:
    environment = make(env_id)
    environment.reset(seed=0)
    simulator = environment.unwrapped
    # With no substeps the environment's own `step` judges exactly the state that was set.
    simulator.frame_skip = 0
    still = np.zeros(environment.action_space.shape, np.float32)
    rows, verdicts = [], []
    generator = np.random.default_rng(0)
    states = random_states(env_id, NUM_STATES, generator, environment)
    for position, velocity in zip(*states, strict=True):
        simulator.set_state(position, velocity)
        next_observation, _, terminated, _, _ = environment.step(still)
        rows.append(next_observation)
        verdicts.append(terminated)
    next_observations, simulated = np.stack(rows), np.array(verdicts)

    assert 0.05 < simulated.mean() < 0.95
    actions = np.zeros((NUM_STATES, *still.shape), np.float32)
    clear = decided(env_id, next_observations, EDGE)
    assert clear.mean() > 0.99
    ours = terminated_by_us(env_id, next_observations, actions)
    np.testing.assert_array_equal(ours[clear], simulated[clear])


def test_cartpole_agrees_with_the_simulator_at_random_states() -> None:
    environment = make("CartPole-v1")
    environment.reset(seed=0)
    simulator = environment.unwrapped
    # In no time the environment's own `step` judges exactly the state that was set.
    simulator.tau = 0.0
    states = np.random.default_rng(0).uniform(-1.0, 1.0, (NUM_STATES, 4)) * [4.0, 9.0, 0.4, 9.0]
    for index, threshold in ((0, 2.4), (2, 12 * 2 * np.pi / 360)):
        near = abs(abs(states[:, index]) - threshold) < EDGE
        states[near, index] = threshold + 2 * EDGE
    rows, verdicts = [], []
    for state in states:
        simulator.state, simulator.steps_beyond_terminated = state, None
        next_observation, reward, terminated, _, _ = environment.step(np.array([1.0, 0.0]))
        assert reward == 1.0
        rows.append(next_observation)
        verdicts.append(terminated)

    np.testing.assert_array_equal(rows, states.astype(np.float32))
    assert 0.05 < np.mean(verdicts) < 0.95
    ours = terminated_by_us("CartPole-v1", np.stack(rows), np.zeros((NUM_STATES, 2), np.float32))
    np.testing.assert_array_equal(ours, verdicts)


@pytest.mark.filterwarnings("ignore:.*divide", "ignore:.*invalid value", "ignore:.*NaN value")
@pytest.mark.parametrize("env_id", NEVER_TERMINATING)
def test_the_simulator_never_ends_episodes_that_we_say_go_on(env_id: str) -> None:
    environment = make(env_id)
    environment.reset(seed=0)
    simulator = environment.unwrapped
    simulator.frame_skip = 0
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(NUM_STATES):
        if env_id == "Pendulum-v1":
            simulator.state = generator.uniform((-np.pi, -8.0), (np.pi, 8.0))
        else:
            positions = generator.uniform(-3.0, 3.0, simulator.model.nq)
            simulator.set_state(positions, generator.uniform(-20.0, 20.0, simulator.model.nv))
        next_observation, _, terminated, _, _ = environment.step(environment.action_space.sample())
        assert not terminated
        rows.append(next_observation)
    actions = np.zeros((NUM_STATES, *environment.action_space.shape), np.float32)
    assert not terminated_by_us(env_id, np.stack(rows), actions).any()


@pytest.mark.parametrize("env_id", TERMINATING + NEVER_TERMINATING)
def test_agrees_with_the_simulator_along_episodes(env_id: str) -> None:
    environment = make(env_id)
    environment.action_space.seed(0)
    environment.reset(seed=0)
    actions, rows, verdicts = [], [], []
    for _ in range(NUM_STEPS):
        action = environment.action_space.sample()
        next_observation, _, terminated, truncated, _ = environment.step(action)
        actions.append(action)
        rows.append(next_observation)
        verdicts.append(terminated)
        if terminated or truncated:
            environment.reset()
    next_observations, simulated = np.stack(rows), np.array(verdicts)

    assert simulated.any() == (env_id in TERMINATING)
    # The simulator's double pendulum judges a tip that lags by up to 6e-5 m.
    clear = decided(env_id, next_observations, 1e-4)
    ours = terminated_by_us(env_id, next_observations, np.stack(actions))
    np.testing.assert_array_equal(ours[clear], simulated[clear])


def test_hopper_terminates_on_one_fast_joint() -> None:
    upright = jnp.zeros(11).at[0].set(0.71).at[1].set(0.19)
    rows = jnp.stack([upright, upright.at[7].set(-150.0), upright.at[7].set(150.0)])
    terminated = terminations.hopper(rows, jnp.zeros((3, 3)), rows)
    np.testing.assert_array_equal(terminated, [False, True, True])


@pytest.mark.parametrize(
    ("rule", "size", "height"),
    [
        (terminations.cartpole, 4, 0.0),
        (terminations.inverted_pendulum, 4, 0.0),
        (terminations.hopper, 11, 1.2),
        (terminations.walker2d, 17, 1.2),
        (terminations.ant, 27, 0.6),
        (terminations.ant, 105, 0.6),
        (terminations.humanoid, 45, 1.4),
    ],
)
def test_a_height_and_angle_that_are_not_numbers_terminate(
    rule: TerminationFn, size: int, height: float
) -> None:
    healthy = jnp.zeros(size).at[0].set(height)
    rows = jnp.stack([healthy, healthy.at[0].set(jnp.nan), healthy.at[0].set(jnp.inf)])
    terminated = rule(rows, jnp.zeros((3, 2)), rows)
    np.testing.assert_array_equal(terminated, [False, True, True])


def test_thresholds_belong_to_the_side_the_simulator_puts_them_on() -> None:
    def at(rule: TerminationFn, size: int, **entries: float) -> bool:
        state = jnp.zeros(size)
        for name, value in entries.items():
            state = state.at[int(name[1:])].set(value)
        return bool(rule(state, jnp.zeros(1), state))

    assert not at(terminations.cartpole, 4, s0=-2.4)
    assert not at(terminations.cartpole, 4, s2=np.radians(12.0))
    assert not at(terminations.inverted_pendulum, 4, s1=0.2)
    assert at(terminations.hopper, 11, s0=1.2, s1=0.2)
    assert at(terminations.walker2d, 17, s0=2.0)
    assert at(terminations.walker2d, 17, s0=1.2, s1=1.0)
    assert not at(terminations.ant, 27, s0=1.0)
    assert at(terminations.humanoid, 45, s0=1.0)
    assert at(terminations.humanoid, 45, s0=2.0)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_one_verdict_for_each_leading_index(leading: tuple[int, ...]) -> None:
    for env_id in TERMINATING + NEVER_TERMINATING:
        env_spec = spec(env_id)
        observation = jnp.zeros((*leading, env_spec.observation_size))
        action = jnp.zeros((*leading, env_spec.action_size))
        terminated = env_spec.termination(observation, action, observation)
        assert terminated.shape == leading
        assert terminated.dtype == bool
