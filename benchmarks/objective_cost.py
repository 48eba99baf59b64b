"""What a gradient step of the model costs with every objective, against maximum likelihood.

    python benchmarks/objective_cost.py [--rounds=5] [--variant=vaml --variant=vagram]

Hopper-v5 at the original preset: 7 members of 4x200, 256 rows each, a replay of 50,000, critics and
policy of 2x256. Times the compiled fit at two numbers of gradient steps, whose difference has no
fixed costs, for all objectives in turn, `--rounds` times in one run; the best round counts. The
last rows have value refits in the fit.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402

_VARIANTS = flags.DEFINE_multi_string("variant", None, "Only these, and mle; default: all.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that all variants are measured in turn.")

STEPS = 20, 100  # gradient steps of the two fits, both within one epoch of 157
VARIANTS: dict[str, tuple[str, dict]] = {
    "mle": ("mle", {}),
    "mse": ("mse", {}),
    "ma_l1": ("ma_l1", {}),
    "vaml": ("vaml", {}),
    "vaml, first critic": ("vaml", {"objective.critic": "first"}),
    "vaml, 2 samples": ("vaml", {"objective.num_model_samples": 2}),
    "vep, 5 random functions": ("vep", {}),
    "vep, 5 critics of earlier fits": ("vep", {"objective.vep_functions": "critics"}),
    "vagram": ("vagram", {}),
    "ma_l1, as modhe2022 computes it": (
        "ma_l1",
        {
            "objective.critic": "first",
            "objective.action": "sample",
            "objective.num_model_samples": 1,
        },
    ),
    "mle, refit every 50 steps": ("mle", {"refit.interval": 50}),
    "vaml, refit every 50 steps": ("vaml", {"refit.interval": 50}),
}


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    chosen = ["mle", *_VARIANTS.value] if _VARIANTS.value else list(VARIANTS)
    fits = {name: build(*VARIANTS[name]) for name in chosen}
    best = {name: {steps: float("inf") for steps in STEPS} for name in chosen}
    for _ in range(_ROUNDS.value):
        for name, by_steps in fits.items():
            for steps, fit in by_steps.items():
                start = time.perf_counter()
                fit()
                best[name][steps] = min(best[name][steps], time.perf_counter() - start)
    print("| objective | ms per gradient step | of mle |\n| --- | ---: | ---: |")
    few, many = STEPS
    step = {name: (best[name][many] - best[name][few]) / (many - few) for name in chosen}
    for name, seconds in step.items():
        print(f"| {name} | {1000 * seconds:.2f} | {seconds / step['mle']:.2f} |")


def build(objective: str, changes: dict) -> dict:
    """Returns, by number of gradient steps, a function that runs the compiled fit."""
    import jax
    import jax.numpy as jnp

    import envs
    from agents import mbpo
    from configs import default
    from experiment import configuration, runtime

    runtime.configure(num_seeds=1)
    fits = {}
    for steps in STEPS:
        config = default.get_config("Hopper-v5")
        config.algo, config.model.objective = "mbpo", objective
        config.update_from_flattened_dict(
            {
                "total_steps": 50_000,
                "model.max_gradient_steps": steps,
                "model.patience": 50,
                **changes,
            }
        )
        resolved = configuration.resolve(config)
        configuration.validate(resolved)
        agent = mbpo.make_agent(resolved, envs.spec(resolved.env))
        state = jax.jit(agent.init)(jax.random.key(0))
        rows = jax.random.normal(jax.random.key(1), state.replay.rows.shape)
        rows = rows.at[:, -2:].set(0.0)  # terminated and truncated
        size = jnp.asarray(len(rows), jnp.int32)
        state = state.replace(replay=state.replay.replace(rows=rows, size=size))
        run = jax.jit(agent.refresh[0].run)

        def fit(run=run, state=state) -> None:
            jax.block_until_ready(run(state)[1])

        fit()  # compiles
        fits[steps] = fit
    return fits


if __name__ == "__main__":
    app.run(main)
