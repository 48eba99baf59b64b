"""Diagnostics against brute force, SciPy, small decision processes and a hand-written simulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flows import diagnostics
from models import normalizer
from models.ensemble import Ensemble, Normalizers, Prediction
from replay import Transition


def auc(x_model, x_real, model_mask=None, real_mask=None):
    x_model, x_real = jnp.asarray(x_model, jnp.float32), jnp.asarray(x_real, jnp.float32)
    masks = [
        jnp.ones(x.shape, bool) if mask is None else jnp.asarray(mask)
        for x, mask in ((x_model, model_mask), (x_real, real_mask))
    ]
    return float(jax.jit(diagnostics.auc)(x_model, masks[0], x_real, masks[1]))


def test_auc_equals_counting_every_pair():
    rng = np.random.default_rng(0)
    x_model, x_real = rng.integers(0, 8, 60), rng.integers(-2, 6, 45)  # many ties
    model_mask, real_mask = rng.random(60) < 0.7, rng.random(45) < 0.7
    wins = [
        1.0 if m > r else 0.5 if m == r else 0.0
        for m in x_model[model_mask]
        for r in x_real[real_mask]
    ]
    hidden_model = np.where(model_mask, x_model, np.nan)
    hidden_real = np.where(real_mask, x_real, np.nan)
    assert auc(hidden_model, hidden_real, model_mask, real_mask) == pytest.approx(np.mean(wins))
    for filler in (np.inf, -np.inf):
        hidden = np.where(real_mask, x_real, filler)
        assert auc(x_model, hidden, model_mask, real_mask) == pytest.approx(np.mean(wins))


def test_auc_of_the_exact_score_of_a_corrupted_gaussian():
    """Clean z1 ~ N(0, 1), corrupt z1 ~ N(2, 1), half each: Phi(sqrt 2), since x rises with z1."""
    z = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)

    def score(z):
        return np.log(0.5 + 0.5 * np.exp(2 * z - 2))

    assert auc(score(z + 2.0), score(z)) == pytest.approx(0.92135, abs=2e-4)


def test_auc_at_its_ends_and_without_rows():
    assert auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert auc([0.0, 1.0], [2.0, 3.0]) == 0.0
    assert auc([1.0, 1.0], [1.0]) == 0.5
    assert auc([np.inf], [np.inf, 0.0, np.nan], real_mask=[True, True, False]) == 0.75
    assert auc([2.0], [0.0], model_mask=[False]) == 0.5
    assert auc([2.0], [np.nan], real_mask=[False]) == 0.5


def median_of_means(values, mask, groups):
    values, mask = jnp.asarray(values, jnp.float32), jnp.asarray(mask)
    return float(jax.jit(diagnostics.median_of_means, static_argnums=2)(values, mask, groups))


@pytest.mark.parametrize("groups", [1, 4, 5, 10])
def test_median_of_means_equals_numpy(groups):
    rng = np.random.default_rng(0)
    values, mask = np.exp(rng.normal(size=97)), rng.random(97) < 0.6
    rows = values[mask]
    expected = np.median([rows[start::groups].mean() for start in range(groups)])
    hidden = np.where(mask, values, np.nan)
    assert median_of_means(hidden, mask, groups) == pytest.approx(expected, rel=1e-5)


def test_one_outlier_does_not_move_the_median_of_means():
    values = np.ones(100)
    values[3] = 1e6
    assert median_of_means(values, np.ones(100, bool), 10) == 1.0


@pytest.mark.parametrize(("count", "expected"), [(0, 0.0), (1, 5.0), (2, 4.0), (3, 5.0)])
def test_median_of_means_with_fewer_rows_than_groups(count, expected):
    assert median_of_means([5.0, 3.0, 9.0], np.arange(3) < count, 10) == expected


def spearman(a, b, mask=None):
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    mask = jnp.ones(a.shape, bool) if mask is None else jnp.asarray(mask)
    return float(jax.jit(diagnostics.spearman)(a, b, mask))


@pytest.mark.parametrize("levels", [3, 20, 10_000])
def test_spearman_equals_scipy_with_ties(levels):
    rng = np.random.default_rng(levels)
    a = rng.integers(0, levels, 80)
    b = a + rng.integers(0, levels, 80)
    mask = rng.random(80) < 0.7
    expected = stats.spearmanr(a[mask], b[mask]).statistic
    hidden = [np.where(mask, x, filler) for x, filler in ((a, np.nan), (b, -np.inf))]
    assert spearman(*hidden, mask) == pytest.approx(expected, abs=1e-5)


def test_spearman_without_variation_is_zero():
    assert spearman([1.0, 2.0, 3.0], [7.0, 7.0, 7.0]) == 0.0
    assert spearman([1.0, 2.0], [1.0, 2.0], [True, False]) == 0.0
    assert spearman([np.nan, 2.0], [1.0, np.nan], [False, False]) == 0.0
    assert spearman([1.0, 2.0], [2.0, 1.0]) == pytest.approx(-1.0)


def test_total_variation_bound_is_the_smaller_of_the_two():
    pinsker = [diagnostics.total_variation_bound(kl) for kl in (0.0, 0.02, 0.5)]
    np.testing.assert_allclose(pinsker, [0.0, 0.1, 0.5], rtol=1e-6)
    huber = [diagnostics.total_variation_bound(kl) for kl in (2.0, 5.0, np.inf)]
    np.testing.assert_allclose(huber, [0.9298735, 0.9966254, 1.0], rtol=1e-6)
    assert float(diagnostics.total_variation_bound(-0.3)) == 0.0
    # The crossing is the root of kl / 2 = 1 - exp(-kl).
    below, above = (float(diagnostics.total_variation_bound(kl)) for kl in (1.59, 1.60))
    assert below == pytest.approx(np.sqrt(1.59 / 2))
    assert above == pytest.approx(np.sqrt(-np.expm1(-1.60)))


def occupancy(start, transition, discount):
    """Normalised discounted state occupancy [S]; both inputs are under the policy."""
    size = len(start)
    return (1 - discount) * np.linalg.solve(np.eye(size) - discount * transition.T, start)


def horizon_occupancy(start, transition, discount, steps):
    """The same of the first `steps` steps, and their sum of discounts."""
    total, law = np.zeros(len(start)), start
    for t in range(steps):
        total, law = total + discount**t * law, law @ transition
    weight = (1 - discount**steps) / (1 - discount)
    return total / weight, weight


def kl_divergence(p, q):
    return float(np.sum(np.where(p > 0, p * np.log(p / q), 0.0)))


def test_return_gap_bound_of_a_two_state_chain():
    """Reward 1 in the absorbing state 1; the model escapes state 0 with 0.4 instead of 0.5."""
    discount, start, reward = 0.9, np.array([1.0, 0.0]), np.array([0.0, 1.0])
    real, model = (np.array([[1 - escape, escape], [0.0, 1.0]]) for escape in (0.5, 0.4))
    d, d_model = (occupancy(start, p, discount) for p in (real, model))
    np.testing.assert_allclose([d[1], d_model[1]], [0.818182, 0.782609], atol=1e-6)
    gap = 10 * (d - d_model) @ reward
    assert gap == pytest.approx(0.355731, abs=1e-6)
    assert gap == pytest.approx(10 * 0.5 * np.abs(d - d_model).sum())  # the TV bound is attained
    kl = kl_divergence(d_model, d)
    assert kl == pytest.approx(0.00405771, abs=1e-8)
    bound = float(diagnostics.return_gap_bound(kl, 1.0, 1 / (1 - discount)))
    assert bound == pytest.approx(0.450428, rel=1e-5)
    worst_step = 0.5 * np.abs(real - model).sum(axis=1).max()
    assert worst_step * discount / (1 - discount) ** 2 == pytest.approx(9.0)


def test_return_gap_bound_holds_for_random_decision_processes():
    rng = np.random.default_rng(0)
    states, actions, steps = 5, 2, 5
    for _ in range(200):
        discount = rng.choice([0.5, 0.9, 0.99])
        start, reward = rng.dirichlet(np.ones(states)), rng.normal(size=(states, actions))
        policy = rng.dirichlet(np.ones(actions), states)
        real = rng.dirichlet(np.ones(states), (states, actions))
        other = rng.dirichlet(np.ones(states), (states, actions))
        share = rng.choice([0.01, 0.1, 1.0])
        model = (1 - share) * real + share * other
        real_p, model_p = (np.einsum("sa,sat->st", policy, p) for p in (real, model))
        span = np.ptp(reward)

        d, d_model = (occupancy(start, p, discount)[:, None] * policy for p in (real_p, model_p))
        weight = 1 / (1 - discount)
        gap = weight * abs(((d - d_model) * reward).sum())
        exact = weight * span * 0.5 * np.abs(d - d_model).sum()
        bound = float(diagnostics.return_gap_bound(kl_divergence(d_model, d), span, weight))
        assert gap <= exact * (1 + 1e-9)
        assert exact <= bound * (1 + 1e-5)
        one_step = (d_model * 0.5 * np.abs(real - model).sum(axis=2)).sum()
        assert gap <= span * discount * one_step * weight**2

        (h, weight), (h_model, _) = (
            horizon_occupancy(start, p, discount, steps) for p in (real_p, model_p)
        )
        h, h_model = h[:, None] * policy, h_model[:, None] * policy
        gap = weight * abs(((h - h_model) * reward).sum())
        bound = diagnostics.return_gap_bound(kl_divergence(h_model, h), span, weight)
        assert gap <= float(bound) * (1 + 1e-5)


def test_absorption_follows_the_chain_rule():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.dirichlet(np.full(6, 5.0), 2)  # the last entry is the atom
        alive_p, alive_q = 1 - p[-1], 1 - q[-1]
        kl_alive = kl_divergence(p[:-1] / alive_p, q[:-1] / alive_q)
        total = diagnostics.kl_with_absorption(kl_alive, alive_p, alive_q)
        assert float(total) == pytest.approx(kl_divergence(p, q), rel=1e-4)
    # The two-state chain: alive is state 0, a single point.
    chain = diagnostics.kl_with_absorption(0.0, 1 - 0.7826087, 1 - 0.8181818)
    assert float(chain) == pytest.approx(0.00405771, abs=1e-7)


def test_absorption_is_finite_where_nothing_or_everything_terminates():
    assert float(diagnostics.kl_with_absorption(0.7, 1.0, 1.0)) == pytest.approx(0.7)
    assert float(diagnostics.kl_with_absorption(np.nan, 0.0, 0.0)) == 0.0
    certain = float(diagnostics.kl_with_absorption(0.7, 1.0, 0.0))
    assert certain == pytest.approx(0.7 + np.log(1e6), rel=1e-2)
    assert np.isfinite(float(diagnostics.kl_with_absorption(0.7, 0.0, 1.0)))


OBSERVATION, ACTION, REWARD_COLUMN = 3, 2, 1


def linear_ensemble(predict_delta=True):
    """Members whose mean is W (observation, action), reward included; variances are noise."""

    def predict(params, normalizers, observation, action):
        inputs = normalizers.inputs.normalize(jnp.concatenate([observation, action], axis=-1))
        mean = jnp.einsum("mdi,mbi->mbd", params["w"], inputs)
        return Prediction(mean, jnp.full(mean.shape, 3.0))

    def decode(observation, action, target):
        change = target[..., :OBSERVATION]
        return observation + change if predict_delta else change, target[..., -1]

    size = OBSERVATION + REWARD_COLUMN
    return Ensemble(None, predict, None, decode, 4, OBSERVATION + ACTION, size)


def random_segments(rng, rows, steps):
    """Segments [rows, steps, ...] with early ends, NaN after them, and one that is never valid."""
    observation, reached = rng.normal(size=(2, rows, steps, OBSERVATION)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, steps, ACTION)).astype(np.float32)
    lengths = rng.integers(1, steps + 1, rows)
    lengths[:2] = steps - 1, 0
    valid = np.arange(steps) < lengths[:, None]
    for field in (observation, reached, action):
        field[~valid] = np.nan
    zero = np.zeros((rows, steps), np.float32)
    return Transition(observation, action, zero, reached, zero, zero), valid


def numpy_errors(w, statistics, segments, valid, scale):
    members, steps = len(w), valid.shape[1]
    squares = [[[] for _ in range(steps)] for _ in range(members)]
    for m in range(members):
        for n in range(len(valid)):
            state = segments.observation[n, 0]
            for k in range(int(valid[n].sum())):
                inputs = np.concatenate([state, segments.action[n, k]])
                inputs = (inputs - statistics.mean) / statistics.std
                state = state + (w[m] @ inputs)[:OBSERVATION]
                squares[m][k] += [((state - segments.next_observation[n, k]) / scale) ** 2]
    return np.array([[np.sqrt(np.mean(s)) if s else 0.0 for s in row] for row in squares])


def errors(w, statistics, segments, valid, scale, ensemble=None):
    normalizers = Normalizers(statistics, normalizer.identity(OBSERVATION + REWARD_COLUMN))
    ensemble = linear_ensemble() if ensemble is None else ensemble

    @jax.jit
    def run(params, segments, valid, scale):
        return diagnostics.open_loop_errors(ensemble, params, normalizers, segments, valid, scale)

    return run({"w": jnp.float32(w)}, segments, jnp.asarray(valid), jnp.float32(scale))


def test_open_loop_errors_equal_a_hand_written_simulation():
    rng = np.random.default_rng(0)
    segments, valid = random_segments(rng, rows=7, steps=6)
    w = rng.normal(scale=0.3, size=(4, OBSERVATION + REWARD_COLUMN, OBSERVATION + ACTION))
    scale = np.array([0.5, 1.0, 3.0])
    statistics = normalizer.Normalizer(jnp.full(5, 0.2), jnp.linspace(0.5, 2.0, 5))
    result = errors(w, statistics, segments, valid, scale)
    assert result.shape == (4, 6)
    expected = numpy_errors(w, statistics, segments, valid, scale)
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    subset = errors(w[[2, 0]], statistics, segments, valid, scale)  # as for the elites alone
    np.testing.assert_allclose(subset, expected[[2, 0]], rtol=1e-4)


def test_the_true_dynamics_have_no_open_loop_error_and_a_bias_accumulates():
    rng = np.random.default_rng(1)
    dynamics = 0.2 * rng.normal(size=(OBSERVATION, OBSERVATION + ACTION))
    action = rng.uniform(-1, 1, (9, 4, ACTION))
    observation = [rng.normal(size=(9, OBSERVATION))]
    for k in range(4):
        inputs = np.concatenate([observation[-1], action[:, k]], axis=1)
        observation.append(inputs @ dynamics.T)
    observation = np.float32(np.stack(observation, axis=1))
    zero = np.zeros((9, 4), np.float32)
    segments = Transition(
        observation[:, :-1], np.float32(action), zero, observation[:, 1:], zero, zero
    )
    w = np.zeros((1, OBSERVATION + REWARD_COLUMN, OBSERVATION + ACTION))
    w[0, :OBSERVATION] = dynamics
    statistics, valid = normalizer.identity(OBSERVATION + ACTION), np.ones((9, 4), bool)
    absolute = linear_ensemble(predict_delta=False)
    exact = errors(w, statistics, segments, valid, np.ones(3), absolute)
    np.testing.assert_allclose(exact, 0.0, atol=1e-6)
    # A state that stands still is off by what the real one has moved since the start.
    still = errors(0 * w, statistics, segments, valid, np.full(3, 2.0))
    moved = observation[:, 1:] - observation[:, :1]
    np.testing.assert_allclose(still[0], np.sqrt((moved**2).mean(axis=(0, 2))) / 2, rtol=1e-5)


def test_open_loop_errors_are_finite_without_rows_and_after_overflow():
    rng = np.random.default_rng(2)
    segments, valid = random_segments(rng, rows=5, steps=6)
    w = rng.normal(size=(4, OBSERVATION + REWARD_COLUMN, OBSERVATION + ACTION))
    statistics = normalizer.identity(OBSERVATION + ACTION)
    none = errors(w, statistics, segments, np.zeros_like(valid), np.ones(3))
    np.testing.assert_array_equal(none, 0.0)
    diverged = errors(w * 1e30, statistics, segments, valid, np.ones(3))
    np.testing.assert_allclose(diverged[:, :4], diagnostics.LARGEST_ERROR, rtol=1e-5)
    assert np.isfinite(diverged).all()


def test_results_are_strongly_typed_float32():
    rng = np.random.default_rng(3)
    segments, valid = random_segments(rng, rows=5, steps=3)
    x, mask = jnp.zeros(4), jnp.ones(4, bool)
    w = rng.normal(size=(4, OBSERVATION + REWARD_COLUMN, OBSERVATION + ACTION))
    results = (
        diagnostics.auc(x, mask, x, mask),
        diagnostics.median_of_means(x, mask),
        diagnostics.spearman(x, x, mask),
        diagnostics.total_variation_bound(0.1),
        diagnostics.return_gap_bound(0.1, 1.0, 10.0),
        diagnostics.kl_with_absorption(0.1, 0.9, 0.8),
        errors(w, normalizer.identity(5), segments, valid, np.ones(3)),
    )
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in results)
