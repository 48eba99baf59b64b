"""Lays the runs of a CFG-MBPO study over each other.

    python benchmarks/cf_mbpo_study.py results/cf_mbpo/mbpo results/cf_mbpo/discriminator ...

Each argument is a run folder; its name is the label. Writes `comparison.png` (greedy return and
open-loop error of the model against environment steps, means over seeds with 95 % Student-t
intervals) and `comparison.md` (a table) beside the first folder.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from absl import app  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from analysis.rendering import markdown_table, save_figure  # noqa: E402
from analysis.run_report import FINAL_EVALUATIONS  # noqa: E402
from analysis.statistics import area_under_curve, t_interval  # noqa: E402
from experiment import metrics  # noqa: E402

RETURN, TIME = "eval/return", "wall_clock"
USED_ERROR = "open_loop_5"  # of the model that generates the rollouts


def main(argv: list[str]) -> None:
    """Writes figure and table."""
    folders = [Path(folder) for folder in argv[1:]]
    if not folders:
        raise SystemExit(f"error: no run folders given.\n{__doc__}")
    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2)
    rows = []
    for index, folder in enumerate(folders):
        seeds = metrics.read(folder)
        returns = table(seeds, RETURN)
        errors = table(used_errors(metrics.read_refreshes(folder)), USED_ERROR)
        draw(axes[0], returns, folder.name, f"C{index}")
        draw(axes[1], errors, folder.name, f"C{index}")
        whole = area_under_curve(returns.index.to_numpy(), returns.to_numpy().T)
        final = returns.to_numpy()[-FINAL_EVALUATIONS:].mean(axis=0)
        half = errors.to_numpy()[len(errors) // 2 :].mean(axis=0)
        minutes = max(frame[TIME].max() for frame in seeds.values()) / 60
        rows.append([folder.name, *(interval(v) for v in (final, whole, half)), f"{minutes:.1f}"])
    axes[0].set_title("greedy return")
    axes[1].set_title("open-loop error of the model, 5 steps (std)")
    axes[0].legend(frameon=False)
    for panel in axes:
        panel.set_xlabel("environment steps per seed")
        panel.grid(alpha=0.3)
    save_figure(figure, folders[0].parent, "comparison.png", "The comparison")
    header = [
        "run",
        f"final return (last {FINAL_EVALUATIONS} evaluations)",
        "mean return over the run",
        "open-loop error, second half",
        "minutes",
    ]
    text = markdown_table(header, rows)
    (folders[0].parent / "comparison.md").write_text(text + "\n")
    print(text)


def used_errors(refreshes: dict[int, pd.DataFrame]) -> dict[int, pd.DataFrame]:
    """Returns the error of the model that made the rollouts.

    Every run measures it after the fit, on segments from the whole replay. Where a refinement was
    accepted, it is multiplied by the change measured on held-out segments.
    """
    frames = {}
    for seed, frame in refreshes.items():
        error = frame["model/open_loop_5"]
        if "refine/accepted" in frame:
            change = frame["refine/after_5"] / frame["refine/before_5"]
            error = error.where(frame["refine/accepted"] < 0.5, error * change)
        frames[seed] = pd.DataFrame({"env_step": frame["env_step"], USED_ERROR: error})
    return frames


def table(frames: dict[int, pd.DataFrame], column: str) -> pd.DataFrame:
    """Returns one metric by environment step, one column per seed."""
    series = {seed: frame.set_index("env_step")[column] for seed, frame in frames.items()}
    return pd.DataFrame(series).dropna()


def draw(axes: Axes, values: pd.DataFrame, label: str, color: str) -> None:
    """Draws mean and interval over seeds."""
    steps, mean = values.index.to_numpy(), values.to_numpy().mean(axis=1)
    half_width = t_interval(values.to_numpy())
    axes.fill_between(steps, mean - half_width, mean + half_width, alpha=0.15, color=color)
    axes.plot(steps, mean, color=color, linewidth=2, label=label)


def interval(values: np.ndarray) -> str:
    """Returns mean and 95 % half-width over seeds."""
    digits = 0 if values.mean() > 10 else 2
    return f"{values.mean():.{digits}f} ± {t_interval(values):.{digits}f}"


if __name__ == "__main__":
    app.run(main)
