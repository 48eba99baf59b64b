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


class Outcome(NamedTuple):
    """What follows states and actions."""

    next_observation: chex.Array  # [..., O]
    reward: chex.Array  # [...]


class Levels(NamedTuple):
    """What both levels of the problem are made of.

    Attributes:
      imagine: `(model_params, batch of Transition [E, B, ...], context, key) -> Outcome
        [E, B, ...]` according to the model. Whether an episode ends is left to the data.
      backup: `(context, Transition [B, ...], key) -> [B]`: reward plus the discounted value of the
        next observation under the target critics.
      bellman_error: `(critics, context, Transition [B, ...], key) -> []`: half the squared error of
        every critic against the backup. It can be differentiated through the transition; a stopped
        gradient, which Q-learning has there, would make the hypergradient zero.
    """

    imagine: Callable[..., Outcome]
    backup: Callable[..., chex.Array]
    bellman_error: Callable[..., chex.Array]


def make_levels(config: ConfigDict, parts: Parts) -> Levels:
    """Builds the functions of both levels."""

    def imagine(params, batch: Transition, context: Context, key: chex.PRNGKey) -> Outcome:
        ensemble = parts.ensemble
        prediction = ensemble.predict(params, context.normalizers, batch.observation, batch.action)
        target = prediction.mean if config.rollout.deterministic else prediction.sample(key)
        return Outcome(*ensemble.decode(batch.observation, batch.action, target))

    def backup(context: Context, batch: Transition, key: chex.PRNGKey) -> chex.Array:
        v = parts.value(context, context.target_critics, batch.next_observation, key)
        return batch.reward + config.discount * (1.0 - batch.terminated) * v

    def bellman_error(critics, context: Context, batch: Transition, key: chex.PRNGKey):
        q = parts.q_values(critics, batch.observation, batch.action)  # [C, B]
        target = backup(context, batch, key)
        return 0.5 * jnp.square(q - target[None]).mean(axis=1).sum()

    return Levels(imagine, backup, bellman_error)


def make_inverse(config: ConfigDict) -> implicit.Inverse:
    """Returns how the configuration (its block `omd`) inverts the Hessian of the critics."""
    hyper = config.omd
    arguments: dict[str, tuple] = {
        "identity": (),
        "neumann": (hyper.neumann_terms, hyper.neumann_step),
        "cg": (hyper.cg_steps, hyper.cg_tolerance, hyper.damping),
        "exact": (hyper.damping,),
    }
    return implicit.INVERSES[hyper.inverse](*arguments[hyper.inverse])


def imagination_key(key: chex.PRNGKey) -> chex.PRNGKey:
    """Returns the key with which the loss, given `key`, samples a model that is not deterministic.

    An agent whose critics are to learn from the same sample imagines with it.
    """
    return jax.random.split(key, 3)[0]


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns a loss whose gradient is the hypergradient (eq. 14), summed over members.

    A one-step agent trains its critics in the model; they are taken as optimal in it. Otherwise the
    objective has critics of its own, `make_inner`.
    """
    levels, inverse = make_levels(config, parts), make_inverse(config)
    own = config.agent != "dyna"
    init, begin, solve_inner = make_inner(config, parts, levels)

    def loss(params, state, batch: Transition, context: Context, key: chex.PRNGKey) -> LossOutput:
        inner_key, backup_key = jax.random.split(key, 3)[1:]
        # Without the likelihood nothing holds learned bounds together.
        learned = config.model.learn_variance_bounds and bool(config.objective.mle_weight)
        params = with_bounds(params, learned)
        context = jax.lax.stop_gradient(context)
        imagined = levels.imagine(params, batch, context, imagination_key(key))
        if own:
            inner_batch = jax.lax.stop_gradient(batch._replace(**imagined._asdict()))
            state = solve_inner(state, inner_batch, context, inner_key)
            context = context.replace(critics=state.online, target_critics=state.target)

        def of_member(real: Transition, imagined: Outcome, key: chex.PRNGKey):
            def inner_loss(imagined: Outcome, critics: chex.ArrayTree) -> chex.Array:
                outcome = real._replace(**imagined._asdict())
                return levels.bellman_error(critics, context, outcome, key)

            error, cotangent = jax.value_and_grad(levels.bellman_error)(
                context.critics, context, real, key
            )
            hyper = implicit.through_optimality(
                inner_loss, imagined, context.critics, cotangent, inverse
            )
            return hyper.gradient, {
                "real_bellman": error,
                "hessian_residual": hyper.residual,
                "hessian_failed": (hyper.residual >= implicit.NOTHING).astype(jnp.float32),
            }

        keys = jax.random.split(backup_key, batch.reward.shape[0])
        gradient, metrics = jax.vmap(of_member)(batch, jax.lax.stop_gradient(imagined), keys)
        total = optax.tree.vdot(gradient, imagined)  # the chain rule from outcomes to parameters
        if config.omd.inverse == "identity":  # whose residual would cost what it saves
            del metrics["hessian_residual"], metrics["hessian_failed"]
        if config.objective.mle_weight:
            nll = mle.row_losses(parts.ensemble, params, batch, context).mean(axis=1).sum()
            total = total + config.objective.mle_weight * (nll + bound_penalty(params))
        return total, (state, {name: value.mean() for name, value in metrics.items()})

    def score(params, state, batch: Transition, context: Context, key) -> chex.Array:
        """The squared error [E, B] of the model's backup: 0 where critics cannot tell it apart."""
        del state  # the critics that learn in this model later are the agent's
        imagine_key, backup_key = jax.random.split(key)
        imagined = levels.imagine(params, batch, context, imagine_key)
        keys = jax.random.split(backup_key, batch.reward.shape[0])
        backup = jax.vmap(levels.backup, in_axes=(None, 0, 0))
        predicted = backup(context, batch._replace(**imagined._asdict()), keys)
        return jnp.square(predicted - backup(context, batch, keys))

    if not own:
        return ModelObjective(lambda key: (), loss, score)
    return ModelObjective(init, loss, score, begin)


def make_inner(config: ConfigDict, parts: Parts, levels: Levels) -> tuple[Callable, ...]:
    """Builds critics that follow the model while it is fitted and those of the agent stand still.

    They start every fit as the agent's and do `omd.inner_steps` of Adam in the model before every
    hypergradient; their targets follow after every step.

    Returns:
      `init(key) -> Critics`, `begin(Critics, context) -> Critics`, and
      `solve(Critics, imagined Transition [E, B, ...], context, key) -> Critics`.
    """
    optimizer = optax.adam(config.sac.critic_learning_rate)

    def start(online: chex.ArrayTree, target: chex.ArrayTree) -> Critics:
        return Critics(online, target, optimizer.init(online))

    def init(key: chex.PRNGKey) -> Critics:
        critics = parts.init_critics(key)
        return start(critics, jax.tree.map(jnp.copy, critics))

    def begin(state: Critics, context: Context) -> Critics:
        del state
        return start(context.critics, context.target_critics)

    def solve(state: Critics, imagined: Transition, context: Context, key: chex.PRNGKey) -> Critics:
        def step(state: Critics, key: chex.PRNGKey) -> tuple[Critics, None]:
            def error(critics: chex.ArrayTree) -> chex.Array:
                keys = jax.random.split(key, imagined.reward.shape[0])
                of_member = jax.vmap(levels.bellman_error, in_axes=(None, None, 0, 0))
                now = context.replace(target_critics=state.target)
                return of_member(critics, now, imagined, keys).mean()

            changes, opt_state = optimizer.update(jax.grad(error)(state.online), state.optimizer)
            online = optax.apply_updates(state.online, changes)
            target = optax.incremental_update(online, state.target, config.sac.target_update_rate)
            return Critics(online, target, opt_state), None

        return jax.lax.scan(step, state, jax.random.split(key, config.omd.inner_steps))[0]

    return init, begin, solve
