"""What coupled flows learn on Gaussians, whose divergences and log-ratios have closed forms."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import mannwhitneyu, multivariate_normal, norm

from flows.coupled import donsker_varadhan, squashed
from tests.flows.test_coupled import coupled

STEPS, BATCH, EVALUATION = 1_500, 512, 100_000


class Gaussian(NamedTuple):
    mean: tuple
    covariance: tuple

    def sample(self, seed, num=EVALUATION):
        return np.random.default_rng(seed).multivariate_normal(*self, num).astype(np.float32)

    def kl(self, other):
        """KL(self || other), nats."""
        mean, covariance = map(np.array, self)
        other_mean, other_covariance = map(np.array, other)
        inverse, shift = np.linalg.inv(other_covariance), other_mean - mean
        log_det = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
        return 0.5 * (
            np.trace(inverse @ covariance) + shift @ inverse @ shift - len(mean) + log_det
        )


EYE = ((1.0, 0.0), (0.0, 1.0))
REAL = Gaussian((0.0, 0.0), EYE)
MODELS = {
    "A": Gaussian((1.0, 0.0), EYE),
    "B": Gaussian((0.0, 0.0), ((1.0, 0.8), (0.8, 1.0))),
    "C": Gaussian((1.0, -0.5), ((1.0, 0.6), (0.6, 0.8))),
    "E": Gaussian((3.0, 0.0), EYE),
}
PAIRED = Gaussian((0.0, 0.0), ((1.0, 0.9), (0.9, 1.0)))  # (s, s'); REAL has the same marginals


learner = functools.partial(coupled, width=32, depth=2, num_layers=4)


OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))
)


@functools.partial(jax.jit, static_argnames="size")
def fit(model, real, squash, dv_weight, seed, size):
    """Trains on fresh samples of two Gaussians (mean, factor); one program for every objective."""
    flows = learner(size, optimizer=OPTIMIZER, squash=squash, dv_weight=dv_weight)
    init_key, key = jax.random.split(jax.random.key(seed))

    def draw(gaussian, key):
        mean, factor = gaussian
        noise = jax.random.normal(key, (BATCH, size))
        return jnp.broadcast_to(mean, noise.shape) + noise @ factor.T

    def step(state, key):
        model_key, real_key, step_key = jax.random.split(key, 3)
        return flows.step(state, draw(model, model_key), draw(real, real_key), step_key)

    return jax.lax.scan(step, flows.init(init_key), jax.random.split(key, STEPS))


@functools.cache
def trained(model, real=REAL, squash=(2.0, 2.0), dv_weight=1.0, seed=0):
    """State after training, and the metrics of every step."""
    gaussians = [
        (jnp.float32(mean), jnp.float32(np.linalg.cholesky(covariance)))
        for mean, covariance in (model, real)
    ]
    return fit(*gaussians, squash, dv_weight, seed, size=len(model.mean))


log_ratio = jax.jit(lambda state, z: learner(z.shape[-1]).log_ratio(state, z))


class Evaluation(NamedTuple):
    """On fresh rows: x of both sides and the true log-ratio on the model's."""

    model: np.ndarray
    real: np.ndarray
    truth: np.ndarray

    @property
    def dv(self):
        return float(donsker_varadhan(self.model, self.real))

    def squashed_dv(self, squash):
        return float(donsker_varadhan(squashed(self.model, squash), squashed(self.real, squash)))

    @property
    def rmse(self):
        return np.sqrt(np.mean(np.square(self.model - self.truth)))

    @property
    def correlation(self):
        return np.corrcoef(self.model, self.truth)[0, 1]


def evaluate(model, real=REAL, **objective):
    state, metrics = trained(model, real, **objective)
    assert all(np.isfinite(values).all() for values in jax.tree.leaves((state, metrics)))
    z_model, z_real = model.sample(101), real.sample(102)
    truth = multivariate_normal(*model).logpdf(z_model) - multivariate_normal(*real).logpdf(z_model)
    x_model, x_real = (np.asarray(log_ratio(state, z)) for z in (z_model, z_real))
    return Evaluation(x_model, x_real, truth)


def auc(evaluation_or_scores):
    """P(x_model > x_real), by ranks."""
    x_model, x_real = evaluation_or_scores
    return mannwhitneyu(x_model, x_real).statistic / (len(x_model) * len(x_real))


def clipped_optimum(distance, bound):
    """The largest bound that a critic within +-`bound` reaches on unit Gaussians, by quadrature.

    The best such critic is the log-ratio plus a constant, clipped.
    """
    z = np.linspace(-12.0, 12.0 + distance, 4_001)
    model, real = (norm.pdf(z, loc=loc) * (z[1] - z[0]) for loc in (distance, 0.0))
    truth = distance * z - 0.5 * distance**2

    def bound_of(constant):
        critic = np.clip(truth + constant, -bound, bound)
        return model @ critic - np.log(real @ np.exp(critic))

    return max(bound_of(constant) for constant in np.linspace(-bound, bound, 401))


# What the flows learn


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_flows_fitted_independently_find_the_log_ratio(case):
    found, kl = evaluate(MODELS[case], dv_weight=0.0), MODELS[case].kl(REAL)
    assert found.dv == pytest.approx(kl, abs=0.01)
    assert found.rmse < 0.05


def test_flows_fitted_independently_find_a_large_divergence():
    assert evaluate(MODELS["E"], dv_weight=0.0).model.mean() == pytest.approx(4.5, abs=0.08)


@pytest.mark.parametrize(("case", "margin"), [("A", 0.03), ("B", 0.03), ("C", 0.04)])
def test_coupled_flows_find_the_divergence(case, margin):
    found, kl = evaluate(MODELS[case]), MODELS[case].kl(REAL)
    assert found.squashed_dv((2.0, 2.0)) < kl + 0.01
    assert found.dv == pytest.approx(kl, abs=margin)


@pytest.mark.parametrize("case", ["C", "E"])
def test_the_ratio_of_coupled_flows_follows_the_true_one(case):
    assert evaluate(MODELS[case]).correlation > 0.99


@pytest.mark.parametrize("case", ["A", "B"])
def test_a_wide_squash_is_less_biased_on_small_divergences(case):
    found = evaluate(MODELS[case], squash=(10.0, 10.0))
    assert found.dv == pytest.approx(MODELS[case].kl(REAL), abs=0.02)


@pytest.mark.parametrize(
    ("case", "distance", "bound"), [("A", 1.0, 1.0), ("E", 3.0, 1.0), ("E", 3.0, 2.0)]
)
def test_the_squash_caps_the_estimate(case, distance, bound):
    """0.01 for the noise of 1e5 rows; the flows come within 0.1 of the optimum."""
    optimum = clipped_optimum(distance, bound)
    assert optimum < min(2.0 * bound, MODELS[case].kl(REAL))
    squash = (bound, bound)
    found = evaluate(MODELS[case], squash=squash).squashed_dv(squash)
    assert optimum - 0.1 < found < optimum + 0.01


def test_the_score_is_high_on_what_the_model_generates():
    found = evaluate(MODELS["A"])
    assert found.model.mean() > found.real.mean() + 0.5


def test_exchanging_the_two_sides_estimates_the_other_divergence():
    """2.51 and not 0.94: exchanged batches cannot pass."""
    found = evaluate(REAL, MODELS["C"], dv_weight=0.0)
    assert found.model.mean() == pytest.approx(REAL.kl(MODELS["C"]), abs=0.1)


@pytest.mark.slow
def test_only_a_joint_density_sees_a_wrong_pairing():
    """Of s and s', correlated in reality and independent in the model; the best AUC is 0.8263."""
    found = evaluate(REAL, PAIRED)
    assert auc((found.model, found.real)) > 0.81

    side = Gaussian((0.0,), ((1.0,),))  # the law of s and of s', on both sides
    state, _ = trained(side, side)
    sides = [
        [
            np.asarray(log_ratio(state, z[:, [column]]))
            for z in (REAL.sample(101), PAIRED.sample(102))
        ]
        for column in (0, 1)
    ]
    for x_model, x_real in sides:
        assert auc((x_model, x_real)) == pytest.approx(0.5, abs=0.02)
    x_model, x_real = (s + next_s for s, next_s in zip(*sides))
    assert float(donsker_varadhan(x_model, x_real)) == pytest.approx(0.0, abs=0.02)
