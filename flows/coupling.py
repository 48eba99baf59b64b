"""Normalising flows of masked coupling layers: densities that can be evaluated exactly.

RealNVP (Dinh et al. 2017, arXiv 1605.08803) and neural spline flows (Durkan et al. 2019, arXiv
1906.04032). There is no batch normalisation, so the density of a row does not depend on the others.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np

from models.mlp import MLP

# Chosen by us, for inputs that are standardised.
LARGEST_LOG_SCALE = 2.0  # one affine layer stretches or shrinks a dimension by at most e^2
SPLINE_BINS = 8
SPLINE_RANGE = 5.0  # splines are the identity outside [-5, 5]
SPLINE_SMALLEST_BIN = 1e-3  # and smallest slope at a knot: the inverse needs both in float32
FEW_DIMENSIONS = 8  # up to here every layer alternates between even and odd dimensions
PERMUTATION_SEED = 0


class Flow(NamedTuple):
    """A density over vectors of size D, and the bijection to the latent space of its base.

    Attributes:
      init: `(key) -> params`. The bijection starts as the identity, the density as N(0, I).
      log_prob: `(params, z [..., D]) -> [...]`, in nats.
      forward: `(params, z [..., D]) -> (latent [..., D], log |det d latent / dz| [...])`.
      inverse: `(params, latent [..., D]) -> (z [..., D], log |det dz / d latent| [...])`; for
        splines it costs more than `forward`, and float32 loses digits where they are steep.
    """

    init: Callable[[chex.PRNGKey], chex.ArrayTree]
    log_prob: Callable[[chex.ArrayTree, chex.Array], chex.Array]
    forward: Callable[[chex.ArrayTree, chex.Array], tuple[chex.Array, chex.Array]]
    inverse: Callable[[chex.ArrayTree, chex.Array], tuple[chex.Array, chex.Array]]


class Elementwise(NamedTuple):
    """A family of increasing maps of one number, the identity where all parameters are zero.

    Attributes:
      num_params: P, parameters of one map.
      bijector: `(parameters of D maps [..., P D]) -> bijector` of [..., D].
    """

    num_params: int
    bijector: Callable[[chex.Array], distrax.Bijector]


def _affine(raw: chex.Array) -> distrax.Bijector:
    """Maps z to z e^s + t (Dinh et al. 2017, equation 4), the log-scale s bounded smoothly."""
    shift, raw_log_scale = jnp.split(raw, 2, axis=-1)
    log_scale = LARGEST_LOG_SCALE * jnp.tanh(raw_log_scale / LARGEST_LOG_SCALE)
    return distrax.ScalarAffine(shift, log_scale=log_scale)


def _spline(raw: chex.Array) -> distrax.Bijector:
    """The monotonic rational-quadratic spline of Durkan et al. 2019, section 3.1."""
    return distrax.RationalQuadraticSpline(
        raw.reshape(*raw.shape[:-1], -1, FLOW_KINDS["spline"].num_params),
        range_min=-SPLINE_RANGE,
        range_max=SPLINE_RANGE,
        boundary_slopes="identity",
        min_bin_size=SPLINE_SMALLEST_BIN,
        min_knot_slope=SPLINE_SMALLEST_BIN,
    )


FLOW_KINDS = {
    "affine": Elementwise(2, _affine),
    "spline": Elementwise(3 * SPLINE_BINS + 1, _spline),  # widths, heights, slopes at the knots
}


def coupling_masks(size: int, num_layers: int) -> np.ndarray:
    """Returns bool masks [num_layers, size], True where a layer passes its input through.

    Layers come in pairs that transform complementary halves: the even and the odd positions, in the
    order of the dimensions or, beyond `FEW_DIMENSIONS` of them, in a random order for every pair.
    The order is the same in every run.
    """
    rng = np.random.default_rng(PERMUTATION_SEED)
    position = np.arange(size)
    masks = np.empty((num_layers, size), bool)
    for layer in range(num_layers):
        if layer % 2 == 0 and size > FEW_DIMENSIONS:
            position = rng.permutation(size)
        masks[layer] = (position + layer) % 2 == 1
    return masks


def make_flow(
    size: int, *, kind: str, num_layers: int, hidden_width: int, hidden_depth: int
) -> Flow:
    """Builds a stack of coupling layers over a diagonal Gaussian whose mean and scale are learnt.

    With D = 1 every layer has either nothing to transform or nothing to condition on: the flow is
    valid, but its layers are constants. One layer alone leaves half of the dimensions Gaussian.

    Args:
      size: D.
      kind: a name in `FLOW_KINDS`.
      num_layers: coupling layers; an even number treats all dimensions alike.
      hidden_width: units of a hidden layer of the conditioners, one ReLU MLP per coupling layer.
      hidden_depth: their number of hidden layers.

    Raises:
      ValueError: if the kind is unknown, or there is no dimension or no layer.
    """
    if kind not in FLOW_KINDS:
        raise ValueError(f"There is no flow kind {kind!r}. Choose from: {', '.join(FLOW_KINDS)}.")
    if size < 1 or num_layers < 1:
        raise ValueError(f"size={size} and num_layers={num_layers} must both be at least 1.")
    num_params, bijector = FLOW_KINDS[kind]
    masks = coupling_masks(size, num_layers)
    net = MLP(size * num_params, hidden_width, hidden_depth)

    def init_conditioner(key: chex.PRNGKey) -> chex.ArrayTree:
        layers = net.init(key, jnp.zeros(size))["params"]
        head = f"layer_{hidden_depth}"
        return {"params": layers | {head: jax.tree.map(jnp.zeros_like, layers[head])}}

    def init(key: chex.PRNGKey) -> chex.ArrayTree:
        return {
            # Not stacked: one matrix product per layer is faster on CPU than a scan.
            "conditioners": tuple(init_conditioner(k) for k in jax.random.split(key, num_layers)),
            "loc": jnp.zeros(size, jnp.float32),
            "log_scale": jnp.zeros(size, jnp.float32),
        }

    def to_latent(params: chex.ArrayTree, shape: tuple[int, ...]) -> distrax.Bijector:
        layers = [
            distrax.MaskedCoupling(
                jnp.broadcast_to(mask, shape),
                lambda z, weights=weights: net.apply(weights, z),
                bijector,
                event_ndims=1,
            )
            for mask, weights in zip(masks, params["conditioners"])
        ]
        return distrax.Chain(layers[::-1])  # it applies the last one first

    def forward(params: chex.ArrayTree, z: chex.Array) -> tuple[chex.Array, chex.Array]:
        return to_latent(params, z.shape).forward_and_log_det(z)

    def inverse(params: chex.ArrayTree, latent: chex.Array) -> tuple[chex.Array, chex.Array]:
        return to_latent(params, latent.shape).inverse_and_log_det(latent)

    def log_prob(params: chex.ArrayTree, z: chex.Array) -> chex.Array:
        latent, log_det = forward(params, z)
        loc = jnp.broadcast_to(params["loc"], z.shape)
        scale = jnp.broadcast_to(jnp.exp(params["log_scale"]), z.shape)
        return distrax.MultivariateNormalDiag(loc, scale).log_prob(latent) + log_det

    return Flow(init, log_prob, forward, inverse)
