import numpy as np
import pandas as pd

from analysis import refreshes


def test_only_refreshes_that_every_seed_has_count():
    tables = {
        0: pd.DataFrame({"env_step": [1, 2, 3], "x": [1.0, 2.0, 3.0]}),
        1: pd.DataFrame({"env_step": [1, 2, 3, 4], "x": [5.0, np.nan, 7.0, 8.0]}),
        2: pd.DataFrame({"env_step": [1], "y": [9.0]}),
    }
    assert refreshes.values(tables, "x").to_dict("list") == {0: [1.0, 3.0], 1: [5.0, 7.0]}


def test_quarters_are_those_of_all_seeds_together():
    tables = {
        seed: pd.DataFrame({"env_step": range(9), "x": [scale * step for step in range(9)]})
        for seed, scale in ((0, 1.0), (1, 10.0), (2, 100.0))
    }
    # A quarter of nine is two: steps 0 and 1, and 7 and 8.
    assert refreshes.first_and_last_quarter(tables, "x") == (111 / 6, 111 * 15 / 6)
    assert refreshes.first_and_last_quarter(tables, "x", np.median) == (0.5, 75.0)
    assert np.isnan(refreshes.first_and_last_quarter(tables, "y")).all()
