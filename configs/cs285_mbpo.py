"""SAC in a learned model of the cheetah: Berkeley's CS285, homework 4, question 6.

Usage:
    python train.py --config=configs/cs285_mbpo.py:0     soft actor-critic alone
    python train.py --config=configs/cs285_mbpo.py:1     Dyna: rollouts of one step
    python train.py --config=configs/cs285_mbpo.py       MBPO: rollouts of ten steps

Ten iterations of 5,000 environment steps with the ensemble of `configs/cs285_mpc.py`. The argument
is the rollout length. What differs from the homework's edition of 2022, where every iteration has
phases:

- Policy updates are spread over the environment steps, one each, as many as the 5,000 of an
  iteration; there they follow the collection. Without a model there are as many here, while its
  command for length 0 does 1,000.
- Rollouts start at every fit, from 4,998 real states, and are used until the next; there one
  rollout precedes every one of 5,000 policy updates, and its transitions stay (up to 100,000).
  Batches have the share of real transitions that an iteration of the homework has.
- Every step of a rollout is predicted by one member; there by the mean of all.
- Initial data are of a uniform policy (edition of 2023), not of an untrained network.
- Evaluation takes the mean of the policy, not a sample.
"""

import ml_collections

from configs import cs285_mpc, default, planning

ENV = "cheetah-cs285-v0"
EXPERIMENT = cs285_mpc.EXPERIMENTS[ENV]._replace(iterations=10)
NETWORK = {name: value for name, value in planning.MPC.items() if name.startswith("model.")}
STARTS = 4_998  # about a start per step of an iteration; three members share them equally


def get_config(rollout_length: str = "10") -> ml_collections.ConfigDict:
    """Returns the configuration for rollouts of that many steps; without a model for 0."""
    length = int(rollout_length)
    config = default.get_config(ENV)
    config.algo = "mbpo" if length else "sac"
    cs285_mpc.set_schedule(config, EXPERIMENT)
    config.updates_per_step = 1
    config.sac.batch_size = 256
    config.sac.hidden_width = 256
    config.sac.learning_rate = 3e-4
    config.sac.learn_temperature = True
    config.sac.initial_temperature = 0.1
    config.sac.target_entropy = -6.0
    if length:
        cs285_mpc.set_fit(config, EXPERIMENT)
        config.model.objective = "mse"
        config.update_from_flattened_dict(NETWORK)
        config.rollout.starts = STARTS
        config.rollout.schedule = (0, 1, length, length)
        config.rollout.retain_steps = EXPERIMENT.steps
        config.rollout.real_ratio = 1 / (1 + length)
    return config
