"""The value-aware objectives as a whole: worked numbers, invariances and options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ensemble import Prediction
from models.normalizer import Normalizer
from models.objectives import OBJECTIVES
from replay import Transition
from tests.models.value_toy import (
    MEMBERS,
    ROWS,
    SPEC,
    VALUE_AWARE,
    batch,
    build,
    context,
    loss,
    parts_of,
    q_values,
    settings,
    still,
    value,
)

GAMMA = 0.99

# --- the worked row of one linear value ----------------------------------------------------------


def linear_q(critics, observation, action):
    return (critics["w"] @ observation.T)[:1]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("ma_l1", 1.5), ("vaml", 2.25), ("vagram", 1.25)],
)
@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_the_worked_row(objective, expected, weight):
    config = settings(
        objective,
        objective__value_weight=weight,
        objective__include_discount=False,
        model__num_members=1,
        model__num_elites=1,
        rollout__starts=1000,
    )
    # observation (0, 0): the prediction's mean is the change (0.5, 1.5), its reward 0.5
    mean = jnp.array([[[0.5, 1.5, 0.5]]])
    parts = parts_of(
        config, predict=lambda *_: Prediction(mean, jnp.zeros_like(mean)), q_values=linear_q
    )
    made = OBJECTIVES[objective](config, parts)
    zeros = jnp.zeros((1, 1))
    row = Transition(
        jnp.zeros((1, 1, 2)), zeros[..., None], zeros + 0.2, jnp.ones((1, 1, 2)), zeros, zeros
    )
    params = {"log_variance_min": zeros, "log_variance_max": zeros}
    value = made.loss(params, (), row, context(), jax.random.key(0))[0]
    assert value == pytest.approx(weight * expected + 0.09, rel=1e-5)


def test_the_worked_row_of_the_squared_error():
    made, _, _ = build("mse", {"predict": lambda *_: Prediction(mean, jnp.zeros_like(mean))})
    mean = jnp.array([[[0.5, 1.5, 0.5]]])
    zeros = jnp.zeros((1, 1))
    row = Transition(
        jnp.zeros((1, 1, 2)), zeros[..., None], zeros + 0.2, jnp.ones((1, 1, 2)), zeros, zeros
    )
    # errors of the change -0.5 and 0.5, of the reward 0.3; in units of 2, 0.5 and 1
    known = context()
    assert loss(made, {}, (), row) == pytest.approx((0.25 + 0.25 + 0.09) / 3, rel=1e-6)
    scale = Normalizer(jnp.zeros(3), jnp.array([2.0, 0.5, 1.0]))
    known = known.replace(normalizers=known.normalizers._replace(targets=scale))
    value = made.loss({}, (), row, known, jax.random.key(0))[0]
    assert value == pytest.approx((0.0625 + 1.0 + 0.09) / 3, rel=1e-6)


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["ma_l1", "vaml", "vagram"])
def test_a_constant_value_leaves_the_error_of_the_reward(objective):
    constant = {"q_values": lambda critics, observation, action: jnp.full((2, len(action)), 7.0)}
    made, params, state = build(objective, constant, objective__value_weight=100.0)
    without, _, _ = build(objective, constant, objective__value_weight=0.0)
    assert loss(made, params, state, batch()) == loss(without, params, state, batch())


@pytest.mark.parametrize("objective", VALUE_AWARE)
@pytest.mark.parametrize("ended", [False, True])
def test_adding_a_constant_to_the_value_matters_only_where_one_side_has_ended(objective, ended):
    """Where both sides are alive, c gamma cancels, in a backup as in a difference of values."""
    c = 1.7
    rows = batch(terminated=float(ended))._replace(reward=jnp.zeros((MEMBERS, ROWS)))
    predicted_reward = 0.4 if objective == "vep" else 0.0
    stay = still(rows.reward + predicted_reward)  # alive in the model, whatever the environment

    def outcome(constant):
        raised = lambda *arguments: q_values(*arguments) + constant  # noqa: E731
        functions = {"predict": stay, "q_values": raised}
        options = {"objective__vep_functions": "critics", "objective__vep_count": 1}
        made, params, state = build(objective, functions, **options)
        if made.begin is not None:
            state = made.begin(state, context())
        return float(loss(made, params, state, rows))

    plain, raised = outcome(0.0), outcome(c)
    assert plain > 0.1 or (ended and objective == "vagram")  # the value is constant after the end
    if not ended or objective == "vagram":
        assert raised == pytest.approx(plain, rel=1e-4)
        return
    # V(s') is 0, so the loss is the norm of the model's backup alone
    backup = predicted_reward + GAMMA * (value(rows.observation) + c)
    norm = np.abs if objective == "ma_l1" else np.square
    assert raised == pytest.approx(norm(backup).mean(axis=1).sum(), rel=1e-4)
    assert plain == pytest.approx(norm(backup - GAMMA * c).mean(axis=1).sum(), rel=1e-4)


@pytest.mark.parametrize(("objective", "factor"), [("ma_l1", 3.0), ("vaml", 9.0), ("vagram", 9.0)])
def test_scaling_the_value(objective, factor):
    full, params, state = build(objective)
    none, _, _ = build(objective, objective__value_weight=0.0)

    def state_part(scale):
        ctx = context()
        ctx = ctx.replace(
            critics=jax.tree.map(lambda w: scale * w, ctx.critics), policy=jnp.float32(0.0)
        )
        return float(
            loss(full, params, state, batch(), ctx) - loss(none, params, state, batch(), ctx)
        )

    assert state_part(-3.0) == pytest.approx(factor * state_part(1.0), rel=1e-4)


# --- terminations --------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", VALUE_AWARE)
def test_terminal_states_have_no_value_unless_they_are_valued_as_if_alive(objective):
    def outcome(mask, next_observation):
        made, params, state = build(objective, objective__mask_terminal=mask)
        rows = batch(terminated=1.0)._replace(next_observation=next_observation)
        # the model predicts no termination here, so only the real side is masked
        return loss(made, params, state, rows)

    here = batch().next_observation
    there = here.at[..., 1].add(2.0)
    if objective == "vagram":  # errors count in proportion to a gradient that is zero there
        assert outcome(True, here) == outcome(True, there)
    else:
        assert outcome(True, here) == pytest.approx(float(outcome(True, there)), rel=1e-6)
    assert abs(outcome(False, here) - outcome(False, there)) > 1e-2


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("predicted", [True, False])
@pytest.mark.parametrize("ended", [True, False])
def test_the_models_own_termination_counts_only_where_the_episode_really_ended(
    ended, predicted, mask
):
    rows = batch(terminated=float(ended))
    spec = SPEC._replace(termination=lambda s, a, n: jnp.full(n.shape[:-1], predicted))
    functions = {"spec": spec, "predict": still(rows.reward)}
    made, params, state = build("vaml", functions, objective__mask_terminal=mask)
    v, predicted_v = value(rows.next_observation), value(rows.observation)
    if mask and ended:
        v, predicted_v = 0.0 * v, 0.0 * predicted_v if predicted else predicted_v
    expected = np.square(GAMMA * (v - predicted_v)).mean(axis=1).sum()
    assert (expected > 0.1) != (mask and ended and predicted)
    assert loss(made, params, state, rows) == pytest.approx(expected, rel=1e-4, abs=1e-12)


# --- reductions, weights and scores --------------------------------------------------------------


def test_sums_are_means_times_rows():
    values = [build("ma_l1", objective__reduction=r) for r in ("mean", "sum")]
    mean, total = (float(loss(made, params, state, batch())) for made, params, state in values)
    assert total == pytest.approx(ROWS * mean, rel=1e-5)


def test_an_added_likelihood_is_the_one_of_mle():
    plain, params, state = build("vaml", objective__mle_weight=0.0)
    added, _, _ = build("vaml", objective__mle_weight=0.5)
    mle, _, _ = build("mle")
    rows = batch()
    difference = float(loss(added, params, state, rows) - loss(plain, params, state, rows))
    assert difference == pytest.approx(0.5 * float(loss(mle, params, (), rows)), rel=1e-4)


@pytest.mark.parametrize("objective", [*VALUE_AWARE, "mse", "mle"])
def test_the_score_of_a_row_does_not_depend_on_the_others(objective):
    # quantiles of a batch, which training has, would be one way
    made, params, state = build(objective, objective__gradient_quantile=0.5)
    rows, ctx, key = batch(), context(), jax.random.key(2)

    @jax.jit
    def score(rows):
        return made.score(params, state, rows, ctx, key)

    alone = [score(jax.tree.map(lambda x, i=i: x[:, i : i + 1], rows)) for i in range(ROWS)]
    scores = score(rows)
    assert scores.shape == (MEMBERS, ROWS)
    assert scores.std() > 0.1
    np.testing.assert_allclose(scores, np.concatenate(alone, axis=1), rtol=1e-5)


@pytest.mark.parametrize("objective", [*VALUE_AWARE, "mse", "mle"])
def test_the_loss_is_the_mean_of_scores_but_for_penalty_and_clipping(objective):
    fields = {"model__learn_variance_bounds": False, "objective__gradient_quantile": 1.0}
    made, params, state = build(objective, **fields)
    rows = batch()
    scores = made.score(params, state, rows, context(), jax.random.key(2))
    penalty = 0.01 * 10.5 * 3 if objective == "mle" else 0.0
    assert loss(made, params, state, rows) == pytest.approx(
        float(scores.mean(axis=1).sum()) + penalty, rel=1e-5
    )


# --- the value -----------------------------------------------------------------------------------


def test_which_critics_make_the_value():
    rows, ctx = batch(), context()
    cases = {
        "first": (ctx.critics, lambda v: v[0]),
        "min": (ctx.critics, lambda v: np.minimum(*v)),
        "mean": (ctx.critics, lambda v: (v[0] + v[1]) / 2),
        "target": (ctx.target_critics, lambda v: np.minimum(*v)),
    }
    for critic, (critics, reduce) in cases.items():
        v, predicted_v = (
            reduce([value(s, w) for w in critics["w"]])
            for s in (rows.next_observation, rows.observation)
        )
        expected = np.square(GAMMA * (v - predicted_v)).mean(axis=1).sum()
        functions = {"predict": still(rows.reward)}
        made, params, state = build("vaml", functions, objective__critic=critic)
        assert loss(made, params, state, rows) == pytest.approx(expected, rel=1e-4), critic


def test_the_entropy_bonus_is_part_of_the_value_if_wanted():
    options = {"objective__action": "sample", "objective__include_discount": False}
    rows = batch()
    functions = {
        "predict": still(rows.reward),
        "q_values": lambda critics, observation, action: jnp.zeros((2, len(action))),
    }
    with_bonus, params, state = build("vaml", functions, objective__include_entropy=True, **options)
    without, _, _ = build("vaml", functions, **options)
    assert loss(without, params, state, rows) == 0
    # log_prob is minus the square of the second coordinate, so the bonus is 0.2 times the square
    bonus = 0.2 * np.square(np.asarray(rows.next_observation[..., 1]))
    start = 0.2 * np.square(np.asarray(rows.observation[..., 1]))
    expected = np.square(bonus - start).mean(axis=1).sum()
    assert loss(with_bonus, params, state, rows) == pytest.approx(expected, rel=1e-4)


def test_the_history_of_critics_holds_those_of_the_last_fits():
    made, _, state = build("vep", objective__vep_functions="critics", objective__vep_count=3)
    before = state["w"]
    assert before.shape == (3, 1, 2)
    ctx = context()
    for fit in (1, 2):
        newer = ctx.replace(critics=jax.tree.map(lambda w, f=fit: w + f, ctx.critics))
        state = made.begin(state, newer)
    expected = np.stack([ctx.critics["w"][:1] + 2, ctx.critics["w"][:1] + 1, before[0]])
    np.testing.assert_array_equal(state["w"], expected)


def test_value_equivalence_as_the_baseline_of_omd_is_numpys():
    options = {"objective__vep_form": "separate", "objective__vep_functions": "networks"}
    sizes = {"objective__vep_count": 3, "sac__hidden_width": 8, "sac__hidden_depth": 2}
    config = settings("vep", **options, **sizes, objective__mask_terminal=False)
    ensemble = parts_of(config).ensemble
    made, params = OBJECTIVES["vep"](config, parts_of(config)), ensemble.init(jax.random.key(0))
    rng, rows = np.random.default_rng(0), batch(terminated=1.0)
    state = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(size=leaf.shape)),
        jax.eval_shape(made.init, jax.random.key(0)),
    )

    def networks(x):
        """V [F, E, B]."""
        layers = jax.tree.map(np.float64, state["params"])
        x = np.broadcast_to(np.float64(x), (3, *x.shape))
        for index in range(3):
            layer = layers[f"layer_{index}"]
            x = np.einsum("febi,fio->febo", x, layer["kernel"]) + layer["bias"][:, None, None]
            x = np.maximum(x, 0.0) if index < 2 else x
        return x[..., 0]

    inputs = rows.observation, rows.action
    mean = ensemble.predict(params, context().normalizers, *inputs).mean
    predicted, reward = ensemble.decode(*inputs, mean)
    values = np.square(networks(rows.next_observation) - networks(predicted)).sum(axis=0)
    rewards = np.square(np.float64(rows.reward) - np.float64(reward))
    expected = (values.mean(axis=1) + rewards.mean(axis=1)).sum()
    assert loss(made, params, state, rows) == pytest.approx(expected, rel=1e-4)


def test_the_networks_of_value_equivalence_differ_and_their_values_are_small():
    options = {"objective__vep_functions": "networks", "objective__vep_count": 2}
    _, _, state = build("vep", **options, sac__hidden_width=16, sac__hidden_depth=1)
    hidden, head = (np.float64(state["params"][f"layer_{n}"]["kernel"]) for n in (0, 1))
    assert (hidden.shape, head.shape) == ((2, 2, 16), (2, 16, 1))
    np.testing.assert_allclose(hidden @ hidden.swapaxes(1, 2), [2.0 * np.eye(2)] * 2, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(head, axis=1), 0.01, rtol=1e-5)
    assert np.abs(hidden[0] - hidden[1]).max() > 0.1


def test_a_backup_is_discounted_once():
    rows = batch()
    options = {"objective__vep_functions": "critics", "objective__vep_count": 1, "discount": 0.9}
    functions = {"predict": still(jnp.zeros((MEMBERS, ROWS)))}
    made, params, state = build("vep", functions, **options)
    state = made.begin(state, context())
    difference = value(rows.next_observation) - value(rows.observation)
    expected = np.square(rows.reward + 0.9 * difference).mean(axis=1).sum()
    assert loss(made, params, state, rows) == pytest.approx(expected, rel=1e-4)
