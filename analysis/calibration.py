"""How likely the truth is under predicted Gaussians, and whether their width is right.

Shapes: K models, N rows, D dimensions. Dimensions that never vary in the data should be left out:
a constant has an unbounded likelihood.
"""

import numpy as np
from scipy.special import logsumexp, ndtri

LEVELS = np.linspace(0.05, 0.95, 19)  # of central intervals
LARGEST_ERROR = 1e6  # in units of the scale: what an overflowed prediction counts as
_LOG_2PI = np.log(2 * np.pi)


def standardised_errors(
    mean: np.ndarray, log_variance: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Returns the error in predicted standard deviations.

    Args:
      mean: [K, N, D].
      log_variance: [K, N, D].
      target: [N, D].

    Returns:
      [K, N, D], at most `LARGEST_ERROR` in size.
    """
    z = (mean.astype(float) - target) * np.exp(-0.5 * log_variance.astype(float))
    return np.clip(np.nan_to_num(z, nan=LARGEST_ERROR), -LARGEST_ERROR, LARGEST_ERROR)


def elite_nll(z: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Returns the negative log-likelihood [D] of every dimension, mean over models and rows, nats.

    Args:
      z: standardised errors [K, N, D].
      log_variance: [K, N, D].
    """
    return -_log_density(z, log_variance).mean(axis=(0, 1))


def mixture_nll(z: np.ndarray, log_variance: np.ndarray) -> float:
    """Returns the negative log-likelihood of the equal mixture of the models, nats per dimension.

    One model predicts all dimensions of a row, so the mixture is over joint densities:
    -log(1/K sum_k prod_d N_kd) / D, averaged over rows. Arguments as for `elite_nll`.
    """
    joint = _log_density(z, log_variance).sum(axis=2)
    return float(-(logsumexp(joint, axis=0) - np.log(len(z))).mean() / z.shape[2])


def constant_nll(target: np.ndarray) -> np.ndarray:
    """Returns the same [D] for a Gaussian with mean and variance of the targets [N, D].

    A yardstick: it knows nothing about states and actions.
    """
    return 0.5 * (np.log(target.astype(float).var(axis=0)) + _LOG_2PI + 1.0)


def coverage(z: np.ndarray) -> np.ndarray:
    """Returns how often standardised errors z [...] lie in the central intervals of `LEVELS`."""
    half_widths = ndtri(0.5 + LEVELS / 2)
    inside = np.searchsorted(np.sort(np.abs(z), axis=None), half_widths, side="right")
    return inside / z.size


def overconfidence(z: np.ndarray) -> float:
    """Returns the root mean square of standardised errors z [...].

    1: the predicted standard deviations are right; 2: errors are twice as large; 0.5: half as
    large.
    """
    return float(np.sqrt(np.square(z).mean()))


def _log_density(z: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    return -0.5 * (np.square(z) + log_variance + _LOG_2PI)
