"""Estimates and intervals over seeds."""

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


def t_interval(values: np.ndarray) -> np.ndarray:
    """Returns the half-width of the Student-t interval of the mean over the last axis.

    Args:
      values: samples `[..., N]`, one per seed.

    Returns:
      `[...]`, the 95 % half-width; NaN for N < 2.
    """
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[:-1], np.nan)
    quantile = stdtrit(count - 1, 0.5 + CONFIDENCE / 2)
    return quantile * values.std(axis=-1, ddof=1) / np.sqrt(count)
