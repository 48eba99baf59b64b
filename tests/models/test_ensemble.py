"""The ensemble: sizes, initialisation, forward pass, targets, and the numbers of its likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from configs import mbpo
from envs.spec import EnvSpec
from experiment.configuration import resolve
from models import normalizer
from models.ensemble import (
    Normalizers,
    Prediction,
    gaussian_nll,
    make_ensemble,
    silu,
    soft_clamp,
    truncated_normal_init,
)
from models.normalizer import Normalizer
from replay import Transition


def config_for(env="Hopper-v5", **model):
    config = mbpo.get_config(env)
    config.model.update(model)
    return resolve(config)


def toy_spec(reward=None):
    return EnvSpec("Toy-v0", 2, 1, (-1.0,), (1.0,), lambda s, a, n: n[..., 0] > 1.0, reward)


SMALL = {"num_members": 3, "num_elites": 2, "hidden_width": 4, "hidden_depth": 2}


def toy_ensemble(reward=None, **model):
    return make_ensemble(config_for(**(SMALL | model)), toy_spec(reward))


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), tree)


def random_params(ensemble, seed=0):
    """Parameters with biases and per-member bounds that are not what `init` gives."""
    params = jax.jit(ensemble.init)(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    shape = params["log_variance_min"].shape
    return {
        "net": random_like(params["net"], seed),
        "log_variance_min": jnp.float32(rng.uniform(-4, -2, shape)),
        "log_variance_max": jnp.float32(rng.uniform(0, 2, shape)),
    }


def identities(ensemble):
    return Normalizers(
        normalizer.identity(ensemble.input_size), normalizer.identity(ensemble.target_size)
    )


def random_inputs(ensemble, members=3, rows=5, seed=9):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(members, rows, 2)), rng.normal(size=(members, rows, 1))


def numpy_softplus(x):
    return np.logaddexp(0.0, x)


NUMPY_ACTIVATIONS = {
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
}


def outputs_of(layers, x, activation="silu"):
    """What one network gives in float64."""
    for index in range(len(layers)):
        x = x @ layers[f"layer_{index}"]["kernel"] + layers[f"layer_{index}"]["bias"]
        if index < len(layers) - 1:
            x = NUMPY_ACTIVATIONS[activation](x)
    return x


def numpy_net(layers, x, activation="silu"):
    """Means and raw log-variances of one network in float64."""
    return np.split(outputs_of(layers, x, activation), 2, axis=-1)


def numpy_predict(params, member, observation, action, inputs, targets, activation="silu"):
    """One member's Gaussian in float64, `inputs` and `targets` being (mean, std)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf[member], np.float64), params)
    x = (np.concatenate([observation, action], axis=-1) - inputs[0]) / inputs[1]
    mean, raw = numpy_net(params["net"]["params"], x, activation)
    upper, lower = params["log_variance_max"], params["log_variance_min"]
    raw = upper - numpy_softplus(upper - raw)
    log_variance = lower + numpy_softplus(raw - lower)
    return mean * targets[1] + targets[0], log_variance + np.log(targets[1] ** 2)


@pytest.mark.parametrize(
    ("env", "model", "expected"),
    [
        ("Hopper-v5", {}, 898_968),
        ("HalfCheetah-v5", {}, 928_452),
        ("AntTruncated-v5", {}, 973_392),
        ("HumanoidTruncated-v5", {"hidden_width": 200}, 1_061_844),
    ],
)
def test_the_networks_have_the_published_number_of_parameters(env, model, expected):
    ensemble = make_ensemble(config_for(env, **model), envs.spec(env))
    params = jax.eval_shape(ensemble.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params["net"])) == expected


def test_the_variance_bounds_start_at_the_published_values():
    ensemble = toy_ensemble()
    params = jax.jit(ensemble.init)(jax.random.key(0))
    np.testing.assert_array_equal(params["log_variance_min"], np.full((3, 3), -10.0))
    np.testing.assert_array_equal(params["log_variance_max"], np.full((3, 3), 0.5))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (-20.0, -9.99995),
        (-12.0, -9.87307),
        (-10.0, -9.30687),
        (-5.0, -4.99734),
        (0.0, -0.47400),
        (0.5, -0.19309),
        (5.0, 0.48898),
    ],
)
def test_the_soft_clamp_gives_the_worked_numbers(raw, expected):
    clamped = soft_clamp(jnp.float32(raw), jnp.float32(-10.0), jnp.float32(0.5))
    np.testing.assert_allclose(clamped, expected, atol=1e-5)


def test_initial_weights_are_a_normal_cut_at_two_standard_deviations():
    weights = np.asarray(truncated_normal_init(jax.random.key(0), (200, 500)))
    sigma = 0.0353553  # 1 / (2 sqrt(200))
    np.testing.assert_allclose(weights.std(), 0.8796 * sigma, rtol=0.01)
    np.testing.assert_allclose(weights.mean(), 0.0, atol=5 * sigma / np.sqrt(100_000))
    assert 0.0700 < np.abs(weights).max() <= 0.07072  # two sigma are 0.07071


def test_every_layer_is_initialised_by_its_own_fan_in():
    ensemble = toy_ensemble(hidden_width=100, hidden_depth=1)
    layers = jax.jit(ensemble.init)(jax.random.key(0))["net"]["params"]
    first, head = (np.asarray(layers[name]["kernel"]) for name in ("layer_0", "layer_1"))
    np.testing.assert_allclose(first.std(), 0.8796 / (2 * np.sqrt(3)), rtol=0.1)
    np.testing.assert_allclose(head.std(), 0.8796 / (2 * np.sqrt(100)), rtol=0.1)
    np.testing.assert_array_equal(layers["layer_1"]["bias"], np.zeros((3, 6)))
    assert not np.array_equal(first[0], first[1])


def test_orthogonal_layers_keep_lengths_up_to_their_gains():
    ensemble = toy_ensemble(
        hidden_width=4, hidden_depth=2, initializer="orthogonal", head_scale=0.5
    )
    layers = jax.jit(ensemble.init)(jax.random.key(0))["net"]["params"]
    kernels = {name: np.asarray(layer["kernel"], np.float64) for name, layer in layers.items()}
    means, log_variances = np.split(kernels.pop("layer_2"), 2, axis=-1)
    # the gain of rectified units is sqrt(2); the head's is halved
    expected = [(kernel, 2.0**0.5) for kernel in kernels.values()]
    for kernel, gain in [*expected, (means, 2.0**-0.5), (log_variances, 2.0**-0.5)]:
        for member in kernel:
            found = np.linalg.svd(member, compute_uv=False)
            np.testing.assert_allclose(found, np.full(min(member.shape), gain), rtol=1e-5)
    first, second, third = kernels["layer_1"]
    assert min(np.abs(first - second).max(), np.abs(second - third).max()) > 0.1
    for layer in layers.values():
        np.testing.assert_array_equal(layer["bias"], 0.0)


def test_a_separate_reward_is_that_of_two_networks():
    ensemble = toy_ensemble(separate_reward=True)
    params = random_params(ensemble)
    observation, action = random_inputs(ensemble)
    got = ensemble.predict(
        params, identities(ensemble), jnp.float32(observation), jnp.float32(action)
    )
    for member in range(3):
        nets = jax.tree.map(lambda leaf, m=member: np.float64(leaf[m]), params["net"]["params"])
        x = np.concatenate([observation[member], action[member]], axis=-1)
        halves = zip(numpy_net(nets["state"], x), numpy_net(nets["reward"], x))
        mean, raw = (np.concatenate(pair, axis=-1) for pair in halves)
        upper, lower = (
            np.float64(params[f"log_variance_{side}"][member]) for side in ("max", "min")
        )
        raw = upper - numpy_softplus(upper - raw)
        np.testing.assert_allclose(got.mean[member], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            got.log_variance[member], lower + numpy_softplus(raw - lower), rtol=1e-4, atol=1e-4
        )


def test_a_separate_reward_shares_nothing_with_the_state():
    ensemble = toy_ensemble(separate_reward=True)
    params = random_params(ensemble)
    inputs = [jnp.float32(x) for x in random_inputs(ensemble)]
    nets = params["net"]["params"]
    whole = ensemble.predict(params, identities(ensemble), *inputs)
    for part, touched in (("state", [True, True, False]), ("reward", [False, False, True])):
        broken = nets | {part: jax.tree.map(lambda leaf: leaf + 1.0, nets[part])}
        changed = ensemble.predict(
            params | {"net": {"params": broken}}, identities(ensemble), *inputs
        )
        for before, after in zip(whole, changed):  # mean and log-variance
            moved = np.abs(np.asarray(before) - np.asarray(after)).max(axis=(0, 1)) > 0
            assert moved.tolist() == touched


def test_a_given_reward_needs_no_network():
    given = lambda s, a, n: n[..., 0]  # noqa: E731
    ensemble = toy_ensemble(reward=given, separate_reward=True, learn_reward=False)
    params = jax.eval_shape(ensemble.init, jax.random.key(0))
    assert set(params["net"]["params"]) == {"layer_0", "layer_1", "layer_2"}


def test_the_likelihood_of_one_element_is_the_worked_number():
    nll = gaussian_nll(Prediction(jnp.array([0.5]), jnp.array([-1.0])), jnp.array([1.0]))
    np.testing.assert_allclose(nll, [-0.320430], atol=1e-6)  # e / 4 - 1


@pytest.mark.parametrize("largest", [8.0, 100.0])
def test_silu_is_jaxs_up_to_the_rounding_of_its_input(largest):
    x = jnp.linspace(-largest, largest, 2_001)
    tolerance = max(1e-6, largest * 1.2e-7)  # float32 numbers of this size are that far apart
    np.testing.assert_allclose(silu(x), jax.nn.silu(x), rtol=0, atol=tolerance)
    slope = jax.vmap(jax.grad(silu))(x)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(jax.nn.silu))(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("activation", NUMPY_ACTIVATIONS)
def test_predict_is_numpys_forward_pass_of_every_member(activation):
    ensemble = toy_ensemble(activation=activation)
    params = random_params(ensemble)
    inputs = np.array([0.3, -1.0, 2.0]), np.array([0.5, 2.0, 1.5])
    targets = np.array([1.0, -3.0, 0.5]), np.array([2.0, 0.1, 5.0])
    statistics = Normalizers(
        *(Normalizer(jnp.float32(mean), jnp.float32(std)) for mean, std in (inputs, targets))
    )
    observation, action = random_inputs(ensemble)
    got = ensemble.predict(params, statistics, jnp.float32(observation), jnp.float32(action))
    for member in range(3):
        mean, log_variance = numpy_predict(
            params, member, observation[member], action[member], inputs, targets, activation
        )
        np.testing.assert_allclose(got.mean[member], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got.log_variance[member], log_variance, rtol=1e-4, atol=1e-4)


def test_a_member_predicts_with_its_own_parameters_only():
    ensemble = toy_ensemble()
    params = random_params(ensemble)
    others_broken = jax.tree.map(lambda leaf: leaf.at[jnp.array([0, 2])].set(jnp.nan), params)
    inputs = [jnp.float32(x) for x in random_inputs(ensemble)]
    whole = ensemble.predict(params, identities(ensemble), *inputs)
    broken = ensemble.predict(others_broken, identities(ensemble), *inputs)
    np.testing.assert_array_equal(broken.mean[1], whole.mean[1])
    np.testing.assert_array_equal(broken.log_variance[1], whole.log_variance[1])
    assert np.isnan(broken.mean[jnp.array([0, 2])]).all()


def test_members_can_be_sliced_out():
    ensemble = toy_ensemble()
    params = random_params(ensemble)
    inputs = [jnp.float32(x) for x in random_inputs(ensemble)]
    whole = ensemble.predict(params, identities(ensemble), *inputs)
    pick = jnp.array([2, 0])
    part = ensemble.predict(
        jax.tree.map(lambda leaf: leaf[pick], params),
        identities(ensemble),
        *(x[pick] for x in inputs),
    )
    np.testing.assert_allclose(part.mean, whole.mean[pick], rtol=1e-6)
    np.testing.assert_allclose(part.log_variance, whole.log_variance[pick], rtol=1e-6)


def transition_by_hand():
    return Transition(
        observation=jnp.array([[1.0, 2.0]]),
        action=jnp.array([[0.5]]),
        reward=jnp.array([7.0]),
        next_observation=jnp.array([[1.5, -1.0]]),
        terminated=jnp.zeros(1),
        truncated=jnp.zeros(1),
    )


@pytest.mark.parametrize(
    ("predict_delta", "learn_reward", "expected"),
    [
        (True, True, [0.5, -3.0, 7.0]),
        (True, False, [0.5, -3.0]),
        (False, True, [1.5, -1.0, 7.0]),
        (False, False, [1.5, -1.0]),
    ],
)
def test_targets_are_the_change_or_the_next_observation_then_the_reward(
    predict_delta, learn_reward, expected
):
    ensemble = toy_ensemble(
        reward=lambda s, a, n: n[..., 0], predict_delta=predict_delta, learn_reward=learn_reward
    )
    assert ensemble.target_size == len(expected)
    np.testing.assert_array_equal(ensemble.targets(transition_by_hand()), [expected])


@pytest.mark.parametrize(
    ("predict_delta", "next_observation"), [(True, [[1.5, -1.0]]), (False, [[0.5, -3.0]])]
)
@pytest.mark.parametrize(("learn_reward", "reward"), [(True, [7.0]), (False, None)])
def test_decode_gives_the_next_observation_and_the_learned_or_given_reward(
    predict_delta, next_observation, learn_reward, reward
):
    ensemble = toy_ensemble(
        reward=lambda s, a, n: 100.0 * s[..., 0] + 10.0 * a[..., 0] + n[..., 1],
        predict_delta=predict_delta,
        learn_reward=learn_reward,
    )
    target = jnp.array([[0.5, -3.0, 7.0]])[:, : ensemble.target_size]
    decoded = ensemble.decode(jnp.array([[1.0, 2.0]]), jnp.array([[0.5]]), target)
    np.testing.assert_array_equal(decoded[0], next_observation)
    given = [105.0 + next_observation[0][1]]
    np.testing.assert_array_equal(decoded[1], given if reward is None else reward)


def test_the_likelihood_in_raw_units_does_not_depend_on_the_target_normalisation():
    ensemble = toy_ensemble()
    params = random_params(ensemble)
    old = np.array([1.0, -3.0, 0.5]), np.array([2.0, 0.1, 5.0])
    new = np.array([-2.0, 0.5, 0.0]), np.array([0.3, 1.0, 20.0])
    # The same Gaussian in raw units: means are rescaled, log-variances and their bounds shifted.
    ratio, shift = old[1] / new[1], 2.0 * np.log(old[1] / new[1])
    moved = jax.tree.map(np.asarray, params)
    head = moved["net"]["params"]["layer_2"]
    head["kernel"] = head["kernel"] * np.concatenate([ratio, np.ones(3)]).astype(np.float32)
    mean_bias, log_variance_bias = np.split(head["bias"], 2, axis=-1)
    mean_bias = (mean_bias * old[1] + old[0] - new[0]) / new[1]
    head["bias"] = np.concatenate([mean_bias, log_variance_bias + shift], axis=-1)
    moved["log_variance_min"] = moved["log_variance_min"] + shift
    moved["log_variance_max"] = moved["log_variance_max"] + shift

    target = jnp.float32(np.random.default_rng(3).normal(size=(3, 5, 3)))
    inputs = [jnp.float32(x) for x in random_inputs(ensemble)]

    def nll(params, constants):
        statistics = identities(ensemble)._replace(
            targets=Normalizer(*(jnp.float32(x) for x in constants))
        )
        params = jax.tree.map(jnp.float32, params)
        return gaussian_nll(ensemble.predict(params, statistics, *inputs), target)

    np.testing.assert_allclose(nll(moved, new), nll(params, old), rtol=1e-3, atol=1e-3)


def test_samples_have_the_predicted_mean_and_deviation():
    rows = 40_000
    mean, std = np.array([1.0, -2.0, 0.0]), np.array([0.5, 3.0, 0.01])
    prediction = Prediction(
        jnp.broadcast_to(jnp.float32(mean), (rows, 3)),
        jnp.broadcast_to(jnp.float32(2.0 * np.log(std)), (rows, 3)),
    )
    drawn = np.asarray(prediction.sample(jax.random.key(0)), np.float64)
    assert (np.abs(drawn.mean(axis=0) - mean) < 4.0 * std / np.sqrt(rows)).all()
    np.testing.assert_allclose(drawn.std(axis=0), std, rtol=4.0 / np.sqrt(2.0 * rows))
    correlation = np.corrcoef(drawn, rowvar=False) - np.eye(3)
    assert np.abs(correlation).max() < 4.0 / np.sqrt(rows)


@pytest.mark.parametrize("options", [{}, {"separate_reward": True}, {"normalize_targets": True}])
def test_means_are_the_same_without_variances(options):
    ensemble = toy_ensemble(**options)
    params = random_params(ensemble)
    rng = np.random.default_rng(0)
    inputs = [jnp.float32(rng.normal(size=(3, 5, size))) for size in (2, 1)]
    scale = Normalizer(jnp.float32([0.1, 0.2, 0.3]), jnp.float32([2.0, 3.0, 0.5]))
    normalizers = identities(ensemble)._replace(targets=scale)
    config = config_for(**(SMALL | options))
    bare = make_ensemble(config, toy_spec(), means_only=True)
    got = bare.predict(params, normalizers, *inputs)
    expected = ensemble.predict(params, normalizers, *inputs).mean
    np.testing.assert_allclose(got.mean, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.sample(jax.random.key(0)), got.mean)

    def products(ensemble):  # widths of the results of all matrix products
        text = str(jax.make_jaxpr(ensemble.predict)(params, normalizers, *inputs))
        return sum(int(line.split(",")[2].split("]")[0]) for line in dots(text))

    def dots(text):
        return [line.split("f32[")[1] for line in text.splitlines() if "= dot_general" in line]

    assert products(ensemble) - products(bare) == 3  # the targets


@pytest.mark.parametrize("separate_reward", [False, True])
def test_a_constant_variance_is_one_number_for_each_member_and_target(separate_reward):
    ensemble = toy_ensemble(variance="constant", separate_reward=separate_reward)
    params = jax.jit(ensemble.init)(jax.random.key(0))
    np.testing.assert_array_equal(params["log_std"], np.zeros((3, 3)))
    rng = np.random.default_rng(0)
    log_std = np.float32(rng.normal(-1.0, 0.5, size=(3, 3)))
    log_std[1, 1] -= 5.0
    params |= {"net": random_like(params["net"], 1), "log_std": jnp.asarray(log_std)}
    params["log_variance_min"] += 4.0  # learned bounds are those of a head
    scale = Normalizer(jnp.float32([0.1, 0.2, 0.3]), jnp.float32([2.0, 3.0, 0.5]))
    normalizers = identities(ensemble)._replace(targets=scale)
    observation, action = random_inputs(ensemble)
    got = ensemble.predict(params, normalizers, jnp.float32(observation), jnp.float32(action))
    for member in range(3):
        nets = jax.tree.map(lambda leaf, m=member: np.float64(leaf[m]), params["net"]["params"])
        x = np.concatenate([observation[member], action[member]], axis=-1)
        parts = [nets["state"], nets["reward"]] if separate_reward else [nets]
        mean = np.concatenate([outputs_of(part, x) for part in parts], axis=-1)
        expected = mean * np.float64(scale.std) + np.float64(scale.mean)
        np.testing.assert_allclose(got.mean[member], expected, rtol=1e-4, atol=1e-4)
    assert log_std[1, 1] < -5.0  # below the bound, -10 for the logarithm of the variance
    log_variance = np.maximum(2.0 * log_std, -10.0) + 2.0 * np.log(np.float64(scale.std))
    expected = np.broadcast_to(log_variance[:, None], got.mean.shape)
    np.testing.assert_allclose(got.log_variance, expected, rtol=1e-4)
    bare = make_ensemble(
        config_for(**SMALL, variance="constant", separate_reward=separate_reward),
        toy_spec(),
        means_only=True,
    )
    inputs = jnp.float32(observation), jnp.float32(action)
    np.testing.assert_allclose(bare.predict(params, normalizers, *inputs).mean, got.mean, rtol=1e-6)


def test_a_layer_norm_is_before_every_activation():
    ensemble = toy_ensemble(layer_norm=True)
    params = random_params(ensemble)
    observation, action = random_inputs(ensemble)
    got = ensemble.predict(
        params, identities(ensemble), jnp.float32(observation), jnp.float32(action)
    )
    for member in range(3):
        layers = jax.tree.map(lambda leaf, m=member: np.float64(leaf[m]), params["net"]["params"])
        norms = {name: layers.pop(name) for name in ("LayerNorm_0", "LayerNorm_1")}
        x = np.concatenate([observation[member], action[member]], axis=-1)
        for index in range(2):
            x = x @ layers[f"layer_{index}"]["kernel"] + layers[f"layer_{index}"]["bias"]
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * norms[f"LayerNorm_{index}"]["scale"] + norms[f"LayerNorm_{index}"]["bias"]
            x = NUMPY_ACTIVATIONS["silu"](x)
        outputs = x @ layers["layer_2"]["kernel"] + layers["layer_2"]["bias"]
        np.testing.assert_allclose(got.mean[member], outputs[:, :3], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("freeze", [True, False])
def test_targets_that_never_varied_are_predicted_to_be_what_they_were(freeze):
    ensemble = toy_ensemble(normalize_targets=True, freeze_constant=freeze)
    change = np.float32([[0.5, 3.0, 1.0], [1.5, 3.0, 2.0], [0.7, 3.0, 1.5]])
    scale = normalizer.fit(jnp.asarray(change), jnp.ones(3, bool))
    np.testing.assert_array_equal(scale.constant, [False, True, False])
    seen, action = jnp.ones((3, 4, 2)), jnp.ones((3, 4, 1))
    normalizers = Normalizers(normalizer.identity(3), scale)
    mean = ensemble.predict(random_params(ensemble), normalizers, seen, action).mean
    assert (mean[..., 1] == 3.0).all() == freeze
    assert (mean[..., 0] != scale.mean[0]).all()


def test_networks_get_the_initialiser_of_their_configuration():
    params = toy_ensemble(initializer="torch", hidden_width=64).init(jax.random.key(0))["net"]
    bias = np.abs(params["params"]["layer_0"]["bias"])
    assert bias.shape == (3, 64)
    assert 0.9 / np.sqrt(3) < bias.max() <= 1 / np.sqrt(3)  # three inputs
