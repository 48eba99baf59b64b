"""How fast this code runs here, as rates and as fractions of this machine's own matmul rate.

    python benchmarks/throughput.py             a table
    python benchmarks/throughput.py --json      one JSON object
    python benchmarks/throughput.py --parts=matmul,ensemble

Rates of one run can be compared with each other, not with those of another hour: shared machines
drift by a quarter, and on some a process can be a third slower than the next one from its first
second to its last. Every rate is the best of two processes of its own. Sizes are Hopper's:
observation 11, action 3, batches of 256.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OBSERVATION, ACTION, BATCH, MEMBERS = 11, 3, 256, 7
UPDATES = 20  # fused in one step, as in MBPO on Hopper
WIDTHS = (256, 512, 1024)

_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of the table.")
_PARTS = flags.DEFINE_list("parts", None, "Measure only these.")
_PART = flags.DEFINE_string("part", None, "Measure one part in this process (internal).")


def sac_flops(width: int) -> float:
    """Multiplications and additions of one SAC update: 16 passes through a two-layer network."""
    return 16 * 2 * BATCH * ((OBSERVATION + ACTION) * width + width**2 + width)


def ensemble_flops() -> float:
    """Those of one gradient step of 7 members: forward, and backward twice as much."""
    return (
        3
        * 2
        * MEMBERS
        * BATCH
        * ((OBSERVATION + ACTION) * 200 + 3 * 200**2 + 200 * 2 * (OBSERVATION + 1))
    )


def best_seconds(fn: Callable[[], Any], budget: float = 10.0) -> float:
    """Returns the shortest time of `fn`, which must wait for its result, within `budget` seconds.

    The window is long because a shared machine can be slow for seconds at a time.
    """
    fn()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        fn()
        best = min(best, time.perf_counter() - start)
    return best


def matmul() -> float:
    """Returns GFLOP/s of a 2048 x 2048 float32 product."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((2048, 2048))
    product = jax.jit(lambda x: x @ x)
    return 2 * 2048**3 / best_seconds(lambda: product(x).block_until_ready()) / 1e9


def _config(**overrides: Any) -> Any:
    from configs import mbpo
    from experiment.configuration import resolve

    config = mbpo.get_config("Hopper-v5")
    config.update_from_flattened_dict(overrides)
    return resolve(config)


def _parts(config: Any) -> Any:
    import envs
    from agents.sac import make_sac, parts_of
    from models.ensemble import make_ensemble

    spec = envs.spec(config.env)
    policy = make_sac(config, spec)
    return parts_of(policy, make_ensemble(config, spec), spec)


def _random_replay(capacity: int) -> Any:
    import jax
    import jax.numpy as jnp

    from replay import buffer, example_transition

    state = buffer.init(capacity, example_transition(OBSERVATION, ACTION))
    rows = jax.random.normal(jax.random.key(0), state.rows.shape)
    rows = rows.at[:, -2:].set(0.0)  # terminated and truncated
    return state.replace(rows=rows, size=jnp.asarray(capacity, jnp.int32))


def _sac_rate(width: int, num_seeds: int) -> float:
    """Returns gradient updates per second, all seeds together, through the agent's own step."""
    import jax
    import numpy as np

    import envs
    from agents.registry import make_agent
    from experiment import runtime, seeds
    from replay import Transition

    runtime.configure(num_seeds)
    config = _config(
        algo="sac",
        updates_per_step=UPDATES,
        replay_capacity=20_000,
        **{"sac.hidden_width": width},
    )
    agent = seeds.lift(make_agent(config, envs.spec(config.env)), num_seeds)
    state = agent.init(list(range(num_seeds)))
    filled = _random_replay(20_000)
    replay = jax.tree.map(
        lambda old, new: jax.device_put(np.stack([new] * num_seeds), old.sharding),
        state.replay,
        filled,
    )
    carry = [state.replace(replay=replay)]
    observation = np.zeros((num_seeds, OBSERVATION), np.float32)
    zero = np.zeros(num_seeds, np.float32)
    action = np.zeros((num_seeds, ACTION), np.float32)
    transition = Transition(observation, action, zero, observation, zero, zero)
    calls = max(int(1.5e11 / sac_flops(width) / UPDATES), 1)

    def run() -> None:
        for _ in range(calls):
            carry[0], action, _ = agent.step(carry[0], transition, observation)
            np.asarray(action)

    return calls * UPDATES * num_seeds / best_seconds(run)


def sac() -> dict[str, float]:
    """Returns updates per second by hidden width, one seed."""
    return {str(width): _sac_rate(width, 1) for width in WIDTHS}


def sac_two_seeds() -> float:
    """Returns updates per second of two seeds together, width 256."""
    return _sac_rate(256, 2)


def ensemble() -> float:
    """Returns gradient steps per second inside a fit on 95,000 rows, without its fixed costs."""
    import jax

    from models.fit import make_fit
    from models.objectives import OBJECTIVES, Context

    def seconds(steps: int) -> float:
        config = _config(**{"model.max_gradient_steps": steps})
        parts = _parts(config)
        learner = make_fit(config, parts.ensemble, OBJECTIVES["mle"](config, parts))
        fit = jax.jit(learner.fit)
        state, replay = learner.init(jax.random.key(0)), _random_replay(100_000)
        context = Context(None, None, None, None, state.normalizers)
        return best_seconds(
            lambda: jax.block_until_ready(fit(state, replay, context, jax.random.key(1)))
        )

    return 200 / (seconds(250) - seconds(50))  # both within one epoch of 372 steps


def rollout() -> float:
    """Returns model transitions per second: 100,000 starts, one step, buffer writes included."""
    import jax
    import jax.numpy as jnp

    from agents.sac import make_sac
    from models.fit import make_fit
    from models.objectives import OBJECTIVES
    from models.rollout import keep_all, make_rollout
    from replay import WeightedTransition, buffer, example_transition

    config = _config(**{"rollout.starts": 100_000})
    parts = _parts(config)
    learner = make_fit(config, parts.ensemble, OBJECTIVES["mle"](config, parts))
    generate = jax.jit(
        make_rollout(config, parts, keep_all(config, parts), config.rollout.starts),
        donate_argnums=4,
    )
    key = jax.random.key(0)
    actor, fitted = make_sac(config, parts.spec).init(key).policy, learner.init(key)
    replay = _random_replay(100_000)
    item = WeightedTransition(example_transition(OBSERVATION, ACTION), jnp.ones(()))
    carry = [buffer.init(400_000, item)]

    def run() -> None:
        length = jnp.asarray(1, jnp.int32)
        carry[0], metrics = generate(fitted, actor, (), replay, carry[0], length, key)
        jax.block_until_ready(metrics)

    return 100_000 / best_seconds(run)


def first_update() -> float:
    """Returns seconds from the start of this process to the first policy update of an MBPO run.

    The main job's configuration with 256 random steps and one model gradient step before it: what
    is left is importing, building environments, compiling and loading compiled programs.
    """
    import psutil

    from configs import mbpo
    from experiment import runtime
    from experiment.configuration import resolve, validate

    config = mbpo.get_config()
    config.update_from_flattened_dict({"initial_steps": 256, "model.max_gradient_steps": 1})
    runtime.configure(config.num_seeds)
    config = resolve(config)
    validate(config)
    from experiment.loop import Run

    with tempfile.TemporaryDirectory() as workdir:
        run = Run(config, Path(workdir))
        while run.env_step <= config.initial_steps:
            run.advance()
        return time.time() - psutil.Process().create_time()


PARTS: dict[str, Callable[[], Any]] = {
    "matmul": matmul,
    "sac": sac,
    "sac_two_seeds": sac_two_seeds,
    "ensemble": ensemble,
    "rollout": rollout,
    "first_update": first_update,
}


def in_own_process(part: str, cache: str | None = None) -> Any:
    """Measures one part in a fresh interpreter; `cache` is its folder of compiled programs."""
    environment = dict(os.environ, **({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}))
    command = [sys.executable, __file__, f"--part={part}"]
    output = subprocess.run(
        command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure(parts: list[str]) -> dict[str, Any]:
    """Returns the results of the named parts, by the keys of the JSON output."""
    results: dict[str, Any] = {}
    for part in parts:
        if part == "first_update":
            with tempfile.TemporaryDirectory() as cache:
                cold = in_own_process(part, cache)
                results["seconds_to_first_update"] = {
                    "cold": cold,
                    "warm": in_own_process(part, cache),
                }
        else:
            key = {
                "matmul": "matmul_gflops",
                "sac": "sac_updates_per_s",
                "sac_two_seeds": "sac_updates_per_s_two_seeds",
                "ensemble": "ensemble_steps_per_s",
                "rollout": "rollout_transitions_per_s",
            }[part]
            results[key] = better(in_own_process(part), in_own_process(part))
    return results


def better(one: Any, other: Any) -> Any:
    """Returns the higher of two rates, by name if they are dictionaries of rates."""
    if isinstance(one, dict):
        return {name: better(one[name], other[name]) for name in one}
    return max(one, other)


def table(results: dict[str, Any]) -> str:
    """Returns the results as text, with fractions of the matmul rate where they make sense."""
    rate = 1e9 * results.get("matmul_gflops", float("nan"))
    lines = []

    def line(name: str, value: str, note: str = "") -> None:
        lines.append(f"{name:<42}{value:>16}  {note}".rstrip())

    if "matmul_gflops" in results:
        line("matmul 2048 x 2048, float32", f"{rate / 1e9:.0f} GFLOP/s")
    for width, speed in results.get("sac_updates_per_s", {}).items():
        share = speed * sac_flops(int(width)) / rate
        line(f"SAC updates, width {width}", f"{speed:.1f} /s", f"{share:.2f} of the matmul rate")
    if "sac_updates_per_s_two_seeds" in results:
        both = results["sac_updates_per_s_two_seeds"]
        one = results.get("sac_updates_per_s", {}).get("256")
        note = f"{both / one:.2f} times one seed" if one else ""
        line("SAC updates, width 256, two seeds", f"{both:.1f} /s", note)
    if "ensemble_steps_per_s" in results:
        steps = results["ensemble_steps_per_s"]
        share = steps * ensemble_flops() / rate
        line("ensemble steps, 7 x 4x200", f"{steps:.1f} /s", f"{share:.2f} of the matmul rate")
    if "rollout_transitions_per_s" in results:
        line("model rollouts", f"{results['rollout_transitions_per_s']:,.0f} /s", "transitions")
    for kind, seconds in results.get("seconds_to_first_update", {}).items():
        line(f"start to first update, {kind} cache", f"{seconds:.1f} s")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measures what the flags ask for and prints it."""
    del argv
    if _PART.value:
        print(json.dumps(PARTS[_PART.value]()))
        return
    results = measure(_PARTS.value or list(PARTS))
    print(json.dumps(results) if _JSON.value else table(results))


if __name__ == "__main__":
    app.run(main)
