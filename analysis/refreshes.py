"""The record of refreshes of a run, over its seeds."""

from collections.abc import Callable

import numpy as np
import pandas as pd

Tables = dict[int, pd.DataFrame]  # by seed, one row per refresh


def values(tables: Tables, column: str) -> pd.DataFrame:
    """Returns one metric, one column per seed, at the refreshes where every seed has it."""
    columns = {
        seed: table.set_index("env_step")[column]
        for seed, table in tables.items()
        if column in table
    }
    return pd.DataFrame(columns).dropna().sort_index()


def first_and_last_quarter(
    tables: Tables, column: str, statistic: Callable[[np.ndarray], float] = np.mean
) -> tuple[float, float]:
    """Returns a statistic over seeds and over the first and the last quarter of the refreshes."""
    table = values(tables, column).to_numpy()
    if not len(table):
        return np.nan, np.nan
    quarter = max(len(table) // 4, 1)
    return float(statistic(table[:quarter])), float(statistic(table[-quarter:]))
