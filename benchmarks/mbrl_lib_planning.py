"""What planning one action costs in MBRL-Lib (Pineda et al. 2021), with PETS's own settings.

Run by `planning.py --mbrl_lib=PYTHON` with the interpreter of an environment of its own, because
MBRL-Lib 0.2.0 needs other versions of everything:

    python3.11 -m venv mbrl
    mbrl/bin/pip install torch numpy tqdm termcolor hydra-core==1.3.2 gymnasium==0.26.3
    mbrl/bin/pip install --no-deps mbrl==0.2.0

Settings are read from the files of the package, but for those of CEM, which it lacks. Prints the
milliseconds of the fastest plan.
"""

import sys
import time
from pathlib import Path
from typing import Any

CEM = {
    "_target_": "mbrl.planning.CEMOptimizer",
    "num_iterations": "${overrides.cem_num_iters}",
    "elite_ratio": "${overrides.cem_elite_ratio}",
    "population_size": "${overrides.cem_population_size}",
    "alpha": "${overrides.cem_alpha}",
    "lower_bound": "???",
    "upper_bound": "???",
    "return_mean_elites": True,
    "device": "${device}",
    "clipped_normal": "${overrides.cem_clipped_normal}",
}
PASSES = 75  # forward passes of a plan: 5 iterations over a horizon of 15
SHAPE = (5, 1400, 5)  # of the input of each: elites, particles at each of them, inputs


def settings() -> Any:
    """Returns MBRL-Lib's settings of PETS on the continuous cart-pole."""
    import mbrl
    from omegaconf import OmegaConf

    folder = Path(mbrl.__file__).parent / "examples" / "conf"
    config = OmegaConf.create(
        {
            "seed": 0,
            "device": "cpu",
            "debug_mode": False,
            "algorithm": OmegaConf.load(folder / "algorithm" / "pets.yaml"),
            "dynamics_model": OmegaConf.load(
                folder / "dynamics_model" / "gaussian_mlp_ensemble.yaml"
            ),
            "overrides": OmegaConf.load(folder / "overrides" / "pets_cartpole.yaml"),
            "action_optimizer": CEM,
        }
    )
    # The version of Hydra that it was written for left nested settings as they are.
    config.dynamics_model["_recursive_"] = config.algorithm.agent["_recursive_"] = False
    config.algorithm.normalize_double_precision = False
    return config


def main(rounds: int) -> None:
    """Plans once to check the work of a plan, then `rounds` times."""
    import numpy as np
    import torch
    from mbrl.env import cartpole_continuous, reward_fns, termination_fns
    from mbrl.models import ModelEnv
    from mbrl.planning import create_trajectory_optim_agent_for_model
    from mbrl.util.common import create_one_dim_tr_model

    config = settings()
    env = cartpole_continuous.CartPoleEnv()
    model = create_one_dim_tr_model(config, (4,), (1,))
    model.set_elite(range(SHAPE[0]))
    imagined = ModelEnv(
        env,
        model,
        termination_fns.cartpole,
        reward_fns.cartpole,
        generator=torch.Generator().manual_seed(0),
    )
    agent = create_trajectory_optim_agent_for_model(
        imagined, config.algorithm.agent, num_particles=config.algorithm.num_particles
    )
    shapes: list[tuple[int, ...]] = []
    hook = model.model.hidden_layers.register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    observation = np.zeros(4, np.float32)
    agent.act(observation)
    hook.remove()
    assert shapes == [SHAPE] * PASSES, (len(shapes), set(shapes))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        agent.act(observation)
        best = min(best, time.perf_counter() - start)
    print(1e3 * best)


if __name__ == "__main__":
    main(int(sys.argv[1]))
