"""Policy and critics with statistics and bounds against a forward pass in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.scaled_networks import Policy, make_scaled_networks, with_scales
from agents.value_bounds import Bounds
from models.normalizer import Normalizer
from tests.integration import tiny

SPEC = tiny.spec(3, 2)
STATISTICS = Normalizer(jnp.array([1.0, -2.0, 0.3]), jnp.array([2.0, 0.5, 3.0]))
BOUNDS = Bounds(jnp.float32(-3.0), jnp.float32(11.0))  # scale 7, shift 4


def config(**changes):
    fixed = {"sac__hidden_width": 8, "sac__hidden_depth": 2, "sac__num_critics": 3}
    return tiny.config("dhmbpo", "InvertedPendulum-v5", **(fixed | changes))


@functools.cache
def networks(layer_norm=True):
    return make_scaled_networks(config(sac__layer_norm=layer_norm), SPEC)


def redrawn(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(0.5 * rng.normal(size=leaf.shape)), params)


def inputs(rows=6):
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, 3)), np.tanh(rng.normal(size=(rows, 2)))


def forward(params, x, layer_norm):
    """A network with SiLU in float64."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    for index in range(2):
        x = x @ layers[f"layer_{index}"]["kernel"] + layers[f"layer_{index}"]["bias"]
        if layer_norm:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * layers[f"LayerNorm_{index}"]["scale"] + layers[f"LayerNorm_{index}"]["bias"]
        x = x / (1 + np.exp(-x))
    return x @ layers["layer_2"]["kernel"] + layers["layer_2"]["bias"]


def scored(observation):
    return (observation - np.asarray(STATISTICS.mean)) / np.asarray(STATISTICS.std)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_values_are_a_network_of_scored_observations_in_units_of_the_bounds(layer_norm):
    net = networks(layer_norm)
    params = redrawn(net.init_critics(jax.random.key(0)))
    observation, action = inputs()
    found = net.q_values(
        with_scales(params, STATISTICS, BOUNDS), jnp.float32(observation), jnp.float32(action)
    )
    assert found.shape == (3, 6)
    x = np.concatenate([scored(observation), action], axis=1)
    for c in range(3):
        own = jax.tree.map(lambda leaf, c=c: leaf[c], params)
        np.testing.assert_allclose(
            found[c], 7.0 * forward(own, x, layer_norm)[:, 0] + 4.0, rtol=1e-3
        )


def test_an_action_is_so_many_standard_deviations_from_the_mean():
    net = networks()
    params = redrawn(net.init_policy(jax.random.key(0)))
    observation, noise = inputs()
    policy = Policy(params, STATISTICS)
    action, log_prob = net.at(policy, jnp.float32(observation), jnp.float32(noise))
    mean, raw = np.split(forward(params, scored(observation), False), 2, axis=1)
    std = np.log1p(np.exp(raw)) + 1e-5
    z = mean + std * noise
    np.testing.assert_allclose(action, np.tanh(z), rtol=1e-3, atol=1e-5)
    gaussian = -0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    expected = (gaussian - np.log(1 - np.tanh(z) ** 2)).sum(axis=1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3)
    greedy = net.greedy(policy, jnp.float32(observation))
    np.testing.assert_allclose(greedy, np.tanh(mean), rtol=1e-3, atol=1e-5)


def test_the_smallest_standard_deviation_is_the_published_one():
    net = networks()
    params = jax.tree.map(jnp.zeros_like, net.init_policy(jax.random.key(0)))
    params["params"]["layer_2"]["bias"] = jnp.array([0.0, 0.0, -1e3, -1e3])
    noise = jnp.ones((1, 2))
    action, _ = net.at(Policy(params, STATISTICS), jnp.zeros((1, 3)), noise)
    np.testing.assert_allclose(action, 1e-5, rtol=1e-3)


def test_samples_are_standard_normal_noise():
    net = networks()
    params = jax.tree.map(jnp.zeros_like, net.init_policy(jax.random.key(0)))
    policy, observation = Policy(params, STATISTICS), jnp.zeros((10_000, 3))
    action, log_prob = net.sample_and_log_prob(policy, observation, jax.random.key(1))
    z = np.arctanh(np.asarray(action, np.float64)) / (np.log(2.0) + 1e-5)
    # standard errors of mean and std: 0.01 and 0.007
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.04)
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.03)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.04
    same, same_log_prob = net.at(policy, observation, jnp.float32(z))
    np.testing.assert_allclose(same, action, atol=1e-4)
    np.testing.assert_allclose(same_log_prob, log_prob, atol=1e-2)
    np.testing.assert_array_equal(net.sample(policy, observation, jax.random.key(1)), action)


def test_values_start_in_the_middle_of_the_bounds_and_critics_different():
    net = networks()
    params = net.init_critics(jax.random.key(0))
    observation, action = map(jnp.float32, inputs())
    q = net.q_values(with_scales(params, STATISTICS, BOUNDS), observation, action)
    np.testing.assert_array_equal(q, np.full((3, 6), 4.0))
    kernel = params["params"]["layer_0"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    unscaled = net.init_scaled_critics(jax.random.key(0))
    np.testing.assert_array_equal(net.q_values(unscaled, observation, action), np.zeros((3, 6)))


def test_layers_are_orthogonal():
    net = networks()
    policy, critics = net.init_policy(jax.random.key(0)), net.init_critics(jax.random.key(0))
    kernels = [policy["params"]["layer_1"]["kernel"], *critics["params"]["layer_1"]["kernel"]]
    for kernel in kernels:
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)
    head = policy["params"]["layer_2"]["kernel"]
    np.testing.assert_allclose(head.T @ head, np.eye(4), atol=1e-5)


def test_statistics_and_bounds_are_constants_to_every_gradient():
    net = networks()
    observation, action = map(jnp.float32, inputs())
    policy = Policy(redrawn(net.init_policy(jax.random.key(0))), STATISTICS)
    critics = with_scales(redrawn(net.init_critics(jax.random.key(0))), STATISTICS, BOUNDS)
    losses = {
        "policy": lambda policy: sum(x.sum() for x in net.at(policy, observation, action)),
        "critics": lambda critics: net.q_values(critics, observation, action).sum(),
    }
    grads = [jax.grad(losses["policy"])(policy), jax.grad(losses["critics"])(critics)]
    constants = [grads[0].observations, grads[1].observations, grads[1].bounds]
    for leaf in jax.tree.leaves(constants):
        np.testing.assert_array_equal(leaf, 0.0)
    for grad in grads:
        assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(grad.net)) > 0.0


def test_any_number_of_critics_shares_statistics_and_bounds():
    net = networks()
    params = jax.tree.map(lambda leaf: leaf[:1], net.init_critics(jax.random.key(0)))
    critics = with_scales(params, STATISTICS, BOUNDS)
    assert critics.observations.mean.shape == (1, 3)
    assert critics.bounds.low.shape == (1,)
    assert net.q_values(critics, *map(jnp.float32, inputs())).shape == (1, 6)
