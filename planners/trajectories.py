"""What action sequences are worth in an ensemble: trajectory sampling (Chua et al. 2018, PETS).

Every candidate sequence is followed by P particles. A propagation says which member of the
ensemble predicts a particle's next state (section 5 of the paper):

- `ts1`: one that is drawn anew at every step;
- `tsinf`: the same one during the whole plan;
- `expectation`: all of them, and the mean of their predictions is the next state;
- `per_member`: every member rolls out every candidate on its own; their returns are averaged.

With the first two a step of a particle costs the forward pass of one member, with the others that
of all. Members are not drawn independently: the particles of each candidate are dealt out to them
in turn, with `ts1` in an order that is drawn at every step for all candidates of a block, with
`tsinf` always in the same. Their shares of a candidate differ by one particle at most, which makes
candidates easier to compare.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from envs.spec import RewardFn, TerminationFn
from errors import UserError
from planners.base import Evaluate, ModelFn

CPU_BLOCK_ROWS = 8192  # rows simulated together on CPU: measured 1.1 times as fast as 2048


class Particles(NamedTuple):
    """Imagined trajectories at one time. Each of the M members has places for B of them."""

    observation: chex.Array  # [M, B, O]
    candidate: chex.Array  # int32 [M, B]: whose actions it follows; out of range: padding
    alive: chex.Array  # bool [M, B]: not terminated yet
    reward: chex.Array  # [M, B], summed so far; -inf after a prediction that is not finite


class Propagation(NamedTuple):
    """How particles and members go together.

    Attributes:
      passes: `(num_members) ->` forward passes that a step of one particle costs.
      layout: `(num_candidates, num_particles, num_members) -> candidate int32 [M, B]`.
      through: `(model_fn, num_particles) -> model_fn` for particles that keep their places, by
        whichever members predict them.
    """

    passes: Callable[[int], int]
    layout: Callable[[int, int, int], chex.Array]
    through: Callable[[ModelFn, int], ModelFn]


def divided(num_candidates: int, num_particles: int, num_members: int) -> chex.Array:
    """Deals the particles out to the members in turn; rows of padding make the shares equal."""
    share = -(-num_candidates * num_particles // num_members)
    candidate = jnp.arange(share * num_members, dtype=jnp.int32) // num_particles
    return candidate.reshape(share, num_members).T


def copied(num_candidates: int, num_particles: int, num_members: int) -> chex.Array:
    """Gives all particles to each of the members."""
    candidate = jnp.arange(num_candidates * num_particles, dtype=jnp.int32) // num_particles
    return jnp.broadcast_to(candidate, (num_members, candidate.size))


def own_members(model_fn: ModelFn, num_particles: int) -> ModelFn:
    """The member at whose places particles are predicts them."""
    del num_particles
    return model_fn


def shuffled_members(model_fn: ModelFn, num_particles: int) -> ModelFn:
    """Other members do at every call: the particles of a `divided` layout are dealt out anew."""

    def predict(params, key, observation, action) -> tuple[chex.Array, chex.Array]:
        deal_key, model_key = jax.random.split(key)
        there, back = deal(deal_key, num_particles, *observation.shape[:2])
        predicted = model_fn(params, model_key, reorder(observation, there), reorder(action, there))
        return jax.tree.map(lambda x: reorder(x, back), predicted)

    return predict


def mean_of_members(model_fn: ModelFn, num_particles: int) -> ModelFn:
    """All members do, each for the same particles: their mean counts for all."""
    del num_particles

    def predict(*inputs) -> tuple[chex.Array, chex.Array]:
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x.mean(axis=0, keepdims=True), x.shape), model_fn(*inputs)
        )

    return predict


def deal(
    key: chex.PRNGKey, num_particles: int, num_members: int, share: int
) -> tuple[chex.Array, chex.Array]:
    """Draws an order in which particles are dealt out, and to which member first.

    The order is one of the P particles of a candidate. It is that of all candidates: sorting random
    numbers of all particles would take longer than a layer of a network.

    Returns:
      int32 [M * B] each: which particle comes to a place, and to which place a particle came.
      Particles and places have the numbers of `reorder`.
    """
    order_key, first_key = jax.random.split(key)
    order = jax.random.permutation(order_key, num_particles)
    first = jax.random.randint(first_key, (), 0, num_members)
    number = jnp.arange(num_members * share)
    full = number.size // num_particles * num_particles  # the rest is padding

    def within_candidates(order: chex.Array, number: chex.Array) -> chex.Array:
        start = number - number % num_particles
        return jnp.where(number < full, start + order[number % num_particles], number)

    there = within_candidates(order, (number + first) % number.size)
    back = (within_candidates(jnp.argsort(order), number) - first) % number.size
    return there, back


def reorder(x: chex.Array, order: chex.Array) -> chex.Array:
    """Reorders particles [M, B, ...], numbered member after member within a share."""
    members, share, *rest = x.shape
    by_number = jnp.swapaxes(x, 0, 1).reshape(-1, *rest)
    return jnp.swapaxes(by_number[order].reshape(share, members, *rest), 0, 1)


PROPAGATIONS: dict[str, Propagation] = {
    "ts1": Propagation(lambda members: 1, divided, shuffled_members),
    "tsinf": Propagation(lambda members: 1, divided, own_members),
    "expectation": Propagation(lambda members: members, copied, mean_of_members),
    "per_member": Propagation(lambda members: members, copied, own_members),
}


def trajectory_sampling(
    *,
    propagation: str,
    num_members: int,
    num_particles: int = 1,
    termination: TerminationFn | None = None,
) -> Evaluate:
    """Builds the function that estimates the returns of action sequences.

    A return is the undiscounted sum of rewards, averaged over the particles. The reward of a step
    that terminates counts, later ones do not. A candidate one of whose particles meets a state or
    reward that is not finite before it terminates is worth -inf.

    Args:
      propagation: name of one of `PROPAGATIONS`.
      num_members: M, of the model function that the result is called with.
      num_particles: P per candidate; with `per_member`, per candidate and member.
      termination: when an episode ends; None: it does not, whatever is predicted.

    Raises:
      UserError: there is no such propagation.
    """
    if propagation not in PROPAGATIONS:
        raise UserError(f"propagation {propagation!r}: use one of {', '.join(PROPAGATIONS)}")
    how = PROPAGATIONS[propagation]
    rows_each = num_particles * how.passes(num_members)  # forward passes per candidate and step

    def evaluate(
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        observation: chex.Array,
        actions: chex.Array,
        model_fn: ModelFn,
        reward_fn: RewardFn | None,
    ) -> chex.Array:
        advance = make_step(how.through(model_fn, num_particles), reward_fn, termination)

        def block(inputs: tuple[chex.PRNGKey, chex.Array]) -> chex.Array:
            key, actions = inputs
            candidate = how.layout(actions.shape[0], num_particles, num_members)
            particles = Particles(
                jnp.broadcast_to(observation, (*candidate.shape, observation.size)),
                candidate,
                jnp.ones(candidate.shape, bool),
                jnp.zeros(candidate.shape),
            )
            particles, _ = jax.lax.scan(
                lambda particles, inputs: (advance(params, particles, *inputs), None),
                particles,
                (jax.random.split(key, actions.shape[1]), jnp.swapaxes(actions, 0, 1)),
            )
            return sum_per_candidate(particles, actions.shape[0])

        num_blocks = blocks(actions.shape[0] * rows_each)
        sums = jax.lax.map(
            block, (jax.random.split(key, num_blocks), in_blocks(actions, num_blocks))
        )
        returns = sums.reshape(-1)[: actions.shape[0]] / rows_each
        return jnp.where(jnp.isfinite(returns), returns, -jnp.inf)

    return evaluate


def make_step(
    model_fn: ModelFn,
    reward_fn: RewardFn | None,
    termination: TerminationFn | None,
) -> Callable[[chex.ArrayTree, Particles, chex.PRNGKey, chex.Array], Particles]:
    """Builds `step(params, particles, key, action [N, A]) -> particles`; it consumes the key."""

    def step(params, particles: Particles, key, action: chex.Array) -> Particles:
        observation = particles.observation
        own = action.at[particles.candidate].get(mode="clip")  # padding follows the last candidate
        predicted, reward = model_fn(params, key, observation, own)
        if reward_fn is not None:
            reward = reward_fn(observation, own, predicted)
        finite = jnp.isfinite(predicted).all(axis=-1) & jnp.isfinite(reward)
        gained = jnp.where(finite, reward, -jnp.inf)
        total = particles.reward + jnp.where(particles.alive, gained, 0.0)
        alive = particles.alive
        if termination is not None:
            alive &= ~termination(observation, own, predicted)
        return Particles(predicted, particles.candidate, alive, total)

    return step


def sum_per_candidate(particles: Particles, num_candidates: int) -> chex.Array:
    """Returns the summed reward [N] of each candidate's particles."""
    return jax.ops.segment_sum(
        particles.reward.reshape(-1), particles.candidate.reshape(-1), num_candidates
    )


def blocks(rows: int) -> int:
    """Returns into how many blocks to cut so many rows."""
    return -(-rows // CPU_BLOCK_ROWS) if jax.default_backend() == "cpu" else 1


def in_blocks(actions: chex.Array, num_blocks: int) -> chex.Array:
    """Cuts actions [N, H, A] into blocks [K, n, H, A]; copies of the last candidate fill up."""
    size = -(-actions.shape[0] // num_blocks)
    missing = num_blocks * size - actions.shape[0]
    padding = jnp.broadcast_to(actions[-1:], (missing, *actions.shape[1:]))
    return jnp.concatenate([actions, padding]).reshape(num_blocks, size, *actions.shape[1:])
