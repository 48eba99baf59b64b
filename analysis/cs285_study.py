"""The study of CS285's homework 4: its runs, their tables, and what is expected of them.

`returns.csv` has a row per run, seed and iteration. Published values are of the homework's handout
(edition of 2022) and of the logs of six public solutions, three per edition (2022 and 2023).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from configs import cs285_mbpo, cs285_mpc
from errors import UserError
from experiment import metrics
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.homework import EPISODE_STEPS
from experiment.seed_tables import STEP

RETURNS_FILE = "returns.csv"
RETURN, CLOCK = "return", "wall_clock"
_EVALUATED, _COLLECTED = "eval/return", "train/return"  # of the metrics of a run
_COLUMNS = ["run", "seed", "iteration", STEP, RETURN, _EVALUATED, _COLLECTED, CLOCK]
_SHORT_CHEETAH = 800  # steps per iteration, of 5,000: planning takes 0.1 to 0.4 s a step
_SHORT_REACHER = 2_500  # likewise
_SHORT_ITERATIONS = 3  # on the reacher, of 15
_SHORT_OBSTACLES = 6  # iterations, of 12
_CEM_ITERATIONS = 5  # of question 5
_ABLATION_STEPS = 800  # of the reacher per iteration, question 4
REDUCTIONS = (
    f"Smaller than the homework, whose sizes `--full` has: the cheetah plans {_SHORT_CHEETAH:,} "
    f"environment steps per iteration instead of 5,000, for {_CEM_ITERATIONS} iterations instead "
    f"of 20 in question 3; obstacles have {_SHORT_OBSTACLES} iterations instead of 12; the reacher "
    f"has {_SHORT_ITERATIONS} instead of 15, in question 3 of {_SHORT_REACHER:,} steps instead of "
    "5,000, in question 4 after 5,000 random steps instead of 20,000 and with one evaluation "
    "episode instead of two. Questions 2 to 6 are without noise on the data, as in the edition of "
    "2023."
)


class Point(NamedTuple):
    """One run of train.py."""

    name: str  # of the run folder
    config: str  # below configs/, with its argument
    flags: dict[str, Any]  # dotted configuration field -> value
    iterations: int
    collected_episodes: int = 0  # per iteration, whole ones, that count like those of evaluation

    @property
    def total_steps(self) -> int:
        """Environment steps per seed, those before the first iteration included."""
        return self.flags["initial_steps"] + self.iterations * self.flags["epoch_length"]


class Panel(NamedTuple):
    """Runs that are compared."""

    question: int
    title: str
    runs: dict[str, str]  # name -> label
    expected: dict[str, str]  # name -> what is published, as text
    band: tuple[float, float] | None = None  # the handout's returns


class Check(NamedTuple):
    """A statement about returns that the study confirms or does not."""

    text: str
    runs: tuple[str, ...]  # that it is about
    holds: Callable[..., bool]  # of their returns by iteration, averaged over seeds: list[float]


def planning(name: str, env: str, iterations: int, steps: int, **flags: Any) -> Point:
    """Returns a run that plans, with `steps` environment steps per iteration.

    `planner__horizon=5` sets `planner.horizon`.
    """
    given = {key.replace("__", "."): value for key, value in flags.items()}
    usual = {"initial_steps": cs285_mpc.EXPERIMENTS[env].initial_steps}
    sizes = {"epoch_length": steps, "model.train_every": steps}
    return Point(name, f"cs285_mpc.py:{env}", usual | sizes | given, iterations)


def points(full: bool) -> list[Point]:
    """Returns the runs of questions 2 to 6; the homework's own sizes if `full`."""
    obstacles, reacher, cheetah = cs285_mpc.EXPERIMENTS
    mpc = cs285_mpc.EXPERIMENTS
    steps = mpc[cheetah].steps if full else _SHORT_CHEETAH
    reacher_steps = mpc[reacher].steps if full else _SHORT_REACHER
    few = mpc[reacher].iterations if full else _SHORT_ITERATIONS
    runs = [
        planning("q2_obstacles", obstacles, 1, 100, eval_episodes=20),
        planning(
            "q3_obstacles",
            obstacles,
            mpc[obstacles].iterations if full else _SHORT_OBSTACLES,
            1_000,
            eval_episodes=5,
        ),
        planning("q3_reacher", reacher, few, reacher_steps, eval_episodes=2),
        planning(
            "q3_cheetah",
            cheetah,
            mpc[cheetah].iterations if full else _CEM_ITERATIONS,
            steps,
            eval_episodes=1,
        ),
    ]
    ablations: dict[str, dict[str, Any]] = {
        "q4_base": {},
        "q4_horizon5": {"planner__horizon": 5},
        "q4_horizon15": {"planner__horizon": 15},
        "q4_horizon30": {"planner__horizon": 30},
        "q4_candidates100": {"planner__num_candidates": 100},
        "q4_members1": {"model__num_members": 1, "model__num_elites": 1},
        "q4_members5": {"model__num_members": 5, "model__num_elites": 5},
    }
    if full:
        ablations |= {
            "q4_horizon20": {"planner__horizon": 20},
            "q4_candidates500": {"planner__num_candidates": 500},
            "q4_candidates2000": {"planner__num_candidates": 2000},
        }
    initial = {"initial_steps": 20_000} if full else {}
    runs += [
        planning(
            name, reacher, few, _ABLATION_STEPS, eval_episodes=2 if full else 1, **initial, **flags
        )._replace(collected_episodes=_ABLATION_STEPS // EPISODE_STEPS[reacher])
        for name, flags in ablations.items()
    ]
    runs += [
        planning(
            f"q5_cem{count}",
            cheetah,
            _CEM_ITERATIONS,
            steps,
            eval_episodes=1,
            planner__name="cem",
            planner__num_iterations=count,
        )
        for count in (2, 4)
    ]
    length = mpc[cheetah].steps
    flags = {"initial_steps": length, "epoch_length": length, "eval_episodes": 5}
    fewer = flags | {"update_every": length // 1_000}  # as in the edition of 2022
    runs.append(Point("q6_sac1000", "cs285_mbpo.py:0", fewer, cs285_mbpo.ITERATIONS))
    return runs + [
        Point(f"q6_rollout{k}", f"cs285_mbpo.py:{k}", flags, cs285_mbpo.ITERATIONS)
        for k in (0, 1, 10)
    ]


PANELS = [
    Panel(
        2,
        "Obstacles, one fit",
        {"q2_obstacles": "random shooting"},
        {"q2_obstacles": "−70 to −50; solutions −46 to −26"},
        (-70.0, -50.0),
    ),
    Panel(
        3,
        "Obstacles",
        {"q3_obstacles": "random shooting"},
        {"q3_obstacles": "−25 to −20; solutions −35 to −27"},
        (-25.0, -20.0),
    ),
    Panel(
        3,
        "Reacher",
        {"q3_reacher": "random shooting"},
        {"q3_reacher": "−300 to −250; solutions −271 to −261"},
        (-300.0, -250.0),
    ),
    Panel(
        3,
        "Cheetah",
        {"q3_cheetah": "random shooting"},
        {"q3_cheetah": "250 to 350; solutions 297 to 408"},
        (250.0, 350.0),
    ),
    Panel(
        4,
        "Reacher: horizon",
        {
            "q4_horizon5": "5",
            "q4_base": "10",
            "q4_horizon15": "15",
            "q4_horizon20": "20",
            "q4_horizon30": "30",
        },
        {
            "q4_horizon5": "solutions −323 to −243",
            "q4_base": "solutions −278 to −262",
            "q4_horizon15": "solutions −304 to −285",
            "q4_horizon20": "solution −306",
            "q4_horizon30": "solutions −356 to −346",
        },
    ),
    Panel(
        4,
        "Reacher: action sequences",
        {
            "q4_candidates100": "100",
            "q4_candidates500": "500",
            "q4_base": "1000",
            "q4_candidates2000": "2000",
        },
        {
            "q4_candidates100": "solutions −315 to −296",
            "q4_candidates500": "solutions −281 to −275",
            "q4_base": "solutions −278 to −262",
            "q4_candidates2000": "solutions −265",
        },
    ),
    Panel(
        4,
        "Reacher: members of the ensemble",
        {"q4_members1": "1", "q4_base": "3", "q4_members5": "5"},
        {
            "q4_members1": "solutions −284 to −269",
            "q4_base": "solutions −278 to −266",
            "q4_members5": "solutions −282 to −281",
        },
    ),
    Panel(
        5,
        "Cheetah: random shooting against CEM",
        {"q3_cheetah": "random", "q5_cem2": "CEM, 2 iterations", "q5_cem4": "CEM, 4 iterations"},
        {
            "q3_cheetah": "solutions 204 to 318 after 5 iterations",
            "q5_cem2": "solutions 380 to 631",
            "q5_cem4": "at least about 800; solutions 731 to 1,107",
        },
    ),
    Panel(
        6,
        "Cheetah: rollout length of MBPO",
        {
            "q6_sac1000": "0 (SAC), 1,000 updates",
            "q6_rollout0": "0 (SAC)",
            "q6_rollout1": "1 (Dyna)",
            "q6_rollout10": "10 (MBPO)",
        },
        {
            "q6_sac1000": "solutions of 2022: −114 to 322",
            "q6_rollout0": "solutions of 2023: 49 to 494",
            "q6_rollout1": "solutions 23 to 882",
            "q6_rollout10": "at least 700 (2023) or about 1,000; solutions 748 to 1,768",
        },
    ),
]

CHECKS = [
    Check("Obstacles after one fit: better than −70.", ("q2_obstacles",), lambda one: one[0] > -70),
    Check(
        "Reacher: at least −300 within 3 iterations.",
        ("q3_reacher",),
        lambda returns: max(returns[:3]) >= -300,
    ),
    Check(
        "Cheetah, random shooting: at least 250 by iteration 5.",
        ("q3_cheetah",),
        lambda returns: max(returns[:5]) >= 250,
    ),
    Check(
        "Cheetah, CEM with 4 iterations: at least 730 after 5 iterations.",
        ("q5_cem4",),
        lambda returns: returns[4] >= 730,
    ),
    Check(
        "Cheetah after 5 iterations: CEM with 4 above CEM with 2 above random shooting.",
        ("q5_cem4", "q5_cem2", "q3_cheetah"),
        lambda four, two, random: four[4] > two[4] > random[4],
    ),
    Check(
        "Reacher: a horizon of 5 not below 10, 10 above 15, 15 above 30.",
        ("q4_horizon5", "q4_base", "q4_horizon15", "q4_horizon30"),
        lambda five, ten, fifteen, thirty: five[-1] >= ten[-1] > fifteen[-1] > thirty[-1],
    ),
    Check(
        "Reacher: 1,000 action sequences above 100.",
        ("q4_base", "q4_candidates100"),
        lambda many, few: many[-1] > few[-1],
    ),
    Check(
        "Reacher: ensembles of 1, 3 and 5 within a tenth of each other.",
        ("q4_members1", "q4_base", "q4_members5"),
        lambda *runs: np.ptp([run[-1] for run in runs]) <= 0.1 * abs(runs[1][-1]),
    ),
    Check("MBPO: at least 700 at the end.", ("q6_rollout10",), lambda returns: returns[-1] >= 700),
    Check(
        "Cheetah at the end: MBPO above Dyna, Dyna not below SAC.",
        ("q6_rollout10", "q6_rollout1", "q6_rollout0"),
        lambda ten, one, none: ten[-1] > one[-1] >= none[-1],
    ),
    Check(
        "Cheetah at the end: Dyna not below SAC with 1,000 updates per iteration (2022).",
        ("q6_rollout1", "q6_sac1000"),
        lambda one, none: one[-1] >= none[-1],
    ),
]


def collect(runs: Sequence[tuple[Point, Path]]) -> pd.DataFrame:
    """Reads finished runs: a row per run, seed and iteration.

    The evaluation of the untrained model is left out. Where collected episodes count, the return is
    the mean over them and those of evaluation: a planner acts alike in both, and what an iteration
    collects, it collects with the model that is evaluated at its end.
    """
    frames = []
    for point, folder in runs:
        for seed, frame in metrics.read(folder).items():
            rows = frame[frame[_EVALUATED].notna()]
            learned = rows[STEP] - point.flags["initial_steps"]
            rows = rows.assign(run=point.name, seed=seed, **{RETURN: rows[_EVALUATED]})
            if collected := point.collected_episodes:
                evaluated = point.flags["eval_episodes"]
                total = evaluated * rows[_EVALUATED] + collected * rows[_COLLECTED]
                rows[RETURN] = total / (evaluated + collected)
            rows["iteration"] = learned // point.flags["epoch_length"]
            frames.append(rows.reindex(columns=_COLUMNS)[learned > 0])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_COLUMNS)


def write(table: pd.DataFrame, folder: Path) -> None:
    """Writes `returns.csv`.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(folder, "The study"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / RETURNS_FILE, table.to_csv(index=False))


def read(folder: Path, name: str = RETURNS_FILE) -> pd.DataFrame:
    """Returns a table of the study.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        return pd.read_csv(folder / name, float_precision="round_trip")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / name} cannot be used ({error}). Write it again: "
            "python benchmarks/cs285_study.py with the flags of the study."
        ) from error


def by_iteration(table: pd.DataFrame, run: str) -> pd.Series:
    """Returns the mean return over seeds by iteration; empty for a run that is not there."""
    return table[table["run"] == run].groupby("iteration")[RETURN].mean()


def verdict(table: pd.DataFrame, check: Check) -> bool | None:
    """Returns whether a check holds; `None` where a run is missing or too short."""
    returns = [by_iteration(table, run).tolist() for run in check.runs]
    if not all(returns):
        return None
    try:
        return bool(check.holds(*returns))
    except IndexError:
        return None
