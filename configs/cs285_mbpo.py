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
  iteration; there they follow the collection. Without a model there are as many here, as in the
  edition of 2023; that of 2022 does 1,000 for length 0 (`--config.update_every=5`).
- The model is fitted ten times per iteration, every 500 steps, with a tenth of the gradient steps
  (rounded up); so the first rollouts come from a model of 150 gradient steps, there of 1,500.
  A rollout per environment step starts at every fit and is used for an iteration; there one
  precedes every one of 5,000 policy updates, and its transitions stay (up to 100,000). Batches have
  the share of real transitions that an iteration of the homework has.
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
REFRESHES = 10  # fits, and rollouts of the policy of that time, per iteration; our choice
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
        config.rollout.schedule = (0, 1, length, length)
        config.rollout.real_ratio = 1 / (1 + length)
        sizes = refreshes(experiment.steps, experiment.gradient_steps, config.model.num_members)
        config.update_from_flattened_dict(sizes)
    return config


def refreshes(steps: int, gradient_steps: int, members: int) -> dict[str, int]:
    """Returns the fields that divide an iteration into its refreshes.

    Args:
      steps: of the environment per iteration.
      gradient_steps: of the model per iteration.
      members: of the ensemble, which share the starts of rollouts equally.
    """
    every = -(-steps // REFRESHES)
    return {
        "model.train_every": every,
        "model.max_gradient_steps": -(-gradient_steps // REFRESHES),
        "rollout.starts": max(every - every % members, members),
        "rollout.retain_steps": steps,
    }
