"""The variance of a model whose noise does not depend on its inputs, from held-out rows.

Likelihood on the training rows makes such a variance as small as the residuals there, and a policy
that trusts it falls where the model errs.
"""

import chex
import jax
import jax.numpy as jnp

from models.ensemble import Ensemble, Normalizers
from models.split import Split
from replay import ReplayState, Transition, buffer

SMALLEST_VARIANCE = 1e-8  # in units of the networks


def with_holdout_variance(
    ensemble: Ensemble,
    params: chex.ArrayTree,
    normalizers: Normalizers,
    replay: ReplayState,
    split: Split,
) -> chex.ArrayTree:
    """Returns the parameters with `log_std` [E, D] of the held-out residuals of each member.

    Args:
      ensemble: with `model.variance` other than "head".
      params: leading axis E.
      normalizers: of the fit.
      replay: what was fitted.
      split: its rows.
    """
    rows: Transition = buffer.gather_slots(replay, split.holdout)
    target = ensemble.targets(rows)
    counted = jnp.arange(len(split.holdout))[:, None] < split.holdout_size

    def variance(member: chex.ArrayTree) -> chex.Array:
        one = jax.tree.map(lambda leaf: leaf[None], member)
        mean = ensemble.predict(one, normalizers, rows.observation[None], rows.action[None]).mean[0]
        error = jnp.square((mean - target) / normalizers.targets.std[None])
        return jnp.where(counted, error, 0.0).sum(axis=0) / jnp.maximum(split.holdout_size, 1)

    residual = jnp.maximum(jax.lax.map(variance, params), SMALLEST_VARIANCE)
    return params | {"log_std": 0.5 * jnp.log(residual)}
