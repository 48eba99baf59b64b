"""What double-horizon MBPO costs per 1,000 environment steps, and what of it is matrix products.

    python benchmarks/dhmbpo_cost.py [--env=Hopper-v4] [--presets=dhmbpo_lite,dhmbpo_plus]
        [--precisions=float32,bfloat16]

Trains each variant for 2,000 steps after 1,000 random ones; the last 1,000 are counted, one greedy
evaluation of 10 episodes among them. `updates` are rounds of distribution rollouts and updates; the
rollouts alone are timed afterwards, as a program of their own. Next to the seconds of a stage stand
its matrix products in GFLOP and their rate as a fraction of this machine's rate in a 2048 x 2048
float32 product, measured in the same process. Run it on one core:
`taskset -c 0 python benchmarks/dhmbpo_cost.py`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from experiment import command_line  # noqa: E402

_ENV = flags.DEFINE_string("env", "Hopper-v4", "Environment id.")
_PRESETS = flags.DEFINE_list("presets", ["dhmbpo_lite", "dhmbpo_plus"], "Sizes.")
_PRECISIONS = flags.DEFINE_list("precisions", ["float32", "bfloat16"], "Of all products.")
INITIAL, STEPS = 1_000, 1_000
STAGES = ("model", "updates", "policy", "environment", "evaluation", "checkpoint")


def mlp_flops(inputs: int, width: int, depth: int, outputs: int) -> float:
    """Multiplications and additions of the products of one forward pass of one row."""
    return 2.0 * (inputs * width + (depth - 1) * width**2 + width * outputs)


def stage_gflops(config: ConfigDict, observation: int, action: int, fit_steps: float) -> dict:
    """Returns GFLOP of the products of each stage for `STEPS` environment steps.

    Hold-out errors and diagnostics of the fits, and acting, are not counted.
    """
    sac, model, horizon = config.sac, config.model, config.dhmbpo.horizon
    policy = mlp_flops(observation, sac.hidden_width, sac.hidden_depth, 2 * action)
    critic = mlp_flops(observation + action, sac.hidden_width, sac.hidden_depth, 1)
    heads = 2 if model.variance == "head" else 1
    outputs = heads * (observation + int(model.learn_reward))
    member = mlp_flops(observation + action, model.hidden_width, model.hidden_depth, outputs)
    refreshes = STEPS / model.train_every
    forward = horizon * member + (horizon + 1) * policy
    # critics: forward of the targets; forward, and backward twice as much, of the loss
    critic_step = sac.num_critics * 4 * critic
    # backward: of the model to its inputs, of the policy to both; critics forward and to inputs
    policy_step = horizon * member + 2 * (horizon + 1) * policy + sac.num_critics * 2 * critic
    updates = STEPS * config.updates_per_step * (forward + critic_step + policy_step)
    updates += refreshes * config.dhmbpo.critic_updates * (forward + critic_step)
    rounds = STEPS * config.updates_per_step / config.dhmbpo.updates_per_rollout
    rows = rounds * config.rollout.starts * config.dhmbpo.distribution_horizon
    rollouts = rows * (member + policy)
    fit = fit_steps * 3 * member * model.batch_size * model.num_members
    return {
        "model": refreshes * fit / 1e9,
        "rollouts": rollouts / 1e9,
        "updates": (sac.batch_size * updates + rollouts) / 1e9,
    }


def measure(preset: str, precision: str) -> tuple[dict[str, float], dict[str, float]]:
    """Returns seconds and GFLOP by stage."""
    import envs
    from configs import dhmbpo
    from experiment import configuration, loop, metrics

    config = dhmbpo.get_config(_ENV.value)
    config.update_from_flattened_dict(
        {
            "preset": preset,
            "precision": precision,
            "initial_steps": INITIAL,
            "total_steps": INITIAL + 2 * STEPS,
            "epoch_length": STEPS,
            "logging.tensorboard": False,
        }
    )
    config = configuration.resolve(config)
    configuration.validate(config)
    with tempfile.TemporaryDirectory() as folder:
        loop.train_and_evaluate(config, Path(folder))
        row: Any = metrics.read(Path(folder))[config.seed].iloc[-1]
    spec = envs.spec(config.env)
    seconds = {stage: float(row[f"time/{stage}"]) for stage in STAGES}
    seconds["rollouts"] = rollout_seconds(config, spec)
    sizes = spec.observation_size, spec.action_size
    return seconds, stage_gflops(config, *sizes, float(row["model/fit_steps"]))


def rollout_seconds(config: ConfigDict, spec: Any) -> float:
    """Returns seconds of the distribution rollouts of `STEPS` environment steps."""
    import jax
    import jax.numpy as jnp

    from agents.scaled_networks import Policy
    from agents.value_gradients import make_learner
    from benchmarks.throughput import best_seconds
    from models import normalizer
    from models.ensemble import make_ensemble
    from models.fit import make_fit
    from models.objectives import OBJECTIVES
    from models.rollout import STATES, keep_all, make_rollout
    from replay import buffer, example_transition

    ensemble = make_ensemble(config, spec)
    learner = make_learner(config, spec, ensemble)
    parts, starts = learner.parts, config.rollout.starts
    key = jax.random.key(0)
    model = make_fit(config, ensemble, OBJECTIVES["mle"](config, parts)).init(key)
    policy = Policy(learner.init(key).policy, normalizer.identity(spec.observation_size))
    example = example_transition(spec.observation_size, spec.action_size)
    replay = buffer.init(INITIAL, example)
    replay = replay.replace(size=jnp.int32(INITIAL))
    generate = jax.jit(make_rollout(config, parts, keep_all(config, parts), starts, STATES))
    ring = buffer.init(config.dhmbpo.ring_capacity, example.observation)
    length = jnp.int32(config.dhmbpo.distribution_horizon)
    once = best_seconds(
        lambda: jax.block_until_ready(generate(model, policy, (), replay, ring, length, key)), 3.0
    )
    return once * STEPS * config.updates_per_step / config.dhmbpo.updates_per_rollout


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    from experiment import runtime

    runtime.configure(1)
    from benchmarks.throughput import matmul

    rate = matmul()
    print(f"{_ENV.value}, matmul {rate:.0f} GFLOP/s (float32)")
    columns = [*STAGES, "all", "rollouts among updates"]
    print(f"| preset | precision | {' | '.join(columns)} |")
    print("|---|---|" + "---:|" * len(columns))
    for preset in _PRESETS.value:
        for precision in _PRECISIONS.value:
            seconds, gflops = measure(preset, precision)
            cells = []
            for stage in (*STAGES, "rollouts"):
                cell = f"{seconds[stage]:.1f} s"
                if stage in gflops:
                    share = gflops[stage] / seconds[stage] / rate
                    cell += f", {gflops[stage]:,.0f} GFLOP, {share:.2f}"
                cells.append(cell)
            total = sum(seconds[stage] for stage in STAGES)
            cells.insert(-1, f"{total:.1f} s")
            print(f"| {preset} | {precision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    with command_line.user_errors():
        app.run(main)
