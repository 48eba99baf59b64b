"""What the variables of `run_hw4.sh` mean: CS285's homework 4 as two runs of train.py.

The variables have the names of the script that this one replaces. Where one is not set, the value
is that of `configs/cs285_mpc.py` or `configs/cs285_mbpo.py`.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from configs import cs285_mbpo, cs285_mpc, planning
from configs.cs285_mpc import Experiment as Sizes
from errors import UserError
from experiment import command_line

ROOT = Path(__file__).resolve().parent.parent
EPISODE_STEPS = {"obstacles-cs285-v0": 100, "reacher-cs285-v0": 200, "cheetah-cs285-v0": 500}
SL_NOISE = 0.01  # of `add_sl_noise`

# Ends of variables -> dotted fields of the configuration that take their value as it is.
MODEL = {
    "ENSEMBLE_SIZE": ("model.num_members", "model.num_elites"),
    "BATCH_SIZE_INITIAL": ("initial_steps",),
    "BATCH_SIZE": ("epoch_length",),
    "TRAIN_BATCH_SIZE": ("model.batch_size",),
    "LEARNING_RATE": ("model.learning_rate",),
    "N_LAYERS": ("model.hidden_depth",),
    "HIDDEN_SIZE": ("model.hidden_width",),
    "SEED": ("seed",),
}
FIT = {  # of planning; MBPO divides an iteration into refreshes
    "BATCH_SIZE": ("epoch_length", "model.train_every"),
    "NUM_AGENT_TRAIN_STEPS": ("model.max_gradient_steps",),
}
PLANNER = {
    "MPC_HORIZON": ("planner.horizon",),
    "MPC_ACTION_SEQUENCES": ("planner.num_candidates",),
    "CEM_ITERATIONS": ("planner.num_iterations",),
    "CEM_NUM_ELITES": ("planner.num_elites",),
    "CEM_ALPHA": ("planner.smoothing",),
}
SAC = {
    "TRAIN_BATCH_SIZE": ("sac.batch_size",),
    "DISCOUNT": ("discount",),
    "INIT_TEMPERATURE": ("sac.initial_temperature",),
    "LEARNING_RATE": ("sac.learning_rate",),
    "N_LAYERS": ("sac.hidden_depth",),
    "HIDDEN_SIZE": ("sac.hidden_width",),
    "ACTOR_UPDATE_FREQ": ("sac.policy_update_every",),
    "CRITIC_TARGET_UPDATE_FREQ": ("sac.target_update_every",),
}
SAC_ONES = ("NUM_AGENT_TRAIN_STEPS", "NUM_CRITIC_UPDATES", "NUM_ACTOR_UPDATES")
OTHERS = ("ENV_NAME", "EXP_NAME", "N_ITER", "EVAL_BATCH_SIZE", "ADD_SL_NOISE", "EXTRA_FLAGS")
IGNORED = ("SAC_BATCH_SIZE", "MBPO_MPC_SAMPLING", *(f"MBPO_{name}" for name in PLANNER))
"""Variables that the original takes, too, and that change nothing."""


class Experiment(NamedTuple):
    """One run."""

    name: str  # of its folder
    flags: list[str]


def main() -> None:
    """Runs what the environment's variables ask for."""
    runs = Path(os.environ.get("RUNS_DIR") or "runs/hw4")
    for name in IGNORED:
        if os.environ.get(name):
            print(f"{name} changes nothing, as in the homework's own script.", flush=True)
    for name, flags in experiments(os.environ):
        folder = runs / name
        command = ["train.py", *flags, f"--workdir={folder}"]
        print(f"== python {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
        if status:
            raise SystemExit(status)
        print(f"== {folder / 'curve.png'}, {folder / 'report.md'}", flush=True)


def experiments(variables: Mapping[str, str]) -> list[Experiment]:
    """Returns what to run.

    Raises:
      UserError: a variable is unknown or has no such value.
    """
    given = {name: value for name, value in variables.items() if value}
    _refuse_unknown(given)
    planning, mbpo = _planning(given), _mbpo(given)
    found = []
    if _switch(given, "RUN_MB", True):
        found.append(Experiment(given.get("MB_EXP_NAME", "mb_default"), planning))
    if _switch(given, "RUN_MBPO", True):
        found.append(Experiment(given.get("MBPO_EXP_NAME", "mbpo_default"), mbpo))
    return found


def _planning(given: Mapping[str, str]) -> list[str]:
    env = _environment(given, "MB_ENV_NAME")
    sampling = given.get("MB_MPC_SAMPLING", "random")
    if sampling not in ("random", "cem"):
        raise UserError(f"MB_MPC_SAMPLING={sampling}: use random or cem.")
    flags = [f"--config=configs/cs285_mpc.py:{env}"]
    if sampling == "cem":
        flags.append("--config.planner.name=cem")
    elif unused := [name for name in given if name.startswith("MB_CEM_")]:
        raise UserError(f"{unused[0]} needs MB_MPC_SAMPLING=cem.")
    return flags + _common(given, "MB_", env, cs285_mpc.EXPERIMENTS[env], MODEL | FIT | PLANNER)


def _mbpo(given: Mapping[str, str]) -> list[str]:
    env = _environment(given, "MBPO_ENV_NAME")
    length = _integer(given, "MBPO_ROLLOUT_LENGTH", 10, least=0)
    flags = [f"--config=configs/cs285_mbpo.py:{length},{env}"]
    usual = cs285_mpc.EXPERIMENTS[env]._replace(iterations=cs285_mbpo.ITERATIONS)
    if length:
        flags += _refreshes(given, usual)
    else:
        _refuse_model(given)
    flags += _common(given, "MBPO_", env, usual, MODEL)
    flags += [
        f"--config.{field}={given[f'SAC_{name}']}"
        for name, fields in SAC.items()
        if f"SAC_{name}" in given
        for field in fields
    ]
    for name in SAC_ONES:
        if given.get(f"SAC_{name}", "1") != "1":
            raise UserError(f"SAC_{name}={given[f'SAC_{name}']}: only 1 is supported; unset it.")
    if "SAC_N_ITER" in given:
        steps = _integer(given, "MBPO_BATCH_SIZE", usual.steps)
        updates = _integer(given, "SAC_N_ITER", steps)
        if updates % steps and steps % updates:
            raise UserError(
                f"SAC_N_ITER={updates}: updates are spread over the {steps} environment steps of "
                f"an iteration (MBPO_BATCH_SIZE): use a multiple or a divisor of {steps}."
            )
        flags.append(f"--config.updates_per_step={max(updates // steps, 1)}")
        flags.append(f"--config.update_every={max(steps // updates, 1)}")
    return flags


def _refreshes(given: Mapping[str, str], usual: Sizes) -> list[str]:
    """Returns the flags of fits and rollouts where they follow from variables of iterations."""
    if not given.keys() & {f"MBPO_{name}" for name in (*FIT, "ENSEMBLE_SIZE")}:
        return []
    sizes = cs285_mbpo.refreshes(
        _integer(given, "MBPO_BATCH_SIZE", usual.steps),
        _integer(given, "MBPO_NUM_AGENT_TRAIN_STEPS", usual.gradient_steps),
        _integer(given, "MBPO_ENSEMBLE_SIZE", planning.MPC["model.num_members"]),
    )
    return [f"--config.{field}={value}" for field, value in sizes.items()]


def _refuse_model(given: Mapping[str, str]) -> None:
    """Refuses variables about a model."""
    fields = MODEL | FIT
    of_models = [name for name in fields if fields[name][0].startswith("model.")]
    for name in ("ADD_SL_NOISE", *of_models):
        if given.get(f"MBPO_{name}", "0") != "0":
            raise UserError(f"MBPO_{name} needs a model: use MBPO_ROLLOUT_LENGTH=1 or more.")


def _common(
    given: Mapping[str, str],
    prefix: str,
    env: str,
    usual: Sizes,
    fields: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """Returns the flags of what both experiments have, `EXTRA_FLAGS` last."""
    values = {
        field: given[prefix + name]
        for name, names in fields.items()
        if prefix + name in given
        for field in names
    }
    if given.keys() & {prefix + name for name in ("N_ITER", "BATCH_SIZE", "BATCH_SIZE_INITIAL")}:
        first = _integer(given, prefix + "BATCH_SIZE_INITIAL", usual.initial_steps)
        steps = _integer(given, prefix + "BATCH_SIZE", usual.steps)
        count = _integer(given, prefix + "N_ITER", usual.iterations)
        values["total_steps"] = str(first + count * steps)
    if prefix + "EVAL_BATCH_SIZE" in given:
        steps = _integer(given, prefix + "EVAL_BATCH_SIZE", 0)
        values["eval_episodes"] = str(-(-steps // EPISODE_STEPS[env]))
    if _switch(given, prefix + "ADD_SL_NOISE", False):
        values["model.sl_noise"] = str(SL_NOISE)
    flags = [f"--config.{field}={value}" for field, value in values.items()]
    return flags + shlex.split(given.get(prefix + "EXTRA_FLAGS", ""))


def _refuse_unknown(given: Mapping[str, str]) -> None:
    model = [*(MODEL | FIT), *OTHERS]
    known = {
        "MB_": [*model, *PLANNER, "MPC_SAMPLING"],
        "MBPO_": [*model, "ROLLOUT_LENGTH"],
        "SAC_": [*SAC, *SAC_ONES, "N_ITER"],
    }
    for prefix, ends in known.items():
        for name in given:
            own = name.startswith(prefix) and name not in IGNORED
            if own and name.removeprefix(prefix) not in ends:
                raise UserError(
                    f"{name} is unknown. Known are "
                    f"{', '.join(sorted(prefix + end for end in ends))}."
                )


def _environment(given: Mapping[str, str], name: str) -> str:
    env = given.get(name, "cheetah-cs285-v0")
    if env not in EPISODE_STEPS:
        raise UserError(f"{name}={env}: use one of {', '.join(EPISODE_STEPS)}.")
    return env


def _switch(given: Mapping[str, str], name: str, default: bool) -> bool:
    value = given.get(name, str(int(default)))
    if value not in ("0", "1"):
        raise UserError(f"{name}={value}: use 0 or 1.")
    return value == "1"


def _integer(given: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    value = given.get(name, str(default))
    if not value.isdigit() or int(value) < least:
        raise UserError(f"{name}={value}: use an integer of at least {least}.")
    return int(value)


if __name__ == "__main__":
    with command_line.user_errors():
        main()
