"""The coupled flows as a rollout filter: what they estimate keeps, ranks or weighs transitions.

After every model fit the flows are trained on real segments and on what model and policy generate
from the same first states; optionally the model is refined with their reward (`flows.reward`). The
centred log-ratio xt(z), high where a transition looks generated, then feeds one of three rules.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from flows import rules
from flows.estimator import Estimator, FlowState, make_estimator
from flows.evaluation import evaluate
from flows.reward import RefinementState, make_refinement
from flows.segments import Segments, model_segments, pool, real_segments
from models.objectives import Context, Parts
from models.rollout import RolloutFilter, Simulate, keep_all, make_simulator
from models.training import ModelState
from replay import ReplayState, Transition

Propose = Callable[..., tuple[Transition, chex.Array]]


class FlowFilterState(struct.PyTreeNode):
    """What the filter carries from refresh to refresh."""

    flows: FlowState
    refinement: RefinementState | tuple[()]  # () when the model is not refined
    threshold: chex.Array  # [], nats; rule "filter" drops what scores above
    mean_weight: chex.Array  # [], of the unnormalised importance weights of rule "weight"


def flow_discriminator(config: ConfigDict, parts: Parts) -> RolloutFilter:
    """Returns the filter that drops or weighs transitions by the rule `flow.rule`."""
    return _make(config, parts, RULES[config.flow.rule], refine=False)


def flow_reward(config: ConfigDict, parts: Parts) -> RolloutFilter:
    """Returns the filter that keeps everything, but refines the model before the rollouts."""
    return _make(config, parts, _keep, refine=True)


def flow_both(config: ConfigDict, parts: Parts) -> RolloutFilter:
    """Returns the filter that refines the model and then applies the rule `flow.rule`."""
    return _make(config, parts, RULES[config.flow.rule], refine=True)


def _make(
    config: ConfigDict,
    parts: Parts,
    make_rule: Callable[[ConfigDict, Parts, Estimator], Propose],
    *,
    refine: bool,
) -> RolloutFilter:
    hyper = config.flow
    estimator = make_estimator(config, parts.spec)
    refinement = make_refinement(config, parts, estimator) if refine else None
    simulator = make_simulator(config, parts)
    warmup_steps = sum(hyper.warmup_steps) or hyper.num_steps

    def init(key: chex.PRNGKey) -> FlowFilterState:
        flow_key, refinement_key = jax.random.split(key)
        return FlowFilterState(
            flows=estimator.init(flow_key),
            refinement=refinement.init(refinement_key) if refinement else (),
            threshold=jnp.full((), jnp.inf, jnp.float32),
            mean_weight=jnp.ones(()),
        )

    def update(
        state: FlowFilterState,
        model: ModelState,
        replay: ReplayState,
        context: Context,
        key: chex.PRNGKey,
    ) -> tuple[FlowFilterState, ModelState, dict[str, chex.Array]]:
        keys = jax.random.split(key, 7)

        def draw(key: chex.PRNGKey, *, held_out: bool) -> Segments:
            return real_segments(
                key,
                replay,
                hyper.num_starts,
                horizon=hyper.horizon,
                recency=hyper.recency,
                held_out=held_out,
            )

        real, real_test = draw(keys[0], held_out=False), draw(keys[1], held_out=True)
        generated = model_segments(simulator(model, context.policy), real, keys[2])
        flows = estimator.standardize(state.flows, real)
        flows, metrics = estimator.train(
            flows,
            pool(estimator.inputs(flows, generated.transition), generated.valid),
            pool(estimator.inputs(flows, real.transition), real.valid),
            jnp.where(flows.joint.steps == 0, warmup_steps, hyper.num_steps),
            keys[3],
        )
        refinement_state = state.refinement
        if refinement:
            refinement_state, flows, model, refined = refinement.refine(
                refinement_state, flows, model, context, replay, real, real_test, keys[4]
            )
            metrics |= refined
        generated_test = model_segments(simulator(model, context.policy), real_test, keys[5])
        flows, xt, evaluation = evaluate(
            config, parts, estimator, flows, model, real_test, generated_test, keys[6]
        )
        mask = generated_test.valid.reshape(-1)
        choice = rules.one_nat_threshold(xt, mask, hyper.min_kept)
        rejects = (evaluation["flow/dv_heldout"] >= hyper.min_divergence) & (choice.kept < 1.0)
        weight = rules.importance_weights(xt, hyper.max_weight)
        mean_weight = jnp.where(mask, weight, 0.0).sum() / jnp.maximum(mask.sum(), 1)
        state = FlowFilterState(
            flows=flows,
            refinement=refinement_state,
            threshold=jnp.where(rejects, choice.tau, jnp.inf),
            mean_weight=jnp.where(mean_weight > 0, mean_weight, 1.0),
        )
        metrics |= evaluation | {
            "flow/threshold": jnp.where(mask.any(), choice.tau, 0.0),
            "flow/kept_fraction": jnp.where(rejects, choice.kept, 1.0),
            "flow/kept_kl": choice.kl,
            "flow/ess": rules.effective_sample_size(weight, mask),
        }
        return state, model, metrics

    return RolloutFilter(init, update, make_rule(config, parts, estimator))


def _keep(config: ConfigDict, parts: Parts, estimator: Estimator) -> Propose:
    del estimator
    return keep_all(config, parts).propose


def _per_transition(
    estimator: Estimator, weigh: Callable[[FlowFilterState, chex.Array], chex.Array]
) -> Propose:
    """Takes the step that the model makes, and weighs it by its centred score."""

    def propose(
        state: FlowFilterState,
        simulate: Simulate,
        observation: chex.Array,
        steps_left: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[Transition, chex.Array]:
        del steps_left
        transition = simulate(observation, key)
        return transition, weigh(state, centred_score(estimator, state.flows, transition))

    return propose


def _filter(config: ConfigDict, parts: Parts, estimator: Estimator) -> Propose:
    """Ends a branch at its first step that scores above the threshold."""
    del config, parts
    return _per_transition(estimator, lambda state, xt: (xt <= state.threshold).astype(jnp.float32))


def _weight(config: ConfigDict, parts: Parts, estimator: Estimator) -> Propose:
    """Keeps every step, with its importance weight; the mean weight is 1."""
    del parts
    cap = config.flow.max_weight
    return _per_transition(
        estimator, lambda state, xt: rules.importance_weights(xt, cap) / state.mean_weight
    )


def _plan(config: ConfigDict, parts: Parts, estimator: Estimator) -> Propose:
    """Looks ahead along several candidates per row and takes the first step of the best.

    A candidate that terminates is judged by the steps it has: scores are discounted means.
    """
    del parts
    hyper = config.flow

    def propose(
        state: FlowFilterState,
        simulate: Simulate,
        observation: chex.Array,
        steps_left: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[Transition, chex.Array]:
        depth = jnp.minimum(steps_left, hyper.lookahead)

        def judged(transition: Transition, alive: chex.Array) -> chex.Array:
            return jnp.where(alive, centred_score(estimator, state.flows, transition), 0.0)

        def candidate(key: chex.PRNGKey) -> tuple[Transition, chex.Array]:
            first_key, rest_key = jax.random.split(key)
            first = simulate(observation, first_key)
            everywhere = jnp.ones(observation.shape[0], bool)

            def look(t: chex.Array, carry):
                transition, alive, total, weight = carry
                alive &= transition.terminated == 0
                following = simulate(transition.next_observation, jax.random.fold_in(rest_key, t))
                total += hyper.discount**t * judged(following, alive)
                weight += hyper.discount**t * alive
                return following, alive, total, weight

            start = (first, everywhere, judged(first, everywhere), jnp.ones(everywhere.shape))
            _, _, total, weight = jax.lax.fori_loop(1, depth, look, start)
            return first, total / weight

        candidates, scores = jax.lax.map(candidate, jax.random.split(key, hyper.num_candidates))
        scores = jnp.where(jnp.isfinite(scores), scores, jnp.inf)
        best = jnp.argmin(scores, axis=0)  # [B]
        rows = jnp.arange(best.shape[0])
        chosen = jax.tree.map(lambda x: x[best, rows], candidates)
        return chosen, jnp.ones(best.shape)

    return propose


def centred_score(estimator: Estimator, flows: FlowState, transition: Transition) -> chex.Array:
    """Returns xt [...]: the softly clipped log-ratio, centred so that its mean ratio is 1."""
    return estimator.score(flows, estimator.inputs(flows, transition)) - flows.centre


RULES: dict[str, Callable[[ConfigDict, Parts, Estimator], Propose]] = {
    "filter": _filter,
    "plan": _plan,
    "weight": _weight,
}
"""How the discriminator uses its score; `config.flow.rule` names one."""
