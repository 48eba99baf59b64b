"""Value-aware losses of ONE row, as functions of values and their gradients.

S is the number of samples of the model's prediction. The published codes take one; from two on,
`squared` is unbiased for the square of the expectation, which is what the papers write.
"""

import chex
import jax.numpy as jnp


def absolute(error: chex.Array) -> chex.Array:
    """Returns |E error| [...] from samples [S, ...].

    Exact for one sample of a deterministic model; otherwise an upper bound in expectation, by
    Jensen's inequality.
    """
    return jnp.abs(error.mean(axis=0))


def squared(error: chex.Array) -> chex.Array:
    """Returns an estimate of (E error)^2 [...] from samples [S, ...].

    With S > 1 the mean of all products of two different samples, which has no bias (and can be
    negative); with S = 1 the square, whose expectation is larger by the variance.
    """
    samples = error.shape[0]
    if samples == 1:
        return jnp.square(error[0])
    products = jnp.square(error.sum(axis=0)) - jnp.square(error).sum(axis=0)
    return products / (samples * (samples - 1))


def model_advantage(v_t: chex.Array, predicted_v_t: chex.Array) -> chex.Array:
    """Returns V(s') - V(model's s') [S] (Modhe et al. 2021, arXiv 2106.14080, up to discount).

    `absolute` of it is MA-L1, `squared` of it VAML with the current value (Farahmand 2018).
    """
    chex.assert_rank([v_t, predicted_v_t], [0, 1])
    return v_t - predicted_v_t


def bellman_difference(
    r_t: chex.Array,
    discount_t: chex.Array,
    v_t: chex.Array,
    predicted_r_t: chex.Array,
    predicted_discount_t: chex.Array,
    predicted_v_t: chex.Array,
) -> chex.Array:
    """Returns (T v)(s, a) of the environment minus that of the model [S].

    `squared` of it, averaged over functions v, is the value-equivalence loss of Grimm et al. 2020
    (arXiv 2011.03506, eq. 4): reward and value inside one square.
    """
    chex.assert_rank([r_t, discount_t, v_t], 0)
    chex.assert_rank([predicted_r_t, predicted_discount_t, predicted_v_t], 1)
    return r_t + discount_t * v_t - (predicted_r_t + predicted_discount_t * predicted_v_t)


def vagram_bounded(value_gradient: chex.Array, error: chex.Array) -> chex.Array:
    """Returns sum_d (dV/ds'_d)^2 (error_d)^2 from a gradient [O] and errors [S, O] of s'.

    Voelcker et al. 2022 (arXiv 2204.01464, eq. 9): the first-order expansion of VAML at the real
    next state, without the products of two dimensions.
    """
    chex.assert_rank([value_gradient, error], [1, 2])
    return squared(value_gradient[None] * error).sum(axis=-1)


def vagram_taylor(value_gradient: chex.Array, error: chex.Array) -> chex.Array:
    """Returns (sum_d dV/ds'_d error_d)^2: the same expansion with the products."""
    chex.assert_rank([value_gradient, error], [1, 2])
    return squared(error @ value_gradient)


def clip_norms(vectors: chex.Array, quantile: float) -> chex.Array:
    """Shortens vectors [..., B, O] that are longer than that quantile of the B lengths.

    Voelcker et al. 2022, section 4.2, against states where the value is not smooth.
    """
    norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    longest = jnp.quantile(norms, quantile, axis=-2, keepdims=True)
    return vectors * jnp.minimum(1.0, longest / jnp.maximum(norms, 1e-12))
