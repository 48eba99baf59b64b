"""The value-aware objectives as a whole: worked numbers, gradients, and what they may not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from envs.spec import EnvSpec
from experiment.configuration import resolve
from models import normalizer
from models.ensemble import Normalizers, Prediction, make_ensemble
from models.objectives import OBJECTIVES, Context, Parts
from replay import Transition

VALUE_AWARE = ["ma_l1", "vaml", "vep", "vagram"]
SPEC = EnvSpec("Toy-v0", 2, 1, (-1.0,), (1.0,), lambda s, a, n: n[..., 0] > 50.0, None)
MEMBERS, ROWS = 3, 4


def settings(objective, **fields):
    config = default.get_config("Hopper-v5")
    config.algo, config.model.objective = "mbpo", objective
    config.model.update({"num_members": MEMBERS, "num_elites": 2, "hidden_width": 8})
    config.model.hidden_depth = 1
    config.model.weight_decay = (0.0,)
    values = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(values)
    return resolve(config)


def q_values(critics, observation, action):
    """Q_c = w_c . s^2 / 2 + (policy's action) . (1, 0) . s: nonlinear, and aware of the action."""
    squares = 0.5 * jnp.square(observation)
    return critics["w"] @ squares.T + 0.1 * (action[..., 0] * observation[..., 0])[None]


def greedy(policy, observation):
    return jnp.tanh(policy * observation[..., :1])


def sample_and_log_prob(policy, observation, key):
    action = greedy(policy, observation) + 0.1 * jax.random.normal(
        key, (*observation.shape[:-1], 1)
    )
    return action, -jnp.square(observation[..., 1])


def init_critics(key):
    return {"w": jax.random.normal(key, (2, 2))}


def context():
    critics = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    targets = jax.tree.map(lambda w: w - 0.25, critics)
    normalizers = Normalizers(normalizer.identity(3), normalizer.identity(3))
    return Context(jnp.float32(0.7), critics, targets, jnp.log(jnp.float32(0.2)), normalizers)


def batch(terminated=0.0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (MEMBERS, ROWS)
    draw = lambda *more: jnp.float32(rng.normal(size=(*shape, *more)))  # noqa: E731
    return Transition(
        draw(2), jnp.tanh(draw(1)), draw(), draw(2), jnp.full(shape, terminated), jnp.zeros(shape)
    )


def build(objective, predict=None, **fields):
    """The objective, its ensemble and its parameters."""
    config = settings(objective, **fields)
    ensemble = make_ensemble(config, SPEC)
    if predict is not None:
        ensemble = ensemble._replace(predict=predict)
    sample = lambda *arguments: sample_and_log_prob(*arguments)[0]  # noqa: E731
    parts = Parts(ensemble, SPEC, q_values, sample, sample_and_log_prob, greedy, init_critics)
    made = OBJECTIVES[config.model.objective](config, parts)
    return made, jax.jit(ensemble.init)(jax.random.key(0)), made.init(jax.random.key(1))


def loss(objective, params, state, rows, ctx=None, key=2):
    return objective.loss(params, state, rows, ctx or context(), jax.random.key(key))[0]


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
    ensemble = make_ensemble(config, SPEC)._replace(
        predict=lambda *_: Prediction(mean, jnp.zeros_like(mean))
    )
    parts = Parts(ensemble, SPEC, linear_q, None, sample_and_log_prob, greedy, init_critics)
    made = OBJECTIVES[objective](config, parts)
    zeros = jnp.zeros((1, 1))
    row = Transition(
        jnp.zeros((1, 1, 2)), zeros[..., None], zeros + 0.2, jnp.ones((1, 1, 2)), zeros, zeros
    )
    params = {"log_variance_min": zeros, "log_variance_max": zeros}
    value = made.loss(params, (), row, context(), jax.random.key(0))[0]
    assert value == pytest.approx(weight * expected + 0.09, rel=1e-5)


# --- gradients -----------------------------------------------------------------------------------


def constant_action(policy, observation, key=None):
    action = jnp.full((*observation.shape[:-1], 1), 0.3)
    return action if key is None else (action, jnp.zeros(observation.shape[:-1]))


def action_only(critics, observation, action):
    """A value that knows the state through the policy's action alone."""
    return 5.0 * jnp.broadcast_to(action[..., 0], (1, len(action)))


def slopes(made, params, state, rows, ctx):
    """The gradient along a random direction (bounds excepted), and its central difference."""
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    direction |= {name: jnp.zeros_like(params[name]) for name in params if "log" in name}
    f = jax.jit(lambda p: loss(made, p, state, rows, ctx))
    pairs = zip(*map(jax.tree.leaves, (jax.grad(f)(params), direction)), strict=True)
    slope = sum((g * d).sum() for g, d in pairs)
    step = 1e-6
    ahead, behind = (
        f(jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction))
        for sign in (1, -1)
    )
    return float(slope), float(ahead - behind) / (2 * step)


@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize("objective", [*VALUE_AWARE, "mse", "mle"])
def test_the_gradient_is_that_of_finite_differences(objective, samples, monkeypatch):
    monkeypatch.setitem(globals(), "greedy", constant_action)  # in which the gradient stops
    with jax.enable_x64(True):
        made, params, state = build(objective, objective__num_model_samples=samples)
        wide = lambda tree: jax.tree.map(lambda x: jnp.float64(x), tree)  # noqa: E731
        slope, expected = slopes(made, wide(params), wide(state), wide(batch()), wide(context()))
        assert abs(slope) > 1e-3
        assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["ma_l1", "vaml", "vagram"])
def test_no_gradient_passes_through_the_policys_action(objective, monkeypatch):
    monkeypatch.setitem(globals(), "q_values", action_only)
    made, params, state = build(objective, objective__value_weight=1.0)
    without, _, _ = build(objective, objective__value_weight=0.0)
    found, expected = (
        jax.grad(lambda p, m=m: loss(m, p, state, batch()))(params) for m in (made, without)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.parametrize("functions", ["random", "critics"])
@pytest.mark.parametrize("objective", VALUE_AWARE)
def test_gradients_never_reach_policy_or_critics(objective, functions):
    made, params, state = build(objective, objective__vep_functions=functions)
    if made.begin is not None:
        state = made.begin(state, context())
    gradient = jax.grad(lambda ctx: loss(made, params, state, batch(), ctx))(context())
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


# --- invariances and options ---------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["ma_l1", "vaml", "vagram"])
def test_a_constant_value_leaves_the_error_of_the_reward(objective, monkeypatch):
    constant = lambda critics, observation, action: jnp.full((2, len(action)), 7.0)  # noqa: E731
    monkeypatch.setitem(globals(), "q_values", constant)
    made, params, state = build(objective, objective__value_weight=100.0)
    without, _, _ = build(objective, objective__value_weight=0.0)
    assert loss(made, params, state, batch()) == loss(without, params, state, batch())


@pytest.mark.parametrize(("objective", "factor"), [("ma_l1", 3.0), ("vaml", 9.0), ("vagram", 9.0)])
def test_scaling_the_value(objective, factor):
    def state_part(scale):
        ctx = context()
        ctx = ctx.replace(
            critics=jax.tree.map(lambda w: scale * w, ctx.critics), policy=jnp.float32(0.0)
        )
        full, params, state = build(objective)
        none, _, _ = build(objective, objective__value_weight=0.0)
        return float(
            loss(full, params, state, batch(), ctx) - loss(none, params, state, batch(), ctx)
        )

    assert state_part(-3.0) == pytest.approx(factor * state_part(1.0), rel=1e-4)


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


def test_a_predicted_termination_is_masked_too():
    def value(mask, threshold):
        config = settings("vaml", objective__mask_terminal=mask)
        spec = SPEC._replace(termination=lambda s, a, n: n[..., 0] > threshold)
        parts = Parts(
            make_ensemble(config, spec), spec, q_values, None, sample_and_log_prob, greedy, None
        )
        made = OBJECTIVES["vaml"](config, parts)
        params = jax.jit(parts.ensemble.init)(jax.random.key(0))
        return float(loss(made, params, (), batch(terminated=1.0)))

    assert value(True, -100.0) != value(True, 100.0)
    assert value(False, -100.0) == value(False, 100.0)


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
def test_scores_are_the_losses_of_single_rows(objective):
    made, params, state = build(objective, model__learn_variance_bounds=False)
    rows = batch()
    scores = made.score(params, state, rows, context(), jax.random.key(2))
    assert scores.shape == (MEMBERS, ROWS)
    penalty = 0.01 * 10.5 * 3 if objective == "mle" else 0.0
    assert loss(made, params, state, rows) == pytest.approx(
        float(scores.mean(axis=1).sum()) + penalty, rel=1e-5
    )


@pytest.mark.parametrize("objective", [*VALUE_AWARE, "mse"])
def test_members_do_not_depend_on_each_other(objective):
    made, params, state = build(objective)
    rows = batch()
    moved = rows._replace(reward=rows.reward.at[1].add(1.0))
    first, second = (
        jax.grad(lambda p, b=b: loss(made, p, state, b))(params)["net"] for b in (rows, moved)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a[jnp.array([0, 2])], b[jnp.array([0, 2])])
    assert any((a[1] != b[1]).any() for a, b in zip(*map(jax.tree.leaves, (first, second))))


# --- the value -----------------------------------------------------------------------------------


def test_which_critics_make_the_value():
    rows = batch()
    ctx = context()

    def by_hand(critics, reduce):
        """VAML of a model that predicts the observation itself, without reward error."""
        action = greedy(ctx.policy, rows.observation)

        def v(o):
            q = [
                0.5 * (np.square(o) @ np.asarray(w)) + 0.1 * a * o[..., 0]
                for w, a in ((w, np.tanh(0.7 * o[..., 0])) for w in critics["w"])
            ]
            return reduce(q)

        difference = 0.99 * (v(np.asarray(rows.next_observation)) - v(np.asarray(rows.observation)))
        del action
        return np.square(difference).mean(axis=1).sum()

    def stay(params, normalizers, observation, action):
        mean = jnp.concatenate([jnp.zeros(observation.shape), rows.reward[..., None]], axis=-1)
        return Prediction(mean, jnp.zeros_like(mean))

    cases = {
        "first": (ctx.critics, lambda q: q[0]),
        "min": (ctx.critics, lambda q: np.minimum(*q)),
        "mean": (ctx.critics, lambda q: (q[0] + q[1]) / 2),
        "target": (ctx.target_critics, lambda q: np.minimum(*q)),
    }
    for critic, (critics, reduce) in cases.items():
        made, params, state = build("vaml", predict=stay, objective__critic=critic)
        expected = by_hand(critics, reduce)
        assert loss(made, params, state, rows) == pytest.approx(expected, rel=1e-4), critic


def test_the_entropy_bonus_is_part_of_the_value_if_wanted():
    options = {"objective__action": "sample", "objective__include_discount": False}

    def stay(params, normalizers, observation, action):
        mean = jnp.zeros((*observation.shape[:-1], 3))
        return Prediction(mean, mean)

    zero_q = lambda critics, observation, action: jnp.zeros((2, len(action)))  # noqa: E731
    global q_values
    original, q_values = q_values, zero_q
    try:
        with_bonus, params, state = build(
            "vaml", predict=stay, objective__include_entropy=True, **options
        )
        without, _, _ = build("vaml", predict=stay, **options)
    finally:
        q_values = original
    rows = batch()._replace(reward=jnp.zeros((MEMBERS, ROWS)))
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


def test_a_backup_is_discounted_once(monkeypatch):
    def stay(params, normalizers, observation, action):
        mean = jnp.zeros((*observation.shape[:-1], 3))  # no change, no reward
        return Prediction(mean, mean)

    rows = batch()
    options = {"objective__vep_functions": "critics", "objective__vep_count": 1, "discount": 0.9}
    made, params, state = build("vep", predict=stay, **options)
    ctx = context().replace(policy=jnp.float32(0.0))  # the greedy action is 0
    state = made.begin(state, ctx)
    v = [
        0.5 * np.square(x) @ np.array([1.0, -2.0])
        for x in (rows.next_observation, rows.observation)
    ]
    expected = np.square(rows.reward + 0.9 * (v[0] - v[1])).mean(axis=1).sum()
    assert loss(made, params, state, rows, ctx) == pytest.approx(expected, rel=1e-4)
