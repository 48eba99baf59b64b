"""The policy's gradient through model and critics, against other ways to compute it."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import policies, sac, value_bounds, value_gradients
from agents.networks import make_networks
from agents.scaled_networks import ScaledNetworks
from models import normalizer
from models.ensemble import make_ensemble
from models.imagination import Noise, draw_noise
from models.mlp import MLP
from models.normalizer import Normalizer
from replay import Transition
from tests.agents import linear_world as world


def first_gradient(state):
    """What Adam saw of the policy in its first step."""
    return jax.tree.map(lambda moment: moment / 0.1, state.optimizer[0][0].mu)


def random_elites(rng):
    """Two different members, with noise in every dimension, that of the reward the largest."""
    return world.elites(
        drift=0.1 * rng.normal(size=(2, 2)),
        matrix=0.3 * rng.normal(size=(2, 2, 2)),
        gain=rng.normal(size=(2, 2, 1)),
        constant=rng.normal(size=2),
        slope=rng.normal(size=(2, 2)),
        curvature=rng.uniform(0.1, 1.0, size=(2, 3)),
        log_variance=np.array([-3.0, -2.0, 5.0]),
    )


def in_float64(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def central_differences(function, params, step=1e-6):
    """The gradient of a function of {name: float64 array}."""
    gradient = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    for name, leaf in params.items():
        for place in np.ndindex(leaf.shape):
            shift = np.zeros_like(leaf)
            shift[place] = step
            up, down = (function(params | {name: leaf + s}) for s in (shift, -shift))
            gradient[name][place] = (up - down) / (2 * step)
    return gradient


def flat(layer):
    return np.concatenate([layer["kernel"].ravel(), layer["bias"]])


@pytest.mark.parametrize("horizon", [1, 3, 5])
def test_it_is_the_central_difference_of_the_soft_return(horizon):
    rng, rows, threshold = np.random.default_rng(horizon), 8, 0.5
    statistics, key = Normalizer(np.array([0.2, -0.1]), np.array([0.5, 2.0])), jax.random.key(1)
    with jax.enable_x64(True):
        learner = world.learner(threshold, dhmbpo__horizon=horizon, sac__critic_learning_rate=0.01)
        state = in_float64(learner.init(jax.random.key(0)))
        policy, critics = jax.tree.map(
            lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape)), (state.policy, state.critics)
        )
        state = state.replace(policy=policy, critics=critics)
        elites, start = random_elites(rng), rng.normal(size=(rows, 2))
        new, metrics = jax.jit(learner.update)(state, elites, statistics, start, key)
        noise = draw_noise(jax.random.split(key)[0], horizon, rows, learner.parts)
        before, after, found, model, noise, metrics = jax.tree.map(
            np.asarray, (policy, new.critics, first_gradient(new), elites.params, noise, metrics)
        )
        bounds, alpha = jax.tree.map(float, (new.bounds, jnp.exp(new.log_temperature)))
    assert 0.0 < metrics["rollout/alive"] < 1.0  # some rows have ended
    critics = after["params"]["layer_0"]  # as the same update has left them

    def loss(policy):
        value, alive = world.imagined_return(
            policy, critics, bounds, model, start, noise, statistics, alpha, threshold
        )
        assert alive.mean() == metrics["rollout/alive"]
        return -value

    before = before["params"]["layer_0"]
    assert before["kernel"].dtype == np.float64
    np.testing.assert_allclose(metrics["policy/loss"], loss(before), rtol=1e-6)
    found, expected = flat(found["params"]["layer_0"]), flat(central_differences(loss, before))
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert np.abs(expected).min() > 1e-3  # not a comparison of zeros


def as_scaled(net, policy_net):
    """The networks of soft actor-critic, as those that have statistics and bounds."""

    def at(policy, observation, noise):
        mean, log_std = jnp.split(policy_net.apply(policy.net, observation), 2, axis=-1)
        return policies.at(distrax.MultivariateNormalDiag(mean, jnp.exp(log_std)), noise)

    def q_values(critics, *inputs):
        return net.q_values(critics.net, *inputs)

    return ScaledNetworks(
        net.init_policy, net.init_critics, None, at, None, None, None, q_values=q_values
    )


def test_without_a_model_step_and_with_one_critic_it_is_that_of_soft_actor_critic(monkeypatch):
    spec, rows, key = world.spec(), 16, jax.random.key(2)
    settings = world.config(dhmbpo__horizon=0, sac__hidden_depth=1, sac__num_critics=1)
    plain, net = sac.make_sac(settings, spec), make_networks(settings, spec)
    start = jax.random.normal(jax.random.key(1), (rows, 2))
    state, zeros = plain.init(jax.random.key(0)), jnp.zeros(rows)
    batch = Transition(start, jnp.zeros((rows, 1)), zeros, start, zeros, zeros)
    expected, expected_metrics = jax.jit(plain.update)(state, batch, key)
    noise = jax.random.normal(jax.random.split(key)[1], (1, rows, 1))  # as soft actor-critic does

    same = as_scaled(net, MLP(2, settings.sac.hidden_width, 1))
    no_steps = Noise(noise, jnp.zeros((0, rows, 2)), jnp.zeros((0, rows)))
    monkeypatch.setattr(value_gradients, "make_scaled_networks", lambda *_: same)
    monkeypatch.setattr(value_gradients, "draw_noise", lambda *_: no_steps)
    monkeypatch.setattr(value_bounds, "follow", lambda bounds, *_: bounds)  # no rewards, no bounds
    ensemble = make_ensemble(settings, spec)._replace(predict=world.predict)
    learner = value_gradients.make_learner(settings, spec, ensemble)
    own = learner.init(jax.random.key(0)).replace(policy=state.policy, critics=state.critics)
    arguments = own, world.elites(), normalizer.identity(2), start, key
    found, metrics = jax.jit(learner.update)(*arguments)
    np.testing.assert_allclose(metrics["policy/loss"], expected_metrics["policy/loss"], rtol=1e-5)
    pairs = zip(*(jax.tree.leaves(first_gradient(s)) for s in (found, expected)), strict=True)
    for actual, desired in pairs:
        np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-6)
        assert np.abs(desired).max() > 1e-3
