"""How far a model transition is from the real ones: coupled flows over state, action and outcome.

The flows see z = (s, a, r, s' - s), or fewer parts of it, standardised with the statistics of the
real segments. The joint density sees a wrong pairing of outcome and action, which the densities of
the parts cannot.
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
from flows import coupled, coupling
from flows.coupled import CoupledState
from flows.segments import Pool, Segments
from models import normalizer
from models.normalizer import Normalizer
from replay import Transition

LARGEST_Z = 10.0  # standardised inputs are clipped here
MAX_GRADIENT_NORM = 1.0

INPUTS: dict[str, tuple[str, ...]] = {
    "sa": ("state", "action"),
    "sar": ("state", "action", "reward"),
    "sas": ("state", "action", "change"),
    "sars": ("state", "action", "reward", "change"),
}
"""What the flows see of a transition; `config.flow.inputs` names one."""

PARTS: dict[str, Callable[[Transition], chex.Array]] = {
    "state": lambda transition: transition.observation,
    "action": lambda transition: transition.action,
    "reward": lambda transition: transition.reward[..., None],
    "change": lambda transition: transition.next_observation - transition.observation,
}


def input_size(inputs: str, spec: EnvSpec) -> int:
    """Returns how many numbers the parts named by `inputs` have, D."""
    sizes = {"state": spec.observation_size, "action": spec.action_size}
    sizes |= {"reward": 1, "change": spec.observation_size}
    return sum(sizes[name] for name in INPUTS[inputs])


class FlowState(struct.PyTreeNode):
    """The divergence estimate."""

    joint: CoupledState  # over z
    marginal: Any  # CoupledState over (s, a) when the score is conditional, else ()
    normalizer: Normalizer  # of z
    centre: chex.Array  # [], log E_real[e^x]; what keeps the mean density ratio at 1


class Estimator(NamedTuple):
    """The functions of one estimator.

    Attributes:
      init: `(key) -> FlowState`; the first score is 0 everywhere.
      standardize: `(state, real Segments) -> state` with the statistics of these segments.
      inputs: `(state, Transition [...]) -> z [..., D]`, standardised and clipped.
      train: `(state, model Pool, real Pool, num_steps, key) -> (state, metrics)`; consumes `key`.
      log_ratio: `(state, z) -> x [...]`, an estimate of log(model density / real density).
      clip_score: `(x [...]) -> x [...]`, softly clipped.
      score: `(state, z) -> x [...]`, the clipped log-ratio: high where z looks generated.
      recentre: `(state, x of real rows [N], mask [N]) -> state`, unchanged without any row.
    """

    init: Callable[[chex.PRNGKey], FlowState]
    standardize: Callable[[FlowState, Segments], FlowState]
    inputs: Callable[[FlowState, Transition], chex.Array]
    train: Callable[..., tuple[FlowState, dict[str, chex.Array]]]
    log_ratio: Callable[[FlowState, chex.Array], chex.Array]
    clip_score: Callable[[chex.Array], chex.Array]
    score: Callable[[FlowState, chex.Array], chex.Array]
    recentre: Callable[[FlowState, chex.Array, chex.Array], FlowState]
    sees_reward: bool  # whether the divergence covers the reward and how the policy has moved


def make_estimator(config: ConfigDict, spec: EnvSpec) -> Estimator:
    """Builds the estimator of a resolved configuration (its `flow` block)."""
    hyper = config.flow
    parts = [PARTS[name] for name in INPUTS[hyper.inputs]]
    size, marginal_size = input_size(hyper.inputs, spec), input_size("sa", spec)
    soft_clip = coupled.SOFT_CLIPS[hyper.score_form]
    joint, marginal = _make_pair(hyper, size), _make_pair(hyper, marginal_size)

    def init(key: chex.PRNGKey) -> FlowState:
        joint_key, marginal_key = jax.random.split(key)
        return FlowState(
            joint=joint.init(joint_key),
            marginal=marginal.init(marginal_key) if hyper.conditional else (),
            normalizer=normalizer.identity(size),
            centre=jnp.zeros(()),
        )

    def raw_inputs(transition: Transition) -> chex.Array:
        return jnp.concatenate([part(transition) for part in parts], axis=-1)

    def standardize(state: FlowState, real: Segments) -> FlowState:
        rows = raw_inputs(real.transition).reshape(-1, size)
        fitted = normalizer.fit(rows, real.valid.reshape(-1))
        return state.replace(normalizer=fitted)

    def inputs(state: FlowState, transition: Transition) -> chex.Array:
        z = state.normalizer.normalize(raw_inputs(transition))
        return jnp.clip(z, -LARGEST_Z, LARGEST_Z)

    def train(
        state: FlowState, model: Pool, real: Pool, num_steps: chex.Numeric, key: chex.PRNGKey
    ) -> tuple[FlowState, dict[str, chex.Array]]:
        def step(index: chex.Array, carry):
            state, _ = carry
            keys = jax.random.split(jax.random.fold_in(key, index), 4)
            model_z = model.draw(keys[0], hyper.batch_size)
            real_z = real.draw(keys[1], hyper.batch_size)
            new, metrics = joint.step(state.joint, model_z, real_z, keys[2])
            state = state.replace(joint=new)
            if hyper.conditional:
                new, _ = marginal.step(
                    state.marginal,
                    model_z[:, :marginal_size],
                    real_z[:, :marginal_size],
                    keys[3],
                )
                state = state.replace(marginal=new)
            return state, metrics

        example = jnp.zeros((hyper.batch_size, size))
        _, metrics = jax.eval_shape(joint.step, state.joint, example, example, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)
        return jax.lax.fori_loop(0, num_steps, step, (state, zeros))

    def log_ratio(state: FlowState, z: chex.Array) -> chex.Array:
        x = joint.log_ratio(state.joint, z)
        if hyper.conditional:
            x = x - marginal.log_ratio(state.marginal, z[..., :marginal_size])
        return x

    def clip_score(x: chex.Array) -> chex.Array:
        return soft_clip(x, hyper.score_cap)

    def score(state: FlowState, z: chex.Array) -> chex.Array:
        return clip_score(log_ratio(state, z))

    def recentre(state: FlowState, x: chex.Array, mask: chex.Array) -> FlowState:
        fitted = coupled.log_mean_exp(coupled.squashed(x, hyper.squash), mask)
        return state.replace(centre=jnp.where(mask.any(), fitted, state.centre))

    return Estimator(
        init=init,
        standardize=standardize,
        inputs=inputs,
        train=train,
        log_ratio=log_ratio,
        clip_score=clip_score,
        score=score,
        recentre=recentre,
        sees_reward="reward" in INPUTS[hyper.inputs] and not hyper.conditional,
    )


def _make_pair(hyper: ConfigDict, size: int) -> coupled.CoupledFlows:
    """Builds one pair of flows over vectors of `size` entries, with its optimiser."""
    likelihood_steps, coupled_steps = hyper.warmup_steps
    schedule = optax.cosine_decay_schedule(
        hyper.warmup_learning_rate,
        max(likelihood_steps + coupled_steps, 1),
        alpha=hyper.learning_rate / hyper.warmup_learning_rate,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), optax.adam(schedule))
    flow = coupling.make_flow(
        size,
        kind=hyper.kind,
        num_layers=hyper.num_layers,
        hidden_width=hyper.hidden_width,
        hidden_depth=hyper.hidden_depth,
    )
    return coupled.make_coupled(
        flow,
        optimizer,
        squash=hyper.squash,
        dv_weight=hyper.dv_weight,
        nll_weight=hyper.nll_weight,
        nll_only_steps=likelihood_steps,
        smoothing=hyper.smoothing,
        smoothing_form=hyper.smoothing_form,
    )
