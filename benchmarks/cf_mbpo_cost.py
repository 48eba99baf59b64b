"""What the coupled flows cost: wall-clock per environment step, relative to plain MBPO.

    python benchmarks/cf_mbpo_cost.py [--env=Hopper-v5] [--num_seeds=2] [--rounds=3]
        [--variants=mbpo,reward]

Trains every variant on the same random transitions, one refresh period (`model.train_every`
environment steps, one refresh) after the other, in turn, so that all of them meet the same machine.
The environment is not stepped: every step stores the same transition once more. The first
period, with compilation and the warm-up of the flows, is not counted. Prints the median
seconds of each stage and the ratio to `use_algo=mbpo`, and the device memory of the state.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402

_ENV = flags.DEFINE_string("env", "Hopper-v5", "Environment id.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 2, "Seeds trained together.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Counted refresh periods per variant.", lower_bound=1)
_VARIANTS = flags.DEFINE_list(
    "variants", ["mbpo", "discriminator", "reward", "both"], "Values of use_algo; mbpo is one."
)
TRANSITIONS = 5_000  # random ones in the replay: the presets' initial exploration


def main(argv: list[str]) -> None:
    """Prints the comparison."""
    del argv
    from experiment import runtime

    runtime.configure(_NUM_SEEDS.value)

    import jax
    import numpy as np

    import envs
    from agents.registry import make_agent
    from configs import cf_mbpo
    from experiment import configuration, seeds
    from experiment.actors import Actors

    def build(variant: str) -> seeds.LiftedAgent:
        given = cf_mbpo.get_config(_ENV.value)
        given.use_algo, given.num_seeds, given.total_steps = variant, _NUM_SEEDS.value, 20_000
        config = configuration.resolve(given)
        configuration.validate(config)
        return seeds.lift(make_agent(config, envs.spec(config.env)), config.num_seeds)

    agents = {variant: build(variant) for variant in _VARIANTS.value}
    seed_list = list(range(_NUM_SEEDS.value))
    states = {variant: agent.init(seed_list) for variant, agent in agents.items()}
    actors = Actors(_ENV.value, seed_list)
    rng = np.random.default_rng(0)
    size = envs.spec(_ENV.value).action_size
    for _ in range(TRANSITIONS):
        transition = actors.step(rng.uniform(-1, 1, (len(seed_list), size)).astype(np.float32))
        for variant, agent in agents.items():
            states[variant] = agent.observe(states[variant], transition)
    observation = actors.observation

    def period(variant: str) -> dict[str, float]:
        agent, seconds = agents[variant], {}
        for stage in agent.refresh:
            start = time.perf_counter()
            states[variant], metrics = stage.run(states[variant])
            jax.block_until_ready(metrics)
            seconds[stage.name] = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(agent.refresh_every):
            states[variant], action, _ = agent.step(states[variant], transition, observation)
            np.asarray(action)
        seconds["policy"] = time.perf_counter() - start
        return seconds

    measured = defaultdict(list)
    for counted in [False] + [True] * _ROUNDS.value:
        for variant in _VARIANTS.value:
            seconds = period(variant)
            if counted:
                measured[variant].append(seconds)

    print(f"{_ENV.value}, {_NUM_SEEDS.value} seeds, {_ROUNDS.value} periods each")
    print("| use_algo | model | flows | rollouts | policy | per environment step | ratio | state |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    plain = median(sum(seconds.values()) for seconds in measured["mbpo"])
    for variant, periods in measured.items():
        stages = [
            f"{median(seconds.get(name, 0.0) for seconds in periods):.2f} s"
            for name in ("model", "flows", "rollouts", "policy")
        ]
        whole = median(sum(seconds.values()) for seconds in periods)
        megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(states[variant])) / 2**20
        per_step = 1e3 * whole / agents[variant].refresh_every
        print(
            f"| {variant} | {' | '.join(stages)} | {per_step:.1f} ms | {whole / plain:.2f} "
            f"| {megabytes:.0f} MiB |"
        )


if __name__ == "__main__":
    app.run(main)
