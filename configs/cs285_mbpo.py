"""SAC in a learned model of the cheetah: Berkeley's CS285, homework 4, question 6.

Usage:
    python train.py --config=configs/cs285_mbpo.py:0     soft actor-critic alone
    python train.py --config=configs/cs285_mbpo.py:1     Dyna: rollouts of one step
    python train.py --config=configs/cs285_mbpo.py       MBPO: rollouts of ten steps
    python train.py --config=configs/cs285_mbpo.py:10,reacher-cs285-v0

The argument is the rollout length, then the environment, the cheetah unless given. Ten iterations
of as many environment steps as in `configs/cs285_mpc.py`, 5,000 with the cheetah, and its ensemble.
What differs from the homework's edition of 2022, where every iteration has phases:

- Policy updates are spread over the environment steps, one each, as many as the 5,000 of an
  iteration; there they follow the collection. Without a model there are as many here, while its
  command for length 0 does 1,000.
- Rollouts start at every fit, from 4,998 real states, and are used until the next; there one
  rollout precedes every one of 5,000 policy updates, and its transitions stay (up to 100,000).
  Batches have the share of real transitions that an iteration of the homework has.
- Every step of a rollout is predicted by one member; there by the mean of all.
- Initial data are of a uniform policy (edition of 2023), not of an untrained network, and come
  before the ten iterations: 55,000 steps in all, 50,000 there.
- Policy and critics are those of this code base: ReLU, a standard deviation that depends on the
  state; there the policy has tanh units and one standard deviation for all states.
- Evaluation takes the mean of the policy, not a sample.
"""

import ml_collections

from configs import cs285_mpc, default, planning
from errors import UserError

ENV = "cheetah-cs285-v0"
ITERATIONS = 10
NETWORK = {name: value for name, value in planning.MPC.items() if name.startswith("model.")}


def get_config(argument: str = "10") -> ml_collections.ConfigDict:
    """Returns the configuration for `LENGTH` or `LENGTH,ENV`; without a model for length 0."""
    text, _, env = argument.partition(",")
    if not text.isdigit():
        raise UserError(
            f"--config=configs/cs285_mbpo.py:{argument}: the argument is a rollout length, 0 for "
            "SAC alone, then perhaps an environment: 10,reacher-cs285-v0."
        )
    length, env = int(text), env or ENV
    experiment = cs285_mpc.EXPERIMENTS.get(env, cs285_mpc.DEFAULT)._replace(iterations=ITERATIONS)
    config = default.get_config(env)
    config.algo = "mbpo" if length else "sac"
    cs285_mpc.set_schedule(config, experiment)
    config.updates_per_step = 1
    config.sac.batch_size = 256
    config.sac.hidden_width = 256
    config.sac.learning_rate = 3e-4
    config.sac.learn_temperature = True
    config.sac.initial_temperature = 0.1
    if length:
        cs285_mpc.set_fit(config, experiment)
        config.model.objective = "mse"
        config.update_from_flattened_dict(NETWORK)
        config.rollout.starts = starts(experiment.steps, config.model.num_members)
        config.rollout.schedule = (0, 1, length, length)
        config.rollout.retain_steps = experiment.steps
        config.rollout.real_ratio = 1 / (1 + length)
    return config


def starts(steps: int, members: int) -> int:
    """Returns a start per step of an iteration, but for the few that members cannot share."""
    return max(steps - steps % members, members)
