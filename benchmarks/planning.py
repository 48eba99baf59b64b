"""What planning one action costs, beside this machine's own matmul rate.

    python benchmarks/planning.py [--rounds=20] [--mbrl_lib=mbrl/bin/python]

`pets`: `configs/pets.py`, CEM with 5 elites of 7 members of 4x200, sampled, TS1, 20 particles, 350
candidates, horizon 15, 5 iterations. `cs285`: `configs/cs285_mpc.py` on the cheetah, random
shooting with 3 members of 2x250 tanh, each rolling out 1000 candidates alone, horizon 15. Each in
both values of `precision`, and beside it the matrix products of its networks alone, without
activations, sampling, rewards and sorting. All are timed in turn and the best round of each counts,
because shared machines are slow for seconds at a time; compare the fractions, not the times of
different hours. With --mbrl_lib the same plan of PETS by MBRL-Lib on PyTorch is timed before and
after, see `mbrl_lib_planning.py`.
"""

import importlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 20, "Times that everything is measured in turn.")
_MBRL_LIB = flags.DEFINE_string("mbrl_lib", "", "Python of an environment with MBRL-Lib.")

MATMUL = 2048  # rows and columns of a square product


class Case(NamedTuple):
    """Something to time."""

    run: Callable[[], Any]  # waits for its result
    flops: float  # multiplications and additions of its matrix products


PLANS = {"pets": "cartpole-continuous-v0", "cs285_mpc": "cheetah-cs285-v0"}
PRECISIONS = ("float32", "bfloat16")


def plan(config: Any, spec: Any) -> Case:
    """The planner of a configuration, with an untrained ensemble, from an observation of zeros."""
    import jax
    import jax.numpy as jnp

    from agents import mpc

    agent = mpc.make_agent(config, spec)
    state = agent.init(jax.random.key(0))
    policy, memory = agent.policy(state), agent.begin(agent.policy(state), 1)
    observation = jnp.zeros((1, spec.observation_size))
    act = jax.jit(agent.act)
    flops = 2.0 * passes(config) * sum(a * b for a, b in layers(config, spec))
    return Case(lambda: jax.block_until_ready(act(policy, memory, observation)), flops)


def products(config: Any, spec: Any) -> Case:
    """The matrix products of such a plan, in the same blocks and order, and nothing else."""
    import jax
    import jax.numpy as jnp

    from models.mlp import PRODUCTS
    from planners.trajectories import blocks

    times = config.planner.horizon * iterations(config)
    rows = passes(config) // times  # of one step of all sequences
    members, num_blocks = config.model.num_elites, blocks(rows)
    weights = [jnp.ones((members, *shape)) for shape in layers(config, spec)]
    x = jnp.ones((num_blocks, members, rows // (num_blocks * members), weights[0].shape[1]))
    product = jax.vmap(PRODUCTS[config.precision])

    def step(x: Any, _: None) -> tuple[Any, None]:
        y = x
        for weight in weights:
            y = product(y, weight, jnp.zeros((members, weight.shape[-1])))
        return x + 1e-9 * y[..., :1], None

    run = jax.jit(lambda x: jax.lax.map(lambda x: jax.lax.scan(step, x, length=times)[0], x))
    flops = 2.0 * x[..., 0].size * times * sum(a * b for a, b in layers(config, spec))
    return Case(lambda: run(x).block_until_ready(), flops)


def iterations(config: Any) -> int:
    """Times that a plan draws sequences."""
    return 1 if config.planner.name == "random_shooting" else config.planner.num_iterations


def passes(config: Any) -> int:
    """Rows that a plan sends through a network."""
    hyper = config.planner
    rows = hyper.num_candidates * hyper.num_particles * hyper.horizon * iterations(config)
    everywhere = hyper.propagation in ("per_member", "expectation")
    return rows * (config.model.num_elites if everywhere else 1)


def layers(config: Any, spec: Any) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers of one network."""
    targets = spec.observation_size + config.model.learn_reward
    outputs = targets if config.rollout.deterministic else 2 * targets  # mean and variance
    hidden = config.model.hidden_depth * [config.model.hidden_width]
    sizes = [spec.observation_size + spec.action_size, *hidden, outputs]
    return list(itertools.pairwise(sizes))


def matmul() -> Case:
    """A product of two square float32 matrices."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((MATMUL, MATMUL))
    product = jax.jit(lambda x: x @ x)
    return Case(lambda: product(x).block_until_ready(), 2 * MATMUL**3)


def mbrl_lib(python: str, rounds: int) -> float:
    """Returns the milliseconds of MBRL-Lib's fastest plan."""
    script = Path(__file__).with_name("mbrl_lib_planning.py")
    command = [python, "-W", "ignore", str(script), str(rounds)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    peer, peer_rounds = [], -(-_ROUNDS.value // 2)
    if _MBRL_LIB.value:
        peer.append(mbrl_lib(_MBRL_LIB.value, peer_rounds))
    import envs
    from experiment.configuration import resolve

    cases = {"matmul": matmul()}
    for name, env in PLANS.items():
        for precision in PRECISIONS:
            config = importlib.import_module(f"configs.{name}").get_config(env)
            config.precision = precision
            config, spec = resolve(config), envs.spec(env)
            cases[f"{name}, {precision}"] = plan(config, spec)
            cases[f"{name}, {precision}: products"] = products(config, spec)
    best = dict.fromkeys(cases, float("inf"))
    for case in cases.values():
        case.run()
    for _ in range(_ROUNDS.value):
        for name, case in cases.items():
            start = time.perf_counter()
            case.run()
            best[name] = min(best[name], time.perf_counter() - start)
    if _MBRL_LIB.value:
        peer.append(mbrl_lib(_MBRL_LIB.value, peer_rounds))
    rates = {name: case.flops / best[name] / 1e9 for name, case in cases.items()}
    print("| what | ms | GFLOP | GFLOP/s | of the matmul rate | of its products' rate |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, case in cases.items():
        cells = [f"{1e3 * best[name]:.1f}", f"{case.flops / 1e9:.1f}", f"{rates[name]:.0f}"]
        cells.append(f"{rates[name] / rates['matmul']:.2f}")
        cells.append(f"{rates[name] / rates.get(f'{name}: products', rates[name]):.2f}")
        print(f"| {name} | {' | '.join(cells)} |")
    if peer:
        ratio = min(peer) / (1e3 * best["pets, float32"])
        print(f"MBRL-Lib's plan of PETS: {min(peer):.0f} ms, {ratio:.2f} times as long")


if __name__ == "__main__":
    app.run(main)
