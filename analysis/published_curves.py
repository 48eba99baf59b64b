"""Published learning curves, drawn behind our own: `results/published_curves.csv`.

One row per algorithm, environment and step. `env` is a family, `mean` and `std` are over `seeds`
runs. "MBPO (published 2019)" is the band of a figure instead: `std` is half its width and `seeds`
is empty. No curve enters a test or an interval.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.published import NEAR, family, version
from analysis.wording import counted

FILE = Path(__file__).parent.parent / "results" / "published_curves.csv"
TEXT = ("env", "env_version", "algorithm", "source", "note")
_NUMBERS = ("seeds", "env_step", "mean", "std")
COLUMNS = (*TEXT, *_NUMBERS)
BAND = "MBPO (published 2019)"  # drawn whatever the version, as its label names its own
_SAC = "SAC (erl_lib 3x256)"
SHOWN = {  # by our algorithm: the published ones behind its curve
    "dhmbpo": ("DHMBPO UTD1", "DHMBPO UTD2", BAND, _SAC),
    "mbpo": (BAND,),
    "sac": (_SAC,),
}
STYLES = {  # muted, so that our own curves stand out
    "DHMBPO UTD1": ("#8E6C8A", "-"),
    "DHMBPO UTD2": ("#8E6C8A", "--"),
    BAND: ("#9C8A5A", "-"),
    _SAC: ("#7A9A78", "-."),
}


def read(path: Path = FILE) -> pd.DataFrame:
    """Returns all rows; an empty text is "", an empty number NaN; no file is no rows."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str) | dict.fromkeys(_NUMBERS, float))
    return table.fillna(dict.fromkeys(TEXT, ""))[[*COLUMNS]]


def relevant(env: str, algos: Collection[str], last: float) -> pd.DataFrame:
    """Returns the curves to draw behind runs of `algos`.

    They are of the same version of the environment, except `BAND`.

    Args:
      env: the id that the runs have; it replaces the family in the column `env`.
      algos: what the runs are of, names of ours.
      last: last environment step of the runs; curves end at `NEAR` times it.
    """
    table = read()
    names = {name for algo in algos for name in SHOWN.get(algo, ())}
    same = (table["env_version"] == version(env)) | (table["algorithm"] == BAND)
    near = table["env_step"] <= NEAR * last
    shown = same & near & (table["env"] == family(env)) & table["algorithm"].isin(names)
    return table[shown].assign(env=env).reset_index(drop=True)


def label(row: pd.Series) -> str:
    """Returns e.g. `published, -v4: DHMBPO UTD1, 8 seeds`, given any row of a curve."""
    runs = "a band" if pd.isna(row["seeds"]) else counted(row["seeds"], "seed")
    return f"published, -{row['env_version']}: {row['algorithm'].replace('published ', '')}, {runs}"


def draw(axes: Axes, rows: pd.DataFrame) -> None:
    """Draws curves of one environment, mean and mean ± std, behind everything else."""
    for algorithm, curve in rows.groupby("algorithm"):
        color, line = STYLES[algorithm]
        steps, mean, std = curve["env_step"], curve["mean"], curve["std"]
        one = len(curve) == 1  # a line through one point and its band are invisible
        band: dict[str, Any] = {"alpha": 0.4, "linewidth": 1} if one else {"alpha": 0.1}
        axes.fill_between(steps, mean - std, mean + std, color=color, zorder=0.5, **band)
        style: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 1, "zorder": 0.9}
        axes.plot(steps, mean, marker="." if one else None, label=label(curve.iloc[0]), **style)


def section(rows: pd.DataFrame) -> str:
    """Returns what the drawn curves are and where they come from, as Markdown; "" without any."""
    if rows.empty:
        return ""
    lines = [
        f"- {row['env']}, {label(row)}: " + "; ".join(filter(None, [row["source"], row["note"]]))
        for _, row in rows.drop_duplicates(["env", "algorithm"]).iterrows()
    ]
    return (
        "## Published curves\n\nThe thin muted curves are published: the mean over seeds, one "
        "standard deviation on either side. They enter no interval and no test.\n\n"
        + "\n".join(lines)
    )
