"""Published returns, to hold our own against: `results/published.csv`, one row per number.

`step` is empty where the source does not say after how many environment steps, `env_version` where
it does not say which version; `variant` names a setting that the algorithm's name does not imply.
"""

import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

NEAR = 1.25  # times the last step of our runs: what is published up to there is drawn
HALF_WIDTH = "half-width of the band"  # the `spread_kind` of rows that are no statistic of runs
FILE = Path(__file__).parent.parent / "results" / "published.csv"
TEXT = ("env_family", "env_version", "algo", "variant", "spread_kind", "source", "note")
_NUMBERS = ("step", "mean", "spread", "seeds")
COLUMNS = (*TEXT, *_NUMBERS)


def read(path: Path = FILE) -> pd.DataFrame:
    """Returns all rows; an empty text is "", an empty number NaN.

    A copy of the code without its results has no published values either, so no file is no rows.
    """
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
    return table.fillna(dict.fromkeys(TEXT, "")).astype(dict.fromkeys(_NUMBERS, float))


def family(env: str) -> str:
    """Returns an environment id without module, namespace and version.

    Unlike `configs.environments.family` this keeps `Truncated`: fewer observations are another
    problem, with other returns. An id with distracting dimensions, `Hopper-v5+noise8`, stays as it
    is for the same reason, so nothing published is compared with it.
    """
    return re.sub(r"-v\d+$", "", re.split("[:/]", env)[-1]).replace("TruncatedObs", "Truncated")


def version(env: str) -> str:
    """Returns the version of an environment id, e.g. `v5`; "" without one."""
    match = re.search(r"-(v\d+)$", env)
    return match[1] if match else ""


def relevant(env: str, algos: Collection[str]) -> pd.DataFrame:
    """Returns the rows to show beside runs of `algos` on an environment, in a new column `env`.

    Variants are shown to those who run that algorithm only, as there are many of them.
    """
    table = read()
    same = table["env_family"] == family(env)
    shown = table[same & ((table["variant"] == "") | table["algo"].isin(algos))]
    return shown.assign(env=env).reset_index(drop=True)


def warnings(rows: pd.DataFrame) -> list[str]:
    """Returns a line for every version with which runs are compared though theirs is another.

    Args:
      rows: what `relevant` returned, for any number of environments.
    """
    lines = []
    for (env, published), found in rows.groupby(["env", "env_version"], sort=True):
        sources = "; ".join(dict.fromkeys(found["source"]))
        if not published:
            lines.append(
                f"Version of {family(env)} not stated by its source ({sources}), these runs are "
                f"{env}: compare orders of magnitude only."
            )
        elif published != version(env):
            lines.append(
                f"Published on {family(env)}-{published} ({sources}), these runs are {env}: "
                "compare orders of magnitude only."
            )
    return lines
