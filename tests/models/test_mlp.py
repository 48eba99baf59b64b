"""Networks against a numpy forward pass."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import mlp
from models.ensemble import INITIALIZERS
from models.mlp import MLP, init_ensemble


def randomized(params, seed):
    """The same tree with every number redrawn: biases and scales are not zero or one any more."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), params)


def numpy_forward(params, x, depth, layer_norm):
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    for index in range(depth):
        x = x @ layers[f"layer_{index}"]["kernel"] + layers[f"layer_{index}"]["bias"]
        if layer_norm:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * layers[f"LayerNorm_{index}"]["scale"] + layers[f"LayerNorm_{index}"]["bias"]
        x = np.maximum(x, 0.0)
    return x @ layers[f"layer_{depth}"]["kernel"] + layers[f"layer_{depth}"]["bias"]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_network_is_numpys_forward_pass(depth, layer_norm):
    net = MLP(2, width=5, depth=depth, layer_norm=layer_norm)
    params = randomized(net.init(jax.random.key(0), jnp.zeros(3)), seed=1)
    x = np.random.default_rng(2).normal(size=(4, 3))
    got = net.apply(params, jnp.float32(x))
    np.testing.assert_allclose(got, numpy_forward(params, x, depth, layer_norm), rtol=1e-4)


def rounded(x):
    """The nearest numbers that bfloat16 has, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def test_products_in_bfloat16_round_the_factors_and_nothing_else():
    params = MLP(4, 64, 1).init(jax.random.key(0), jnp.zeros(16))
    x = jax.random.normal(jax.random.key(1), (32, 16))
    own = jax.tree.map(np.asarray, params["params"])
    hidden = rounded(x) @ rounded(own["layer_0"]["kernel"]) + own["layer_0"]["bias"]
    expected = rounded(np.maximum(hidden, 0)) @ rounded(own["layer_1"]["kernel"])
    found = MLP(4, 64, 1, precision="bfloat16").apply(params, x)
    assert found.dtype == jnp.float32
    # a sum that is rounded otherwise may round to the neighbour, 2^-8 of one of 64 terms
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - MLP(4, 64, 1).apply(params, x)).max() > 2e-3


@pytest.mark.parametrize("members", [None, 3])
def test_the_gradients_of_a_bfloat16_layer_are_products_of_rounded_factors(members):
    rng = np.random.default_rng(0)
    leading = () if members is None else (members,)
    shapes = (40, 24), (24, 16), (16,), (40, 16)  # x, kernel, bias, the gradient from above
    x, kernel, bias, above = (np.float32(rng.normal(size=(*leading, *shape))) for shape in shapes)
    layer = mlp.affine_bfloat16 if members is None else jax.vmap(mlp.affine_bfloat16)
    value, pull_back = jax.jit(lambda *args: jax.vjp(layer, *args))(x, kernel, bias)
    found = pull_back(above)
    x, kernel, above = (np.float64(rounded(factor)) for factor in (x, kernel, above))
    np.testing.assert_allclose(value, x @ kernel + bias[..., None, :], rtol=1e-5, atol=1e-5)
    x_t, kernel_t = (np.swapaxes(factor, -1, -2) for factor in (x, kernel))
    expected = above @ kernel_t, x_t @ above, above.sum(axis=-2)
    for actual, desired in zip(found, expected):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-4)


def test_the_number_of_parameters_of_a_sac_policy_for_hopper():
    params = MLP(6, width=256, depth=2).init(jax.random.key(0), jnp.zeros(11))
    by_hand = (11 * 256 + 256) + (256 * 256 + 256) + (256 * 6 + 6)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == by_hand


def test_biases_start_at_zero_and_weights_within_glorots_bound():
    layers = MLP(2, width=50, depth=1).init(jax.random.key(0), jnp.zeros(30))["params"]
    for layer, (fan_in, fan_out) in {"layer_0": (30, 50), "layer_1": (50, 2)}.items():
        bound = np.sqrt(6.0 / (fan_in + fan_out))
        largest = np.abs(layers[layer]["kernel"]).max()
        assert 0.9 * bound < largest <= bound
        np.testing.assert_array_equal(layers[layer]["bias"], np.zeros(fan_out))


def test_the_head_can_have_an_initialiser_of_its_own():
    short = mlp.scaled(mlp.glorot_uniform, 0.25)
    plain, scaled = (
        MLP(2, width=5, depth=1, head_init=init).init(jax.random.key(0), jnp.zeros(3))["params"]
        for init in (None, short)
    )
    np.testing.assert_array_equal(scaled["layer_0"]["kernel"], plain["layer_0"]["kernel"])
    np.testing.assert_allclose(scaled["layer_1"]["kernel"], 0.25 * plain["layer_1"]["kernel"])
    assert np.abs(scaled["layer_1"]["kernel"]).min() > 0.0
    np.testing.assert_array_equal(scaled["layer_1"]["bias"], np.zeros(2))


def test_halves_of_the_outputs_are_drawn_on_their_own():
    init = mlp.in_halves(nn.initializers.orthogonal(3.0))
    weights = np.asarray(init(jax.random.key(0), (5, 4), jnp.float32))
    assert weights.shape == (5, 4)
    for half in (weights[:, :2], weights[:, 2:]):
        np.testing.assert_allclose(half.T @ half, 9.0 * np.eye(2), atol=1e-5)
    assert np.abs(weights[:, :2].T @ weights[:, 2:]).max() > 0.1
    assert init(jax.random.key(0), (5, 2)).dtype == jnp.float32


def test_the_members_of_an_ensemble_start_uncorrelated():
    params = init_ensemble(MLP(1, width=40, depth=1), jax.random.key(0), num=3, inputs=50)
    weights = np.asarray(params["params"]["layer_0"]["kernel"]).reshape(3, -1)
    correlation = np.corrcoef(weights) - np.eye(3)
    assert np.abs(correlation).max() < 5.0 / np.sqrt(2_000)  # 2,000 weights each


def test_pytorchs_initialiser_draws_weights_and_biases_within_one_over_root_fan_in():
    init = INITIALIZERS["torch"]
    net = MLP(400, 300, 1, kernel_init=init.hidden, head_init=init.head, uniform_bias=True)
    layers = net.init(jax.random.key(0), jnp.zeros(25))["params"]
    assert init.uniform_bias
    for layer, fan_in in {"layer_0": 25, "layer_1": 300}.items():
        for leaf in layers[layer].values():
            bound = 1 / np.sqrt(fan_in)
            assert 0.97 * bound < np.abs(leaf).max() <= bound
            np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.1)
            assert abs(np.mean(leaf)) < 0.2 * bound


def test_orthogonal_weights_are_drawn_one_matrix_after_the_other():
    # a batch of decompositions can stand still where there are as many devices as cores
    net = MLP(2, 8, 2, kernel_init=mlp.orthogonal(3.0))
    keys = jax.random.split(jax.random.key(0), 4)
    text = jax.jit(jax.vmap(lambda key: init_ensemble(net, key, 5, 6))).lower(keys).as_text()
    decompositions = [line for line in text.splitlines() if "geqrf" in line]
    assert decompositions
    assert not [line for line in decompositions if re.search(r"tensor<\d+x\d+x\d+x", line)]
    kernel = init_ensemble(net, keys[0], 5, 6)["params"]["layer_1"]["kernel"]
    for k in range(5):
        np.testing.assert_allclose(kernel[k].T @ kernel[k], 9.0 * np.eye(8), atol=1e-5)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_dropping_zeroes_a_share_and_scales_up_the_rest():
    x = jnp.full((400, 50), 2.0)
    dropped = np.asarray(mlp.drop(jax.random.key(0), x, 0.02))
    assert set(np.unique(dropped)) == {0.0, np.float32(2.0 / 0.98)}
    # 400 of 20,000 places, drawn with replacement: about four are drawn twice
    assert 385 <= np.sum(dropped == 0) <= 400
    assert not np.array_equal(dropped, mlp.drop(jax.random.key(1), x, 0.02))


def test_hidden_units_are_dropped_before_the_norm_where_there_is_a_key(monkeypatch):
    calls = []

    def drop(key, x, rate):
        calls.append((x.shape, rate))
        return jnp.zeros_like(x)

    monkeypatch.setattr(mlp, "drop", drop)
    net = MLP(2, width=5, depth=3, layer_norm=True, dropout=0.1)
    params = randomized(net.init(jax.random.key(0), jnp.zeros(3)), seed=1)
    x = np.random.default_rng(2).normal(size=(4, 3))
    without = net.apply(params, jnp.float32(x))
    np.testing.assert_allclose(without, numpy_forward(params, x, 3, True), rtol=1e-4)
    assert not calls
    dropped = net.apply(params, jnp.float32(x), rngs={mlp.DROPOUT: jax.random.key(3)})
    assert calls == [((4, 5), 0.1)] * 3
    # a norm of zeros is its bias: nothing of x is left, the head's units are not dropped
    constants = params["params"]
    hidden = np.maximum(constants["LayerNorm_2"]["bias"], 0.0)
    expected = hidden @ constants["layer_3"]["kernel"] + constants["layer_3"]["bias"]
    np.testing.assert_allclose(dropped, np.broadcast_to(expected, (4, 2)), rtol=1e-4)
