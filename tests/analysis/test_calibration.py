import numpy as np
import pytest
import scipy.stats

from analysis import calibration
from models.ensemble import Prediction, gaussian_nll


def normal_grid(count=20_000):
    """Quantiles of a standard Gaussian: a sample of it without sampling error."""
    return scipy.stats.norm.ppf((np.arange(count) + 0.5) / count)


def standardised(noise, predicted_std):
    """Errors of a model that predicts `predicted_std` where the truth is 3 + noise."""
    target = 3.0 + noise[:, None]
    mean = np.full((1, *target.shape), 3.0)
    log_variance = np.full(mean.shape, 2 * np.log(predicted_std))
    return calibration.standardised_errors(mean, log_variance, target)


def test_a_calibrated_model_lies_on_the_diagonal():
    z = standardised(0.7 * normal_grid(), predicted_std=0.7)
    np.testing.assert_allclose(calibration.coverage(z), calibration.LEVELS, atol=1e-4)
    assert calibration.overconfidence(z) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_wrong_standard_deviation_bends_the_curve_as_the_closed_form_says(factor):
    z = standardised(factor * normal_grid(), predicted_std=1.0)
    norm = scipy.stats.norm
    expected = 2 * norm.cdf(norm.ppf((1 + calibration.LEVELS) / 2) / factor) - 1
    np.testing.assert_allclose(calibration.coverage(z), expected, atol=1e-4)
    assert calibration.overconfidence(z) == pytest.approx(factor, rel=1e-3)


def example():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, 3, 7, 4))
    target = rng.normal(size=(7, 4))
    z = calibration.standardised_errors(mean, log_variance, target)
    log_density = scipy.stats.norm.logpdf(target, mean, np.exp(0.5 * log_variance))
    return mean, log_variance, target, z, log_density


def test_nll_of_the_elites_is_that_of_scipy():
    *_, log_variance, _, z, log_density = example()
    np.testing.assert_allclose(
        calibration.elite_nll(z, log_variance), -log_density.mean(axis=(0, 1)), rtol=1e-12
    )


def test_nll_is_half_of_what_the_fit_minimises_plus_the_constant():
    mean, log_variance, target, z, _ = example()
    minimised = np.asarray(gaussian_nll(Prediction(mean, log_variance), target))
    expected = 0.5 * (minimised.mean(axis=(0, 1)) + np.log(2 * np.pi))
    np.testing.assert_allclose(calibration.elite_nll(z, log_variance), expected, rtol=1e-5)


def test_mixture_averages_joint_densities_over_elites():
    *_, log_variance, _, z, log_density = example()
    joint = np.exp(log_density.sum(axis=2)).mean(axis=0)
    expected = -np.log(joint).mean() / 4
    assert calibration.mixture_nll(z, log_variance) == pytest.approx(expected, rel=1e-12)
    assert expected < -log_density.mean()  # Jensen: never worse than the average elite


def test_mixture_of_equal_elites_is_the_elite():
    _, log_variance, _, z, _ = example()
    z, log_variance = z[:1].repeat(5, axis=0), log_variance[:1].repeat(5, axis=0)
    assert calibration.mixture_nll(z, log_variance) == pytest.approx(
        calibration.elite_nll(z, log_variance).mean(), rel=1e-12
    )


def test_constant_gaussian_has_the_moments_of_the_data():
    target = np.random.default_rng(1).normal(2.0, [0.1, 5.0], size=(50, 2))
    density = scipy.stats.norm.logpdf(target, target.mean(axis=0), target.std(axis=0))
    np.testing.assert_allclose(calibration.constant_nll(target), -density.mean(axis=0), rtol=1e-12)


def test_an_overflowed_prediction_counts_as_a_very_large_error():
    mean = np.array([[[np.nan], [np.inf], [-np.inf], [1.0]]])
    z = calibration.standardised_errors(mean, np.zeros_like(mean), np.zeros((4, 1)))
    assert z[0, :, 0].tolist() == [1e6, 1e6, -1e6, 1.0]
