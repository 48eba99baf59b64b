"""Optimal model design (Nikishin et al. 2022, arXiv 2106.03273): models for the values they imply.

The model theta is judged by the critics w that are optimal in it: they should have a low Bellman
error in reality. Where d L(theta, w) / dw = 0, with L the Bellman error in the model, the implicit
function theorem gives the gradient of the real one through the critics (`omd.implicit`).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from models.ensemble import bound_penalty, with_bounds
from models.objectives import mle
from models.objectives.base import Context, LossOutput, ModelObjective, Parts
from omd import implicit
from replay import Transition


class Critics(struct.PyTreeNode):
    """Critics of the objective's own, which follow the model during a fit."""

    online: chex.ArrayTree  # leading axis C
    target: chex.ArrayTree
    optimizer: optax.OptState


class Bilevel(NamedTuple):
    """The two levels of the problem, for one member of the ensemble.

    Attributes:
      imagine: `(model_params, batch of Transition [E, B, ...], context, key) -> Transition
        [E, B, ...]` with the model's next observations and rewards; terminations stay real.
      backup: `(context, Transition [B, ...], key) -> [B]`: reward plus the discounted value of the
        next observation under the target critics.
      bellman_error: `(critics, context, Transition [B, ...], key) -> []`: half the squared error of
        every critic against the backup. It can be differentiated through the transition; a stopped
        gradient, which Q-learning has there, would make the hypergradient zero.
      direction: `(critics, context, real, imagined, key) -> (implicit.Solution, real error)`: the
        gradient of the real error after the inverse of the Hessian of the imagined one.
    """

    imagine: Callable[..., Transition]
    backup: Callable[..., chex.Array]
    bellman_error: Callable[..., chex.Array]
    direction: Callable[..., tuple[implicit.Solution, chex.Array]]


def make_inverse(config: ConfigDict) -> implicit.Inverse:
    """Returns how the configuration (its block `omd`) inverts the Hessian."""
    hyper = config.omd
    makers: dict[str, Callable[[], implicit.Inverse]] = {
        "identity": implicit.identity,
        "neumann": lambda: implicit.neumann(hyper.neumann_terms, hyper.neumann_step),
        "cg": lambda: implicit.cg(hyper.cg_steps, hyper.cg_tolerance, hyper.damping),
        "exact": lambda: implicit.exact(hyper.damping),
    }
    return makers[hyper.inverse]()


def make_bilevel(config: ConfigDict, parts: Parts, inverse: implicit.Inverse) -> Bilevel:
    """Builds the functions of both levels."""

    def imagine(params, batch: Transition, context: Context, key: chex.PRNGKey) -> Transition:
        ensemble = parts.ensemble
        prediction = ensemble.predict(params, context.normalizers, batch.observation, batch.action)
        target = prediction.mean if config.rollout.deterministic else prediction.sample(key)
        next_observation, reward = ensemble.decode(batch.observation, batch.action, target)
        return batch._replace(next_observation=next_observation, reward=reward)

    def backup(context: Context, batch: Transition, key: chex.PRNGKey) -> chex.Array:
        v = parts.value(context, context.target_critics, batch.next_observation, key)
        return batch.reward + config.discount * (1.0 - batch.terminated) * v

    def bellman_error(critics, context: Context, batch: Transition, key: chex.PRNGKey):
        q = parts.q_values(critics, batch.observation, batch.action)  # [C, B]
        target = backup(context, batch, key)
        return 0.5 * jnp.square(q - target[None]).mean(axis=1).sum()

    def direction(critics, context: Context, real: Transition, imagined: Transition, key):
        real_error, gradient = jax.value_and_grad(bellman_error)(critics, context, real, key)
        inner_gradient = jax.grad(lambda w: bellman_error(w, context, imagined, key))
        _, hessian = jax.linearize(inner_gradient, critics)
        return inverse(hessian, None, gradient), real_error

    return Bilevel(imagine, backup, bellman_error, direction)


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns the loss whose gradient is the hypergradient (eq. 14), summed over members.

    With `omd.critics="agent"` the critics of the context are taken as optimal in the model, which
    an agent sees to that trains them in it. With "own" the objective has critics of its own: they
    start every fit as the agent's and do `omd.inner_steps` of Adam in the model before every
    hypergradient.
    """
    hyper = config.omd
    bilevel = make_bilevel(config, parts, make_inverse(config))
    optimizer = optax.adam(config.sac.critic_learning_rate)

    def init(key: chex.PRNGKey) -> Critics | tuple[()]:
        return start(parts.init_critics(key)) if hyper.critics == "own" else ()

    def start(critics: chex.ArrayTree) -> Critics:
        return Critics(critics, jax.tree.map(jnp.copy, critics), optimizer.init(critics))

    def begin(state: Critics, context: Context) -> Critics:
        del state
        return start(context.critics).replace(target=context.target_critics)

    def solve_inner(
        state: Critics, imagined: Transition, context: Context, key: chex.PRNGKey
    ) -> Critics:
        def step(state: Critics, key: chex.PRNGKey) -> tuple[Critics, None]:
            def error(critics: chex.ArrayTree) -> chex.Array:
                keys = jax.random.split(key, imagined.reward.shape[0])
                of_member = jax.vmap(bilevel.bellman_error, in_axes=(None, None, 0, 0))
                now = context.replace(target_critics=state.target)
                return of_member(critics, now, imagined, keys).mean()

            changes, opt_state = optimizer.update(jax.grad(error)(state.online), state.optimizer)
            online = optax.apply_updates(state.online, changes)
            target = optax.incremental_update(online, state.target, config.sac.target_update_rate)
            return Critics(online, target, opt_state), None

        return jax.lax.scan(step, state, jax.random.split(key, hyper.inner_steps))[0]

    def loss(params, state, batch: Transition, context: Context, key: chex.PRNGKey) -> LossOutput:
        imagine_key, inner_key, backup_key = jax.random.split(key, 3)
        # Without the likelihood nothing holds learned bounds together.
        learned = config.model.learn_variance_bounds and bool(config.objective.mle_weight)
        params = with_bounds(params, learned)
        context = jax.lax.stop_gradient(context)
        imagined = bilevel.imagine(params, batch, context, imagine_key)
        if hyper.critics == "own":
            state = solve_inner(state, jax.lax.stop_gradient(imagined), context, inner_key)
            context = context.replace(critics=state.online, target_critics=state.target)

        def of_member(real: Transition, imagined: Transition, key: chex.PRNGKey):
            constants = jax.lax.stop_gradient((real, imagined))
            solution, real_error = bilevel.direction(context.critics, context, *constants, key)

            def inner_loss(imagined: Transition, critics: chex.ArrayTree) -> chex.Array:
                return bilevel.bellman_error(critics, context, imagined, key)

            total = implicit.surrogate(inner_loss, imagined, context.critics, solution.vector)
            return total, {"real_bellman": real_error, "hessian_residual": solution.residual}

        keys = jax.random.split(backup_key, batch.reward.shape[0])
        losses, metrics = jax.vmap(of_member)(batch, imagined, keys)
        if hyper.inverse == "identity":  # whose residual would cost what it saves
            del metrics["hessian_residual"]
        total = losses.sum()
        if config.objective.mle_weight:
            nll = mle.row_losses(parts.ensemble, params, batch, context).mean(axis=1).sum()
            total = total + config.objective.mle_weight * (nll + bound_penalty(params))
        return total, (state, {name: value.mean() for name, value in metrics.items()})

    def score(params, state, batch: Transition, context: Context, key) -> chex.Array:
        """The squared error [E, B] of the model's backup: 0 where critics cannot tell it apart."""
        del state
        imagine_key, backup_key = jax.random.split(key)
        imagined = bilevel.imagine(params, batch, context, imagine_key)
        keys = jax.random.split(backup_key, batch.reward.shape[0])
        backup = jax.vmap(bilevel.backup, in_axes=(None, 0, 0))
        return jnp.square(backup(context, imagined, keys) - backup(context, batch, keys))

    return ModelObjective(init, loss, score, begin if hyper.critics == "own" else None)
