"""Reward functions against the simulator."""

import jax.numpy as jnp
import numpy as np
import pytest

from envs import make, rewards, spec
from envs.registry import registered_ids

NUM_STEPS = 1_000
EXACT = [
    "CartPole-v1",
    "InvertedPendulum-v4",
    "InvertedPendulum-v5",
    "Pendulum-v1",
    "Pusher-v5",
    "Reacher-v4",
    "Reacher-v5",
    "cartpole-continuous-v0",
    "cartpole-pets-v0",
    "cheetah-cs285-v0",
    "obstacles-cs285-v0",
    "reacher-cs285-v0",
]
FALLING = (
    "CartPole",
    "InvertedPendulum",
    "cartpole-continuous",
)  # a random policy ends their episodes


@pytest.mark.parametrize("env_id", EXACT)
def test_agrees_with_the_simulator_along_episodes(env_id: str) -> None:
    environment = make(env_id)
    environment.action_space.seed(0)
    observation, _ = environment.reset(seed=0)
    rows = []
    for _ in range(NUM_STEPS):
        action = environment.action_space.sample()
        next_observation, reward, terminated, truncated, _ = environment.step(action)
        rows.append((observation, action, next_observation, reward, terminated))
        observation = next_observation
        if terminated or truncated:
            observation, _ = environment.reset()
    *transition, simulated, terminated = (np.array(column) for column in zip(*rows, strict=True))

    assert terminated.any() == env_id.startswith(FALLING)
    reward_fn = spec(env_id).reward
    assert reward_fn is not None
    ours = reward_fn(*(jnp.asarray(array) for array in transition))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, simulated, rtol=0, atol=1e-4)


def test_no_other_built_in_claims_to_know_its_reward() -> None:
    known = [env_id for env_id in registered_ids() if spec(env_id).reward is not None]
    assert known == EXACT


def test_pendulum_pays_for_the_state_before_the_step() -> None:
    hanging = jnp.array([-1.0, 0.0, 2.0])
    upright = jnp.array([1.0, 0.0, 0.0])
    reward = rewards.pendulum(hanging, jnp.array([0.5]), upright)
    assert reward == pytest.approx(-(np.pi**2 + 0.1 * 2.0**2 + 0.001 * 1.0**2), abs=1e-5)


def test_inverted_pendulum_versions_differ_only_when_it_falls() -> None:
    states = jnp.array([[0.0, 0.1, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0]])
    actions = jnp.zeros((2, 1))
    np.testing.assert_array_equal(rewards.one_per_step(states, actions, states), [1, 1])
    np.testing.assert_array_equal(rewards.inverted_pendulum_v5(states, actions, states), [1, 0])


def test_reacher_versions_look_at_different_ends_of_the_step() -> None:
    near, far = jnp.zeros(11), jnp.zeros(11).at[8].set(0.3).at[9].set(0.4)
    action = jnp.array([0.1, -0.2])
    assert rewards.reacher_v4(near, action, far) == pytest.approx(-0.05)
    assert rewards.reacher_v5(near[:10], action, far[:10]) == pytest.approx(-0.55)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_one_reward_for_each_leading_index(leading: tuple[int, ...]) -> None:
    for env_id in EXACT:
        env_spec = spec(env_id)
        observation = jnp.zeros((*leading, env_spec.observation_size))
        action = jnp.zeros((*leading, env_spec.action_size))
        assert env_spec.reward is not None
        assert env_spec.reward(observation, action, observation).shape == leading
