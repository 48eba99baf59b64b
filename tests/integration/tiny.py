"""A configuration that trains in seconds, and environments whose every step is known by hand."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from envs import register, terminations
from envs.spec import EnvSpec
from experiment import configuration

REPOSITORY = Path(__file__).parents[2]

SIZES = {
    "total_steps": 464,
    "initial_steps": 64,
    "epoch_length": 100,
    "eval_episodes": 1,
    "updates_per_step": 2,
    "sac.batch_size": 16,
    "sac.hidden_width": 8,
    "sac.target_entropy": -1.0,
    "model.num_members": 3,
    "model.num_elites": 2,
    "model.hidden_width": 8,
    "model.hidden_depth": 2,
    "model.weight_decay": (1e-4,),
    "model.batch_size": 16,
    "model.train_every": 50,
    "model.holdout_max": 40,
    "model.max_gradient_steps": 20,
    "rollout.starts": 20,
    "rollout.schedule": (50, 250, 1, 3),
    "rollout.retain_steps": 100,
    "rollout.real_ratio": 0.25,
    "refit.starts": 10,
    "flow.horizon": 3,
    "flow.num_starts": 20,
    "flow.recency": 1000,
    "flow.num_layers": 2,
    "flow.hidden_width": 8,
    "flow.warmup_steps": (4, 2),
    "flow.num_steps": 2,
    "flow.batch_size": 16,
    "flow.refine_steps": 2,
    "flow.refine_starts": 4,
    "flow.flow_steps_per_refinement": 1,
    "logging.tensorboard": False,
}

DOUBLE_HORIZON = {
    "sac__hidden_depth": 1,
    "model__hidden_depth": 1,
    "model__first_gradient_steps": 30,
    "dhmbpo__horizon": 2,
    "dhmbpo__distribution_horizon": 3,
    "dhmbpo__ring_capacity": 200,
    "dhmbpo__updates_per_rollout": 200,
    "dhmbpo__critic_updates": 5,
}
"""Sizes of double-horizon MBPO beside those."""


def config(algo="mbpo", env="InvertedPendulum-v5", **changes):
    """Returns a resolved configuration; `sac__batch_size=8` changes `sac.batch_size`."""
    given = default.get_config(env)
    given.algo = algo
    given.update_from_flattened_dict(SIZES)
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return configuration.resolve(given)


def flags(**changes):
    """Returns the command line of `config`."""
    values = SIZES | {k.replace("__", "."): v for k, v in changes.items()}
    return [f"--config.{name}={value}" for name, value in values.items()]


def command(*arguments):
    return [sys.executable, str(REPOSITORY / "train.py"), *map(str, arguments)]


def process_options(*paths, cwd=REPOSITORY):
    """Returns how to start `command`; modules in `paths` can be imported by it."""
    path = os.pathsep.join(map(str, [REPOSITORY, *paths]))
    return {
        "cwd": cwd,
        "env": os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        "text": True,
        "stdin": subprocess.DEVNULL,
    }


def train(*arguments, paths=(), cwd=REPOSITORY):
    """Runs train.py to its end."""
    options = process_options(*paths, cwd=cwd)
    return subprocess.run(command(*arguments), capture_output=True, timeout=300, **options)


def spec(observation_size=3, action_size=1, termination=terminations.never):
    bounds = (1.0,) * action_size
    low = tuple(-bound for bound in bounds)
    return EnvSpec("Toy-v0", observation_size, action_size, low, bounds, termination, None)


def refresh(agent, **jit_options):
    """Returns `(state) -> (state, metrics)`, the compiled stages of a refresh in order."""
    stages = [jax.jit(stage.run, **jit_options) for stage in agent.refresh]

    def run(state):
        metrics = {}
        for stage in stages:
            state, more = stage(state)
            metrics |= more
        return state, metrics

    return run


class Clock(gymnasium.Env):
    """Observes (a number drawn at the reset, steps since then); the reward is the step number.

    After `steps` steps the episode is terminated or truncated.
    """

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, steps, terminates):
        self._steps, self._terminates = steps, terminates
        self._time = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time, self._draw = 0, self.np_random.random()
        return self._observation(), {}

    def step(self, action):
        assert self._time is not None, "stepped after the end of the episode"
        self._time += 1
        observation, reward, over = self._observation(), float(self._time), self._over()
        self._time = None if over else self._time
        return observation, reward, over and self._terminates, over and not self._terminates, {}

    def _over(self):
        return self._time == self._steps

    def _observation(self):
        return np.array([self._draw, self._time], np.float32)


def register_clock(name, steps, terminates):
    def termination(observation, action, next_observation):
        return (next_observation[..., 1] >= steps) & terminates

    register(name, termination=termination, make=lambda: Clock(steps, terminates))
    return name


def always(observation, action, next_observation):
    """Every step ends the episode."""
    return jnp.ones(next_observation.shape[:-1], bool)
