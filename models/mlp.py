"""Multilayer perceptrons, alone and as ensembles with a leading member axis."""

import math
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

glorot_uniform = nn.initializers.glorot_uniform()

DROPOUT = "dropout"  # the name of the key that draws which units are dropped

Affine = Callable[[chex.Array, chex.Array, chex.Array], chex.Array]
"""`(x [B, I], kernel [I, J], bias [J]) -> [B, J]`."""


def affine(x: chex.Array, kernel: chex.Array, bias: chex.Array) -> chex.Array:
    """Returns x W + b."""
    return jnp.matmul(x, kernel) + bias[None]


def _rounded(left: chex.Array, right: chex.Array) -> chex.Array:
    """Returns the product of factors rounded to bfloat16; sums are float32."""
    left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


@jax.custom_vjp
def affine_bfloat16(x: chex.Array, kernel: chex.Array, bias: chex.Array) -> chex.Array:
    """Returns x W + b with products, those of its gradients included, of bfloat16 factors."""
    return _rounded(x, kernel) + bias[None]


def _affine_forward(x: chex.Array, kernel: chex.Array, bias: chex.Array) -> tuple:
    return affine_bfloat16(x, kernel, bias), (x, kernel)


def _affine_backward(residuals: tuple, grad: chex.Array) -> tuple[chex.Array, ...]:
    x, kernel = residuals
    # XLA's fast kernels contract the last axis of the left factor. It would fold a transposition
    # alone into the product; that of a matrix with a row of ones, which gives the bias, stays.
    ones = jnp.ones((*x.shape[:-1], 1), x.dtype)
    extended = jnp.swapaxes(jnp.concatenate([x, ones], axis=-1), -1, -2)
    both = _rounded(extended, grad)
    return _rounded(grad, jnp.swapaxes(kernel, -1, -2)), both[..., :-1, :], both[..., -1, :]


affine_bfloat16.defvjp(_affine_forward, _affine_backward)

PRODUCTS: dict[str, Affine] = {"float32": affine, "bfloat16": affine_bfloat16}
"""Precision of the factors -> what a layer computes; parameters are float32 in any case."""


class Dense(nn.Module):
    """x W + b with the parameters `kernel` [I, J] and `bias` [J] of flax's layer of that name."""

    units: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer
    precision: str

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps x [..., I] to [..., J]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.units))
        bias = self.param("bias", self.bias_init, (self.units,))
        rows = PRODUCTS[self.precision](x.reshape(-1, x.shape[-1]), kernel, bias)
        return rows.reshape(*x.shape[:-1], self.units)


class MLP(nn.Module):
    """`depth` hidden layers of `width` units and a linear head of `outputs` units."""

    outputs: int
    width: int
    depth: int
    layer_norm: bool = False  # before every activation
    dropout: float = 0.0  # share of hidden units zeroed, before that, where `apply` has such a key
    activation: Callable[[chex.Array], chex.Array] = nn.relu
    kernel_init: nn.initializers.Initializer = glorot_uniform
    head_init: nn.initializers.Initializer | None = None  # of the last layer; None: the same
    uniform_bias: bool = False  # biases are drawn within 1 / sqrt(fan_in), as PyTorch does; else 0
    precision: str = "float32"  # a name of `PRODUCTS`

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps x [..., I] to [..., outputs]."""
        for layer in range(self.depth):
            x = self._dense(layer, self.width, self.kernel_init, x)
            if self.dropout and self.has_rng(DROPOUT):
                x = drop(self.make_rng(DROPOUT), x, self.dropout)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
        head_init = self.head_init or self.kernel_init
        return self._dense(self.depth, self.outputs, head_init, x)

    def _dense(
        self, layer: int, units: int, init: nn.initializers.Initializer, x: chex.Array
    ) -> chex.Array:
        bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
        if self.uniform_bias:
            bias_init = uniform_within(1.0 / math.sqrt(x.shape[-1]))
        return Dense(units, init, bias_init, self.precision, name=f"layer_{layer}")(x)


def drop(key: chex.PRNGKey, x: chex.Array, rate: float) -> chex.Array:
    """Returns x with a share of its values zeroed, the others divided by the share that is kept.

    The places are drawn with replacement, which takes one random number per zero: for small rates
    it is 20 times as fast on CPU as one per value, and the share is short of `rate` by half its
    square.
    """
    places = jax.random.randint(key, (round(rate * x.size),), 0, x.size)
    return x.reshape(-1).at[places].set(0.0).reshape(x.shape) / (1.0 - rate)


def uniform_within(bound: float) -> nn.initializers.Initializer:
    """Returns the initialiser that draws uniformly from [-bound, bound]."""

    def init(
        key: chex.PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
    ) -> chex.Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def orthogonal(gain: float) -> nn.initializers.Initializer:
    """Returns the initialiser that draws orthogonal matrices, under `jax.vmap` one after the other.

    A batch of QR decompositions waits for threads of the pool that it runs in itself: with as many
    devices as cores such a program can stand still forever (jaxlib 0.10.2 on CPU).

    Args:
      gain: factor of the weights (Saxe et al. 2014, arXiv 1312.6120).
    """
    init = nn.initializers.orthogonal(gain)

    def one_by_one(
        key: chex.PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
    ) -> chex.Array:
        return jax.custom_batching.sequential_vmap(lambda key: init(key, shape, dtype))(key)

    return one_by_one


def scaled(init: nn.initializers.Initializer, scale: float) -> nn.initializers.Initializer:
    """Returns the initialiser whose weights are `scale` times those of `init`."""
    return lambda *args: scale * init(*args)


def in_halves(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Returns the initialiser that draws the two halves of the outputs independently by `init`."""

    def halves(key: chex.PRNGKey, shape: tuple[int, ...], *dtype: jnp.dtype) -> chex.Array:
        half = (*shape[:-1], shape[-1] // 2)
        return jnp.concatenate([init(key, half, *dtype) for key in jax.random.split(key)], axis=-1)

    return halves


def init_ensemble(net: nn.Module, key: chex.PRNGKey, num: int, inputs: int) -> chex.ArrayTree:
    """Returns parameters of `num` independently initialised networks, stacked on a leading axis."""
    return jax.vmap(net.init, in_axes=(0, None))(jax.random.split(key, num), jnp.zeros(inputs))
