"""Multilayer perceptrons, alone and as ensembles with a leading member axis."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

glorot_uniform = nn.initializers.glorot_uniform()


class MLP(nn.Module):
    """`depth` hidden layers of `width` units and a linear head of `outputs` units, biases zero."""

    outputs: int
    width: int
    depth: int
    layer_norm: bool = False  # before every activation
    activation: Callable[[chex.Array], chex.Array] = nn.relu
    kernel_init: nn.initializers.Initializer = glorot_uniform
    head_init: nn.initializers.Initializer | None = None  # of the last layer; None: the same

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps x [..., I] to [..., outputs]."""
        for layer in range(self.depth):
            x = nn.Dense(self.width, kernel_init=self.kernel_init, name=f"layer_{layer}")(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
        head_init = self.head_init or self.kernel_init
        return nn.Dense(self.outputs, kernel_init=head_init, name=f"layer_{self.depth}")(x)


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
