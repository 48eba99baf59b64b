"""Fits models of `omd/tabular.py` under a bound on their norm, by likelihood or by OMD.

A whole sweep over starts and bounds is one compiled program. (Nikishin et al. 2022,
arXiv 2106.03273, the tabular experiments; constants are those of its released notebook.)
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from errors import UserError
from omd.implicit import FixedPoint, Inverse, fixed_point, through_fixed_point
from omd.tabular import MDP, Model, bellman, imagined, mle_loss

LEARNING_RATE = 0.01  # of Adam, released notebook
TOLERANCE = 1e-10  # of solver and stopping rule in float64, released notebook
NEWTON_STEPS = 50  # far more than it takes: about 6 from afar, 2 from the last solution


class Start(NamedTuple):
    """Where a fit begins."""

    model: Model
    q: chex.Array  # [S, A], first guess of the inner solution


class Fit(NamedTuple):
    """What a fit found."""

    model: Model
    q: chex.Array  # [S, A], optimal under the model; not finite after a solution that failed
    steps: chex.Array  # int32 [], updates until nothing moved any more, or all


Solve = Callable[[Callable[[chex.Array], chex.Array], chex.Array], FixedPoint]
"""`(operator, first guess) -> FixedPoint`: `newton` or `implicit.fixed_point`."""

Gradient = Callable[[Model, chex.Array, chex.Array], tuple[Model, chex.Array]]
"""`(model, last inner solution [S, A], step int32 []) -> (gradient, inner solution)`."""

Projection = Callable[..., Model]
"""`(model, bound, temperature) -> model`."""


def init(mdp: MDP, key: chex.PRNGKey) -> Start:
    """Draws all parameters from U[0, 1], as released; consumes `key`.

    Divided by the temperature, such logits make transitions almost deterministic.
    """
    q_key, logits_key, reward_key = jax.random.split(key, 3)
    shape = mdp.reward.shape
    model = Model(
        jax.random.uniform(logits_key, mdp.transition.shape), jax.random.uniform(reward_key, shape)
    )
    return Start(model, jax.random.uniform(q_key, shape))


def newton(
    operator: Callable[[chex.Array], chex.Array], initial: chex.Array, tolerance: float = TOLERANCE
) -> FixedPoint:
    """Solves value = operator(value) by Newton steps, that is by soft policy iteration.

    Stops by the rule of `implicit.fixed_point`. A soft Bellman operator is monotone and convex, so
    this converges from anywhere; a step costs a dense solve instead of one application.
    """

    def unfinished(state: FixedPoint) -> chex.Array:
        moved = state.residual >= tolerance * jnp.abs(state.value).max() + tolerance
        return moved & (state.steps < NEWTON_STEPS)

    def step(state: FixedPoint) -> FixedPoint:
        size = state.value.size
        jacobian = jax.jacobian(operator)(state.value).reshape(size, size)
        error = operator(state.value) - state.value
        change = _eliminate(jnp.eye(size) - jacobian, error.reshape(size))
        value = state.value + change.reshape(error.shape)
        return FixedPoint(value, jnp.abs(change).max(), state.steps + 1)

    infinite = jnp.full((), jnp.inf, initial.dtype)
    return jax.lax.while_loop(
        unfinished, step, FixedPoint(initial, infinite, jnp.zeros((), jnp.int32))
    )


def _eliminate(matrix: chex.Array, vector: chex.Array) -> chex.Array:
    """Solves a diagonally dominant system, as contractions give, by elimination without pivots.

    Many of them side by side take a quarter of the time that LAPACK needs for one after the other.
    """
    table = jnp.column_stack((matrix, vector))
    for i in range(vector.size):
        row = table[i] / table[i, i]
        table = (table - jnp.outer(table[:, i], row)).at[i].set(row)
    return table[:, -1]


def norm(model: Model, temperature: chex.Numeric) -> chex.Array:
    """Returns the Euclidean norm [] of a model's logits / temperature and rewards together."""
    return optax.tree.norm(model._replace(logits=model.logits / temperature))


def project_jointly(model: Model, bound: chex.Numeric, temperature: chex.Numeric) -> Model:
    """Shortens a model to the norm `bound` where it is longer (equation 8)."""
    return optax.tree.scale(_shrinkage(norm(model, temperature), bound), model)


def project_as_released(model: Model, bound: chex.Numeric, temperature: chex.Numeric) -> Model:
    """Shortens logits and rewards as the released notebook does, for its figures alone.

    It meant equation 8, but its rule acts on one array at a time, so that the two parts of the
    norm are the first two slices of that array: action 0 and 1 of the logits, state 0 and 1 of the
    rewards. The logits of action 1 may be 1 / temperature times longer than meant, the rewards of
    state 0 have to be that much shorter.
    """

    def shorten(leaf: chex.Array) -> chex.Array:
        length = optax.tree.norm((leaf[0] / temperature, leaf[1]))
        return _shrinkage(length, bound) * leaf

    return jax.tree.map(shorten, model)


PROJECTIONS: dict[str, Projection] = {"joint": project_jointly, "released": project_as_released}


def _shrinkage(length: chex.Array, bound: chex.Numeric) -> chex.Array:
    return jnp.where(length > bound, bound / length, 1.0)


def mle_gradient(mdp: MDP) -> Gradient:
    """Returns the gradient of `mle_loss`, which needs no inner solution."""
    return lambda model, q, step: (jax.grad(partial(mle_loss, mdp))(model), q)


def omd_gradient(
    mdp: MDP,
    outer_loss: Callable[[chex.Array], chex.Array],
    inverse: Inverse,
    solve: Solve = newton,
    noise: Callable[[chex.Array], chex.Numeric] = lambda step: 0.0,
) -> Gradient:
    """Returns the hypergradient of `outer_loss(q)` at the q that is optimal under the model.

    Args:
      mdp: with discount, temperature and shapes of the model.
      outer_loss: of q [S, A], to be minimised.
      inverse: of I - (derivative of the Bellman operator)^T, from `omd.implicit`.
      solve: finds the inner solution, from the last one.
      noise: `(step) -> [S, A]`, added to the q at which the outer loss is differentiated.
    """

    def operator(model: Model, q: chex.Array) -> chex.Array:
        return bellman(imagined(mdp, model), q)

    def gradient(model: Model, q: chex.Array, step: chex.Array) -> tuple[Model, chex.Array]:
        q = solve(partial(operator, model), q).value
        cotangent = jax.grad(outer_loss)(q + noise(step))
        return through_fixed_point(operator, model, q, cotangent, inverse).gradient, q

    return gradient


def fit(
    mdp: MDP,
    gradient: Gradient,
    project: Callable[[Model], Model],
    start: Start,
    num_steps: chex.Numeric,
) -> Fit:
    """Descends with projected Adam until neither model nor q moves, `num_steps` updates at most."""
    optimizer = optax.adam(LEARNING_RATE)

    def unfinished(state: tuple) -> chex.Array:
        _, _, step, moved = state
        return moved & (step < num_steps)

    def update(state: tuple) -> tuple:
        old, optimizer_state, step, _ = state
        slope, q = gradient(old.model, old.q, step)
        change, optimizer_state = optimizer.update(slope, optimizer_state)
        new = Start(project(optax.apply_updates(old.model, change)), q)
        return new, optimizer_state, step + 1, _moved(new, old)

    state = (start, optimizer.init(start.model), jnp.zeros((), jnp.int32), jnp.array(True))
    (model, q), _, steps, _ = jax.lax.while_loop(unfinished, update, state)
    return Fit(model, fixed_point(partial(bellman, imagined(mdp, model)), q).value, steps)


def make_sweep(
    mdp: MDP, gradient: Gradient, projection: str = "joint"
) -> Callable[[Start, chex.Array, chex.Numeric], Fit]:
    """Returns `(starts [N, ...], bounds [K], num_steps) -> Fit [K, N, ...]`, one compiled call.

    All fits run side by side; one that stops early is frozen.

    Args:
      mdp: what is modelled.
      gradient: of what is minimised.
      projection: a name in `PROJECTIONS`.

    Raises:
      UserError: there is no such projection.
    """
    if projection not in PROJECTIONS:
        raise UserError(f"projection is one of {', '.join(PROJECTIONS)}, not {projection!r}.")

    def run(start: Start, bound: chex.Array, num_steps: chex.Numeric) -> Fit:
        project = partial(PROJECTIONS[projection], bound=bound, temperature=mdp.temperature)
        return fit(mdp, gradient, project, start, num_steps)

    over_starts = jax.vmap(run, (0, None, None))
    return jax.jit(jax.vmap(over_starts, (None, 0, None)))


def _moved(new: chex.ArrayTree, old: chex.ArrayTree) -> chex.Array:
    """Says whether any array changed by more than TOLERANCE, relative or absolute: bool []."""

    def leaf_moved(new: chex.Array, old: chex.Array) -> chex.Array:
        return jnp.abs(new - old).max() >= TOLERANCE * jnp.abs(new).max() + TOLERANCE

    return jnp.stack(jax.tree.leaves(jax.tree.map(leaf_moved, new, old))).any()
