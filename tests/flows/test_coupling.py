"""Coupling flows: bijections with the right Jacobians, and densities that integrate to 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from flows.coupling import FLOW_KINDS, coupling_masks, make_flow

KINDS = sorted(FLOW_KINDS)
SIZES = [1, 2, 9]  # no pair of dimensions, alternating masks, permuted masks


@functools.cache
def small(size, kind, num_layers=2):
    flow = make_flow(size, kind=kind, num_layers=num_layers, hidden_width=16, hidden_depth=1)
    return flow._replace(**{name: jax.jit(function) for name, function in flow._asdict().items()})


@functools.cache
def perturbed(size, kind, scale=0.02):
    """A flow and parameters away from the identity, but well conditioned in float32."""
    flow = small(size, kind)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.float32(scale * rng.normal(size=leaf.shape)),
        flow.init(jax.random.key(0)),
    )
    return flow, params


def points(num, size, scale=1.5):
    return jnp.float32(scale * np.random.default_rng(1).normal(size=(num, size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_flow_is_the_identity_and_its_density_the_standard_normal(kind, size):
    flow = small(size, kind)
    params, z = flow.init(jax.random.key(0)), points(20_000, size, scale=3.0)
    latent, log_det = flow.forward(params, z)
    np.testing.assert_allclose(latent, z, atol=1e-5)
    np.testing.assert_allclose(log_det, np.zeros(len(z)), atol=1e-5)
    by_hand = norm.logpdf(np.asarray(z, np.float64)).sum(axis=-1)
    np.testing.assert_allclose(flow.log_prob(params, z), by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_undoes_the_forward_pass(kind, size):
    flow, params = perturbed(size, kind)
    z = points(20_000, size, scale=3.0)  # one coordinate in ten is outside the splines' range
    latent, log_det = flow.forward(params, z)
    back, inverse_log_det = flow.inverse(params, latent)
    assert np.abs(latent - z).mean() > 1e-3, "these parameters are too close to the identity"
    np.testing.assert_allclose(back, z, atol=1e-5)
    np.testing.assert_allclose(log_det + inverse_log_det, np.zeros(len(z)), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_det_is_that_of_the_jacobian(kind, size):
    flow, params = perturbed(size, kind)
    z = points(20_000, size, scale=3.0)
    latent, log_det = (values[:32] for values in flow.forward(params, z))
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda row: flow.forward(params, row)[0])))(z[:32])
    expected = np.linalg.slogdet(np.asarray(jacobians, np.float64))[1]
    np.testing.assert_allclose(log_det, expected, atol=1e-4)

    scale = np.exp(np.asarray(params["log_scale"], np.float64))
    base = norm.logpdf(np.asarray(latent, np.float64), params["loc"], scale).sum(axis=-1)
    np.testing.assert_allclose(flow.log_prob(params, z)[:32], base + expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_two_dimensions_integrates_to_one(kind):
    flow, params = perturbed(2, kind)
    axis = np.linspace(-10.0, 10.0, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    density = np.exp(np.asarray(flow.log_prob(params, grid), np.float64))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_five_dimensions_integrates_to_one(kind):
    flow, params = perturbed(5, kind)
    z = 2.0 * np.random.default_rng(3).normal(size=(100_000, 5))
    log_prob = np.asarray(flow.log_prob(params, jnp.float32(z)), np.float64)
    weights = np.exp(log_prob - norm.logpdf(z, scale=2.0).sum(axis=-1))
    assert weights.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_far_outside_the_data_and_on_a_knot(kind):
    flow, params = perturbed(5, kind)
    gradient = jax.jit(jax.grad(lambda params, z: flow.log_prob(params, z).sum(), argnums=(0, 1)))
    for z in (50.0, -50.0, 5.0, -5.0, 0.0):
        for leaf in jax.tree.leaves(gradient(params, np.full((3, 5), z, np.float32))):
            assert np.isfinite(leaf).all(), z


def test_an_affine_layer_is_a_shift_and_a_bounded_scale_of_the_even_dimensions():
    flow = small(3, "affine", num_layers=1)
    params = flow.init(jax.random.key(0))
    bias = jnp.float32([0.5, 9.0, -1.0, 0.3, 9.0, 100.0])  # three shifts, three raw log-scales
    params["conditioners"][0]["params"]["layer_1"]["bias"] = bias
    latent, log_det = flow.forward(params, jnp.float32([2.0, 3.0, 4.0]))
    log_scale = 2.0 * np.tanh(0.15)
    by_hand = [2.0 * np.exp(log_scale) + 0.5, 3.0, 4.0 * np.exp(2.0) - 1.0]
    np.testing.assert_allclose(latent, by_hand, rtol=1e-6)
    np.testing.assert_allclose(log_det, log_scale + 2.0, rtol=1e-6)


@pytest.mark.parametrize("size", [2, 5, 8, 9, 26])
def test_masks_come_in_complementary_pairs_and_are_permuted_beyond_eight_dimensions(size):
    masks = coupling_masks(size, 6)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks[::2], ~masks[1::2])
    np.testing.assert_array_equal(masks, coupling_masks(size, 6))
    assert {int(mask.sum()) for mask in masks} <= {size // 2, size - size // 2}
    alternating = np.arange(size) % 2 == 1
    assert all((mask == alternating).all() for mask in masks[::2]) == (size <= 8)
    assert len({mask.tobytes() for mask in masks}) == (2 if size <= 8 else 6)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_under_vmap_are_the_seeds_in_a_loop(kind):
    (flow, offset), z = perturbed(5, kind), points(6, 5)
    keys = jax.random.split(jax.random.key(0), 3)
    one_by_one = [jax.tree.map(jnp.add, flow.init(key), offset) for key in keys]
    looped = np.stack([flow.log_prob(params, z) for params in one_by_one])
    assert not np.allclose(looped[0], looped[1])
    at_once = jax.tree.map(lambda new, leaf: new + leaf[None], jax.vmap(flow.init)(keys), offset)
    got = jax.vmap(flow.log_prob, in_axes=(0, None))(at_once, z)
    np.testing.assert_allclose(got, looped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_any_leading_shape_gives_the_same_densities(kind):
    flow, params = perturbed(5, kind)
    z = points(6, 5)
    rows = np.stack([flow.log_prob(params, row) for row in z])
    got = flow.log_prob(params, z.reshape(2, 3, 5))
    np.testing.assert_allclose(got, rows.reshape(2, 3), rtol=1e-5)


def test_parameters_are_float32_and_conditioners_start_different():
    params = small(9, "affine").init(jax.random.key(0))
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in jax.tree.leaves(params))
    first, second = (c["params"]["layer_0"]["kernel"] for c in params["conditioners"][:2])
    assert not jnp.allclose(first, second)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "maf"}, "no flow kind 'maf'.*affine, spline"),
        ({"size": 0}, "size=0"),
        ({"num_layers": 0}, "num_layers=0"),
    ],
)
def test_what_cannot_be_built_says_so(wrong, message):
    arguments = {"size": 2, "kind": "affine", "num_layers": 2} | wrong
    with pytest.raises(ValueError, match=message):
        make_flow(**arguments, hidden_width=4, hidden_depth=1)
