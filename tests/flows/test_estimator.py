"""What the flows are shown, how they are trained, and what their score means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flows.coupled import make_coupled
from flows.coupling import make_flow
from flows.estimator import INPUTS, input_size, make_estimator
from flows.segments import Pool, Segments, pool
from replay import Transition
from tests.integration import tiny

SMALL = {"flow__num_layers": 2, "flow__hidden_width": 8, "flow__hidden_depth": 1}


def config(**changes):
    given = {f"flow__{name}": value for name, value in changes.items()}
    return tiny.config("cf_mbpo", **(SMALL | given))


@functools.cache
def estimator(observation_size=3, action_size=2, **changes):
    return make_estimator(config(**changes), tiny.spec(observation_size, action_size))


def transitions(*shape, seed=0, sizes=(3, 2)):
    rng = np.random.default_rng(seed)
    observation, change = rng.normal(size=(2, *shape, sizes[0]))
    return Transition(
        observation=jnp.float32(observation),
        action=jnp.float32(rng.uniform(-1.0, 1.0, (*shape, sizes[1]))),
        reward=jnp.float32(5.0 + rng.normal(size=shape)),
        next_observation=jnp.float32(observation + change),
        terminated=jnp.zeros(shape),
        truncated=jnp.zeros(shape),
    )


def scrambled(tree, seed=0):
    """Moves flows away from the identity; whole numbers are left alone."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + jnp.float32(0.3 * rng.normal(size=leaf.shape))

    return jax.tree.map(move, tree)


def scrambled_pair(pair, seed=0):
    return pair.replace(model=scrambled(pair.model, seed), real=scrambled(pair.real, seed + 1))


def assert_equal_trees(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)


# --- the inputs ----------------------------------------------------------------------------------

ONE = Transition(
    observation=jnp.float32([1.0, 2.0, 3.0]),
    action=jnp.float32([0.25, -0.5]),
    reward=jnp.float32(7.0),
    next_observation=jnp.float32([1.5, 1.0, 6.0]),
    terminated=jnp.float32(1.0),
    truncated=jnp.float32(1.0),
)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("sa", [1.0, 2.0, 3.0, 0.25, -0.5]),
        ("sar", [1.0, 2.0, 3.0, 0.25, -0.5, 7.0]),
        ("sas", [1.0, 2.0, 3.0, 0.25, -0.5, 0.5, -1.0, 3.0]),
        ("sars", [1.0, 2.0, 3.0, 0.25, -0.5, 7.0, 0.5, -1.0, 3.0]),
    ],
)
def test_inputs_are_the_named_parts_in_order(inputs, expected):
    assert sorted(INPUTS) == ["sa", "sar", "sars", "sas"]
    flows = estimator(inputs=inputs)
    state = flows.init(jax.random.key(0))
    np.testing.assert_array_equal(flows.inputs(state, ONE), expected)
    assert input_size(inputs, tiny.spec(3, 2)) == len(expected)
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, 2, *x.shape)), ONE)
    np.testing.assert_array_equal(flows.inputs(state, batch), np.tile(expected, (4, 2, 1)))


@pytest.mark.parametrize("inputs", sorted(INPUTS))
def test_inputs_are_standardised_with_the_valid_real_rows_only(inputs):
    flows = estimator(inputs=inputs)
    state = flows.init(jax.random.key(0))
    real = transitions(20, 4)
    valid = np.random.default_rng(1).random((20, 4)) < 0.6
    hidden = jax.tree.map(
        lambda x: jnp.where(valid.reshape(20, 4, *[1] * (x.ndim - 2)), x, jnp.nan), real
    )
    raw = np.asarray(flows.inputs(state, real), np.float64)  # nothing is standardised yet
    fitted = flows.standardize(state, Segments(hidden, jnp.asarray(valid), jnp.asarray(valid)))
    np.testing.assert_allclose(fitted.normalizer.mean, raw[valid].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(fitted.normalizer.std, raw[valid].std(axis=0, ddof=1), rtol=1e-5)
    other = transitions(7, seed=2)
    expected = (np.asarray(flows.inputs(state, other)) - raw[valid].mean(axis=0)) / raw[valid].std(
        axis=0, ddof=1
    )
    np.testing.assert_allclose(flows.inputs(fitted, other), expected, atol=1e-4)
    assert_equal_trees((fitted.joint, fitted.centre), (state.joint, state.centre))


def test_inputs_are_clipped_ten_standard_deviations_from_the_mean():
    flows = estimator(inputs="sar")
    state = flows.init(jax.random.key(0))
    far = ONE._replace(observation=jnp.float32([11.0, -200.0, 9.5]), reward=jnp.float32(np.inf))
    np.testing.assert_array_equal(flows.inputs(state, far), [10.0, -10.0, 9.5, 0.25, -0.5, 10.0])


@pytest.mark.parametrize("valid", [False, True])
def test_constant_inputs_and_missing_rows_leave_the_inputs_finite(valid):
    flows = estimator()
    real = jax.tree.map(lambda x: jnp.broadcast_to(x, (6, 3, *x.shape)), ONE)
    mask = jnp.full((6, 3), valid)
    state = flows.standardize(flows.init(jax.random.key(0)), Segments(real, mask, mask))
    np.testing.assert_array_equal(state.normalizer.std, np.ones(9))
    z = flows.inputs(state, ONE)
    expected = np.zeros(9) if valid else flows.inputs(flows.init(jax.random.key(0)), ONE)
    np.testing.assert_allclose(z, expected, atol=1e-6)


# --- the score -----------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("inputs", ["sa", "sars"])
def test_the_first_score_is_zero_everywhere(inputs, conditional):
    flows = estimator(inputs=inputs, conditional=conditional)
    state = flows.init(jax.random.key(0))
    z = flows.inputs(state, transitions(5, 3))
    np.testing.assert_array_equal(flows.log_ratio(state, z), np.zeros((5, 3)))
    np.testing.assert_array_equal(flows.score(state, z), np.zeros((5, 3)))
    assert float(state.centre) == 0.0


def pair_of(size):
    """The pair of flows of `SMALL`; how it is trained has no influence on its density ratio."""
    flow = make_flow(size, kind="affine", num_layers=2, hidden_width=8, hidden_depth=1)
    return make_coupled(
        flow,
        optax.sgd(1.0),
        squash=(1.0, 1.0),
        dv_weight=1.0,
        nll_weight=1.0,
        nll_only_steps=0,
        smoothing=0.0,
        smoothing_form="gaussian",
    )


@pytest.mark.parametrize(("form", "clip"), [("asinh", np.arcsinh), ("tanh", np.tanh)])
def test_the_score_is_the_softly_clipped_ratio_of_the_two_densities(form, clip):
    flows = estimator(score_cap=4.0, score_form=form)
    state = flows.init(jax.random.key(0))
    state = state.replace(joint=scrambled_pair(state.joint), centre=jnp.float32(3.0))
    z = flows.inputs(state, transitions(50))
    ratio = pair_of(9).log_ratio(state.joint, z)
    assert np.abs(ratio).max() > 4.0
    np.testing.assert_allclose(flows.log_ratio(state, z), ratio, rtol=1e-6)
    np.testing.assert_allclose(flows.score(state, z), 4.0 * clip(ratio / 4.0), rtol=1e-5)


@pytest.mark.parametrize("inputs", ["sar", "sas", "sars"])
def test_a_conditional_score_subtracts_the_ratio_over_state_and_action(inputs):
    flows = estimator(inputs=inputs, conditional=True)
    state = flows.init(jax.random.key(0))
    state = state.replace(
        joint=scrambled_pair(state.joint, seed=0), marginal=scrambled_pair(state.marginal, seed=7)
    )
    z = flows.inputs(state, transitions(50))
    joint = pair_of(z.shape[-1]).log_ratio(state.joint, z)
    marginal = pair_of(5).log_ratio(state.marginal, z[:, :5])
    assert np.abs(marginal).max() > 1.0
    np.testing.assert_allclose(flows.log_ratio(state, z), joint - marginal, rtol=1e-4, atol=1e-4)


def test_the_centre_is_the_log_mean_of_the_squashed_ratio_over_the_selected_rows():
    flows = estimator(squash=(3.0, 2.0))
    x = jnp.float32([0.5, -1.0, 4.0, np.nan, 30.0])
    mask = jnp.asarray([True, True, True, False, False])
    state = flows.recentre(flows.init(jax.random.key(0)), x, mask)
    squashed = 2.0 * np.tanh(np.array([0.5, -1.0, 4.0]) / 3.0)
    assert float(state.centre) == pytest.approx(np.log(np.exp(squashed).mean()), rel=1e-5)
    assert flows.recentre(state, x, jnp.zeros(5, bool)).centre == state.centre


# --- training ------------------------------------------------------------------------------------


def pools(seed=0, inputs=9, shift=1.0):
    """Model rows around `shift`, real rows around 0."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2, 64, inputs)).astype(np.float32)
    size = jnp.int32(64)
    return Pool(jnp.asarray(rows[0] + shift), size), Pool(jnp.asarray(rows[1]), size)


@functools.cache
def trainer(**changes):
    return jax.jit(estimator(**changes).train)


def after(steps, seed=1, state=None, **changes):
    settings = {"batch_size": 16, "warmup_steps": (3, 2), "smoothing": 0.0} | changes
    if state is None:
        state = estimator(**settings).init(jax.random.key(0))
    return trainer(**settings)(state, *pools(), steps, jax.random.key(seed))


def test_training_starts_with_the_likelihood_alone():
    for steps in (1, 3):
        with_bound, _ = after(steps, dv_weight=1.0)
        without, _ = after(steps, dv_weight=0.0)
        assert int(with_bound.joint.steps) == steps
        assert_equal_trees(with_bound.joint, without.joint)
    with_bound, _ = after(4, dv_weight=1.0)
    without, _ = after(4, dv_weight=0.0)
    assert np.abs(with_bound.joint.model["loc"] - without.joint.model["loc"]).max() > 1e-6


def test_the_bound_is_on_from_the_first_step_after_the_warm_up_of_an_earlier_call():
    start, _ = after(3)
    assert int(start.joint.steps) == 3
    with_bound, _ = after(1, dv_weight=1.0, state=start)
    without, _ = after(1, dv_weight=0.0, state=start)
    assert int(with_bound.joint.steps) == 4
    assert np.abs(with_bound.joint.model["loc"] - without.joint.model["loc"]).max() > 1e-6


@pytest.mark.parametrize("done", [0, 2, 5, 50])
def test_the_learning_rate_falls_along_a_cosine_during_the_warm_up(done):
    """The first step of Adam moves every parameter by the learning rate."""
    first, last, total = 4e-3, 1e-3, 5
    rates = {"warmup_learning_rate": first, "learning_rate": last}
    settings = {"batch_size": 16, "warmup_steps": (3, 2), "smoothing": 0.0}
    state = estimator(**settings, **rates).init(jax.random.key(0))
    clip, (adam, schedule) = state.joint.optimizer
    schedule = schedule._replace(count=jnp.int32(done))
    state = state.replace(joint=state.joint.replace(optimizer=(clip, (adam, schedule))))
    new, _ = after(1, state=state, **rates)
    share = 0.5 * (1.0 + np.cos(np.pi * min(done, total) / total))
    expected = last + (first - last) * share
    np.testing.assert_allclose(np.abs(new.joint.model["loc"]), np.full(9, expected), rtol=1e-3)


def test_no_step_changes_nothing():
    state = estimator(batch_size=16, warmup_steps=(3, 2), smoothing=0.0).init(jax.random.key(0))
    new, metrics = after(0)
    assert_equal_trees(new, state)
    assert sorted(metrics) == ["flow/train_dv", "flow/train_nll"]
    assert all(float(value) == 0.0 for value in metrics.values())


def test_every_step_draws_batches_of_its_own():
    one, _ = after(1, seed=1)
    again, _ = after(1, seed=1)
    assert_equal_trees(one, again)
    nll = [float(after(1, seed=seed)[1]["flow/train_nll"]) for seed in (1, 2)]
    assert nll[0] != nll[1]
    # the metrics are those of the last step: with the same parameters, of another batch
    still = {"warmup_learning_rate": 1e-12, "learning_rate": 1e-12}
    losses = [float(after(n, **still)[1]["flow/train_nll"]) for n in (1, 2, 3)]
    assert len(set(losses)) == 3
    np.testing.assert_allclose(losses, losses[0], rtol=0.5)


def trained_estimator(model, real, conditional, steps=600):
    """Trains on transitions [N], standardised as in a refresh; returns mean |x| on both sides."""
    settings = {
        "inputs": "sas",
        "conditional": conditional,
        "warmup_steps": (300, 300),
        "learning_rate": 1e-3,
        "warmup_learning_rate": 3e-3,
        "hidden_width": 16,
        "num_layers": 4,
        "batch_size": 256,
        "smoothing": 0.0,
        "dv_weight": 0.0,
        "score_cap": 10.0,
        "score_form": "tanh",
    }
    flows = estimator(1, 1, **settings)

    @jax.jit
    def run(model, real):
        valid = jnp.ones((len(real.reward), 1), bool)
        segments = Segments(jax.tree.map(lambda x: x[:, None], real), valid, valid)
        state = flows.standardize(flows.init(jax.random.key(0)), segments)
        z_model, z_real = flows.inputs(state, model), flows.inputs(state, real)
        mask = jnp.ones(len(real.reward), bool)
        pools = pool(z_model, mask), pool(z_real, mask)
        state, _ = flows.train(state, *pools, steps, jax.random.key(1))
        return flows.score(state, jnp.concatenate([z_model, z_real]))

    return np.abs(run(model, real)).mean()


def outcomes(seed, state_mean, push):
    """s ~ N(state_mean, 1), a ~ N(-s / 2, 1), s' - s ~ N(s / 2 + a + push, 1 / 4)."""
    rng = np.random.default_rng(seed)
    state, noise, action_noise = rng.normal(size=(3, 4_000))
    state = state + state_mean
    action = -0.5 * state + action_noise
    following = state + 0.5 * state + action + push + 0.5 * noise
    zeros = jnp.zeros(4_000)
    columns = (jnp.float32(column[:, None]) for column in (state, action, following))
    state, action, following = columns
    return Transition(state, action, zeros, following, zeros, zeros)


@pytest.mark.slow
def test_a_conditional_score_ignores_where_the_policy_goes_and_sees_wrong_outcomes():
    """Of 1.5 s - 1.125 in the first case, mean |x| 1.49 over both sides.

    Of 6 y - 4.5 with y ~ N(0 or 1.5, 1 / 4) in the second, mean |x| is 4.11.
    """
    real = outcomes(0, state_mean=0.0, push=0.0)
    elsewhere = outcomes(1, state_mean=1.5, push=0.0)
    joint, conditional = (trained_estimator(elsewhere, real, conditional=c) for c in (False, True))
    assert joint == pytest.approx(1.49, abs=0.15)
    assert conditional < 0.25
    wrong = outcomes(2, state_mean=0.0, push=1.5)
    joint, conditional = (trained_estimator(wrong, real, conditional=c) for c in (False, True))
    assert joint == pytest.approx(4.11, abs=0.3)
    assert conditional == pytest.approx(4.11, abs=0.3)
