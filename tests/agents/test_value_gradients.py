"""Double-horizon MBPO's update against values computed by hand, with networks of constants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import value_gradients
from agents.value_bounds import Bounds
from agents.value_gradients import critic_target, pessimistic, soft_return
from models import normalizer
from models.imagination import Imagined, Noise, draw_noise
from models.normalizer import Normalizer
from tests.agents import linear_world as world

ROWS, HORIZON, THRESHOLD = 4, 4, 1.5
IDENTITY = normalizer.identity(2)


# --- returns -------------------------------------------------------------------------------------


def imagined_by_hand():
    """Two rows of two steps, of which the second ends after its first."""
    return Imagined(
        first_action=jnp.zeros((2, 1)),
        reward=jnp.array([[1.0, 2.0], [3.0, 100.0]]),
        log_prob=jnp.array([[0.5, -1.0], [2.0, 100.0], [-3.0, 100.0]]),
        alive=jnp.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
        last_observation=jnp.zeros((2, 2)),
        last_action=jnp.zeros((2, 1)),
    )


def test_the_soft_return_has_the_entropy_of_every_action_and_nothing_after_the_end():
    found = soft_return(imagined_by_hand(), jnp.array([7.0, 100.0]), jnp.float32(0.1), 0.5)
    # 1 - 0.05 + 0.5 (3 - 0.2) + 0.25 (7 + 0.3) and 2 + 0.1
    np.testing.assert_allclose(found, [4.175, 2.1], rtol=1e-6)


def test_the_critics_target_lacks_the_entropy_of_the_first_action():
    found = critic_target(imagined_by_hand(), jnp.array([7.0, 100.0]), jnp.float32(0.1), 0.5)
    np.testing.assert_allclose(found, [4.225, 2.0], rtol=1e-6)


def test_the_pessimistic_value_is_the_smaller_of_two_random_critics():
    q = jnp.array([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])  # of two rows
    keys = jax.random.split(jax.random.key(0), 6_000)
    pairs = np.asarray(jax.jit(jax.vmap(pessimistic, (None, 0)))(q, keys))
    # one pair serves both rows
    assert set(map(tuple, pairs.tolist())) == {
        (i, 5 - j) for i in range(1, 5) for j in range(i + 1, 5)
    }
    counts = np.bincount(pairs[:, 0].astype(int), minlength=5)
    # of the six pairs three contain 1, two of the others 2 and one 3; deviations are below 39
    np.testing.assert_allclose(counts, [0, 3_000, 2_000, 1_000, 0], atol=160)


# --- one update ----------------------------------------------------------------------------------


RATE, TAU, TARGET_ENTROPY = 0.01, 0.1, -0.7


@functools.cache
def learner(everything=False):
    """The learner in a world that ends where the first coordinate passes the threshold.

    Only its policy learns, or everything.
    """
    changes = {"sac__target_update_rate": TAU}
    if everything:
        rates = (f"sac__{part}_learning_rate" for part in ("policy", "critic", "temperature"))
        changes |= dict.fromkeys(rates, RATE)
        changes |= {"sac__learn_temperature": True, "sac__target_entropy": TARGET_ENTROPY}
    made = world.learner(THRESHOLD, dhmbpo__horizon=HORIZON, **changes)
    names = ("update", "update_critics")
    return made._replace(**{name: jax.jit(getattr(made, name)) for name in names})


def state_of(learner, policy=(0.3, 0.2), critics=(0.0, 0.0), targets=(0.0, 0.0), bounds=(-20, 30)):
    """A state of constant networks: mean and raw std of the policy, and one number a critic."""
    state = learner.init(jax.random.key(0))
    return state.replace(
        policy=world.with_head(state.policy, policy),
        critics=world.with_head(state.critics, np.array(critics)[:, None]),
        target_critics=world.with_head(state.target_critics, np.array(targets)[:, None]),
        bounds=Bounds(*map(jnp.float32, bounds)),
        updates=jnp.int32(1),  # so that bounds are followed slowly
    )


def starts(first):
    return jnp.tile(jnp.array([[first, 0.0]]), (ROWS, 1))


COUNTING = {"drift": [1.0, 0.0], "constant": 2.0, "slope": [1.0, 0.0]}  # r = 2 + s_0, which grows


@pytest.mark.parametrize(
    ("targets", "last"),
    [((0.3, 0.5), 0.3), ((0.5, 0.3), 0.3), ((1.5, 2.0), 1.0), ((-1.5, 0.5), -1.0)],
)
@pytest.mark.parametrize(("first", "steps"), [(1, 1), (0, 2), (-1, 3), (-2, 4), (-10, 5)])
def test_target_and_policy_objective_by_hand(first, steps, targets, last):
    """Row ends with step `steps`, or never; `last` is the clipped minimum in units of the bounds.

    The policy's own last value is the critics' mean, which is not clipped.
    """
    used, key, alpha, critics = learner(), jax.random.key(1), 0.3, (-0.2, 3.0)
    state = state_of(used, targets=targets, critics=critics)
    arguments = world.elites(**COUNTING), IDENTITY, starts(first), key
    new, metrics = used.update(state, *arguments)
    low, high = np.float64(new.bounds)
    noise = draw_noise(jax.random.split(key)[0], HORIZON, ROWS, used.parts).policy
    std = np.log1p(np.exp(0.2)) + 1e-5
    cost = alpha * world.gaussian_log_prob(np.float64(noise), 0.3, std)  # alpha l_t, [H + 1, B]

    later = np.zeros(ROWS)  # from the second step to the end
    for t in range(1, min(steps, HORIZON)):
        later += world.DISCOUNT**t * (2.0 + first + t - cost[t])
    soft = later + (2.0 + first) - cost[0]
    target = later + (2.0 + first)
    if steps > HORIZON:
        weight, scale, shift = world.DISCOUNT**HORIZON, (high - low) / 2, (high + low) / 2
        soft += weight * (np.mean(critics) * scale + shift - cost[HORIZON])
        target += weight * (last * scale + shift - cost[HORIZON])
    q = np.array(critics)[:, None] * (high - low) / 2 + (high + low) / 2

    np.testing.assert_allclose(metrics["critic/target"], target.mean(), rtol=1e-5)
    loss = np.square(q - target).mean(axis=1).sum()
    np.testing.assert_allclose(metrics["critic/loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/loss"], -soft.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/entropy"], -cost[0].mean() / alpha, rtol=1e-5)
    assert float(metrics["rollout/alive"]) == (steps > HORIZON)
    assert float(metrics["critic/clipped"]) == (abs(last) == 1.0)


def test_critics_alone_learn_the_same_as_with_the_policy():
    used, key = learner(everything=True), jax.random.key(1)
    state = state_of(used, targets=(0.3, 0.5), critics=(-0.2, 0.4))
    arguments = state, world.elites(**COUNTING), IDENTITY, starts(-10), key
    (new, metrics), (both, all_metrics) = used.update_critics(*arguments), used.update(*arguments)
    for name in ("critics", "target_critics", "bounds", "updates"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
            getattr(new, name),
            getattr(both, name),
        )
    assert int(new.updates) == 2
    assert all(all_metrics[name] == pytest.approx(float(metrics[name])) for name in metrics)
    for name in ("policy", "log_temperature"):
        jax.tree.map(np.testing.assert_array_equal, getattr(new, name), getattr(state, name))
    counts = [int(part[0].count) for part in new.optimizer]
    assert counts == [0, 1, 0]
    moved = new.critics["params"]["layer_0"]["bias"] - state.critics["params"]["layer_0"]["bias"]
    q = np.array([-0.2, 0.4]) * 25.0 + 5.0
    towards = np.sign(float(metrics["critic/target"]) - q)
    np.testing.assert_allclose(moved[:, 0], RATE * towards, rtol=1e-3)  # Adam's first step


def test_targets_are_polyak_averages_taken_at_every_update():
    used = learner(everything=True)
    state = state_of(used, targets=(0.3, 0.5), critics=(-0.2, 0.4))
    expected = jax.tree.map(np.asarray, state.target_critics)
    for key in range(3):
        arguments = world.elites(**COUNTING), IDENTITY, starts(-10), jax.random.key(key)
        state, _ = used.update(state, *arguments)
        expected = jax.tree.map(
            lambda t, c: (1 - TAU) * t + TAU * np.asarray(c), expected, state.critics
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.target_critics, expected
    )


# --- what is constant to which gradient ----------------------------------------------------------


def test_the_policys_loss_reaches_neither_critics_nor_their_targets_bounds_and_temperature(
    monkeypatch,
):
    # Without noise the action is 0 and with it every reward and target: the critics are exactly
    # right. The second reward grows with the first action, and the last value with every critic.
    noise = Noise(
        jnp.zeros((HORIZON + 1, ROWS, 1)), jnp.zeros((HORIZON, ROWS, 2)), jnp.zeros((HORIZON, ROWS))
    )
    monkeypatch.setattr(value_gradients, "draw_noise", lambda *_: noise)
    used = world.learner(
        dhmbpo__horizon=HORIZON, sac__initial_temperature=0.0, sac__critic_learning_rate=RATE
    )
    state = state_of(used, policy=(0.0, 0.2), bounds=(-1.0, 1.0))
    elites = world.elites(gain=np.ones((2, 1)), slope=[5.0, 0.0])
    new, metrics = jax.jit(used.update)(state, elites, IDENTITY, starts(0.0), jax.random.key(1))
    assert float(metrics["critic/loss"]) == 0.0
    for name in ("critics", "target_critics", "log_temperature"):
        jax.tree.map(np.testing.assert_array_equal, getattr(new, name), getattr(state, name))
    for moment in jax.tree.leaves((new.optimizer[1][0].mu, new.optimizer[2][0].mu)):
        np.testing.assert_array_equal(moment, 0.0)
    rate = 3e-4  # towards rewards of zero
    np.testing.assert_allclose(new.bounds, (rate - 1.0, 1.0 - rate), rtol=1e-6)
    slope = sum(world.DISCOUNT**t * 5.0 * t for t in range(1, HORIZON))  # of t actions before
    mean_gradient = new.optimizer[0][0].mu["params"]["layer_0"]["bias"][0] / 0.1
    np.testing.assert_allclose(mean_gradient, -slope, rtol=1e-5)


def test_the_critics_loss_does_not_reach_the_policy():
    # constant rewards and values, no temperature: all actions are equally good
    used = learner()
    state = state_of(used, critics=(0.5, -0.5)).replace(log_temperature=-jnp.inf * jnp.ones(()))
    elites = world.elites(constant=3.0, gain=np.ones((2, 1)))
    new, metrics = used.update(state, elites, IDENTITY, starts(-10.0), jax.random.key(1))
    assert float(metrics["critic/loss"]) > 1.0
    jax.tree.map(np.testing.assert_array_equal, new.policy, state.policy)


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_follows_the_first_actions_entropy_alone(learned):
    used = learner(everything=learned)
    state = state_of(used)
    arguments = world.elites(**COUNTING), IDENTITY, starts(-10), jax.random.key(1)
    new, metrics = used.update(state, *arguments)
    gradient = float(new.optimizer[2][0].mu) / 0.1
    expected = float(metrics["policy/entropy"]) - TARGET_ENTROPY if learned else 0.0
    assert gradient == pytest.approx(expected, rel=1e-5)
    step = float(new.log_temperature - state.log_temperature)
    assert step == pytest.approx(-RATE * np.sign(expected), rel=1e-3)


def test_a_reset_optimizer_has_done_no_step():
    used = learner(everything=True)
    arguments = world.elites(**COUNTING), IDENTITY, starts(-10), jax.random.key(1)
    state, _ = used.update(state_of(used), *arguments)
    reset = used.reset_optimizer(state)
    assert [int(part[0].count) for part in state.optimizer] == [1, 1, 1]
    for leaf in jax.tree.leaves(reset.optimizer):
        np.testing.assert_array_equal(leaf, 0)
    jax.tree.map(
        np.testing.assert_array_equal,
        reset.replace(optimizer=()),
        state.replace(optimizer=()),
    )


def test_objectives_and_filters_are_told_the_smaller_value_and_the_entropy():
    used, alpha = learner(), 0.3
    state, statistics = state_of(used, critics=(0.5, 0.3)), Normalizer(jnp.ones(2), 2 * jnp.ones(2))
    context = used.context(state, statistics, normalizers=None)
    observation, key = jnp.zeros((3, 2)), jax.random.key(1)
    found = used.parts.value(context, context.critics, observation, key)
    noise = np.float64(jax.random.normal(jax.random.split(key)[0], (3, 1)))
    std = np.log1p(np.exp(0.2)) + 1e-5
    expected = 0.3 * 25.0 + 5.0 - alpha * world.gaussian_log_prob(noise, 0.3, std)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(context.policy.observations.std, [2.0, 2.0])
    pairs = (context.critics, state.critics), (context.target_critics, state.target_critics)
    for critics, net in pairs:
        np.testing.assert_array_equal(critics.observations.mean, np.ones((2, 2)))
        np.testing.assert_array_equal(critics.bounds.high, [30.0, 30.0])
        jax.tree.map(np.testing.assert_array_equal, critics.net, net)
