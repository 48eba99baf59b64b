"""Fitting: which rows are used, when it stops, what it restores, and what it measures."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import mbpo
from envs.spec import EnvSpec
from experiment.configuration import resolve
from models import normalizer
from models.early_stopping import Progress, track_best
from models.ensemble import Normalizers, make_ensemble
from models.fit import holdout_errors, make_fit
from models.mlp import DROPOUT
from models.objectives import OBJECTIVES, Context, ModelObjective, Parts
from models.split import Split, minibatch_rows, permanent_holdout
from models.split import split_rows as split_rows_untraced
from models.training import NO_REFIT, Refit
from replay import buffer, example_transition

NO_CONTEXT = Context(
    policy=(),
    critics=(),
    target_critics=(),
    log_temperature=jnp.zeros(()),
    normalizers=Normalizers(normalizer.identity(2), normalizer.identity(2)),
)

split_rows = jax.jit(
    split_rows_untraced,
    static_argnames=("num_members", "holdout_ratio", "holdout_max", "bootstrap"),
)


def toy_config(**model):
    config = mbpo.get_config("Hopper-v5")
    small = {
        "num_members": 3,
        "num_elites": 2,
        "hidden_width": 4,
        "hidden_depth": 1,
        "learning_rate": 0.25,
        "weight_decay": (0.0,),
        "batch_size": 4,
        "bootstrap": False,
        "patience": 2,
        "incumbent_competes": False,
        "max_gradient_steps": 0,
    }
    config.model.update(small | model)
    return resolve(config)


def toy_spec(reward=None):
    return EnvSpec("Toy-v0", 1, 1, (-1.0,), (1.0,), lambda s, a, n: n[..., 0] > 1.0, reward)


def replay_of(observation, reward, next_observation, capacity=None):
    """A replay of one-dimensional states, the first one oldest; actions are zero."""
    n = len(observation)
    zeros = np.zeros(n)
    columns = (observation, zeros, reward, next_observation, zeros, zeros)
    rows = np.zeros((capacity or n, 6), np.float32)
    rows[:n] = np.stack(columns, axis=1)
    empty = buffer.init(len(rows), example_transition(1, 1))
    return empty.replace(
        rows=jnp.asarray(rows),
        position=jnp.int32(n % len(rows)),
        size=jnp.int32(n),
    )


def numbered_replay(n, capacity=None):
    """Row i has reward i, by which an objective can tell it."""
    return replay_of(np.zeros(n), np.arange(n), np.zeros(n), capacity)


def recording(num_members, num_rows):
    """An objective with no gradient, whose state counts the rows every member has seen [E, N]."""

    def loss(params, seen, batch, context, key):
        ids = batch.reward.astype(jnp.int32)
        seen = seen.at[jnp.arange(num_members)[:, None], ids].add(1)
        return 0.0 * sum(leaf.sum() for leaf in jax.tree.leaves(params)), (seen, {})

    return ModelObjective(lambda key: jnp.zeros((num_members, num_rows), jnp.int32), loss, None)


def ordered():
    """An objective with no gradient that writes down the first member's rows [steps, B]."""

    def loss(params, state, batch, context, key):
        written, step = state
        written = written.at[step].set(batch.reward[0])
        return 0.0 * sum(leaf.sum() for leaf in jax.tree.leaves(params)), ((written, step + 1), {})

    return ModelObjective(lambda key: (jnp.zeros((3, 16)), jnp.zeros((), jnp.int32)), loss, None)


@functools.cache
def fitter(objective_name=None, num_rows=0, **model):
    """The ensemble, `init` and the compiled `fit` of a toy configuration."""
    config = toy_config(**model)
    ensemble = make_ensemble(config, toy_spec())
    if objective_name is None:
        objective = recording(config.model.num_members, num_rows)
    elif objective_name in ("ordered", "drifting", "scaled"):
        objective = {"ordered": ordered, "drifting": drifting, "scaled": scaled}[objective_name]()
    else:
        objective = OBJECTIVES[objective_name](config, Parts(ensemble, toy_spec(), *[None] * 6))
    learner = make_fit(config, ensemble, objective)
    return ensemble, jax.jit(learner.init), jax.jit(learner.fit)


def visits(num_rows, *, key=0, capacity=None, **model):
    """How often each member saw each row in one fit [E, N]."""
    _, init, fit = fitter(num_rows=num_rows, **model)
    replay = numbered_replay(num_rows, capacity)
    state, metrics = fit(init(jax.random.key(0)), replay, NO_CONTEXT, jax.random.key(key))
    return np.asarray(state.objective), metrics


def constant_params(ensemble, mean, log_variance):
    """Networks that predict one Gaussian whatever they see; mean and log_variance [E, D]."""
    params = jax.tree.map(jnp.zeros_like, jax.jit(ensemble.init)(jax.random.key(0)))
    head = max(params["net"]["params"])
    bias = jnp.concatenate([jnp.float32(mean), jnp.float32(log_variance)], axis=-1)
    params["net"]["params"][head]["bias"] = bias
    bounds = jnp.full(np.shape(mean), 60.0)  # so far out that they bound nothing
    return params | {"log_variance_min": -bounds, "log_variance_max": bounds}


# --- which rows a fit uses -----------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [True, False])
def test_no_two_members_see_the_same_minibatches(bootstrap):
    split = split_rows(
        jax.random.key(0),
        numbered_replay(100),
        num_members=7,
        holdout_ratio=0.2,
        holdout_max=5_000,
        bootstrap=bootstrap,
    )
    order = jnp.asarray(np.random.default_rng(0).permutation(80))
    order = jnp.concatenate([order, jnp.zeros(20, jnp.int32)])
    for index in range(10):
        rows = np.asarray(minibatch_rows(split, order, index, 8, bootstrap))
        assert rows.shape == (7, 8)
        assert len({tuple(sorted(row)) for row in rows}) == 7


def test_bootstrap_draws_with_replacement():
    split = split_rows(
        jax.random.key(0),
        numbered_replay(5_000),
        num_members=3,
        holdout_ratio=0.2,
        holdout_max=5_000,
        bootstrap=True,
    )
    n = int(split.train_size)
    assert n == 4_000
    for member in np.asarray(split.train)[:, :n]:
        # 1 - 1/e of the rows are drawn at all; the deviation is 0.5 / sqrt(4000) = 0.005
        assert abs(len(np.unique(member)) / n - (1.0 - 1.0 / math.e)) < 0.02


@pytest.mark.parametrize(
    ("rows", "ratio", "cap", "expected"),
    [
        (100, 0.2, 5_000, 20),
        (104, 0.2, 5_000, 20),
        (105, 0.2, 5_000, 21),
        (150, 0.5, 5_000, 75),  # a full ring
        (100, 0.2, 7, 7),
        (4, 0.2, 7, 0),
    ],
)
@pytest.mark.parametrize("bootstrap", [True, False])
def test_the_holdout_has_its_size_and_shares_no_row_with_training(
    rows, ratio, cap, expected, bootstrap
):
    split = split_rows(
        jax.random.key(1),
        numbered_replay(rows, capacity=150),
        num_members=3,
        holdout_ratio=ratio,
        holdout_max=cap,
        bootstrap=bootstrap,
    )
    assert int(split.holdout_size) == expected
    assert int(split.train_size) == rows - expected
    held_out = set(np.asarray(split.holdout)[:expected].tolist())
    train = set(np.asarray(split.train)[:, : rows - expected].ravel().tolist())
    assert len(held_out) == expected
    assert not held_out & train
    assert held_out | train <= set(range(rows))  # nothing from empty slots
    if not bootstrap:
        assert held_out | train == set(range(rows))


def test_every_row_is_held_out_equally_often():
    def held_out(key):
        split = split_rows_untraced(
            key,
            numbered_replay(20, capacity=30),
            num_members=1,
            holdout_ratio=0.2,
            holdout_max=5_000,
            bootstrap=False,
        )
        return split.holdout[:4]

    drawn = np.asarray(jax.jit(jax.vmap(held_out))(jax.random.split(jax.random.key(0), 2_000)))
    counts = np.bincount(drawn.ravel(), minlength=30)
    # 2,000 draws of probability 0.2: 400, deviation sqrt(2000 x 0.2 x 0.8) = 17.9
    assert (np.abs(counts[:20] - 400) < 4.5 * 17.9).all()
    assert counts[20:].sum() == 0
    assert len({tuple(sorted(row)) for row in drawn}) > 1_000  # a new split for every key


def test_an_epoch_without_bootstrap_visits_every_training_row_once_per_member():
    seen, metrics = visits(20, capacity=32, max_gradient_steps=4)
    assert int(metrics["model/fit_epochs"]) == 1
    held_out = seen[0] == 0
    assert held_out.sum() == 4
    np.testing.assert_array_equal(seen, np.tile(np.where(held_out, 0, 1), (3, 1)))


def test_every_epoch_goes_through_the_rows_in_a_new_order():
    _, init, fit = fitter("ordered", batch_size=16, max_gradient_steps=3)  # epochs of one minibatch
    state, _ = fit(init(jax.random.key(0)), numbered_replay(20), NO_CONTEXT, jax.random.key(0))
    orders, _ = state.objective
    assert len({tuple(order) for order in np.asarray(orders).tolist()}) == 3
    rows = np.sort(orders, axis=1)
    np.testing.assert_array_equal(rows, np.tile(rows[0], (3, 1)))


def test_the_last_minibatch_of_an_epoch_wraps_around():
    # 18 training rows in minibatches of 4: five of them, the last repeats two rows
    seen, metrics = visits(20, holdout_ratio=0.1, max_gradient_steps=5)
    assert int(metrics["model/fit_epochs"]) == 1
    for member in seen:
        np.testing.assert_array_equal(np.sort(member), [0] * 2 + [1] * 16 + [2] * 2)


def test_the_wrapped_minibatch_continues_with_the_first_rows_of_the_order():
    split = Split(
        train=jnp.array([[10, 11, 12, 13, 14, 99]]),  # the sixth entry is not in use
        train_size=jnp.int32(5),
        holdout=jnp.array([0]),
        holdout_size=jnp.int32(0),
    )
    order = jnp.array([3, 0, 4, 1, 2, 5])
    batches = [minibatch_rows(split, order, index, 3, True)[0] for index in range(2)]
    np.testing.assert_array_equal(batches, [[13, 10, 14], [11, 12, 13]])


def test_bootstrap_rows_are_drawn_once_per_fit():
    # two epochs of 4 minibatches see every draw twice, so each row an even number of times
    seen, metrics = visits(20, bootstrap=True, max_gradient_steps=8)
    assert int(metrics["model/fit_epochs"]) == 2
    np.testing.assert_array_equal(seen % 2, np.zeros((3, 20)))
    np.testing.assert_array_equal(seen.sum(axis=1), [32, 32, 32])
    assert len({tuple(member) for member in seen.tolist()}) == 3
    assert (seen.sum(axis=0) == 0).sum() >= 4  # the rows held out are so for every member


def test_the_split_is_drawn_anew_for_every_fit():
    first, _ = visits(20, capacity=32, max_gradient_steps=4)
    second, _ = visits(20, capacity=32, max_gradient_steps=4, key=1)
    assert not np.array_equal(first[0] == 0, second[0] == 0)


def test_rows_held_out_for_life_are_so_in_every_fit():
    _, init, fit = fitter(num_rows=40, permanent_holdout=True, max_gradient_steps=30, patience=99)
    state, replay = init(jax.random.key(0)), numbered_replay(40)
    for key in range(3):  # the objective's state adds up what was seen
        state, _ = fit(state, replay, NO_CONTEXT, jax.random.key(key))
    own = np.asarray(permanent_holdout(40, 0.2))
    assert 0 < own.sum() < 20
    np.testing.assert_array_equal(state.objective > 0, np.tile(~own, (3, 1)))


# --- when it stops and what it restores ----------------------------------------------------------


def run_early_stopping(scores, start, threshold=0.01, patience=3):
    """Weights are the epoch's number; returns the epochs at which each member was snapshot."""
    progress = Progress(
        best_params=jnp.zeros(len(start)),
        best_score=jnp.asarray(start, jnp.float32),
        any_improved=jnp.zeros((), bool),
        stale_epochs=jnp.zeros((), jnp.int32),
    )
    history = []
    for epoch, score in enumerate(scores, start=1):
        weights = jnp.full(len(start), float(epoch))
        progress = track_best(progress, weights, jnp.asarray(score, jnp.float32), threshold)
        history.append(np.asarray(progress.best_params).tolist())
        if int(progress.stale_epochs) >= patience:
            break
    return progress, history


def test_early_stopping_follows_the_worked_example():
    scores = [[0.995], [0.992], [0.985], [0.98], [0.98], [0.98], [0.98]]
    progress, history = run_early_stopping(scores, [1.0])
    assert history == [[0], [0], [3], [3], [3], [3]]  # improves at epoch 3, stops after epoch 6
    np.testing.assert_allclose(progress.best_score, [0.985])


def test_negative_scores_have_to_improve_by_as_much():
    # 1 % of 10 is 0.1: -10.05 is not enough, -10.2 is, and then -10.25 is not
    progress, history = run_early_stopping([[-9.0], [-10.05], [-10.2], [-10.25]], [-10.0])
    assert history == [[0], [0], [3], [3]]
    np.testing.assert_allclose(progress.best_score, [-10.2])


def test_members_keep_the_weights_of_their_own_best_epochs():
    scores = [[5.0, 5.0], [1.0, 4.0], [2.0, 3.0], [2.0, 2.0], [2.0, 2.5]]
    progress, history = run_early_stopping(scores, [math.inf, math.inf])
    assert history == [[1, 1], [2, 2], [2, 3], [2, 4], [2, 4]]
    assert int(progress.stale_epochs) == 1  # one member's improvement restarted everyone's patience
    np.testing.assert_array_equal(progress.best_score, [1.0, 2.0])


def test_a_score_of_nan_is_no_improvement():
    progress, history = run_early_stopping([[1.0], [math.nan]], [math.inf])
    assert history == [[1], [1]]
    assert int(progress.stale_epochs) == 1


def drifting():
    """An objective that raises every predicted mean by the learning rate in each Adam step."""

    def loss(params, state, batch, context, key):
        bias = params["net"]["params"]["layer_1"]["bias"]
        return -bias[:, : bias.shape[-1] // 2].sum(), (state, {})

    return ModelObjective(lambda key: (), loss, None)


def drift_from(start, **model):
    """Fits members that predict `start` and rise by 0.25 an epoch; the data are all 1."""
    model = {"num_members": len(start), "batch_size": 16} | model  # one minibatch is an epoch
    ensemble, init, fit = fitter("drifting", **model)
    means = np.tile(np.asarray(start)[:, None], (1, 2))
    state = init(jax.random.key(0))
    state = state.replace(params=constant_params(ensemble, means, np.zeros_like(means)))
    replay = replay_of(np.zeros(20), np.ones(20), np.ones(20))
    state, metrics = fit(state, replay, NO_CONTEXT, jax.random.key(1))
    return np.asarray(state.params["net"]["params"]["layer_1"]["bias"])[:, 0], metrics


def test_a_fit_gives_every_member_its_best_weights_back():
    # member 0 is right (1.0) after epoch 2, member 1 after epoch 4; two more epochs of patience
    means, metrics = drift_from([0.5, 0.0])
    np.testing.assert_allclose(means, [1.0, 1.0], atol=1e-5)
    assert int(metrics["model/fit_epochs"]) == 6
    assert int(metrics["model/fit_steps"]) == 6
    np.testing.assert_allclose(metrics["model/holdout_mse"], 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("incumbent_competes", "mean", "epochs"), [(True, 1.5, 2), (False, 1.25, 3)]
)
def test_if_no_epoch_beats_competing_weights_the_last_ones_stay(incumbent_competes, mean, epochs):
    # each epoch moves away from the right 1.0 by 0.25; without competition the first counts as best
    means, metrics = drift_from([1.0, 1.0], incumbent_competes=incumbent_competes)
    np.testing.assert_allclose(means, [mean, mean], atol=1e-5)
    assert int(metrics["model/fit_epochs"]) == epochs


def test_if_one_member_improves_the_others_keep_competing_weights():
    # member 0 was right before the fit, member 1 is after two epochs
    means, metrics = drift_from([1.0, 0.5], incumbent_competes=True)
    np.testing.assert_allclose(means, [1.0, 1.0], atol=1e-5)
    assert int(metrics["model/fit_epochs"]) == 4


def test_the_last_weights_stay_after_a_number_of_steps_whatever_their_error():
    # both members are right before the end and pass by; patience would stop after epoch 4 or 6
    caps = {"max_gradient_steps": 9, "keep": "last", "holdout_ratio": 0.0}
    means, metrics = drift_from([0.5, 0.0], **caps)
    np.testing.assert_allclose(means, [2.75, 2.25], atol=1e-4)
    assert int(metrics["model/fit_steps"]) == 9
    np.testing.assert_allclose(metrics["model/holdout_mse"], (1.75**2 + 1.25**2) / 2, rtol=1e-3)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_cap_on_epochs_stops_a_fit(keep):
    means, metrics = drift_from([-5.0, -6.0], max_epochs=7, keep=keep)
    np.testing.assert_allclose(means, [-3.25, -4.25], atol=1e-4)
    assert int(metrics["model/fit_epochs"]) == 7


@pytest.mark.parametrize(
    ("cap", "steps", "epochs"), [(5, 5, 2), (8, 8, 2), (0, 12, 3), (50, 12, 3)]
)
def test_the_cap_bounds_gradient_steps_and_zero_is_none(cap, steps, epochs):
    # 4 minibatches an epoch; without a gradient, epoch 1 is the best and 2 more exhaust patience
    seen, metrics = visits(20, max_gradient_steps=cap)
    assert int(metrics["model/fit_steps"]) == steps
    assert int(metrics["model/fit_epochs"]) == epochs
    np.testing.assert_array_equal(seen.sum(axis=1), [4 * steps] * 3)


@pytest.mark.parametrize("options", [{}, {"decoupled_decay": True, "max_grad_norm": 1.0}])
def test_the_first_fit_has_a_cap_of_its_own(options):
    _, init, fit = fitter(
        num_rows=20, first_gradient_steps=7, max_gradient_steps=3, patience=99, **options
    )
    state, steps = init(jax.random.key(0)), []
    for key in range(3):
        state, metrics = fit(state, numbered_replay(20), NO_CONTEXT, jax.random.key(key))
        steps.append(int(metrics["model/fit_steps"]))
    assert steps == [7, 3, 3]


# --- the optimiser -------------------------------------------------------------------------------

GRADIENT_SCALES = (1.0, -0.5, 0.02, 0.3, -2.0, 0.1)


def scaled():
    """An objective whose gradient in step t is GRADIENT_SCALES[t] for every parameter."""

    def loss(params, step, batch, context, key):
        total = sum(leaf.sum() for leaf in jax.tree.leaves(params))
        return jnp.array(GRADIENT_SCALES)[step] * total, (step + 1, {})

    return ModelObjective(lambda key: jnp.zeros((), jnp.int32), loss, None)


def numpy_adam(weights, decay, steps, learning_rate, largest=math.inf):
    """Adam (Kingma and Ba 2015, algorithm 1) with the gradient of L2 added to the gradient.

    No element of the loss's own gradient is larger than `largest`.
    """
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for t in range(1, steps + 1):
        gradient = np.clip(GRADIENT_SCALES[t - 1], -largest, largest) + decay * weights
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        weights = weights - learning_rate * step
    return weights


def test_every_member_and_gradient_step_drops_units_of_its_own_and_scores_drop_none():
    def loss(params, seen, batch, context, key):
        steps, keys = seen
        own = jax.random.key_data(params[DROPOUT])
        return jnp.zeros(()), ((steps + 1, keys.at[steps].set(own)), {})

    def score(params, state, batch, context, key):
        assert DROPOUT not in params
        return jnp.zeros(batch.reward.shape)

    objective = ModelObjective(
        lambda key: (jnp.zeros((), jnp.int32), jnp.zeros((6, 3, 2), jnp.uint32)), loss, score
    )
    config = toy_config(dropout=0.25, validation="objective", max_gradient_steps=6, patience=9)
    learner = make_fit(config, make_ensemble(config, toy_spec()), objective)
    state = jax.jit(learner.init)(jax.random.key(0))
    state, _ = jax.jit(learner.fit)(state, numbered_replay(20), NO_CONTEXT, jax.random.key(1))
    steps, keys = state.objective
    assert steps == 6
    assert len(np.unique(np.asarray(keys).reshape(18, 2), axis=0)) == 18
    assert DROPOUT not in state.params


@pytest.mark.parametrize(
    ("steps", "fits", "weight_decay", "clip"),
    [
        (1, 1, (0.8, 0.3), 0.0),
        (3, 1, (0.8, 0.3), 0.0),
        (3, 2, (0.8, 0.3), 0.0),
        (3, 1, (0.5,), 0.0),
        (3, 1, (0.8, 0.3), 2.0),
    ],
)
def test_the_optimiser_is_adam_with_coupled_decay_of_kernels_per_layer(
    steps, fits, weight_decay, clip
):
    _, init, fit = fitter(
        "scaled",
        learning_rate=0.01,
        weight_decay=weight_decay,
        max_gradient_steps=steps,
        max_grad_norm=clip,
    )
    state = init(jax.random.key(0))
    before = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
    # All elements of a gradient are equal, so one of norm 2 has this in each; decay comes after.
    count = sum(leaf.size for leaf in jax.tree.leaves(before))
    assert count == 3 * ((2 * 4 + 4) + (4 * 4 + 4) + 2 * 2)
    largest = clip / math.sqrt(count) if clip else math.inf
    assert not clip or 0.02 < largest < 0.5  # one step of the three is short enough
    replay = numbered_replay(15)  # 12 training rows: three steps are one epoch
    for index in range(fits):  # moments and objective state live on in the next fit
        state, _ = fit(state, replay, NO_CONTEXT, jax.random.key(index))

    def check(path, start, end):
        names = [entry.key for entry in path]
        decay = 0.0
        if names[-1] == "kernel":
            decay = {"layer_0": weight_decay[0], "layer_1": weight_decay[-1]}[names[-2]]
        expected = numpy_adam(start, decay, steps * fits, 0.01, largest)
        np.testing.assert_allclose(end, expected, rtol=1e-5, atol=1e-6, err_msg=str(names))

    jax.tree_util.tree_map_with_path(check, before, state.params)


def test_a_fit_can_end_with_the_moving_mean_of_its_weights():
    _, init, fit = fitter("scaled", learning_rate=0.01, max_gradient_steps=3, averaging=0.25)
    start = init(jax.random.key(0))
    state, _ = fit(start, numbered_replay(15), NO_CONTEXT, jax.random.key(0))

    def check(before, after):
        mean = before = np.asarray(before, np.float64)
        for steps in (1, 2, 3):
            mean = 0.25 * mean + 0.75 * numpy_adam(before, 0.0, steps, 0.01)
        np.testing.assert_allclose(after, mean, rtol=1e-5, atol=1e-6)

    jax.tree.map(check, start.params, state.params)


def test_decoupled_decay_is_that_of_adamw():
    decays = {"layer_0": 0.8, "layer_1": 0.3}
    _, init, fit = fitter(
        "scaled",
        learning_rate=0.01,
        weight_decay=tuple(decays.values()),
        decoupled_decay=True,
        max_gradient_steps=3,
    )
    start = init(jax.random.key(0))
    state, _ = fit(start, numbered_replay(15), NO_CONTEXT, jax.random.key(0))

    def check(path, before, after):
        names = [entry.key for entry in path]
        decay = decays[names[-2]] if names[-1] == "kernel" else 0.0
        adamw = optax.adamw(0.01, weight_decay=decay)
        expected, moments = before, adamw.init(before)
        for scale in GRADIENT_SCALES[:3]:
            change, moments = adamw.update(jnp.full_like(before, scale), moments, expected)
            expected = optax.apply_updates(expected, change)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6, err_msg=str(names))

    jax.tree_util.tree_map_with_path(check, start.params, state.params)


def test_the_first_moment_shows_the_decay_of_every_layer():
    _, init, fit = fitter(
        "scaled", learning_rate=0.01, weight_decay=(0.8, 0.3), max_gradient_steps=1
    )
    start = init(jax.random.key(0))
    state, _ = fit(start, numbered_replay(15), NO_CONTEXT, jax.random.key(0))
    moments, weights = first_moments(state)["net"]["params"], start.params["net"]["params"]
    for layer, decay in {"layer_0": 0.8, "layer_1": 0.3}.items():
        expected = 0.1 * (1.0 + decay * np.asarray(weights[layer]["kernel"]))
        np.testing.assert_allclose(moments[layer]["kernel"], expected, rtol=1e-5)
        np.testing.assert_allclose(moments[layer]["bias"], 0.1, rtol=1e-6)


def is_adam(node):
    return hasattr(node, "mu")


def first_moments(state):
    (adam,) = [s for s in jax.tree.leaves(state.optimizer, is_leaf=is_adam) if is_adam(s)]
    return adam.mu


def line_value(critics, observation, action):
    return critics[:, None] * observation[:, 0][None]


def value_aware_fit(refit=NO_REFIT, loss=None, **model):
    """Init and fit with VAML and known rewards, of which only the value of V = c s is left.

    c is the first of the critics; `loss` replaces the training loss, but not the validation.
    """
    config = toy_config(objective="vaml", learn_reward=False, **model)
    spec = toy_spec(reward=lambda s, a, n: jnp.zeros(s.shape[:-1]))
    ensemble = make_ensemble(config, spec)
    greedy = lambda policy, observation: observation  # noqa: E731
    parts = Parts(ensemble, spec, line_value, None, None, greedy, None, None)
    objective = OBJECTIVES["vaml"](config, parts)
    objective = objective._replace(loss=loss or objective.loss)
    learner = make_fit(config, ensemble, objective, refit)
    return ensemble, jax.jit(learner.init), jax.jit(learner.fit_and_refit)


def with_critics(scale):
    return NO_CONTEXT.replace(critics=jnp.full(1, scale))


@pytest.mark.parametrize("clip", [2.0, 0.0])
def test_updates_do_not_know_the_scale_of_the_value_once_gradients_are_clipped(clip):
    # Adam alone forgets a scale that never changes, so it changes between the two steps.
    _, init, fit = value_aware_fit(max_gradient_steps=1, learning_rate=0.01, max_grad_norm=clip)
    replay = replay_of(np.linspace(-1.0, 1.0, 20), np.zeros(20), np.linspace(3.0, 5.0, 20))
    key = jax.random.key(1)
    start, _, _ = fit(init(jax.random.key(0)), replay, with_critics(10.0), key, ())
    ends = [fit(start, replay, with_critics(scale), key, ())[0] for scale in (10.0, 100.0)]
    moments = [first_moments(state) for state in (start, *ends)]
    # the second step's gradient is what it adds to the first moment: 0.1 of it
    gradients = [jax.tree.map(lambda m, o: (m - 0.9 * o) / 0.1, m, moments[0]) for m in moments[1:]]
    norms = [math.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(t))) for t in gradients]
    pairs = list(zip(*(jax.tree.leaves(end.params) for end in ends)))
    if clip:
        np.testing.assert_allclose(norms, 2.0, rtol=1e-5)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-6)
    else:
        assert norms[0] > 2.0
        np.testing.assert_allclose(norms[1], 100.0 * norms[0], rtol=1e-3)  # V counts squared
        assert max(np.abs(a - b).max() for a, b in pairs) > 1e-3


# --- what it measures ----------------------------------------------------------------------------


def test_elites_are_the_members_with_the_lowest_holdout_error():
    ensemble, init, fit = fitter(num_rows=20, num_members=5, num_elites=3)
    means = np.array([3.0, -0.1, 2.0, 0.2, -1.0])[:, None] * np.ones((1, 2))
    state = init(jax.random.key(0))
    state = state.replace(params=constant_params(ensemble, means, np.zeros((5, 2))))
    replay = replay_of(np.zeros(20), np.zeros(20), np.zeros(20))
    state, metrics = fit(state, replay, NO_CONTEXT, jax.random.key(0))
    np.testing.assert_array_equal(state.elites, [1, 3, 4])
    # the metric is the elites' average: (0.01 + 0.04 + 1) / 3
    np.testing.assert_allclose(metrics["model/holdout_mse"], 0.35, rtol=1e-5)


def gaussian_replay(n, mean, std, seed=0):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=n)
    change, reward = mean[:, None] + std[:, None] * rng.normal(size=(2, n))
    return replay_of(start, reward, start + change)


@pytest.mark.parametrize(
    ("claimed", "z2", "coverage"),
    [
        (1.0, 1.0, 0.9),
        (0.5, 4.0, math.erf(1.6449 / 2.0 / math.sqrt(2.0))),  # standard deviations half the truth
        (2.0, 0.25, math.erf(1.6449 * 2.0 / math.sqrt(2.0))),
    ],
)
def test_calibration_metrics_of_a_known_gaussian(claimed, z2, coverage):
    mean, std = np.array([0.5, -2.0]), np.array([0.3, 4.0])
    ensemble, init, fit = fitter(num_rows=6_000, holdout_ratio=0.5, max_gradient_steps=1)
    log_variance = 2.0 * np.log(claimed * std)
    params = constant_params(ensemble, np.tile(mean, (3, 1)), np.tile(log_variance, (3, 1)))
    state = init(jax.random.key(0)).replace(params=params)
    _, metrics = fit(state, gaussian_replay(6_000, mean, std), NO_CONTEXT, jax.random.key(0))
    # 3,000 rows of two numbers: the deviation of z2 is z2 sqrt(2 / 6000), four of them are 8 %
    np.testing.assert_allclose(metrics["model/holdout_z2"], z2, rtol=0.08)
    np.testing.assert_allclose(metrics["model/holdout_coverage90"], coverage, atol=0.02)
    expected = z2 + log_variance.mean()
    np.testing.assert_allclose(metrics["model/holdout_nll"], expected, atol=0.08 * z2)
    np.testing.assert_allclose(metrics["model/holdout_mse"], np.mean(std**2), rtol=0.15)


def test_a_constant_variance_is_learned_to_be_that_of_the_residuals():
    mean, std = np.array([0.5, -2.0]), np.array([0.3, 0.9])
    options = {"batch_size": 256, "learning_rate": 0.02, "keep": "last", "normalize_targets": True}
    ensemble, init, fit = fitter("mle", variance="constant", max_gradient_steps=400, **options)
    replay = gaussian_replay(3_000, mean, std)
    state, metrics = fit(init(jax.random.key(0)), replay, NO_CONTEXT, jax.random.key(1))
    inputs = jnp.broadcast_to(jnp.linspace(-2.0, 2.0, 5)[None, :, None], (3, 5, 1))
    prediction = ensemble.predict(state.params, state.normalizers, inputs, inputs)
    variance = np.exp(prediction.log_variance)
    np.testing.assert_array_equal(variance, np.tile(variance[:, :1], (1, 5, 1)))  # whatever it sees
    # 2,400 residuals: the deviation of their variance is 3 %
    np.testing.assert_allclose(variance[:, 0], np.tile(std**2, (3, 1)), rtol=0.12)
    np.testing.assert_allclose(metrics["model/holdout_z2"], 1.0, rtol=0.12)
    assert state.params["log_std"].shape == (3, 2)


@pytest.mark.parametrize("held_out", [1, 999, 1_000, 1_001, 1_700])
def test_holdout_errors_average_exactly_the_held_out_rows(held_out):
    ensemble, _, _ = fitter(num_rows=20)
    replay = gaussian_replay(1_700, np.array([0.5, -2.0]), np.array([0.3, 4.0]))
    slots = np.random.default_rng(1).permutation(1_700)
    means = np.array([[0.0, 0.0], [1.0, -1.0], [0.5, -2.0]])
    log_variance = np.array([[0.0, 1.0], [-2.0, 2.0], [-1.0, 3.0]])
    split = Split(
        jnp.zeros((3, 1_700), jnp.int32), jnp.int32(0), jnp.asarray(slots), jnp.int32(held_out)
    )
    errors = jax.jit(holdout_errors, static_argnums=0)(
        ensemble,
        constant_params(ensemble, means, log_variance),
        NO_CONTEXT.normalizers,
        replay,
        split,
    )
    rows = np.asarray(replay.rows, np.float64)[slots[:held_out]]
    target = np.stack([rows[:, 3] - rows[:, 0], rows[:, 2]], axis=1)
    error = np.square(means[:, None] - target)
    z2 = error / np.exp(log_variance)[:, None]
    expected = {
        "mse": error,
        "nll": z2 + log_variance[:, None],
        "z2": z2,
        "coverage90": z2 < 1.6449**2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            errors[name], value.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5, err_msg=name
        )


# --- the whole fit -------------------------------------------------------------------------------


def small_mle_fit(**model):
    return fitter("mle", max_gradient_steps=6, learning_rate=0.01, **model)


def random_replay(n, capacity, seed=0):
    rng = np.random.default_rng(seed)
    return replay_of(rng.normal(5.0, 2.0, n), rng.normal(size=n), rng.normal(size=n), capacity)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_normalizers_are_fitted_to_all_stored_rows():
    _, init, fit = small_mle_fit(normalize_targets=True)
    replay = random_replay(21, capacity=32)
    state, _ = fit(init(jax.random.key(0)), replay, NO_CONTEXT, jax.random.key(1))
    rows = np.asarray(replay.rows, np.float64)[:21]
    inputs, targets = state.normalizers.inputs, state.normalizers.targets
    np.testing.assert_allclose(inputs.mean, [rows[:, 0].mean(), 0.0], rtol=1e-5)
    np.testing.assert_allclose(inputs.std, [rows[:, 0].std(ddof=1), 1.0], rtol=1e-5)
    target = np.stack([rows[:, 3] - rows[:, 0], rows[:, 2]], axis=1)
    np.testing.assert_allclose(targets.mean, target.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(targets.std, target.std(axis=0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("garbage", [1e9, math.nan])
def test_what_unused_slots_hold_does_not_matter(garbage):
    _, init, fit = small_mle_fit(normalize_targets=True)
    start = init(jax.random.key(0))
    replay = random_replay(21, capacity=32)
    dirty = replay.replace(rows=replay.rows.at[21:].set(garbage))
    clean_fit = fit(start, replay, NO_CONTEXT, jax.random.key(1))
    assert_trees_equal(fit(start, dirty, NO_CONTEXT, jax.random.key(1)), clean_fit)


def test_a_fit_is_a_function_of_its_key():
    _, init, fit = small_mle_fit(normalize_targets=True)
    start, replay = init(jax.random.key(0)), random_replay(21, capacity=32)
    first, again, other = (fit(start, replay, NO_CONTEXT, jax.random.key(k)) for k in (1, 1, 2))
    assert_trees_equal(first, again)
    kernels = [s.params["net"]["params"]["layer_0"]["kernel"] for s, _ in (first, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-6


def counting_fit():
    """A fit of at most 32 rows and six steps, its first state, and a list that grows by a trace."""
    config = toy_config(max_gradient_steps=6, patience=50)
    learner = make_fit(config, make_ensemble(config, toy_spec()), recording(3, 32))
    traces = []

    @jax.jit
    def fit(*arguments):
        traces.append(None)
        return learner.fit(*arguments)

    return fit, jax.jit(learner.init)(jax.random.key(0)), traces


def test_one_program_serves_all_replay_sizes():
    fit, start, traces = counting_fit()
    for size, held_out in ((5, 1), (20, 4), (32, 6)):
        state, _ = fit(start, numbered_replay(size, 32), NO_CONTEXT, jax.random.key(size))
        seen = np.asarray(state.objective)
        assert (seen[:, :size].sum(axis=0) == 0).sum() >= held_out
        assert seen[:, size:].sum() == 0
        assert seen.sum() == 3 * 6 * 4
    assert len(traces) == 1


def test_the_second_fit_of_a_run_uses_the_program_of_the_first():
    fit, state, traces = counting_fit()
    for key in range(3):
        state, _ = fit(state, numbered_replay(20, 32), NO_CONTEXT, jax.random.key(key))
    assert len(traces) == 1


def test_seeds_fitted_together_do_not_mix():
    _, init, _ = fitter("mle", learning_rate=0.01)
    config = toy_config(learning_rate=0.01)
    ensemble = make_ensemble(config, toy_spec())
    learner = make_fit(
        config, ensemble, OBJECTIVES["mle"](config, Parts(ensemble, None, *[None] * 6))
    )
    together = jax.jit(jax.vmap(learner.fit, in_axes=(None, 0, None, 0)))
    start, keys = init(jax.random.key(0)), jax.random.split(jax.random.key(1), 2)
    one, two, other = (random_replay(n, 32, seed) for n, seed in ((21, 0), (21, 1), (32, 2)))

    def run(*replays):
        replay = jax.tree.map(lambda *leaves: jnp.stack(leaves), *replays)
        return together(start, replay, NO_CONTEXT, keys)

    first, second = run(one, two), run(one, other)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), first, second)
    steps = np.asarray([metrics["model/fit_steps"][1] for _, metrics in (first, second)])
    assert steps[0] != steps[1]  # the other seed did something else


def test_the_ensemble_learns_noise_that_depends_on_the_state():
    rng = np.random.default_rng(0)
    n = 2_000
    x = rng.uniform(-math.pi, math.pi, n)
    std = np.where(x > 0.0, 0.5, 0.05)
    replay = replay_of(x, np.zeros(n), np.sin(x) + std * rng.normal(size=n))
    config = toy_config(
        hidden_width=32,
        hidden_depth=2,
        learning_rate=3e-3,
        batch_size=128,
        max_gradient_steps=1_500,
        patience=1_500,
        predict_delta=False,
        learn_reward=False,
        learn_variance_bounds=True,
    )
    ensemble = make_ensemble(config, toy_spec(reward=lambda s, a, n: n[..., 0]))
    learner = make_fit(
        config, ensemble, OBJECTIVES["mle"](config, Parts(ensemble, None, *[None] * 6))
    )
    context = NO_CONTEXT.replace(
        normalizers=Normalizers(normalizer.identity(2), normalizer.identity(1))
    )
    state = jax.jit(learner.init)(jax.random.key(0))
    state, _ = jax.jit(learner.fit)(state, replay, context, jax.random.key(1))
    fresh = np.linspace(-3.0, 3.0, 200)
    inputs = jnp.broadcast_to(jnp.float32(fresh)[None, :, None], (3, 200, 1))
    prediction = ensemble.predict(state.params, state.normalizers, inputs, jnp.zeros((3, 200, 1)))
    # expected likelihood, in closed form, under the true distribution of fresh data
    variance = np.where(fresh > 0.0, 0.5, 0.05) ** 2
    error = np.square(prediction.mean[..., 0] - np.sin(fresh)[None]) + variance[None]
    log_variance = np.asarray(prediction.log_variance[..., 0], np.float64)
    nll = (error / np.exp(log_variance) + log_variance).mean(axis=1)
    best_constant = 1.0 + np.log(variance.mean())  # -1.07, with the true mean
    best_possible = 1.0 + np.log(variance).mean()  # -2.69
    # margin: two thirds of the way from the constant variance to the truth, for every member
    assert (nll < best_constant - (best_constant - best_possible) * 2.0 / 3.0).all()


# --- refits --------------------------------------------------------------------------------------


def refitted(interval, steps, rows=32, **model):
    """What a refit that takes notes wrote down during a fit of `steps` gradient steps."""

    def run(model, learner, context, count, key):
        noted, steps_seen = learner
        steps_seen = steps_seen.at[noted].set(model.objective.sum() // (3 * 4))
        context = context.replace(log_temperature=context.log_temperature + 1.0)
        return (noted + (count == noted), steps_seen), context

    config = toy_config(max_gradient_steps=steps, patience=50, **model)
    learner = make_fit(
        config, make_ensemble(config, toy_spec()), recording(3, rows), Refit(interval, run)
    )
    start = jnp.zeros((), jnp.int32), jnp.zeros(steps, jnp.int32)
    state, (noted, seen), metrics = jax.jit(learner.fit_and_refit)(
        learner.init(jax.random.key(0)), numbered_replay(rows), NO_CONTEXT, jax.random.key(1), start
    )
    assert metrics["model/fit_steps"] == steps
    assert state.objective.sum() == steps * 3 * 4
    return int(noted), np.asarray(seen)


def test_a_fit_of_23_steps_with_interval_5_refits_after_5_10_15_and_20():
    noted, seen = refitted(interval=5, steps=23)
    assert noted == 4
    np.testing.assert_array_equal(seen[:5], [5, 10, 15, 20, 0])


def test_a_refit_due_at_the_end_of_an_epoch_or_fit_happens_once():
    # 26 training rows in batches of 4: epochs of 7 steps
    noted, seen = refitted(interval=7, steps=14)
    assert noted == 2
    np.testing.assert_array_equal(seen[:3], [7, 14, 0])


def test_the_loss_sees_the_context_as_refitted():
    def loss(params, state, batch, context, key):
        zero = 0.0 * sum(leaf.sum() for leaf in jax.tree.leaves(params))
        seen, step = state
        return zero, ((seen.at[step].set(context.log_temperature), step + 1), {})

    def run(model, learner, context, count, key):
        return learner, context.replace(log_temperature=context.log_temperature + 1.0)

    def init(key):
        return jnp.zeros(10), jnp.zeros((), jnp.int32)

    config = toy_config(max_gradient_steps=10, patience=50)
    objective = ModelObjective(init, loss, None)
    learner = make_fit(config, make_ensemble(config, toy_spec()), objective, Refit(4, run))
    state, _, _ = jax.jit(learner.fit_and_refit)(
        learner.init(jax.random.key(0)), numbered_replay(32), NO_CONTEXT, jax.random.key(1), ()
    )
    np.testing.assert_array_equal(state.objective[0], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


def test_an_objective_begins_once_per_fit():
    def loss(params, state, batch, context, key):
        return 0.0 * sum(leaf.sum() for leaf in jax.tree.leaves(params)), (state, {})

    objective = ModelObjective(
        lambda key: jnp.zeros((), jnp.int32),
        loss,
        None,
        begin=lambda state, context: state + 1,
    )
    config = toy_config(max_gradient_steps=10)
    learner = make_fit(config, make_ensemble(config, toy_spec()), objective)
    state, fit = learner.init(jax.random.key(0)), jax.jit(learner.fit)
    for _ in range(2):
        state, _ = fit(state, numbered_replay(32), NO_CONTEXT, jax.random.key(1))
    assert state.objective == 2


def test_validation_by_the_objective_chooses_the_elites_and_stops_the_fit():
    # scores that know nothing of the squared error: the last member is best, the first worst
    def score(params, state, batch, context, key):
        worst_first = jnp.arange(3, 0, -1.0)[:, None]
        return jnp.broadcast_to(worst_first, batch.reward.shape)

    def loss(params, state, batch, context, key):
        return 0.0 * sum(leaf.sum() for leaf in jax.tree.leaves(params)), (state, {})

    objective = ModelObjective(lambda key: (), loss, score)
    config = toy_config(validation="objective", patience=2, max_gradient_steps=0)
    learner = make_fit(config, make_ensemble(config, toy_spec()), objective)
    state, metrics = jax.jit(learner.fit)(
        learner.init(jax.random.key(0)), numbered_replay(32), NO_CONTEXT, jax.random.key(1)
    )
    np.testing.assert_array_equal(state.elites, np.arange(2, -1, -1)[: len(state.elites)])
    # the first epoch beats nothing, the next two do not improve on it
    assert metrics["model/fit_epochs"] == 3
    best = np.arange(1, 1 + len(state.elites))
    assert metrics["model/holdout_objective"] == pytest.approx(best.mean())


@pytest.mark.parametrize(
    ("start", "factor", "epochs", "best"),
    [
        # The model leaves the truth, 1, by 0.25 an epoch, but its value counts for less and less:
        # (0.25 / 4)^2 > (0.5 / 16)^2 > (0.75 / 64)^2. Under the same critics the first is best.
        (1.0, 0.25, 3, 1.25),
        # It comes nearer as its value counts for more: 3^2 < 8^2 < 16^2. It arrives in epoch 4.
        (0.0, 4.0, 6, 1.0),
    ],
)
def test_the_best_weights_are_scored_again_after_the_critics_were_refitted(
    start, factor, epochs, best
):
    def rescale(model, learner, context, count, key):
        return learner, context.replace(critics=factor * context.critics)

    ensemble, init, fit = value_aware_fit(
        Refit(1, rescale), drifting().loss, batch_size=16, validation="objective"
    )
    state = init(jax.random.key(0))
    means = np.full((3, 1), start)
    state = state.replace(params=constant_params(ensemble, means, np.zeros_like(means)))
    replay = replay_of(np.zeros(20), np.zeros(20), np.ones(20))
    state, _, metrics = fit(state, replay, with_critics(1.0), jax.random.key(1), ())
    assert metrics["model/fit_epochs"] == epochs
    found = np.asarray(state.params["net"]["params"]["layer_1"]["bias"])[:, 0]
    np.testing.assert_allclose(found, best, atol=1e-5)
    expected = (0.99 * factor**epochs * (best - 1.0)) ** 2  # under the critics of the last refit
    np.testing.assert_allclose(metrics["model/holdout_objective"], expected, rtol=1e-4, atol=0.01)
