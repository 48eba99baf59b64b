"""What the critics learn: the values of a linear-quadratic problem, at any scale of rewards."""

import jax
import jax.numpy as jnp
import numpy as np

from agents import value_gradients
from agents.scaled_networks import ScaledNetworks
from models import normalizer
from tests.agents import linear_world as world

HORIZON, ALPHA = 3, 0.3
GAIN, STD = -0.4, 0.4  # of the policy a = GAIN s + STD noise
KEPT, PUSH, NOISE = 0.8, 0.5, 0.3  # s' = KEPT s + PUSH a + NOISE xi
STATE_COST, ACTION_COST = 1.0, 0.5  # r = -STATE_COST s^2 - ACTION_COST a^2


def soft_q(state, action):
    """Q(s, a) of the policy above, in closed form: V(s) = offset - slope s^2."""
    gamma, entropy = world.DISCOUNT, 0.5 * np.log(2 * np.pi * np.e * STD**2)
    closed_loop = KEPT + PUSH * GAIN
    slope = (STATE_COST + ACTION_COST * GAIN**2) / (1 - gamma * closed_loop**2)
    spread = slope * ((PUSH * STD) ** 2 + NOISE**2)
    offset = (ALPHA * entropy - ACTION_COST * STD**2 - gamma * spread) / (1 - gamma)
    following = (KEPT * state + PUSH * action) ** 2 + NOISE**2
    return -STATE_COST * state**2 - ACTION_COST * action**2 + gamma * (offset - slope * following)


def quadratic_networks():
    """A Gaussian policy without squashing, and two critics that are quadratic forms."""

    def at(policy, observation, noise):
        log_prob = -0.5 * jnp.square(noise[..., 0]) - jnp.log(STD * jnp.sqrt(2 * jnp.pi))
        return GAIN * observation[..., :1] + STD * noise, log_prob

    def q_values(critics, observation, action):
        return critics.net @ features(observation[..., 0], action[..., 0])

    return ScaledNetworks(
        init_policy=lambda key: (),
        init_critics=lambda key: 0.1 * jax.random.normal(key, (2, 6)),
        init_scaled_critics=None,
        at=at,
        sample_and_log_prob=None,
        sample=None,
        greedy=None,
        q_values=q_values,
    )


def features(s, a):
    return jnp.stack([jnp.ones_like(s), s, a, s * s, s * a, a * a])


def test_the_critics_fixed_point_is_the_soft_value_of_a_linear_quadratic_problem(monkeypatch):
    monkeypatch.setattr(value_gradients, "make_scaled_networks", lambda *_: quadratic_networks())
    learner = world.learner(
        dhmbpo__horizon=HORIZON,
        sac__initial_temperature=ALPHA,
        sac__critic_learning_rate=0.03,
        sac__target_update_rate=0.05,
    )
    elites = world.elites(
        matrix=np.diag([KEPT - 1.0, 0.0]),
        gain=np.array([[PUSH], [0.0]]),
        curvature=[STATE_COST, 0.0, ACTION_COST],
        log_variance=2 * np.log([NOISE, NOISE, 9.0]),
    )
    steps, averaged = 2_500, 1_000

    @jax.jit
    def learn(state):
        def one(carry, key):
            start_key, own_key = jax.random.split(key)
            start = jax.random.uniform(start_key, (256, 2), minval=-2.0, maxval=2.0)
            state, metrics = learner.update_critics(
                carry, elites, normalizer.identity(2), start, own_key
            )
            return state, (state.critics, metrics["critic/clipped"])

        return jax.lax.scan(one, state, jax.random.split(jax.random.key(1), steps))[1]

    critics, clipped = learn(learner.init(jax.random.key(0)))
    assert float(clipped[-averaged:].max()) == 0.0
    state, action = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-1.5, 1.5, 7))
    found = np.tensordot(critics[-averaged:].mean(axis=0), features(state, action), axes=1)
    expected = soft_q(state, action)
    for q in found:  # 2 % of the largest value
        np.testing.assert_allclose(q, expected, atol=0.02 * np.abs(expected).max())


def test_learning_is_the_same_at_any_scale_of_rewards_and_temperature():
    learner = world.learner(
        dhmbpo__horizon=HORIZON,
        sac__hidden_depth=1,
        sac__layer_norm=True,
        sac__learn_temperature=True,
        **{f"sac__{part}_learning_rate": 3e-3 for part in ("policy", "critic", "temperature")},
    )
    rng = np.random.default_rng(0)

    @jax.jit
    def curves(scale):
        elites = world.elites(
            matrix=np.diag([KEPT - 1.0, 0.0]),
            gain=np.array([[PUSH], [0.2]]),
            constant=scale * 1.0,
            slope=scale * np.array([1.0, 0.5]),
            curvature=scale * np.array([0.5, 0.5, 0.1]),
            log_variance=2 * np.log([NOISE, NOISE, 9.0]),
        )
        state = learner.init(jax.random.key(0))
        state = state.replace(log_temperature=state.log_temperature + jnp.log(scale))
        starts = jnp.float32(rng.normal(size=(100, 32, 2)))

        def one(state, inputs):
            state, metrics = learner.update(state, elites, normalizer.identity(2), *inputs)
            return state, metrics

        keys = jax.random.split(jax.random.key(1), len(starts))
        return jax.lax.scan(one, state, (starts, keys))[1]

    # Adam's epsilon counts where gradients are small: 1 % of the largest value is allowed
    names = ("critic/q", "critic/target", "critic/high", "policy/loss", "policy/temperature")
    plain = curves(1.0)
    for name in ("critic/q", "policy/loss", "policy/entropy"):  # it learns
        assert np.abs(plain[name][-10:].mean() - plain[name][:10].mean()) > 0.1
    for scale in (1e-3, 1e3):
        scaled = curves(scale)
        for name in names:
            size = np.abs(plain[name]).max()
            np.testing.assert_allclose(
                scaled[name] / scale, plain[name], atol=0.01 * size, err_msg=name
            )
        np.testing.assert_allclose(scaled["policy/entropy"], plain["policy/entropy"], atol=0.01)
