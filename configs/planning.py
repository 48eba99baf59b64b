"""Constants of agents that plan, by the recipe that stands for them, and of planners.

Sources:
  mpc   Berkeley's CS285, homework 4: `hw4` of github.com/berkeleydeeprlcourse/homework_fall2022.
  pets  Chua et al. 2018 (arXiv:1805.12114), in the form and with the constants of Pineda et al.
        2021 (MBRL-Lib, arXiv:2104.10159); its ensemble is the one that MBPO took over.
"""

from typing import Any

Constants = dict[str, Any]  # dotted config field -> value

MPC: Constants = {
    "planner.name": "random_shooting",
    "planner.horizon": 10,
    "planner.num_candidates": 1_000,
    "planner.num_iterations": 4,
    "planner.num_elites": 5,
    "planner.smoothing": 1.0,
    "planner.sampler": "clipped",
    "planner.warm_start": False,
    "planner.propagation": "per_member",
    "planner.num_particles": 1,
    "planner.ignore_termination": True,
    "model.num_members": 3,
    "model.num_elites": 3,
    "model.hidden_width": 250,
    "model.hidden_depth": 2,
    "model.activation": "tanh",
    "model.initializer": "torch",
    "model.learning_rate": 1e-3,
    "model.weight_decay": (0.0,),
    "model.normalize_targets": True,
    "model.freeze_constant": True,
}

PETS: Constants = {
    "initial_steps": 200,
    "planner.name": "cem",
    "planner.horizon": 15,
    "planner.num_candidates": 350,
    "planner.num_iterations": 5,
    "planner.num_elites": 35,
    "planner.smoothing": 0.9,
    "planner.sampler": "truncated",
    "planner.warm_start": True,
    "planner.propagation": "ts1",
    "planner.num_particles": 20,
    "planner.ignore_termination": False,
    "model.weight_decay": (5e-5,),
    "model.learn_variance_bounds": False,
}

RECIPES: dict[str, Constants] = {"mpc": MPC, "pets": PETS}

# iCEM: Pinneri et al. 2020; mbrl-lib has decay 1.3. MPPI: mbrl-lib, whose noise is truncated, too.
_COMMON: Constants = {
    "planner.execute_best": False,
    "planner.noise_beta": 2.0,
    "planner.decay": 1.25,
    "planner.kept_fraction": 0.3,
    "planner.gamma": 0.9,
    "planner.sigma": 1.0,
    "planner.beta": 0.9,
}


def defaults(planner: str | None) -> Constants:
    """Returns what a planner takes if neither the user nor the recipe says otherwise."""
    return _COMMON | ({"planner.execute_best": True} if planner == "icem" else {})
