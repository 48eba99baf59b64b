"""When a fit stops, and which weights it keeps."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Progress(NamedTuple):
    """Early stopping: the best weights of every member so far."""

    best_params: chex.ArrayTree  # leading axis E
    best_score: chex.Array  # [E], hold-out error of best_params
    any_improved: chex.Array  # bool [], whether any epoch of this fit improved on its start
    stale_epochs: chex.Array  # int32 [], epochs since any member improved


def track_best(
    progress: Progress, params: chex.ArrayTree, score: chex.Array, threshold: float
) -> Progress:
    """Snapshots the members whose score [E] fell by more than `threshold`, relative to their best.

    Any improving member restarts the patience of all (Janner et al.'s code; Pineda et al. 2021).
    """
    best = progress.best_score
    # Some objectives have negative scores, and anything beats the infinite one of no weights.
    margin = jnp.where(jnp.isinf(best), 0.0, threshold * jnp.abs(best))
    improved = score < best - margin

    def choose(new: chex.Array, old: chex.Array) -> chex.Array:
        return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return Progress(
        best_params=jax.tree.map(choose, params, progress.best_params),
        best_score=jnp.where(improved, score, best),
        any_improved=progress.any_improved | improved.any(),
        stale_epochs=jnp.where(improved.any(), 0, progress.stale_epochs + 1),
    )
