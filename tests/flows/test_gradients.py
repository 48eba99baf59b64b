"""Gradients of the flow reward on a scalar system whose every moment has a closed form."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from envs import terminations
from envs.spec import EnvSpec
from flows import actor_critic, gradients
from flows.gradients import Rollout, Starts, World
from models import normalizer
from models.ensemble import Ensemble, Normalizers, Prediction

REAL, MODEL = 0.9, 0.8  # s' = theta s + N(0, 1)
REAL_VARIANCE, MODEL_VARIANCE = 1 / (1 - REAL**2), 1 / (1 - MODEL**2)  # stationary
CURVATURE = 0.5 * (1 / MODEL_VARIANCE - 1 / REAL_VARIANCE)
HORIZON, ROLLOUTS = 5, 100_000
NO_NOISE = -200.0  # a log-variance
SPEC = EnvSpec("Scalar-v0", 1, 1, (-1.0,), (1.0,), terminations.never, None)
NO_NORMALIZERS = Normalizers(normalizer.identity(2), normalizer.identity(1))


def predict(params, normalizers, observation, action):
    del normalizers, action
    mean = params["theta"][:, None, None] * observation
    log_variance = jnp.broadcast_to(params["log_variance"][:, None, None], mean.shape)
    return Prediction(mean, log_variance)


def decode(observation, action, target):
    del observation, action
    return target, jnp.zeros(target.shape[:-1])


SCALAR = Ensemble(
    init=lambda key: params_of(MODEL),
    predict=predict,
    targets=lambda transition: transition.next_observation,
    decode=decode,
    num_members=1,
    input_size=2,
    target_size=1,
)


def params_of(*thetas, log_variance=0.0):
    return {"theta": jnp.float32(thetas), "log_variance": jnp.full(len(thetas), log_variance)}


def no_action(policy, observation, key):
    del policy, key
    return jnp.zeros_like(observation)


def log_ratio(state):
    """The exact log N(state; 0, model's variance) / N(state; 0, real variance), both stationary."""
    constant = -0.5 * np.log(MODEL_VARIANCE / REAL_VARIANCE)
    return (constant - CURVATURE * jnp.square(state))[..., 0]


def inputs_of(transition):
    """(s, a, s' - s)."""
    change = transition.next_observation - transition.observation
    return jnp.concatenate([transition.observation, transition.action, change], axis=-1)


def world(termination=terminations.never):
    return World(
        ensemble=SCALAR,
        normalizers=NO_NORMALIZERS,
        spec=SPEC._replace(termination=termination),
        sample_policy=no_action,
        policy=(),
        reward=lambda transition: -log_ratio(transition.next_observation),
        inputs=inputs_of,
    )


def starts_of(observation, horizon=HORIZON):
    """From states [M, n] of segments that nothing cuts short."""
    observation = jnp.asarray(observation, jnp.float32)[..., None]
    not_truncated = jnp.ones((horizon, *observation.shape[:-1]), bool)
    return Starts(observation, jnp.zeros_like(observation), not_truncated)


def real_starts(key, members=1, n=ROLLOUTS):
    return starts_of(np.sqrt(REAL_VARIANCE) * jax.random.normal(key, (members, n)))


def settings(discount=1.0, inputs="sas"):
    return ConfigDict({"flow": {"discount": discount, "inputs": inputs}})


def mean_reward(theta, horizon=HORIZON):
    """E of R over steps 1..H of the model, from the real stationary distribution."""
    powers = theta ** (2 * np.arange(1, horizon + 1))
    variances = powers * REAL_VARIANCE + (1 - powers) / (1 - theta**2)
    constant = 0.5 * np.log(MODEL_VARIANCE / REAL_VARIANCE)
    return np.mean(constant + CURVATURE * variances)


def difference(function, x, step=1e-5):
    return (function(x + step) - function(x - step)) / (2 * step)


EXACT = 1.0811299


# --- the whole estimate --------------------------------------------------------------------------


def test_the_closed_form_of_the_rollouts_is_close_to_the_stationary_one():
    """The latter is minus the derivative of KL(model || real), whose minimum is at theta = 0.9."""

    def kl(theta):
        ratio = (1 / (1 - theta**2)) / REAL_VARIANCE
        return 0.5 * (ratio - 1 - np.log(ratio))

    assert kl(MODEL) == pytest.approx(0.0834289, abs=1e-7)
    assert -difference(kl, MODEL) == pytest.approx(1.0493827, abs=1e-6)
    assert difference(functools.partial(mean_reward, horizon=2_000), MODEL) == pytest.approx(
        1.0493827, rel=1e-3
    )
    assert difference(mean_reward, MODEL) == pytest.approx(EXACT, abs=1e-6)


@functools.partial(jax.jit, static_argnames=("name", "discount", "termination"))
def loss_of(name, params, starts, key, discount=1.0, termination=terminations.never):
    term = getattr(gradients, name)(settings(discount), SPEC)
    return term.loss(params, (), world(termination), starts, key)


def gradient(name, params, *arguments, **changes):
    """What the estimator would add to the parameters."""
    grads = jax.grad(lambda params: -loss_of(name, params, *arguments, **changes).sum())(params)
    return jax.tree.map(np.asarray, grads)


@pytest.mark.parametrize(("name", "tolerance"), [("path", 0.03), ("score", 0.05)])
def test_the_gradient_is_the_closed_form(name, tolerance):
    start_key, key = jax.random.split(jax.random.key(0))
    found = gradient(name, params_of(MODEL), real_starts(start_key), key)["theta"][0]
    assert found == pytest.approx(EXACT, rel=tolerance)


def test_the_path_gradient_is_a_finite_difference_under_the_same_noise():
    start_key, key = jax.random.split(jax.random.key(0))
    starts = real_starts(start_key)

    def reward(theta):
        return -float(loss_of("path", params_of(theta), starts, key)[0])

    found = gradient("path", params_of(MODEL), starts, key)["theta"][0]
    assert found == pytest.approx(difference(reward, MODEL, step=0.01), rel=2e-3)


@pytest.mark.parametrize("name", ["path", "score"])
def test_the_spread_gets_no_gradient(name):
    key = jax.random.key(0)
    grads = gradient(name, params_of(MODEL), real_starts(key, n=64), key)
    assert grads["theta"][0] != 0
    assert grads["log_variance"][0] == 0


@pytest.mark.parametrize("name", ["path", "score"])
def test_members_do_not_influence_each_other(name):
    start_key, other_key, key = jax.random.split(jax.random.key(0), 3)
    starts = real_starts(start_key, members=2, n=64)
    elsewhere = starts._replace(
        observation=starts.observation.at[1].set(real_starts(other_key, n=64).observation[0]),
        not_truncated=starts.not_truncated.at[2:, 1].set(False),
    )
    theta = gradient(name, params_of(MODEL, MODEL), starts, key)["theta"]
    changed = gradient(name, params_of(MODEL, 0.3), elsewhere, key)["theta"]
    assert changed[0] == theta[0]
    assert changed[1] != theta[1]


# --- rollouts ------------------------------------------------------------------------------------


def below_one(observation, action, next_observation):
    del observation, action
    return next_observation[..., 0] < 1.0


@functools.partial(jax.jit, static_argnames=("termination", "detach"))
def rolled_out(params, starts, termination=terminations.never, detach=False):
    key = jax.random.key(0)
    return gradients.roll_out(world(termination), params, starts, key, detach=detach)


def test_a_rollout_ends_with_its_terminal_step_or_where_the_real_segment_was_cut():
    starts = starts_of([[8.0, 8.0, 40.0, 1.5]])
    starts = starts._replace(not_truncated=starts.not_truncated.at[2:, 0, 1].set(False))
    rollout = rolled_out(params_of(0.5, log_variance=NO_NOISE), starts, below_one)
    expected = [  # 8, 4, 2, 1, 0.5 | cut after two steps | 40, ..., 1.25 | 1.5, 0.75
        [True, True, True, True, False],
        [True, True, False, False, False],
        [True, True, True, True, True],
        [True, False, False, False, False],
    ]
    np.testing.assert_array_equal(rollout.valid[:, 0].T, expected)
    states = rollout.transition.next_observation[:, 0, :, 0].T
    np.testing.assert_allclose(states[0, :4], [4.0, 2.0, 1.0, 0.5])
    np.testing.assert_allclose(states[2], [20.0, 10.0, 5.0, 2.5, 1.25])
    np.testing.assert_array_equal(rollout.transition.terminated[:4, 0, 0], [0.0, 0.0, 0.0, 1.0])


def test_a_prediction_that_is_not_finite_ends_its_rollout_before_that_step():
    starts = starts_of([[1e30, 1.0]])
    rollout = rolled_out(params_of(1e5, log_variance=NO_NOISE), starts)
    np.testing.assert_array_equal(rollout.valid[:, 0, 0], [True, False, False, False, False])
    np.testing.assert_array_equal(rollout.valid[:, 0, 1], [True] * 5)


@pytest.mark.parametrize(("detach", "expected"), [(False, 3 * 0.5**2 * 8.0), (True, 0.5**2 * 8.0)])
def test_detached_steps_see_the_state_before_them_as_a_constant(detach, expected):
    """The state after three steps is theta^3 s."""

    def third_state(params):
        rollout = rolled_out(params, starts_of([[8.0]]), detach=detach)
        return rollout.transition.next_observation[2, 0, 0, 0]

    grads = jax.grad(third_state)(params_of(0.5, log_variance=NO_NOISE))
    assert float(grads["theta"][0]) == pytest.approx(expected)


# --- losses by hand ------------------------------------------------------------------------------


class Tiny:
    """Three steps of two members with three branches each, two numbers in a decision."""

    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(3, 2, 3))
    mean, decision = rng.normal(size=(2, 3, 2, 3, 2))
    log_variance = rng.normal(size=(3, 2, 3, 2))
    length = np.array([[3, 1, 2], [2, 2, 0]])  # valid steps of every branch
    discount = 0.8

    def rollout(self, mean):
        valid = np.arange(3)[:, None, None] < self.length[None]
        prediction = Prediction(mean, jnp.float32(self.log_variance))
        return Rollout(None, prediction, jnp.float32(self.decision), jnp.asarray(valid))


def test_the_path_loss_is_minus_the_discounted_reward_per_step_and_branch():
    tiny = Tiny()
    expected = np.zeros(2)
    for member, branch in np.ndindex(2, 3):
        for t in range(tiny.length[member, branch]):
            expected[member] -= tiny.discount**t * tiny.rewards[t, member, branch] / (3 * 3)
    found = gradients.path_loss(
        tiny.rollout(jnp.float32(tiny.mean)), jnp.float32(tiny.rewards), tiny.discount
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_score_gradient_is_the_discounted_advantage_times_that_of_the_log_density():
    tiny = Tiny()
    expected = np.zeros(tiny.mean.shape)
    for member, branch in np.ndindex(2, 3):
        length = tiny.length[member, branch]
        for t in range(length):
            advantage = 0.0
            for later in range(t, length):
                peers = tiny.rewards[later, member, tiny.length[member] > later]
                centred = tiny.rewards[later, member, branch] - peers.mean()
                advantage += tiny.discount ** (later - t) * centred
            at = (t, member, branch)
            slope = (tiny.decision[at] - tiny.mean[at]) / np.exp(tiny.log_variance[at])
            expected[at] = -(tiny.discount**t) * advantage * slope / (3 * 3)

    def loss(mean):
        rewards = jnp.float32(tiny.rewards)
        return gradients.score_loss(tiny.rollout(mean), rewards, tiny.discount).sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.float32(tiny.mean)), expected, atol=1e-6)


@pytest.mark.parametrize("termination", [terminations.never, below_one])
def test_the_path_gradient_by_hand_without_noise(termination):
    """The reward of theta^t s is the curvature times its square, and a constant."""
    theta, start, discount = 0.5, 6.0, 0.7  # 3, 1.5, 0.75, ...
    steps = np.arange(1, 1 + (3 if termination is below_one else HORIZON))
    slopes = CURVATURE * 2 * steps * theta ** (2 * steps - 1) * start**2
    params = params_of(theta, log_variance=NO_NOISE)
    found = gradient("path", params, starts_of([[start]]), jax.random.key(0), discount, termination)
    assert found["theta"][0] == pytest.approx((discount ** (steps - 1) * slopes).sum() / HORIZON)


# --- actor-critic --------------------------------------------------------------------------------


CRITIC_DISCOUNT = 0.9
CRITIC = actor_critic.actor_critic(settings(CRITIC_DISCOUNT), SPEC)


def q_by_hand(params, z):
    """The values [C, ...] of multilayer perceptrons with two hidden layers."""
    layers = [params["params"][f"layer_{i}"] for i in range(3)]
    values = []
    for critic in range(2):
        x = z
        for i, layer in enumerate(layers):
            product = x @ layer["kernel"][critic]
            x = product + jnp.broadcast_to(layer["bias"][critic], product.shape)
            x = jnp.maximum(x, 0.0) if i < 2 else x
        values.append(x[..., 0])
    return jnp.stack(values)


initial_critics = jax.jit(CRITIC.init)


@jax.jit
def updated(state, params, starts):
    return CRITIC.update(state, params, world(below_one), starts, jax.random.key(2))


def test_one_update_of_the_critics_by_hand():
    """Adam's first step is the learning rate times the sign of the gradient, short of its eps."""
    theta, states = 0.5, np.array([[8.0, 3.0, 1.5], [4.0, -2.0, 2.5]])  # 1.5, -2 terminate
    params = params_of(theta, theta, log_variance=NO_NOISE)
    state = initial_critics(jax.random.key(0))
    state = state.replace(target=initial_critics(jax.random.key(1)).params)

    def z(s):
        return jnp.float32(np.stack([s, np.zeros_like(s), (theta - 1) * s], axis=-1))

    reached = theta * states
    reward = 0.5 * np.log(MODEL_VARIANCE / REAL_VARIANCE) + CURVATURE * reached**2
    following = np.minimum(*np.asarray(q_by_hand(state.target, z(reached))))
    target = reward - reward.mean() + CRITIC_DISCOUNT * (reached >= 1) * following

    def loss(critics):
        return jnp.square(q_by_hand(critics, z(states)) - jnp.float32(target)[None]).mean()

    grads = jax.grad(loss)(state.params)
    expected = jax.tree.map(
        lambda p, g: p - actor_critic.LEARNING_RATE * g / (jnp.abs(g) + 1e-8), state.params, grads
    )
    new = updated(state, params, starts_of(states))
    chex.assert_trees_all_close(new.params, expected, atol=2e-6)
    averaged = jax.tree.map(lambda t, p: 0.995 * t + 0.005 * p, state.target, expected)
    chex.assert_trees_all_close(new.target, averaged, atol=1e-6)


def test_the_actor_loss_is_minus_the_smaller_value_in_units_of_its_mean_size():
    states = np.array([[8.0, 3.0, 1.5], [4.0, -2.0, 2.5]])
    state = initial_critics(jax.random.key(0))
    params = params_of(0.5, 0.9, log_variance=NO_NOISE)
    change = np.array([[-0.5], [-0.1]]) * states
    z = jnp.float32(np.stack([states, np.zeros_like(states), change], axis=-1))
    values = np.asarray(q_by_hand(state.params, z)).min(axis=0)
    found = CRITIC.loss(params, state, world(), starts_of(states), jax.random.key(1))
    expected = -values.mean(axis=1) / (1e-3 + np.abs(values).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@jax.jit
def trained_critic_gradient(key, params):
    """What is added to the parameters after 200 updates of the critics."""
    init_key, update_key, start_key, key = jax.random.split(key, 4)

    def step(state, key):
        start_key, key = jax.random.split(key)
        starts = real_starts(start_key, n=128)
        return CRITIC.update(state, params, world(), starts, key), None

    state, _ = jax.lax.scan(step, CRITIC.init(init_key), jax.random.split(update_key, 200))
    starts = real_starts(start_key, n=1_024)
    return jax.grad(lambda p: -CRITIC.loss(p, state, world(), starts, key).sum())(params)


def test_the_critics_push_the_model_towards_the_real_system():
    grads = trained_critic_gradient(jax.random.key(0), params_of(MODEL))
    assert float(grads["theta"][0]) > 0.1
    assert float(grads["log_variance"][0]) == 0
