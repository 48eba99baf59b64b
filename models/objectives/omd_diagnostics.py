"""How good the approximations of OMD are, measured on one batch now and then."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from models.objectives.base import Context, Parts
from models.objectives.omd import make_levels
from omd import implicit
from replay import Transition

FAILED = 10.0  # times the tolerance; the residual is that of the Hessian without its damping
ZERO = 1e-12  # what a shorter gradient counts as; a ratio that is not finite would stop the run

Diagnose = Callable[[chex.ArrayTree, Transition, Context, chex.PRNGKey], dict[str, chex.Array]]
"""`(model_params, batch [E, B, ...], context, key) -> metrics`, for any objective."""


def make_diagnostics(config: ConfigDict, parts: Parts) -> Diagnose:
    """Builds the comparison of the identity with conjugate gradients, and of both levels.

    - `inner_gradient`: length of the gradient of the Bellman error in the model, relative to that
      of the real one. It is 0 where the critics are optimal in the model, as the theorem wants.
    - `alignment`: cosine of these two gradients. It is 1 where the model moves the critics
      as the environment does.
    - `cg_residual`: |H u - v| / |v| of the conjugate gradients; `cg_failed`: 1 where it is more
      than ten times `omd.cg_tolerance`, so where u is not what the theorem asks for.
    - `cosine_identity_cg`: cosine between the hypergradients by identity and by conjugate
      gradients.
    """
    hyper = config.omd
    levels = make_levels(config, parts)
    by_cg = implicit.cg(hyper.cg_steps, hyper.cg_tolerance, hyper.damping)

    def diagnose(params, batch: Transition, context: Context, key: chex.PRNGKey):
        imagine_key, backup_key = jax.random.split(key)
        critics = context.critics

        def inner_loss(params: chex.ArrayTree, critics: chex.ArrayTree) -> chex.Array:
            imagined = levels.imagine(params, batch, context, imagine_key)
            outcome = jax.tree.map(lambda x: x[0], batch._replace(**imagined._asdict()))
            return levels.bellman_error(critics, context, outcome, backup_key)

        real = jax.tree.map(lambda x: x[0], batch)
        inner_gradient = jax.grad(inner_loss, argnums=1)(params, critics)
        outer_gradient = jax.grad(levels.bellman_error)(critics, context, real, backup_key)
        # its length cancels in residual and cosine, and overflows first when critics diverge
        direction = optax.tree.scale(1 / implicit.magnitude(outer_gradient), outer_gradient)
        identity, cg = (
            implicit.through_optimality(inner_loss, params, critics, direction, inverse)
            for inverse in (implicit.identity(), by_cg)
        )
        return {
            "omd/inner_gradient": optax.tree.norm(inner_gradient)
            / jnp.maximum(optax.tree.norm(outer_gradient), ZERO),
            "omd/alignment": cosine(inner_gradient, outer_gradient),
            "omd/cg_residual": cg.residual,
            # written so that a residual that is not a number has failed
            "omd/cg_failed": 1.0 - (cg.residual <= FAILED * hyper.cg_tolerance).astype(jnp.float32),
            "omd/cosine_identity_cg": cosine(identity.gradient, cg.gradient),
        }

    return diagnose


def cosine(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.Array:
    """Returns the cosine of the angle between two trees, 0 if one of them is zero."""
    a, b = (optax.tree.scale(1 / implicit.magnitude(tree), tree) for tree in (a, b))
    lengths = optax.tree.norm(a) * optax.tree.norm(b)
    return optax.tree.vdot(a, b) / jnp.where(lengths == 0, 1.0, lengths)
