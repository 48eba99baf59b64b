"""Running an agent written for one seed on several seeds at once.

The seed axis is the leading axis of every array. It is sharded over the available devices; several
seeds on one device are vectorised on accelerators and run one after the other on CPU, where
vectorising small matrix products is slower than the loop.
"""

import dataclasses
import functools
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
    begin: Callable[[Any, int], Any]
    act: Callable[..., Any]
    refresh_every: int
    state_shape: Any  # ShapeDtypeStructs of the state, with shardings
    single: Agent  # for one seed, not compiled


def lift(agent: Agent, num_seeds: int) -> LiftedAgent:
    """Compiles `agent` for `num_seeds` seeds."""
    sharding = seed_sharding(num_seeds)
    program = functools.partial(compiled, num_seeds=num_seeds)
    init = program(lambda seed: agent.init(jax.random.key(seed)), donate=False)
    shape = jax.eval_shape(init, jax.ShapeDtypeStruct((num_seeds,), jnp.uint32))

    @functools.cache  # the number of episodes is part of the program
    def begin(num_episodes: int) -> jax.stages.Wrapped:
        return program(lambda policy: agent.begin(policy, num_episodes), donate=False)

    return LiftedAgent(
        init=lambda seeds: init(jnp.asarray(seeds, jnp.uint32)),
        explore=program(agent.explore),
        observe=program(agent.observe),
        step=program(in_place(agent.step)),
        refresh=tuple(Stage(stage.name, program(stage.run)) for stage in agent.refresh),
        policy=agent.policy,
        begin=lambda policy, num_episodes: begin(num_episodes)(policy),
        act=program(agent.act, donate=False),
        refresh_every=agent.refresh_every,
        state_shape=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shape
        ),
        single=agent,
    )


def compiled(
    fn: Callable, num_seeds: int, *, donate: bool = True, shared: bool = False
) -> jax.stages.Wrapped:
    """Compiles a function of one seed for several: arguments and results get a leading seed axis.

    Args:
      fn: the function.
      num_seeds: length of the axis.
      donate: the results may take the memory of the first argument, which is lost.
      shared: the second of two arguments has no seed axis: it is the same for all.
    """
    sharding = seed_sharding(num_seeds)
    placement: Any = sharding
    if shared:
        placement = (sharding, NamedSharding(sharding.mesh, PartitionSpec()))
    mapped = jax.shard_map(
        _over_local_seeds(fn, num_seeds // sharding.mesh.size, shared),
        mesh=sharding.mesh,
        in_specs=jax.tree.map(lambda place: place.spec, placement),
        out_specs=sharding.spec,
        check_vma=False,
    )
    return jax.jit(
        mapped,
        in_shardings=placement,
        out_shardings=sharding,
        donate_argnums=0 if donate else (),
    )


def in_place(step: Callable) -> Callable:
    """Returns `step` as the body of a loop of one iteration, which updates the state in place.

    Outside of loops XLA does not see that a batch is read from the replay only after a row was
    written: it copies the whole replay, three times per step.

    Args:
      step: `(state, *args) -> (state, *outputs)`.
    """
    step = jax.jit(step)  # of no effect but that it is traced once for shapes and loop

    def once(state: Any, *args: chex.ArrayTree) -> tuple:
        shapes = jax.eval_shape(step, state, *args)
        outputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[1:])
        # XLA would inline a loop that it knows to have one iteration.
        times = jax.lax.optimization_barrier(jnp.ones((), jnp.int32))
        state, outputs = jax.lax.fori_loop(
            0, times, lambda _, carry: split(*step(carry[0], *args)), (state, outputs)
        )
        return state, *outputs

    def split(state: Any, *outputs: chex.ArrayTree) -> tuple:
        return state, outputs

    return once


def seed_sharding(num_seeds: int) -> NamedSharding:
    """Returns the sharding of a leading axis of `num_seeds` over as many devices as divide it."""
    available = jax.devices()
    count = max(n for n in range(1, len(available) + 1) if num_seeds % n == 0)
    mesh = Mesh(available[:count], (SEED_AXIS,))
    return NamedSharding(mesh, PartitionSpec(SEED_AXIS))


def _over_local_seeds(fn: Callable, local_seeds: int, shared: bool) -> Callable:
    """Maps fn over the leading axis of its arguments, of length `local_seeds`."""
    on_cpu = jax.default_backend() == "cpu"

    def mapped(*args: chex.ArrayTree) -> chex.ArrayTree:
        own, common = (args[:1], args[1:]) if shared else (args, ())

        def one(own: chex.ArrayTree) -> chex.ArrayTree:
            return fn(*own, *common)

        if local_seeds == 1:
            output = one(jax.tree.map(lambda x: x[0], own))
            return jax.tree.map(lambda x: x[None], output)
        return jax.lax.map(one, own) if on_cpu else jax.vmap(one)(own)

    return mapped
