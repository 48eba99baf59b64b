"""What the gradients of the value-aware objectives are, and what they may not pass through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.value_toy import VALUE_AWARE, batch, build, context, loss

OPTIONS = [
    {"objective__critic": "min", "objective__action": "sample", "objective__include_entropy": True},
    {"objective__critic": "mean", "objective__action": "sample"},
    {"objective__critic": "target"},
    {"objective__mle_weight": 0.5},
]


def constant_action(policy, observation):
    return jnp.full((*observation.shape[:-1], 1), 0.3)


def free_action(policy, observation, key):
    """A noise that does not look at the state; the density is that noise too."""
    noise = jax.random.normal(key, (*observation.shape[:-1], 1))
    return noise, 2.0 * noise[..., 0]


def slopes(objective, **fields):
    """The loss's slope along a random direction (bounds excepted), and its central difference.

    The gradient stops in the policy's action, so this one's does not depend on the state.
    """
    functions = {"greedy_policy": constant_action, "sample_and_log_prob": free_action}
    made, params, state = build(objective, functions, objective__vep_count=2, **fields)
    if made.begin is not None:
        state = made.begin(state, context())
    wide = lambda tree: jax.tree.map(lambda x: jnp.float64(x), tree)  # noqa: E731
    params, state, rows, ctx = map(wide, (params, state, batch(), context()))
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    direction |= {name: np.zeros(params[name].shape) for name in params if "log" in name}
    f = jax.jit(jax.value_and_grad(lambda p: loss(made, p, state, rows, ctx)))
    step = 1e-6
    behind, here, ahead = (
        f(jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction))
        for sign in (-1, 0, 1)
    )
    pairs = zip(*map(jax.tree.leaves, (here[1], direction)), strict=True)
    slope = sum(float((g * d).sum()) for g, d in pairs)
    return slope, float(ahead[0] - behind[0]) / (2 * step)


@pytest.mark.parametrize(
    ("objective", "fields"),
    [
        *(
            (objective, {"objective__num_model_samples": samples})
            for objective in VALUE_AWARE
            for samples in (0, 1, 3)
        ),
        *(("vaml", options) for options in OPTIONS),
        ("vep", {"objective__vep_functions": "critics", "objective__action": "sample"}),
        ("vagram", {"objective__vagram_form": "taylor", "objective__critic": "min"}),
        ("mse", {}),
        ("mle", {}),
    ],
    ids=str,
)
def test_the_gradient_is_that_of_finite_differences(objective, fields):
    with jax.enable_x64(True):
        slope, expected = slopes(objective, **fields)
    assert abs(slope) > 1e-3
    assert slope == pytest.approx(expected, rel=1e-5)


def action_only(critics, observation, action):
    """A value that knows the state through the policy's action alone."""
    return 5.0 * jnp.broadcast_to(action[..., 0], (1, len(action)))


@pytest.mark.parametrize("objective", ["ma_l1", "vaml", "vagram"])
def test_no_gradient_passes_through_the_policys_action(objective):
    functions = {"q_values": action_only}
    made, params, state = build(objective, functions, objective__value_weight=1.0)
    without, _, _ = build(objective, functions, objective__value_weight=0.0)
    found, expected = (
        jax.jit(jax.grad(lambda p, m=m: loss(m, p, state, batch())))(params)
        for m in (made, without)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("objective", "functions", "action"),
    [
        *((objective, "random", "mean") for objective in VALUE_AWARE),
        ("vep", "critics", "mean"),
        *((objective, "critics", "sample") for objective in VALUE_AWARE),
    ],
)
def test_other_actions_change_the_loss_but_not_through_policy_or_critics(
    objective, functions, action
):
    made, params, state = build(
        objective, objective__vep_functions=functions, objective__action=action
    )
    if made.begin is not None:
        state = made.begin(state, context())

    @jax.jit
    @jax.value_and_grad
    def evaluate(ctx, key):
        return made.loss(params, state, batch(), ctx, key)[0]

    ctx = context()
    value, gradient = evaluate(ctx, jax.random.key(2))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    if (objective, functions) == ("vep", "random"):
        return  # functions that ask no policy
    another_policy, _ = evaluate(ctx.replace(policy=-ctx.policy), jax.random.key(2))
    assert abs(another_policy - value) > 1e-4
    another_draw, _ = evaluate(ctx, jax.random.key(3))
    assert (abs(another_draw - value) > 1e-4) == (action == "sample")


@pytest.mark.parametrize("objective", [*VALUE_AWARE, "mse"])
def test_members_do_not_depend_on_each_other(objective):
    made, params, state = build(objective)
    rows = batch()
    moved = rows._replace(reward=rows.reward.at[1].add(1.0))
    gradient = jax.jit(jax.grad(lambda p, b: loss(made, p, state, b)))
    first, second = (gradient(params, b)["net"] for b in (rows, moved))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a[jnp.array([0, 2])], b[jnp.array([0, 2])])
    assert any((a[1] != b[1]).any() for a, b in zip(*map(jax.tree.leaves, (first, second))))
