"""Multilayer perceptrons, alone and as ensembles with a leading member axis."""

import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

glorot_uniform = nn.initializers.glorot_uniform()


def in_bfloat16(left: chex.Array, right: chex.Array, dimensions: Any, **options: Any) -> chex.Array:
    """Does what `jax.lax.dot_general` does, of factors rounded to bfloat16; sums are float32."""
    del options
    left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


PRODUCTS: dict[str, Callable[..., chex.Array]] = {
    "float32": jax.lax.dot_general,
    "bfloat16": in_bfloat16,
}
"""Precision of the factors -> matrix products of a layer; parameters are float32 in any case."""


class MLP(nn.Module):
    """`depth` hidden layers of `width` units and a linear head of `outputs` units."""

    outputs: int
    width: int
    depth: int
    layer_norm: bool = False  # before every activation
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
        return nn.Dense(
            units,
            kernel_init=init,
            bias_init=bias_init,
            dot_general=PRODUCTS[self.precision],
            name=f"layer_{layer}",
        )(x)


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
