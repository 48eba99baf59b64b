"""What planning one action costs, beside this machine's own matmul rate.

    python benchmarks/planning.py [--rounds=20]

`pets`: `configs/pets.py`, CEM with 5 elites of 7 members of 4x200, sampled, TS1, 20 particles, 350
candidates, horizon 15, 5 iterations. `cs285`: `configs/cs285_mpc.py` on the cheetah, random
shooting with 3 members of 2x250 tanh, each rolling out 1000 candidates alone, horizon 15. Product
and plans are timed in turn and the best round of each counts, because shared machines are slow for
seconds at a time; compare the fractions, not the times of different hours.
"""

import importlib
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


def plan(config_file: str, env: str) -> Case:
    """The planner of a configuration, with an untrained ensemble, from an observation of zeros."""
    import jax
    import jax.numpy as jnp

    import envs
    from agents import mpc
    from experiment.configuration import resolve

    config = resolve(importlib.import_module(f"configs.{config_file}").get_config(env))
    spec = envs.spec(config.env)
    agent = mpc.make_agent(config, spec)
    state = agent.init(jax.random.key(0))
    policy, memory = agent.policy(state), agent.begin(agent.policy(state), 1)
    observation = jnp.zeros((1, spec.observation_size))
    act = jax.jit(agent.act)
    return Case(
        lambda: jax.block_until_ready(act(policy, memory, observation)), flops(config, spec)
    )


def flops(config: Any, spec: Any) -> float:
    """Multiplications and additions of one plan's passes through the ensemble."""
    hyper, model = config.planner, config.model
    rows = hyper.num_candidates * hyper.num_particles * hyper.horizon
    if hyper.name != "random_shooting":
        rows *= hyper.num_iterations
    if hyper.propagation in ("per_member", "expectation"):
        rows *= model.num_elites
    inputs, width = spec.observation_size + spec.action_size, model.hidden_width
    outputs = 2 * (spec.observation_size + model.learn_reward)  # mean and variance
    hidden = (model.hidden_depth - 1) * width**2
    return 2.0 * rows * (inputs * width + hidden + width * outputs)


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
    cases = {
        "matmul": matmul(),
        "pets": plan("pets", "cartpole-continuous-v0"),
        "cs285": plan("cs285_mpc", "cheetah-cs285-v0"),
    }
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
