"""Planning with the true dynamics of obstacles-cs285-v0: the practical ceiling of the task."""

import jax
import jax.numpy as jnp
import numpy as np

from envs.cs285 import obstacles
from planners import random_shooting, search_space, trajectory_sampling

EPISODES, STEPS = 60, 50


def true_dynamics(params, key, observation, action):
    position = obstacles.step_position(observation[..., :2], obstacles.ACTION_LIMIT * action)
    return jnp.concatenate([position, observation[..., 2:]], axis=-1), action[..., 0]


def test_random_shooting_reaches_the_goal_as_fast_as_published():
    # published for 1000 sequences of 10 actions: -18.7, standard deviation 7.4, 21 steps
    evaluate = trajectory_sampling(propagation="per_member", num_members=1)
    space = search_space(horizon=10, action_size=2)
    planner = random_shooting(evaluate, space, num_candidates=1000)

    def step(carry, key):
        observation, over = carry
        action = planner.plan(None, key, (), observation, true_dynamics, obstacles.reward).action
        after = true_dynamics(None, None, observation, action)[0]
        reward = jnp.where(over, 0.0, obstacles.reward(observation, action, after))
        return (after, over | obstacles.terminated(observation, action, after)), (reward, ~over)

    @jax.jit
    @jax.vmap
    def episode(observation, key):
        (_, over), (reward, running) = jax.lax.scan(
            step, (observation, jnp.zeros((), bool)), jax.random.split(key, STEPS)
        )
        return reward.sum(), running.sum(), over

    env = obstacles.ObstaclesEnv()
    starts = np.float32([env.reset(seed=seed)[0] for seed in range(EPISODES)])
    returns, lengths, over = episode(starts, jax.random.split(jax.random.key(0), EPISODES))
    assert over.all()
    assert abs(float(returns.mean()) + 18.7) < 1.0  # a mean of 60 has a standard error of 0.95
    assert abs(float(lengths.mean()) - 21) < 1.0
