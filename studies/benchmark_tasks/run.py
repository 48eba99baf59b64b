"""Runs double-horizon MBPO, its controls and its ablations on benchmark tasks.

    python studies/benchmark_tasks/run.py                                      everything, 14 hours
    python studies/benchmark_tasks/run.py --arms=dhmbpo,sac --tasks=Hopper-v4 --seeds=0,1

A run is a program of its own with a core to itself. Begun again, the study goes on where it was:
runs resume from their checkpoints in `--out`, finished ones are skipped. What `report.py` needs of
a finished run is copied to `results/benchmark_tasks/<task>/<arm>/seed_<K>`.
"""

import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402

from benchmarks import running  # noqa: E402
from errors import UserError  # noqa: E402
from experiment import command_line  # noqa: E402

RESULTS = ROOT / "results" / "benchmark_tasks"
HOPPER, CHEETAH, WALKER = TASKS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4")
STEPS = {HOPPER: 30_000, CHEETAH: 30_000, WALKER: 50_000}
PART_STEPS = 20_000  # of arms that say what a part contributes
SEEDS = 5


class Arm(NamedTuple):
    """A way of training.

    Attributes:
      tasks: environments it is run on.
      settings: dotted configuration fields; everything else is the preset's.
      config: file in `configs/`, without its ending.
      steps: of the environment, per seed; None: those of the task.
    """

    tasks: tuple[str, ...]
    settings: dict[str, Any]
    config: str = "dhmbpo"
    steps: int | None = None


def _part(**settings: Any) -> Arm:
    fields = {name.replace("__", "."): value for name, value in settings.items()}
    return Arm((HOPPER,), fields, steps=PART_STEPS)


ARMS: dict[str, Arm] = {
    "dhmbpo": Arm(TASKS, {}),
    "sac": Arm(TASKS, {"preset": "dhmbpo_lite"}, "sac"),
    "sac_equal_minutes": Arm((HOPPER,), {"preset": "dhmbpo_lite"}, "sac", steps=150_000),
    "early_starts": Arm((WALKER,), {"dhmbpo.early_share": 0.1}),
    "variance_head": _part(model__variance="head"),
    "variance_constant": _part(model__variance="constant"),
    "rollouts_once": _part(dhmbpo__updates_per_rollout=5_000, rollout__starts=2_500),
    "no_model_norm": _part(model__layer_norm=False),
    "no_critic_norm": _part(sac__layer_norm=False),
    "no_critic_updates": _part(dhmbpo__critic_updates=0),
    "no_resets": _part(dhmbpo__refreshes_per_reset=0),
    "no_dropout": _part(model__dropout=0.0),
    "two_updates": _part(updates_per_step=2),
    "bfloat16": _part(precision="bfloat16"),
}

_ARMS = flags.DEFINE_list("arms", list(ARMS), "Which arms.")
_TASKS = flags.DEFINE_list("tasks", list(TASKS), "On which environments, where an arm has them.")
_SEEDS = flags.DEFINE_list("seeds", [str(seed) for seed in range(SEEDS)], "Which seeds.")
_OUT = flags.DEFINE_string("out", "runs/benchmark_tasks", "Where the runs are.")


def command(task: str, arm: str, seed: int) -> list[str]:
    """Returns what trains one seed of an arm, without its `--workdir`."""
    _, settings, config, steps = ARMS[arm]
    fields = {**settings, "seed": seed, "total_steps": steps or STEPS[task]}
    options = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["train.py", f"--config=configs/{config}.py:{task}", *options]


def train(task: str, arm: str, seed: int, out: Path) -> str:
    """Trains one seed, or goes on with it, and copies its tables.

    Returns:
      What went wrong, "" if nothing did.

    Raises:
      UserError: a folder is not writable.
    """
    part = Path(task, arm, f"seed_{seed}")
    steps = ARMS[arm].steps or STEPS[task]
    if running.is_finished(RESULTS / part, steps, 1):
        return ""
    problem = running.logged(
        [*command(task, arm, seed), f"--workdir={(out / part).resolve()}"], out / part
    )
    if problem:
        return f"{part}: {problem}"
    tables = [f"metrics/{kind}seed_{seed}.csv" for kind in ("", "refresh_")]
    running.copy(["config.json", *tables], out / part, RESULTS / part)
    print(f"{part}: finished", flush=True)
    return ""


def main(argv: list[str]) -> None:
    """Runs what the flags name; leaves with 1 if a part failed."""
    del argv
    for name, given, known in (("arms", _ARMS, ARMS), ("tasks", _TASKS, TASKS)):
        if unknown := sorted(set(given.value) - set(known)):
            raise UserError(f"--{name}: {unknown[0]} is unknown, use {', '.join(known)}.")
    parts = [
        functools.partial(train, task, arm, int(seed), Path(_OUT.value))
        for arm in _ARMS.value
        for task in ARMS[arm].tasks
        if task in _TASKS.value
        for seed in _SEEDS.value
    ]
    if problems := [problem for problem in running.on_own_cores(parts) if problem]:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    with command_line.user_errors():
        app.run(main)
