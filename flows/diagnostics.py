"""Numbers that say whether a density ratio can be trusted, and what it implies for the returns.

Scores x(z) = log p_model(z) - log p_real(z) are in nats, and high where z looks generated.
"""

import chex
import jax.numpy as jnp

from models.ensemble import Ensemble, Normalizers
from models.open_loop import open_loop
from replay import Transition

CLOSEST_TO_CERTAIN = 1e-6  # probabilities of being alive are kept this far from 0 and from 1
LARGEST_ERROR = 1e6  # in units of the scale: what a diverged prediction counts as


def auc(
    x_model: chex.Array, model_mask: chex.Array, x_real: chex.Array, real_mask: chex.Array
) -> chex.Array:
    """Returns P(x_model > x_real) + P(x_model = x_real) / 2, the area under the ROC curve.

    0.5 where the scores cannot tell the two apart, 1 where every generated row scores above every
    real one (Mann and Whitney 1947).

    Args:
      x_model: scores of generated rows [N], not NaN where `model_mask` is set.
      model_mask: bool [N], the rows that count.
      x_real: scores of real rows [K], not NaN where `real_mask` is set.
      real_mask: bool [K], the rows that count.

    Returns:
      [], in [0, 1]; 0.5 if either side is empty.
    """
    models, reals = model_mask.sum(), real_mask.sum()
    below, up_to = _counts(x_model, x_real, real_mask)
    wins = (below + up_to) / (2 * jnp.maximum(reals, 1))
    mean = jnp.where(model_mask, wins, 0.0).sum() / jnp.maximum(models, 1)
    return jnp.where((models > 0) & (reals > 0), mean, 0.5)


def median_of_means(values: chex.Array, mask: chex.Array, groups: int = 10) -> chex.Array:
    """Estimates a mean whose samples are heavy-tailed, such as that of exp(x).

    The masked rows are dealt out to the groups in turn, so that sizes differ by at most one; with
    fewer rows than groups every row is its own group (Nemirovsky and Yudin 1983).

    Args:
      values: [N], finite where `mask` is set.
      mask: bool [N], the rows that count.
      groups: number of groups, at least 1.

    Returns:
      [], the median of the groups' means; 0 if no row counts.
    """
    chex.assert_rank([values, mask], 1)
    group = (jnp.cumsum(mask) - 1) % groups
    sums = jnp.zeros(groups).at[group].add(jnp.where(mask, values, 0.0))
    sizes = jnp.zeros(groups).at[group].add(jnp.where(mask, 1.0, 0.0))
    filled = jnp.minimum(mask.sum(), groups)
    means = jnp.sort(jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1.0), jnp.inf))
    median = 0.5 * (means[jnp.maximum(filled - 1, 0) // 2] + means[filled // 2])
    return jnp.where(filled > 0, median, 0.0)


def spearman(a: chex.Array, b: chex.Array, mask: chex.Array) -> chex.Array:
    """Returns the rank correlation of a [N] and b [N] over the rows of mask [N] (bool).

    Ties get their average rank. Neither is NaN where the mask is set.

    Returns:
      [], in [-1, 1]; 0 if either is constant or fewer than two rows count.
    """
    rows = jnp.maximum(mask.sum(), 1)

    def centred_ranks(x: chex.Array) -> chex.Array:
        below, up_to = _counts(x, x, mask)
        # Twice the average rank, below + up_to + 1, minus twice the mean of all ranks, rows + 1.
        return jnp.where(mask, below + up_to - rows, 0) / rows

    ranks_a, ranks_b = centred_ranks(a), centred_ranks(b)
    spread = jnp.sqrt(jnp.square(ranks_a).sum()) * jnp.sqrt(jnp.square(ranks_b).sum())
    correlation = (ranks_a * ranks_b).sum() / jnp.where(spread > 0, spread, 1.0)
    return jnp.clip(correlation, -1.0, 1.0)


def total_variation_bound(kl: chex.Numeric) -> chex.Array:
    """Bounds the total variation of two distributions by their divergence `kl` [...], in nats.

    The smaller of sqrt(kl / 2) (Pinsker) and sqrt(1 - exp(-kl)) (Bretagnolle and Huber 1979); the
    second is below 1 whatever kl, and the better one from 1.59 nats on. Estimates of kl may be
    negative, and count as 0. The direction of the divergence does not matter.
    """
    kl = jnp.maximum(jnp.asarray(kl, jnp.float32), 0.0)
    return jnp.minimum(jnp.sqrt(0.5 * kl), jnp.sqrt(-jnp.expm1(-kl)))


def return_gap_bound(
    kl: chex.Numeric, reward_span: chex.Numeric, weight: chex.Numeric
) -> chex.Array:
    """Bounds how far the return under the model is from the return under the real dynamics.

    A discounted return is `weight` times the mean reward over the normalised occupancy rho of
    (s, a, r). For any c the difference of the means is the integral of (r - c) against
    rho - rho_model; c in the middle of the range of r makes it at most
    span(r) TV(rho, rho_model), so that

      |J - J_model| <= weight span(r) min(sqrt(kl / 2), sqrt(1 - exp(-kl))).

    It is linear in the effective horizon, where bounds through one-step errors are quadratic (Xu
    et al. 2020, arXiv 2010.11876). An estimate of kl from below makes it optimistic.

    Args:
      kl: [...], divergence of the two occupancies in either direction, nats.
      reward_span: largest minus smallest reward. The occupancies must include the reward, or the
        two sides share one reward function; else add weight E|r - r_model|.
      weight: the sum of discounts: 1 / (1 - gamma) for the infinite horizon,
        (1 - gamma^H) / (1 - gamma) for the first H steps, of which it bounds the rewards only.

    Returns:
      [...], in units of reward.
    """
    return weight * (reward_span * total_variation_bound(kl))


def kl_with_absorption(
    kl_alive: chex.Numeric, alive_model: chex.Numeric, alive_real: chex.Numeric
) -> chex.Array:
    """Extends the divergence of what happens while alive to rollouts that can terminate.

    A terminated rollout sits in an absorbing state, the same on both sides. By the chain rule of
    the divergence, with b a Bernoulli distribution,

      KL(model || real) = KL(b(alive_model) || b(alive_real)) + alive_model kl_alive.

    Args:
      kl_alive: [...], KL(model || real) among the steps at which each is alive, nats.
      alive_model: [...], share of the model's steps, weighted as in the occupancy, that are alive.
      alive_real: [...], the same of the real steps.

    Returns:
      [...], nats. Shares are kept `CLOSEST_TO_CERTAIN` away from 0 and 1, so the result is finite;
      where `alive_model` is 0, `kl_alive` has no effect.
    """
    kl_alive, alive_model, alive_real = (
        jnp.asarray(value, jnp.float32) for value in (kl_alive, alive_model, alive_real)
    )
    p, q = (
        jnp.clip(share, CLOSEST_TO_CERTAIN, 1.0 - CLOSEST_TO_CERTAIN)
        for share in (alive_model, alive_real)
    )
    kl_ended = p * jnp.log(p / q) + (1.0 - p) * jnp.log((1.0 - p) / (1.0 - q))
    return jnp.maximum(kl_ended, 0.0) + jnp.where(alive_model > 0, alive_model * kl_alive, 0.0)


def open_loop_errors(
    ensemble: Ensemble,
    params: chex.ArrayTree,
    normalizers: Normalizers,
    segments: Transition,
    valid: chex.Array,
    scale: chex.Array,
) -> chex.Array:
    """Returns how far every member's own prediction has drifted after 1, 2, ... H steps.

    Each member starts where the segment starts, replays the real actions and is fed its own mean
    prediction; after k steps that prediction is compared with the observation really reached.

    Args:
      ensemble: its functions `predict` and `decode`.
      params: of M members, leading axis M.
      normalizers: the statistics the members were fitted with.
      segments: consecutive real transitions [N, H, ...].
      valid: bool [N, H], a prefix of every segment: the steps up to its end. Other steps have no
        influence.
      scale: [O], positive: the unit of every dimension's error, such as its std in the replay.

    Returns:
      [M, H], the root of the mean square of the error / scale over valid rows and dimensions; 0
      where no row is valid. Errors, also of predictions that overflowed, count as at most
      `LARGEST_ERROR`.
    """
    predicted, _ = open_loop(
        ensemble, params, normalizers, segments.observation[:, 0], segments.action
    )
    reached = jnp.swapaxes(segments.next_observation, 0, 1)[:, None]  # [H, 1, N, O]
    error = (predicted - reached) / scale[None, None, None]
    error = jnp.fmin(jnp.abs(error), LARGEST_ERROR)  # fmin, because it prefers a number to NaN
    counted = valid.T[:, None]  # [H, 1, N]
    squares = jnp.where(counted[..., None], jnp.square(error), 0.0).mean(axis=-1)
    return jnp.sqrt(squares.sum(axis=-1) / jnp.maximum(counted.sum(axis=-1), 1)).T


def _counts(
    x: chex.Array, reference: chex.Array, mask: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Counts, for every x [N], the masked rows of reference [K] below it, and not above it."""
    chex.assert_rank([x, reference, mask], 1)
    ranked = jnp.sort(jnp.where(mask, reference, jnp.inf))
    below = jnp.searchsorted(ranked, x, side="left")
    up_to = jnp.searchsorted(ranked, x, side="right")
    return below, jnp.minimum(up_to, mask.sum())
