"""The maximum-likelihood objective against its worked number and finite differences."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mbpo
from envs.spec import EnvSpec
from experiment.configuration import resolve
from models import normalizer
from models.ensemble import Normalizers, make_ensemble
from models.objectives import Context, Parts, mle
from replay import Transition

SPEC = EnvSpec("Toy-v0", 1, 1, (-1.0,), (1.0,), lambda s, a, n: n[..., 0] > 1.0, None)
CONTEXT = Context(
    policy=(),
    critics=(),
    target_critics=(),
    log_temperature=jnp.zeros(()),
    normalizers=Normalizers(normalizer.identity(2), normalizer.identity(2)),
)


def setup(num_members, **model):
    """The objective's loss as a function of (params, batch), and initial parameters."""
    config = mbpo.get_config("Hopper-v5")
    config.model.update({"hidden_width": 3, "hidden_depth": 1, "num_members": num_members, **model})
    config = resolve(config)
    ensemble = make_ensemble(config, SPEC)
    objective = mle.make(config, Parts(ensemble, SPEC, *[None] * 6))
    state = objective.init(jax.random.key(0))

    def loss(params, batch):
        return objective.loss(params, state, batch, CONTEXT, jax.random.key(1))[0]

    return jax.jit(loss), jax.jit(ensemble.init)(jax.random.key(0))


def random_params(params, seed=0):
    """Float64 parameters with active bounds."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    params["log_variance_min"] = rng.uniform(-2, -1, params["log_variance_min"].shape)
    params["log_variance_max"] = rng.uniform(0, 1, params["log_variance_max"].shape)
    return params


def random_batch(num_members, rows=4, seed=1):
    rng = np.random.default_rng(seed)
    shape = (num_members, rows)
    return Transition(
        observation=rng.normal(size=(*shape, 1)),
        action=rng.normal(size=(*shape, 1)),
        reward=rng.normal(size=shape),
        next_observation=rng.normal(size=(*shape, 1)),
        terminated=np.zeros(shape),
        truncated=np.zeros(shape),
    )


def to_device(tree):
    return jax.tree.map(jnp.float32, tree)


def numpy_loss(params, batch):
    """Sum over members of the mean NLL, plus 0.01 times the members' mean spread of bounds."""
    total, spreads = 0.0, []
    layers = params["net"]["params"]
    for e in range(len(batch.reward)):
        x = np.concatenate([batch.observation[e], batch.action[e]], axis=-1)
        x = x @ layers["layer_0"]["kernel"][e] + layers["layer_0"]["bias"][e]
        x = x / (1.0 + np.exp(-x))
        x = x @ layers["layer_1"]["kernel"][e] + layers["layer_1"]["bias"][e]
        mean, log_variance = x[:, :2], x[:, 2:]
        lower, upper = params["log_variance_min"][e], params["log_variance_max"][e]
        log_variance = upper - np.logaddexp(0.0, upper - log_variance)
        log_variance = lower + np.logaddexp(0.0, log_variance - lower)
        change = batch.next_observation[e] - batch.observation[e]
        target = np.concatenate([change, batch.reward[e][:, None]], axis=-1)
        total += (np.square(mean - target) / np.exp(log_variance) + log_variance).mean()
        spreads.append((upper - lower).sum())
    return total + 0.01 * np.mean(spreads)


def finite_differences(params, batch, step=1e-5):
    """Central differences of `numpy_loss`, in the structure of the parameters."""
    gradient = jax.tree.map(np.zeros_like, params)
    for index, leaf in enumerate(jax.tree.leaves(params)):
        for position in np.ndindex(leaf.shape):
            values = []
            for sign in (1.0, -1.0):
                moved = copy.deepcopy(params)
                jax.tree.leaves(moved)[index][position] += sign * step
                values.append(numpy_loss(moved, batch))
            jax.tree.leaves(gradient)[index][position] = (values[0] - values[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("learn_variance_bounds", [True, False])
def test_the_loss_of_zero_weights_is_the_worked_number(learn_variance_bounds):
    loss, params = setup(7, learn_variance_bounds=learn_variance_bounds)
    params["net"] = jax.tree.map(jnp.zeros_like, params["net"])
    ones = Transition(
        observation=jnp.full((7, 3, 1), 4.0),
        action=jnp.zeros((7, 3, 1)),
        reward=jnp.ones((7, 3)),
        next_observation=jnp.full((7, 3, 1), 5.0),
        terminated=jnp.zeros((7, 3)),
        truncated=jnp.zeros((7, 3)),
    )
    # 7 (e^0.474 - 0.474) + 0.01 (2 x 0.5 + 2 x 10)
    np.testing.assert_allclose(loss(params, ones), 8.13687, atol=2e-5)


def test_the_gradient_is_that_of_finite_differences():
    loss, params = setup(2, learn_variance_bounds=True)
    params, batch = random_params(params), random_batch(2)
    np.testing.assert_allclose(
        loss(to_device(params), to_device(batch)), numpy_loss(params, batch), rtol=1e-5
    )
    got = jax.grad(loss)(to_device(params), to_device(batch))
    expected = finite_differences(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(expected))


def test_fixed_bounds_get_no_gradient_and_the_networks_the_same_one():
    loss, params = setup(2, learn_variance_bounds=False)
    params, batch = random_params(params), random_batch(2)
    got = jax.grad(loss)(to_device(params), to_device(batch))
    expected = finite_differences(params, batch)
    np.testing.assert_array_equal(got["log_variance_min"], np.zeros((2, 2)))
    np.testing.assert_array_equal(got["log_variance_max"], np.zeros((2, 2)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        got["net"],
        expected["net"],
    )


@pytest.mark.parametrize("learn_variance_bounds", [True, False])
def test_the_gradient_of_a_member_ignores_the_data_and_weights_of_the_others(learn_variance_bounds):
    loss, params = setup(3, learn_variance_bounds=learn_variance_bounds)
    params, batch = to_device(random_params(params)), to_device(random_batch(3))
    others = jnp.array([0, 2])
    gradient = jax.grad(loss)
    before = gradient(params, batch)
    after = gradient(
        jax.tree.map(lambda leaf: leaf.at[others].multiply(1.5), params),
        jax.tree.map(lambda leaf: leaf.at[others].add(3.0), batch),
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), before, after)
    assert not np.array_equal(
        before["net"]["params"]["layer_1"]["bias"][0], after["net"]["params"]["layer_1"]["bias"][0]
    )


def test_the_gradient_of_a_members_network_does_not_depend_on_how_many_there_are():
    loss, params = setup(3)
    params, batch = to_device(random_params(params)), to_device(random_batch(3))
    together = jax.grad(loss)(params, batch)
    alone_loss, _ = setup(1, num_elites=1)
    alone = jax.grad(alone_loss)(*jax.tree.map(lambda leaf: leaf[1:2], (params, batch)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b[0], rtol=1e-5, atol=1e-6),
        together["net"],
        alone["net"],
    )
