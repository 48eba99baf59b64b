"""Refining the dynamics model by RL: the flows' score is its reward, the likelihood its anchor.

Matching the distribution of what model and policy generate to the real one looks further than one
step, which a likelihood fit does not, and that matters where the model is misspecified. Alone it is
blind to outcomes paired with the wrong actions, hence the anchor; and it may fail, hence the gate,
which restores the model if its open-loop error on held-out real segments has grown.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from envs.spec import EnvSpec
from flows import actor_critic, gradients
from flows.estimator import MAX_GRADIENT_NORM, Estimator, FlowState
from flows.evaluation import open_loop_error
from flows.gradients import RLTerm, Starts, World
from flows.segments import Pool, Segments, pool, slots
from models.objectives import Context, Parts, mle
from models.training import ModelState
from replay import ReplayState, Transition, buffer

SMALLEST_RL_WEIGHT = 0.3  # where halving stops
LOOK_EVERY = 10  # model steps between looks at the held-out open-loop error
DIVERGED = 1e30  # a gradient norm that is not finite: the gate rejects the model, the run goes on
PATIENCE = 5  # looks without a new lowest value before refinement stops

ESTIMATORS: dict[str, Callable[[ConfigDict, EnvSpec], RLTerm]] = {
    "path": gradients.path,
    "score": gradients.score,
    "ac": actor_critic.actor_critic,
}
"""How the gradient of the reward is estimated; `config.flow.estimator` names one."""


class RefinementState(struct.PyTreeNode):
    """What refinement carries from refresh to refresh."""

    rl_weight: chex.Array  # [], halved whenever the gate closes
    term: Any  # state of the RLTerm


class Refinement(NamedTuple):
    """The functions of one refinement procedure.

    Attributes:
      init: `(key) -> RefinementState`.
      refine: `(state, flows, model, context, replay, real, real_test, key) -> (state, flows, model,
        metrics)`: trains on the segments `real`, and is judged on `real_test`. Consumes `key`.
    """

    init: Callable[[chex.PRNGKey], RefinementState]
    refine: Callable[..., tuple[RefinementState, FlowState, ModelState, dict[str, chex.Array]]]


class Carry(NamedTuple):
    """What the steps of one refinement hand on."""

    params: chex.ArrayTree  # of the elites, leading axis K
    optimizer: optax.OptState
    flows: FlowState
    term: Any
    steps: chex.Array  # int32 [], model steps done
    best: tuple[chex.ArrayTree, FlowState]  # params and flows at the look with the lowest error
    lowest: chex.Array  # [], held-out open-loop error there
    stale: chex.Array  # int32 [], looks since then
    grad_norm: chex.Array  # [], of the RL loss at the last step, unclipped, mean over the elites


def make_refinement(config: ConfigDict, parts: Parts, estimator: Estimator) -> Refinement:
    """Builds the refinement of a resolved configuration (its `flow` block)."""
    hyper = config.flow
    term = ESTIMATORS[hyper.estimator](config, parts.spec)
    model_step = _make_model_step(config, parts, estimator, term)

    def init(key: chex.PRNGKey) -> RefinementState:
        return RefinementState(jnp.float32(hyper.rl_weight), term.init(key))

    def refine(
        state: RefinementState,
        flows: FlowState,
        model: ModelState,
        context: Context,
        replay: ReplayState,
        real: Segments,
        real_test: Segments,
        key: chex.PRNGKey,
    ) -> tuple[RefinementState, FlowState, ModelState, dict[str, chex.Array]]:
        elites = model.elite_params()
        before = open_loop_error(parts, model, elites, real_test)
        real_pool = pool(estimator.inputs(flows, real.transition), real.valid)

        def with_elites(params: chex.ArrayTree) -> ModelState:
            merged = jax.tree.map(
                lambda leaf, new: leaf.at[model.elites].set(new), model.params, params
            )
            return model.replace(params=merged)

        def look(carry: Carry) -> Carry:
            error = open_loop_error(parts, model, carry.params, real_test)[-1]
            fell = error < carry.lowest
            return carry._replace(
                best=_choose(fell, (carry.params, carry.flows), carry.best),
                lowest=jnp.minimum(error, carry.lowest),
                stale=jnp.where(fell, 0, carry.stale + 1),
            )

        def step(carry: Carry) -> Carry:
            step_key = jax.random.fold_in(key, carry.steps)
            carry = model_step(carry, state.rl_weight, context, replay, real, real_pool, step_key)
            due = (carry.steps % LOOK_EVERY == 0) | (carry.steps == hyper.refine_steps)
            return jax.lax.cond(due, look, lambda same: same, carry)

        zero = jnp.zeros((), jnp.int32)
        done = jax.lax.while_loop(
            lambda carry: (carry.steps < hyper.refine_steps) & (carry.stale < PATIENCE),
            step,
            Carry(
                params=elites,
                optimizer=optax.adam(hyper.refine_learning_rate).init(elites),
                flows=flows,
                term=state.term,
                steps=zero,
                best=(elites, flows),
                lowest=jnp.full((), jnp.inf, jnp.float32),
                stale=zero,
                grad_norm=jnp.zeros(()),
            ),
        )
        best_params, best_flows = done.best
        after = open_loop_error(parts, model, best_params, real_test)
        held = after[-1] <= (1.0 + hyper.gate_tolerance) * before[-1]
        accepted = held & real_test.valid.any() & _all_finite(best_params)
        refined, flows = _choose(accepted, (with_elites(best_params), best_flows), (model, flows))
        # what the term has learned stays, even about a rejected model
        term_state = _choose(_all_finite(done.term), done.term, state.term)
        halved = jnp.maximum(state.rl_weight / 2.0, min(SMALLEST_RL_WEIGHT, hyper.rl_weight))
        metrics = {
            "refine/accepted": accepted.astype(jnp.float32),
            "refine/rl_weight": state.rl_weight,
            "refine/steps": done.steps,
            "refine/grad_norm": jnp.nan_to_num(done.grad_norm, nan=DIVERGED, posinf=DIVERGED),
        }
        for k in range(hyper.horizon):
            metrics |= {f"refine/before_{k + 1}": before[k], f"refine/after_{k + 1}": after[k]}
        rl_weight = jnp.where(accepted, state.rl_weight, halved)
        return RefinementState(rl_weight, term_state), flows, refined, metrics

    return Refinement(init, refine)


def _make_model_step(
    config: ConfigDict, parts: Parts, estimator: Estimator, term: RLTerm
) -> Callable[..., Carry]:
    """Builds one outer iteration: flow steps on fresh rollouts, then one step of the model.

    The gradient of the reward is clipped for every elite before it is weighted: near a thin
    manifold the log-ratio is so steep that it would drown the likelihood.
    """
    hyper, num_elites = config.flow, config.model.num_elites
    anchor = mle.make(config, parts)
    optimizer = optax.adam(hyper.refine_learning_rate)
    to_total = parts.ensemble.target_size / 2  # from twice the mean NLL to its sum over dimensions

    def model_step(
        carry: Carry,
        rl_weight: chex.Array,
        context: Context,
        replay: ReplayState,
        real: Segments,
        real_pool: Pool,
        key: chex.PRNGKey,
    ) -> Carry:
        keys = jax.random.split(key, 7)

        def world_of(flows: FlowState) -> World:
            return World(
                parts.ensemble,
                context.normalizers,
                parts.spec,
                parts.sample_policy,
                context.policy,
                reward=lambda transition: (
                    -estimator.score(flows, estimator.inputs(flows, transition))
                ),
                inputs=lambda transition: estimator.inputs(flows, transition),
            )

        starts = _draw_starts(keys[0], real, num_elites, hyper.refine_starts)
        world = world_of(carry.flows)
        fresh = gradients.roll_out(world, carry.params, starts, keys[1], detach=True)
        flows, _ = estimator.train(
            carry.flows,
            pool(world.inputs(fresh.transition), fresh.valid),
            real_pool,
            hyper.flow_steps_per_refinement,
            keys[2],
        )
        world = world_of(flows)
        term_state = term.update(carry.term, carry.params, world, starts, keys[3])
        batch = _draw_batch(keys[4], replay, config)

        def rl(params: chex.ArrayTree) -> chex.Array:
            return term.loss(params, term_state, world, starts, keys[5]).sum()

        def likelihood(params: chex.ArrayTree) -> chex.Array:
            loss, _ = anchor.loss(params, (), batch, context, keys[6])
            return hyper.mle_weight * to_total * loss

        rl_grads = jax.grad(rl)(carry.params)
        grad_norm = jax.vmap(optax.tree.norm)(rl_grads)
        shrink = rl_weight / jnp.maximum(grad_norm / MAX_GRADIENT_NORM, 1.0)  # [K]
        grads = jax.tree.map(
            lambda g, rl: g + shrink.reshape(-1, *[1] * (rl.ndim - 1)) * rl,
            jax.grad(likelihood)(carry.params),
            rl_grads,
        )
        updates, opt_state = optimizer.update(grads, carry.optimizer)
        return carry._replace(
            params=optax.apply_updates(carry.params, updates),
            optimizer=opt_state,
            flows=flows,
            term=term_state,
            steps=carry.steps + 1,
            grad_norm=grad_norm.mean(),
        )

    return model_step


def _choose(condition: chex.Array, new: chex.ArrayTree, old: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _all_finite(tree: chex.ArrayTree) -> chex.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _draw_starts(key: chex.PRNGKey, real: Segments, members: int, each: int) -> Starts:
    index = jax.random.randint(key, (members, each), 0, real.valid.shape[0])
    first = jax.tree.map(lambda x: x[:, 0][index], real.transition)
    not_truncated = jnp.moveaxis(real.not_truncated[index], -1, 0)
    return Starts(first.observation, first.action, not_truncated)


def _draw_batch(key: chex.PRNGKey, replay: ReplayState, config: ConfigDict) -> Transition:
    """Real transitions [K, B] that are not in held-out segments."""
    shape = (config.model.num_elites, config.model.batch_size)
    drawn, _ = slots(
        key,
        replay,
        shape[0] * shape[1],
        horizon=config.flow.horizon,
        length=1,
        recency=replay.capacity,
        held_out=False,
    )
    return buffer.gather_slots(replay, drawn.reshape(shape))
