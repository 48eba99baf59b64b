"""Which rows of the replay a fit trains on, which it holds out, and in what order."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from replay import ReplayState


class Split(NamedTuple):
    """Which replay slots a fit trains on and which it holds out."""

    train: chex.Array  # int32 [E, N], slots; the first `train_size` entries are used
    train_size: chex.Array  # int32 []
    holdout: chex.Array  # int32 [H], slots; the first `holdout_size` entries are used
    holdout_size: chex.Array  # int32 []


def split_rows(
    key: chex.PRNGKey,
    replay: ReplayState,
    *,
    num_members: int,
    holdout_ratio: float,
    holdout_max: int,
    bootstrap: bool,
    permanent: bool = False,
) -> Split:
    """Holds out a random `holdout_ratio` of the stored rows, at most `holdout_max`.

    With a ratio of 0 nothing is held out, and members are scored on rows they are trained on.
    With `bootstrap`, every member draws its training rows with replacement from the rest; without,
    all members have all of the rest. With `permanent`, the slot of a row decides whether it is held
    out, in every fit alike. Consumes `key`.
    """
    order_key, bootstrap_key = jax.random.split(key)
    own = permanent_holdout(replay.capacity, holdout_ratio) if permanent else None
    order = random_order(order_key, replay.capacity, replay.size, first=own)
    holdout_max = min(holdout_max, replay.capacity)
    if own is not None and holdout_ratio:
        train_start = (own & (jnp.arange(replay.capacity) < replay.size)).sum(dtype=jnp.int32)
        holdout_size = jnp.minimum(train_start, holdout_max)
    elif holdout_ratio:
        holdout_size = jnp.minimum((holdout_ratio * replay.size).astype(jnp.int32), holdout_max)
        train_start = holdout_size
    else:
        holdout_size = jnp.minimum(replay.size, holdout_max)
        train_start = jnp.zeros((), jnp.int32)
    train_size = replay.size - train_start
    shape = (num_members, replay.capacity)
    if bootstrap:
        draws = jax.random.randint(bootstrap_key, shape, 0, jnp.maximum(train_size, 1))
    else:
        draws = jnp.broadcast_to(jnp.arange(replay.capacity), shape)
    train = order[(train_start + draws) % replay.capacity]
    return Split(train, train_size, order[:holdout_max], holdout_size)


def minibatch_rows(
    split: Split, order: chex.Array, index: chex.Array, batch_size: int, bootstrap: bool
) -> chex.Array:
    """Returns the replay slots [E, B] of minibatch `index` of an epoch in the given order [N].

    The last minibatch of an epoch wraps around to the first rows. Members with the same training
    rows (no bootstrap) start at different places of the order, so that no two see the same batches.
    """
    num_members = split.train.shape[0]
    offset = jnp.zeros(num_members, jnp.int32)
    if not bootstrap:
        offset = jnp.arange(num_members) * split.train_size // num_members
    position = index * batch_size + jnp.arange(batch_size)
    position = (position[None] + offset[:, None]) % jnp.maximum(split.train_size, 1)
    return jnp.take_along_axis(split.train, order[position], axis=1)


def permanent_holdout(capacity: int, ratio: float) -> chex.Array:
    """Returns which slots of a replay are held out for life, bool [capacity]; the same in all runs.

    A fifth of the rows drawn anew would let a model that has trained on most of them compete with
    one that has not.
    """
    return jax.random.uniform(jax.random.key(0), (capacity,)) < ratio


def random_order(
    key: chex.PRNGKey, capacity: int, size: chex.Array, first: chex.Array | None = None
) -> chex.Array:
    """Returns a permutation [capacity] whose first `size` entries permute 0 .. size - 1.

    Those of them that are `first`, bool [capacity], come before the others. Only as much as the
    next power-of-two fraction of the capacity is sorted.
    """
    rank = jax.random.uniform(key, (capacity,))
    if first is not None:
        rank = jnp.where(first, rank - 1.0, rank)
    rank = jnp.where(jnp.arange(capacity) < size, rank, 2.0)
    lengths = [capacity >> halvings for halvings in range(6) if capacity >> halvings]

    def sort_first(length: int) -> Callable[[], chex.Array]:
        rest = jnp.arange(length, capacity)
        return lambda: jnp.concatenate([jnp.argsort(rank[:length]), rest]).astype(jnp.int32)

    fitting = sum((size <= length).astype(jnp.int32) for length in lengths)
    return jax.lax.switch(fitting - 1, [sort_first(length) for length in lengths])
