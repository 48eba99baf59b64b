"""Hypergradients: d outer / d theta through an inner solution that depends on theta.

The implicit function theorem gives them without differentiating the solver: one linear system in
the outer loss's gradient by the inner solution (the cotangent), then one vector-Jacobian product.
How the system is solved is an `Inverse`; only `exact` ever forms its matrix. All functions are pure
and take trees. (Nikishin et al. 2022, "Control-Oriented Model-Based Reinforcement Learning with
Implicit Differentiation", arXiv 2106.03273, eqs. 7 and 11 to 14.)

The inner solution enters as a constant. A second derivative of the outer loss needs a rule of the
caller (jax.custom_vjp) that differentiates the inner solution too.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

NOTHING = 1.0  # residual of the solution 0


class Solution(NamedTuple):
    """An approximate solution u of A u = v.

    Attributes:
      vector: u, like v. It is 0 where the solver broke down (infinite or not a number) on finite v.
      residual: [], |A u - v| / |v| in the Euclidean norm over the whole tree, and 0 where v = 0.
        It is that of A itself, without any damping, so it compares inverses and shows all that
        an answer lacks: steps, terms, damping. At `NOTHING` or above, nothing was solved.
    """

    vector: chex.ArrayTree
    residual: chex.Array


Map = Callable[[chex.ArrayTree], chex.ArrayTree]
"""A linear map on trees."""

Inverse = Callable[[Map, Map | None, chex.ArrayTree], Solution]
"""`(apply A, apply its transpose, v) -> Solution` of A u = v; None: A is symmetric."""


def identity() -> Inverse:
    """Returns u = v, as if A were the identity (Nikishin et al. 2022, eq. 14)."""

    def inverse(apply: Map, transpose: Map | None, v: chex.ArrayTree) -> Solution:
        del transpose
        return _solution(apply, v, v)

    return inverse


def neumann(terms: int, step: float = 1.0) -> Inverse:
    """Returns u = step * sum_{k < terms} (I - step A)^k v, with `terms` from 1.

    It converges where all eigenvalues of I - step A are below 1 in modulus: for a fixed point of a
    contraction at step 1, for an optimum at steps below 2 / (largest eigenvalue of the Hessian).
    """

    def inverse(apply: Map, transpose: Map | None, v: chex.ArrayTree) -> Solution:
        del transpose

        def add_term(_, u: chex.ArrayTree) -> chex.ArrayTree:
            return optax.tree.add_scale(u, step, optax.tree.sub(v, apply(u)))

        u = jax.lax.fori_loop(1, terms, add_term, optax.tree.scale(step, v))
        return _solution(apply, u, v)

    return inverse


def cg(max_steps: int = 100, tolerance: float = 1e-5, damping: float = 0.0) -> Inverse:
    """Returns conjugate gradients from u = 0 on (A + damping I) u = v.

    It stops at a residual of `tolerance` times that of u = 0. A symmetric A should be positive
    definite: on an indefinite one, such as the Hessian of a ReLU network, the iteration is a
    heuristic and the residual says how good its answer is. Where a transpose is given, A can be any
    regular matrix: B^T B u = B^T v is solved, B = A + damping I, and `tolerance` refers to B^T v.
    """

    def inverse(apply: Map, transpose: Map | None, v: chex.ArrayTree) -> Solution:
        damped = _damp(apply, damping)
        matrix, target = damped, v
        if transpose is not None:
            pull = _damp(transpose, damping)
            matrix, target = (lambda u: pull(damped(u))), pull(v)
        scale = magnitude(target)
        target = optax.tree.scale(1 / scale, target)
        u, _ = jax.scipy.sparse.linalg.cg(matrix, target, tol=tolerance, maxiter=max_steps)
        return _solution(apply, optax.tree.scale(scale, u), v)

    return inverse


def exact(damping: float = 0.0) -> Inverse:
    """Returns the solution of (A + damping I) u = v by a dense matrix [n, n].

    For small n alone: the matrix is made by n products with A at once.
    """

    def inverse(apply: Map, transpose: Map | None, v: chex.ArrayTree) -> Solution:
        del transpose
        flat, unravel = ravel_pytree(v)

        def column(unit: chex.Array) -> chex.Array:
            return ravel_pytree(_damp(apply, damping)(unravel(unit)))[0]

        matrix = jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))
        return _solution(apply, unravel(jnp.linalg.solve(matrix, flat)), v)

    return inverse


INVERSES: dict[str, Callable[..., Inverse]] = {
    "identity": identity,
    "neumann": neumann,
    "cg": cg,
    "exact": exact,
}


def magnitude(tree: chex.ArrayTree) -> chex.Array:
    """Returns the largest absolute value, 1 for zeros: divided by it, squares do not overflow."""
    largest = optax.tree.norm(tree, jnp.inf)
    return jnp.where(largest == 0, 1.0, largest)


def _damp(apply: Map, damping: float) -> Map:
    return lambda u: optax.tree.add_scale(apply(u), damping, u)


def _solution(apply: Map, u: chex.ArrayTree, v: chex.ArrayTree) -> Solution:
    """Replaces a u that is not finite by 0, and measures the residual: one product with A."""
    finite = jnp.isfinite(optax.tree.norm(u, jnp.inf))
    # + 0 v: a v that is not a number stays visible
    u = jax.tree.map(lambda u, v: jnp.where(finite, u, 0.0) + 0.0 * v, u, v)
    scale = 1 / magnitude(v)
    error, length = (
        optax.tree.norm(optax.tree.scale(scale, x)) for x in (optax.tree.sub(apply(u), v), v)
    )
    residual = jnp.where(length == 0.0, 0.0, error / jnp.where(length == 0.0, 1.0, length))
    return Solution(u, jax.lax.stop_gradient(residual))  # a norm has no derivative at 0


class Hypergradient(NamedTuple):
    """The derivative of an outer loss by theta.

    Attributes:
      gradient: d outer / d theta, like theta.
      adjoint: u, the solution of the linear system, like the inner variable.
      residual: [], of that solution; see `Solution`.
    """

    gradient: chex.ArrayTree
    adjoint: chex.ArrayTree
    residual: chex.Array


def through_fixed_point(
    operator: Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree],
    theta: chex.ArrayTree,
    fixed_point: chex.ArrayTree,
    cotangent: chex.ArrayTree,
    inverse: Inverse,
) -> Hypergradient:
    """Returns the hypergradient through fixed_point = operator(theta, fixed_point).

    With J = d operator / d fixed_point: (I - J^T) u = cotangent, gradient =
    (d operator / d theta)^T u (Nikishin et al. 2022, eq. 7).
    """
    _, push = jax.linearize(lambda x: operator(theta, x), fixed_point)
    pull = jax.linear_transpose(push, fixed_point)
    u, residual = inverse(
        lambda u: optax.tree.sub(u, pull(u)[0]),
        lambda x: optax.tree.sub(x, push(x)),
        cotangent,
    )
    _, pull_to_theta = jax.vjp(lambda theta: operator(theta, fixed_point), theta)
    return Hypergradient(pull_to_theta(u)[0], u, residual)


def through_optimality(
    inner_loss: Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array],
    theta: chex.ArrayTree,
    inner: chex.ArrayTree,
    cotangent: chex.ArrayTree,
    inverse: Inverse,
) -> Hypergradient:
    """Returns the hypergradient through inner = argmin inner_loss(theta, .), a scalar.

    With H the Hessian by inner: H u = cotangent, gradient = -d/dtheta <d inner_loss / d inner, u>
    (Nikishin et al. 2022, eqs. 13 and 14). A product with H costs about two gradients in time and
    in memory; H itself is not formed.
    """
    _, hessian = jax.linearize(jax.grad(lambda w: inner_loss(theta, w)), inner)
    u, residual = inverse(hessian, None, cotangent)
    return Hypergradient(jax.grad(surrogate, argnums=1)(inner_loss, theta, inner, u), u, residual)


def surrogate(
    inner_loss: Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array],
    theta: chex.ArrayTree,
    inner: chex.ArrayTree,
    direction: chex.ArrayTree,
) -> chex.Array:
    """Returns -<d inner_loss / d inner, direction> [], inner and direction being constants.

    Its gradient by theta is the hypergradient of optimality whose adjoint is `direction`. Written
    as a directional derivative, it makes reverse mode pass only through what depends on theta.
    """
    inner, direction = jax.lax.stop_gradient((inner, direction))
    return -jax.jvp(lambda w: inner_loss(theta, w), (inner,), (direction,))[1]


class FixedPoint(NamedTuple):
    """Where a fixed-point iteration stopped.

    Attributes:
      value: the last iterate.
      residual: [], the largest absolute change in the last step, so that the error is at most
        gamma / (1 - gamma) of it for an operator of modulus gamma in the sup-norm.
      steps: int32 [], applications of the operator.
    """

    value: chex.ArrayTree
    residual: chex.Array
    steps: chex.Array


def fixed_point(
    operator: Map, initial: chex.ArrayTree, tolerance: float = 1e-10, max_steps: int = 5000
) -> FixedPoint:
    """Iterates value = operator(value), which need not be linear.

    Stops when max|change| < tolerance * max|value| + tolerance, on a value that is not finite, or
    after `max_steps`. The default tolerance is meant for float64. Forward mode alone passes through
    it; for a gradient call `through_fixed_point` at its value.
    """

    def unfinished(state: tuple[FixedPoint, chex.Array]) -> chex.Array:
        (_, change, steps), size = state
        moving = change >= tolerance * size + tolerance
        return jnp.isfinite(size) & moving & (steps < max_steps)

    def step(state: tuple[FixedPoint, chex.Array]) -> tuple[FixedPoint, chex.Array]:
        (old, _, steps), _ = state
        value = operator(old)
        change = optax.tree.norm(optax.tree.sub(value, old), jnp.inf)
        return FixedPoint(value, change, steps + 1), optax.tree.norm(value, jnp.inf)

    size = optax.tree.norm(initial, jnp.inf)
    start = FixedPoint(initial, jnp.full_like(size, jnp.inf), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, step, (start, size))[0]
