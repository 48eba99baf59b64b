"""Running an agent written for one seed on several seeds at once.

The seed axis is the leading axis of every array. It is sharded over the available devices; several
seeds on one device are vectorised on accelerators and run one after the other on CPU, where
vectorising small matrix products is slower than the loop.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.base import Agent, Stage

SEED_AXIS = "seed"


@dataclasses.dataclass(frozen=True)
class LiftedAgent:
    """An `Agent` with a leading seed axis S everywhere, compiled, and donating its state.

    `init` takes the seeds themselves, a list of S integers. Key streams depend on the seed alone:
    seed k of any run has the keys of a run of seed k on its own.
    """

    init: Callable[[list[int]], Any]
    explore: Callable[..., Any]
    observe: Callable[..., Any]
    step: Callable[..., Any]
    refresh: tuple[Stage, ...]
    policy: Callable[[Any], Any]
    act: Callable[..., Any]
    refresh_every: int
    state_shape: Any  # ShapeDtypeStructs of the state, with shardings


def lift(agent: Agent, num_seeds: int) -> LiftedAgent:
    """Compiles `agent` for `num_seeds` seeds."""
    sharding = seed_sharding(num_seeds)

    def compiled(fn: Callable, donate: bool = True) -> Callable:
        local_seeds = num_seeds // sharding.mesh.size
        mapped = jax.shard_map(
            _over_local_seeds(fn, local_seeds),
            mesh=sharding.mesh,
            in_specs=sharding.spec,
            out_specs=sharding.spec,
            check_vma=False,
        )
        return jax.jit(
            mapped,
            in_shardings=sharding,
            out_shardings=sharding,
            donate_argnums=0 if donate else (),
        )

    init = compiled(lambda seed: agent.init(jax.random.key(seed)), donate=False)
    shape = jax.eval_shape(init, jax.ShapeDtypeStruct((num_seeds,), jnp.uint32))
    return LiftedAgent(
        init=lambda seeds: init(jnp.asarray(seeds, jnp.uint32)),
        explore=compiled(agent.explore),
        observe=compiled(agent.observe),
        step=compiled(agent.step),
        refresh=tuple(Stage(stage.name, compiled(stage.run)) for stage in agent.refresh),
        policy=agent.policy,
        act=compiled(agent.act, donate=False),
        refresh_every=agent.refresh_every,
        state_shape=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shape
        ),
    )


def seed_sharding(num_seeds: int) -> NamedSharding:
    """Returns the sharding of a leading axis of `num_seeds` over as many devices as divide it."""
    available = jax.devices()
    count = max(n for n in range(1, len(available) + 1) if num_seeds % n == 0)
    mesh = Mesh(available[:count], (SEED_AXIS,))
    return NamedSharding(mesh, PartitionSpec(SEED_AXIS))


def _over_local_seeds(fn: Callable, local_seeds: int) -> Callable:
    """Maps fn over the leading axis of its arguments, of length `local_seeds`."""
    if local_seeds == 1:

        def only(*args: chex.ArrayTree) -> chex.ArrayTree:
            output = fn(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], output)

        return only
    if jax.default_backend() == "cpu":
        return lambda *args: jax.lax.map(lambda one: fn(*one), args)
    return jax.vmap(fn)
