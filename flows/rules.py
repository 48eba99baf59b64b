"""What to do with the scores of model transitions: keep the realistic ones, or weight all of them.

Every score is a log-ratio of densities, xt(z) = log p_model(z) - log p_real(z), centred so that
exp(xt) averages to one over real transitions. It is in nats, and high where z looks generated.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

SMALLEST_WEIGHT = 1e-9  # chosen by us: without influence, but not zero
KEEP_ALL = 1e30  # a threshold above every score, and small enough to be averaged over seeds
ROUNDING = 1e-6  # relative, of a row count that was computed in float32


class Threshold(NamedTuple):
    """Where to cut, and what is left below the cut A = {xt <= tau}."""

    tau: chex.Array  # [], nats
    kept: chex.Array  # [], the fraction f of the masked rows that lie in A
    kl: chex.Array  # [], E[xt | A] + log(1 / f), nats: divergence of what is kept from the real z


def one_nat_threshold(xt: chex.Array, mask: chex.Array, min_kept: float) -> Threshold:
    """Returns the cut after which the kept transitions are closest to the real ones.

    With f the model's probability of A, the kept density is p_model / f on A, hence

      KL(kept || real) = E[xt | A] + log(1 / f).

    Its derivative in f is (tau - E[xt | A] - 1) / f, so the best cut rejects whatever is more than
    one nat worse than the average kept transition. Nothing is tuned: the formula is evaluated at
    every row, and the smallest value with f >= min_kept wins. The derivation is ours; the rule
    replaces the choice of the best of K candidates in CFG-MBPO (Gong et al. 2025).

    Args:
      xt: scores [N], finite where `mask` is set.
      mask: bool [N], the rows that count.
      min_kept: the smallest admissible f, in [0, 1]; 1 keeps every row.

    Returns:
      The `Threshold`. Rows equal to tau are kept. Without any row there is no reason to reject:
      tau is `KEEP_ALL`, f is 1 and the divergence 0.
    """
    chex.assert_rank([xt, mask], 1)
    total = mask.sum()
    ranked = jnp.sort(jnp.where(mask, xt, jnp.inf))
    rank = jnp.arange(1, xt.shape[0] + 1)
    counted = rank <= total
    kept = rank / jnp.maximum(total, 1)
    kl = jnp.cumsum(jnp.where(counted, ranked, 0.0)) / rank - jnp.log(kept)
    last_of_ties = jnp.append(ranked[1:], jnp.inf) > ranked  # never true outside the mask
    enough = rank >= min_kept * total * (1.0 - ROUNDING)
    best = jnp.argmin(jnp.where(last_of_ties & enough, kl, jnp.inf))
    return Threshold(
        tau=jnp.where(total > 0, ranked[best], KEEP_ALL),
        kept=jnp.where(total > 0, kept[best], 1.0),
        kl=jnp.where(total > 0, kl[best], 0.0),
    )


def importance_weights(xt: chex.Array, cap: float) -> chex.Array:
    """Returns p_real / p_model [N] from scores xt [N], at most `cap` and not normalised.

    Capping bounds the variance and biases the weighted distribution towards the model's (truncated
    importance sampling, Ionides 2008). They stay positive: no row is dropped. A NaN stays NaN.
    """
    return jnp.clip(jnp.exp(-xt), SMALLEST_WEIGHT, cap)


def effective_sample_size(weights: chex.Array, mask: chex.Array) -> chex.Array:
    """Returns (sum w)^2 / sum w^2 over the masked rows, as a fraction of their number (Kish 1965).

    Args:
      weights: [N], non-negative and finite where `mask` is set; their scale has no effect.
      mask: bool [N], the rows that count.

    Returns:
      [], in (0, 1]: 1 for equal weights. 0 if no masked row has a positive weight.
    """
    chex.assert_rank([weights, mask], 1)
    weights = jnp.where(mask, weights, 0.0)
    largest = weights.max(initial=0.0)
    weights = weights / jnp.where(largest > 0, largest, 1.0)  # squares must not underflow
    squares = jnp.square(weights).sum() * jnp.maximum(mask.sum(), 1)
    return jnp.square(weights.sum()) / jnp.where(largest > 0, squares, 1.0)
