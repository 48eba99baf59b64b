"""Planning with a deterministic ensemble: Berkeley's CS285, homework 4, questions 1 to 5.

Usage:
    python train.py --config=configs/cs285_mpc.py                        obstacles
    python train.py --config=configs/cs285_mpc.py:reacher-cs285-v0
    python train.py --config=configs/cs285_mpc.py:cheetah-cs285-v0 --config.planner.name=cem
    python train.py --config=configs/cs285_mpc.py --config.model.sl_noise=0.01

Three networks of two layers, fitted to all data with a fixed number of gradient steps after every
iteration, plan by random shooting with the known reward. An epoch is an iteration: its evaluation
is of the model that was fitted at the epoch's begin, so what the homework calls iteration k is the
evaluation after k + 1 epochs.

Source: `hw4` of github.com/berkeleydeeprlcourse/homework_fall2022. Noise on the data is on in all
its questions, and gone in the edition of 2023; here it is off unless `model.sl_noise` is set.
"""

from typing import NamedTuple

import ml_collections

from configs import default


class Experiment(NamedTuple):
    """What question 3 sets for one environment."""

    iterations: int
    initial_steps: int
    steps: int  # per iteration
    gradient_steps: int  # per iteration
    horizon: int


EXPERIMENTS: dict[str, Experiment] = {
    "obstacles-cs285-v0": Experiment(12, 5_000, 1_000, 20, 10),
    "reacher-cs285-v0": Experiment(15, 5_000, 5_000, 1_000, 10),
    "cheetah-cs285-v0": Experiment(20, 5_000, 5_000, 1_500, 15),
}
DEFAULT = Experiment(20, 20_000, 8_000, 1_000, 10)  # of the homework's command line


def get_config(env: str = "obstacles-cs285-v0") -> ml_collections.ConfigDict:
    """Returns the configuration of the homework's planner for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "mpc"
    set_schedule(config, EXPERIMENTS.get(env, DEFAULT))
    set_fit(config, EXPERIMENTS.get(env, DEFAULT))
    config.eval_untrained = False
    config.planner.horizon = EXPERIMENTS.get(env, DEFAULT).horizon
    return config


def set_schedule(config: ml_collections.ConfigDict, experiment: Experiment) -> None:
    """Sets how many environment steps there are, and when the model is fitted."""
    config.initial_steps = experiment.initial_steps
    config.total_steps = experiment.initial_steps + experiment.iterations * experiment.steps
    config.epoch_length = config.model.train_every = experiment.steps


def set_fit(config: ml_collections.ConfigDict, experiment: Experiment) -> None:
    """Sets how a fit goes: a number of steps on all data, no hold-out, the last weights."""
    config.model.learn_reward = False
    config.model.batch_size = 512
    config.model.bootstrap = False
    config.model.holdout_ratio = 0.0
    config.model.max_gradient_steps = experiment.gradient_steps
    config.model.keep = "last"
