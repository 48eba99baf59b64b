"""What planning one action costs, beside this machine's own matmul rate.

    python benchmarks/planning.py [--rounds=20]

`pets`: CEM of PETS on its cartpole with the ensemble of `models.ensemble`: 5 elites of 7 members of
4x200, sampled, TS1, 20 particles, 350 candidates, horizon 15, 5 iterations. `cs285`: random
shooting on the homework's cheetah: 3 members of 2x250 tanh, each rolling out 1000 candidates alone,
horizon 15. Product and plans are timed in turn and the best round of each counts, because shared
machines are slow for seconds at a time; compare the fractions, not the times of different hours.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 20, "Times that everything is measured in turn.")

MATMUL = 2048  # rows and columns of a square product


class Case(NamedTuple):
    """Something to time."""

    run: Callable[[], Any]  # waits for its result
    flops: float  # multiplications and additions of its matrix products


def mlp_flops(inputs: int, width: int, depth: int, outputs: int) -> int:
    """Multiplications and additions of one row's pass through a multilayer perceptron."""
    return 2 * (inputs * width + (depth - 1) * width**2 + width * outputs)


def waiting(planner: Any, model_fn: Any, reward_fn: Any, params: Any, size: int) -> Callable:
    """Returns a function without arguments that plans from an observation of zeros [size]."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def plan(params: Any, key: Any, state: Any, observation: Any) -> Any:
        return planner.plan(params, key, state, observation, model_fn, reward_fn)

    args = params, jax.random.key(1), planner.init(), jnp.zeros(size)
    return lambda: jax.block_until_ready(plan(*args))


def pets() -> Case:
    """CEM through the probabilistic ensemble."""
    import jax

    import envs
    from configs import default
    from experiment.configuration import resolve
    from models.ensemble import Normalizers, make_ensemble
    from models.normalizer import identity
    from planners import cem, search_space, trajectory_sampling
    from planners.cem import PETS

    horizon, particles = 15, 20
    config = default.get_config("cartpole-continuous-v0")
    config.algo, config.model.objective, config.model.learn_reward = "mbpo", "mle", False
    config = resolve(config)
    spec, hyper = envs.spec(config.env), config.model
    ensemble = make_ensemble(config, spec)
    params = jax.tree.map(lambda leaf: leaf[: hyper.num_elites], ensemble.init(jax.random.key(0)))
    normalizers = Normalizers(identity(ensemble.input_size), identity(ensemble.target_size))

    def model_fn(params, key, observation, action):
        members, normalizers = params
        target = ensemble.predict(members, normalizers, observation, action).sample(key)
        return ensemble.decode(observation, action, target)

    evaluate = trajectory_sampling(
        propagation="ts1",
        num_members=hyper.num_elites,
        num_particles=particles,
        termination=spec.termination,
    )
    options = PETS | {"num_candidates": 350, "num_elites": 35}
    space = search_space(horizon=horizon, action_size=spec.action_size)
    planner = cem(evaluate, space, **options)
    rows = options["num_iterations"] * options["num_candidates"] * particles * horizon
    shape = ensemble.input_size, hyper.hidden_width, hyper.hidden_depth, 2 * ensemble.target_size
    plan = waiting(planner, model_fn, None, (params, normalizers), spec.observation_size)
    return Case(plan, rows * mlp_flops(*shape))


def cs285() -> Case:
    """Random shooting through the deterministic ensemble."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from envs.cs285.rewards import cheetah
    from models.mlp import MLP, init_ensemble
    from planners import random_shooting, search_space, trajectory_sampling

    members, observation, action, horizon, candidates = 3, 21, 6, 15, 1000
    net = MLP(observation, width=250, depth=2, activation=nn.tanh)
    params = init_ensemble(net, jax.random.key(0), members, observation + action)

    def model_fn(params, key, observation, action):
        del key
        change = jax.vmap(net.apply)(params, jnp.concatenate([observation, action], axis=-1))
        return observation + change, jnp.zeros(change.shape[:-1])

    planner = random_shooting(
        trajectory_sampling(propagation="per_member", num_members=members),
        search_space(horizon=horizon, action_size=action),
        num_candidates=candidates,
    )
    rows = candidates * members * horizon
    flops = rows * mlp_flops(observation + action, 250, 2, observation)
    return Case(waiting(planner, model_fn, cheetah, params, observation), flops)


def matmul() -> Case:
    """A product of two square float32 matrices."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((MATMUL, MATMUL))
    product = jax.jit(lambda x: x @ x)
    return Case(lambda: product(x).block_until_ready(), 2 * MATMUL**3)


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    cases = {"matmul": matmul(), "pets": pets(), "cs285": cs285()}
    best = dict.fromkeys(cases, float("inf"))
    for case in cases.values():
        case.run()
    for _ in range(_ROUNDS.value):
        for name, case in cases.items():
            start = time.perf_counter()
            case.run()
            best[name] = min(best[name], time.perf_counter() - start)
    rates = {name: case.flops / best[name] / 1e9 for name, case in cases.items()}
    print("| plan | ms | GFLOP | GFLOP/s | of the matmul rate |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, case in cases.items():
        share = rates[name] / rates["matmul"]
        cells = f"{1e3 * best[name]:.1f}", f"{case.flops / 1e9:.1f}", f"{rates[name]:.0f}"
        print(f"| {name} | {' | '.join(cells)} | {share:.2f} |")


if __name__ == "__main__":
    app.run(main)
