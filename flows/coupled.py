"""The density ratio of generated to real data, from two flows trained together.

Coupled flow imitation learning (CFIL, Freund et al. 2023). With p a flow for the data that a model
and a policy generate and q a flow for the real data, x = log p - log q is both a log-ratio of
normalised densities and the critic of the bound of Donsker and Varadhan (1983) on the divergence,

  KL(model || real) = sup_x E_model[x] - log E_real[e^x].

Each flow is evaluated on both batches, so that neither is asked about data it has never seen.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from flows.coupling import Flow

Squash = tuple[chex.Numeric, chex.Numeric]
"""(a, b) of b tanh(x / a)."""

Metrics = dict[str, chex.Array]

SMOOTHING_OFFSET = 1e-3  # CFIL; lets dimensions that are exactly zero move too


class CoupledState(struct.PyTreeNode):
    """Everything the training of a pair of flows carries."""

    model: chex.ArrayTree  # parameters of p, the density of what model and policy generate
    real: chex.ArrayTree  # parameters of q, the density of real data
    optimizer: optax.OptState  # of (model, real), in this order
    steps: chex.Array  # int32 [], gradient steps done


class CoupledFlows(NamedTuple):
    """The functions of one pair of flows.

    Attributes:
      init: `(key) -> CoupledState`. Both flows start as N(0, I), so that the log-ratio is zero.
      log_ratio: `(state, z [..., D]) -> x [...]`, in nats: log p_model(z) - log p_real(z), high
        where z looks generated. Neither squashed nor centred.
      step: `(state, model_z [B, D], real_z [B', D], key) -> (state, metrics)`, one gradient step
        on smoothed batches. Consumes `key`.
    """

    init: Callable[[chex.PRNGKey], CoupledState]
    log_ratio: Callable[[CoupledState, chex.Array], chex.Array]
    step: Callable[
        [CoupledState, chex.Array, chex.Array, chex.PRNGKey], tuple[CoupledState, Metrics]
    ]


def squashed(x: chex.Array, squash: Squash) -> chex.Array:
    """Returns b tanh(x / a), for (a, b) = `squash`: what bounds the influence of one row (CFIL)."""
    a, b = squash
    return b * jnp.tanh(x / a)


SOFT_CLIPS: dict[str, Callable[[chex.Array, chex.Numeric], chex.Array]] = {
    "asinh": lambda x, cap: cap * jnp.arcsinh(x / cap),
    "tanh": lambda x, cap: cap * jnp.tanh(x / cap),
}
"""Odd, increasing functions of x that are x itself far below the cap. The first grows on like a
logarithm: it keeps the order of the worst scores, and a gradient to improve them."""


def log_mean_exp(x: chex.Array, mask: chex.Array | None = None) -> chex.Array:
    """Returns log mean exp(x) [] over the rows of x [N] that `mask` [N] selects; all if None.

    At least one row must be selected: of none it is nan.
    """
    chex.assert_rank(x, 1)
    selected = jnp.ones(x.shape, bool) if mask is None else mask
    return jax.nn.logsumexp(x, where=selected) - jnp.log(selected.sum())


def donsker_varadhan(
    x_model: chex.Array,
    x_real: chex.Array,
    model_mask: chex.Array | None = None,
    real_mask: chex.Array | None = None,
) -> chex.Array:
    """Returns E_model[x] - log E_real[e^x], in nats.

    In expectation over fresh rows a lower bound on KL(model || real), for any function x; tight for
    the log-ratio plus any constant (Donsker and Varadhan 1983). Small samples overestimate it, and
    a few real rows with a large x dominate it: squash x first.

    Args:
      x_model: x on generated rows [N].
      x_real: x on real rows [K].
      model_mask: bool [N], the rows that count; all if None.
      real_mask: bool [K], likewise.

    Returns:
      []; nan if one side is empty.
    """
    chex.assert_rank([x_model, x_real], 1)
    return jnp.mean(x_model, where=model_mask) - log_mean_exp(x_real, real_mask)


def _gaussian(z: chex.Array, scale: chex.Numeric, key: chex.PRNGKey) -> chex.Array:
    """Returns z + scale n, n ~ N(0, I). Consumes `key`.

    The same noise on both sides cannot raise their divergence, and it keeps finite the one between
    a simulator's thin manifold and a model with noise around it.
    """
    return z + scale * jax.random.normal(key, z.shape)


def _multiplicative(z: chex.Array, scale: chex.Numeric, key: chex.PRNGKey) -> chex.Array:
    """Returns z + scale (z + 0.001) u, u ~ U(-1/2, 1/2), as in CFIL. Consumes `key`."""
    return z + scale * (z + SMOOTHING_OFFSET) * jax.random.uniform(
        key, z.shape, minval=-0.5, maxval=0.5
    )


SMOOTHING_FORMS = {"gaussian": _gaussian, "multiplicative": _multiplicative}


def make_coupled(
    flow: Flow,
    optimizer: optax.GradientTransformation,
    *,
    squash: Squash,
    dv_weight: chex.Numeric,
    nll_weight: chex.Numeric,
    nll_only_steps: int,
    smoothing: chex.Numeric,
    smoothing_form: str,
) -> CoupledFlows:
    """Builds a pair of flows of one architecture.

    The loss (CFIL) is -dv_weight DV(b tanh(x / a)) - nll_weight (E_model[log p] + E_real[log q]).

    Args:
      flow: the architecture.
      optimizer: of both parameter sets together; clipping belongs to it.
      squash: (a, b). With a = b the slope at 0 is one and the two terms agree on x; the bound
        never exceeds 2 b.
      dv_weight: 0 fits the two flows independently.
      nll_weight: 0 leaves the constant in x undetermined.
      nll_only_steps: leave out the first term for so many steps.
      smoothing: scale of the noise added to both batches, in units of z; 0 for none.
      smoothing_form: a name in `SMOOTHING_FORMS`.

    Raises:
      ValueError: if the form of smoothing is unknown.
    """
    if smoothing_form not in SMOOTHING_FORMS:
        raise ValueError(
            f"There is no smoothing form {smoothing_form!r}. "
            f"Choose from: {', '.join(SMOOTHING_FORMS)}."
        )
    smooth = partial(SMOOTHING_FORMS[smoothing_form], scale=smoothing)

    def init(key: chex.PRNGKey) -> CoupledState:
        model_key, real_key = jax.random.split(key)
        model, real = flow.init(model_key), flow.init(real_key)
        return CoupledState(
            model=model,
            real=real,
            optimizer=optimizer.init((model, real)),
            steps=jnp.zeros((), jnp.int32),
        )

    def log_ratio(state: CoupledState, z: chex.Array) -> chex.Array:
        return flow.log_prob(state.model, z) - flow.log_prob(state.real, z)

    def loss(params, model_z: chex.Array, real_z: chex.Array, dv_on: chex.Array):
        z = jnp.concatenate([model_z, real_z])
        log_p, log_q = (flow.log_prob(flow_params, z) for flow_params in params)
        rows = len(model_z)
        x = squashed(log_p - log_q, squash)
        dv = donsker_varadhan(x[:rows], x[rows:])
        nll = -log_p[:rows].mean() - log_q[rows:].mean()
        metrics = {"flow/train_dv": dv, "flow/train_nll": 0.5 * nll}
        return nll_weight * nll - dv_weight * dv_on * dv, metrics

    def step(
        state: CoupledState, model_z: chex.Array, real_z: chex.Array, key: chex.PRNGKey
    ) -> tuple[CoupledState, Metrics]:
        model_key, real_key = jax.random.split(key)
        params = state.model, state.real
        grads, metrics = jax.grad(loss, has_aux=True)(
            params,
            smooth(model_z, key=model_key),
            smooth(real_z, key=real_key),
            state.steps >= nll_only_steps,
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, params)
        model, real = optax.apply_updates(params, updates)
        state = CoupledState(
            model=model, real=real, optimizer=optimizer_state, steps=state.steps + 1
        )
        return state, metrics

    return CoupledFlows(init, log_ratio, step)
