"""A ring of transitions that lives on the device, as pure functions.

Items are stored as rows of one float32 matrix, so sampling is one gather and adding is one scatter
whatever the fields are. A window narrower than the capacity makes the ring behave as a smaller
first-in-first-out store: rows outside it are simply not sampled.
"""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct


class Transition(NamedTuple):
    """One step of experience, or a batch of them along leading axes."""

    observation: chex.Array  # [..., O]
    action: chex.Array  # [..., A], in [-1, 1]; one-hot where actions are discrete
    reward: chex.Array  # [...]
    next_observation: chex.Array  # [..., O]
    terminated: chex.Array  # [...], 1.0 where the task ended: no bootstrapping beyond it
    truncated: chex.Array  # [...], 1.0 where a time limit cut the episode: bootstrapping goes on


class WeightedTransition(NamedTuple):
    """A transition, or a batch of them, and what it counts in the critic loss."""

    transition: Transition
    weight: chex.Array  # [...], positive


def example_transition(observation_size: int, action_size: int) -> Transition:
    """Returns one transition of zeros, the item shape of a replay."""
    observation, zero = jnp.zeros(observation_size), jnp.zeros(())
    return Transition(observation, jnp.zeros(action_size), zero, observation, zero, zero)


class Layout(NamedTuple):
    """How an item maps to a row; hashable, so it can be a static part of the state."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(math.prod(shape) for shape in self.shapes)


class ReplayState(struct.PyTreeNode):
    """Contents of the ring."""

    rows: chex.Array  # [capacity, W] float32, one item each
    position: chex.Array  # int32 [], the row to be written next
    size: chex.Array  # int32 [], rows that hold an item
    layout: Layout = struct.field(pytree_node=False)

    @property
    def capacity(self) -> int:
        """Rows of the ring."""
        return self.rows.shape[0]


def init(capacity: int, example: chex.ArrayTree) -> ReplayState:
    """Returns an empty ring of items shaped like `example`, which has no batch axes."""
    leaves, treedef = jax.tree.flatten(example)
    layout = Layout(treedef, tuple(leaf.shape for leaf in leaves))
    position, size = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # donated, so never shared
    return ReplayState(jnp.zeros((capacity, layout.width)), position, size, layout)


def empty(state: ReplayState) -> ReplayState:
    """Returns the ring without its items."""
    zero = jnp.zeros((), jnp.int32)
    return state.replace(position=zero, size=zero)


def add(state: ReplayState, item: chex.ArrayTree) -> ReplayState:
    """Stores one item in place of the oldest."""
    row = _pack(state.layout, item)
    rows = jax.lax.dynamic_update_slice(state.rows, row[None], (state.position, 0))
    return _advance(state, rows, 1)


def add_masked(state: ReplayState, items: chex.ArrayTree, mask: chex.Array) -> ReplayState:
    """Stores, in order, the items [N, ...] whose mask [N] (bool) is set; the others take no slot.

    Raises:
      ValueError: if N exceeds the capacity, in which case items would overwrite each other.
    """
    if mask.shape[0] > state.capacity:
        raise ValueError(f"{mask.shape[0]} items do not fit a replay of {state.capacity}.")
    kept = mask.astype(jnp.int32)
    slots = (state.position + jnp.cumsum(kept) - kept) % state.capacity
    slots = jnp.where(mask, slots, state.capacity)  # out of bounds: dropped by the scatter
    rows = state.rows.at[slots].set(_pack(state.layout, items), mode="drop")
    return _advance(state, rows, kept.sum())


def sample(
    state: ReplayState, key: chex.PRNGKey, n: int, window: chex.Array | None = None
) -> chex.ArrayTree:
    """Draws n items [n, ...] uniformly with replacement from the newest `window` (default: all).

    Consumes `key`. An empty ring gives items of zeros.
    """
    newest = state.size if window is None else jnp.minimum(state.size, window)
    newest = jnp.maximum(newest, 1).astype(jnp.uint32)
    # Half the cost of `randint`; no item is more than newest / 2^32 likelier than another.
    ages = jax.random.bits(key, (n,), jnp.uint32) % newest
    return gather(state, ages.astype(jnp.int32))


def gather(state: ReplayState, ages: chex.Array) -> chex.ArrayTree:
    """Returns the items [..., ...] of the given ages [...] (int32); age 0 is the newest."""
    return gather_slots(state, (state.position - 1 - ages) % state.capacity)


def gather_slots(state: ReplayState, slots: chex.Array) -> chex.ArrayTree:
    """Returns the items [..., ...] stored at the given rows of the ring [...] (int32)."""
    return _unpack(state.layout, state.rows[slots])


def contents(state: ReplayState) -> tuple[chex.ArrayTree, chex.Array]:
    """Returns every slot as items [capacity, ...], and which of them hold data, bool [capacity]."""
    return _unpack(state.layout, state.rows), jnp.arange(state.capacity) < state.size


def with_contents(state: ReplayState, items: chex.ArrayTree) -> ReplayState:
    """Returns the ring with other items [capacity, ...], in the order of `contents`."""
    return state.replace(rows=_pack(state.layout, items))


def _advance(state: ReplayState, rows: chex.Array, count: chex.Array | int) -> ReplayState:
    return state.replace(
        rows=rows,
        position=(state.position + count) % state.capacity,
        size=jnp.minimum(state.size + count, state.capacity),
    )


def _pack(layout: Layout, items: chex.ArrayTree) -> chex.Array:
    leaves = layout.treedef.flatten_up_to(items)
    batch = leaves[0].shape[: leaves[0].ndim - len(layout.shapes[0])]
    flat = [jnp.reshape(leaf, (*batch, -1)).astype(jnp.float32) for leaf in leaves]
    return jnp.concatenate(flat, axis=-1)


def _unpack(layout: Layout, rows: chex.Array) -> chex.ArrayTree:
    leaves, start = [], 0
    for shape in layout.shapes:
        stop = start + math.prod(shape)
        leaves.append(rows[..., start:stop].reshape(*rows.shape[:-1], *shape))
        start = stop
    return layout.treedef.unflatten(leaves)
