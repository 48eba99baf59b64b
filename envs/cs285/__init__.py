"""The environments of Berkeley's CS285, homework 4: planning and MBPO with known rewards.

Importing this package registers them with Gymnasium and with `envs.registry`. Their time limits are
the episode lengths that the homework runs them with. (It registers them with longer ones, 1000, 500
and 500 steps, which it never reaches.)

Source: `hw4/cs285/envs` of github.com/berkeleydeeprlcourse/homework_fall2022, apart from its random
numbers: here `reset(seed=...)` controls them all, and a reset leaves nothing of the episode before,
the warm start of the simulator's solver included.
"""

import gymnasium

from envs import terminations
from envs.cs285 import obstacles, rewards
from envs.registry import register

CHEETAH_STEPS = 500
OBSTACLES_STEPS = 100
REACHER_STEPS = 200

gymnasium.register(
    "cheetah-cs285-v0", "envs.cs285.cheetah:CheetahEnv", max_episode_steps=CHEETAH_STEPS
)
gymnasium.register(
    "obstacles-cs285-v0", "envs.cs285.obstacles:ObstaclesEnv", max_episode_steps=OBSTACLES_STEPS
)
gymnasium.register(
    "reacher-cs285-v0", "envs.cs285.reacher:ReacherEnv", max_episode_steps=REACHER_STEPS
)
register("cheetah-cs285-v0", termination=terminations.never, reward=rewards.cheetah)
register("obstacles-cs285-v0", termination=obstacles.terminated, reward=obstacles.reward)
register("reacher-cs285-v0", termination=terminations.never, reward=rewards.reacher)
