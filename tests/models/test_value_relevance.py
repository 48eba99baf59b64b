"""Models that cannot fit every dimension: what each objective fits, against closed forms.

A linear-quadratic problem whose cost, and therefore whose value, knows the first coordinate alone,

  s' = A s + B a + noise,  A lower triangular,  r = -(s_1^2 + a^2),  a = K s optimal,
  V(s) = -p s_1^2 + c,

while the second one moves more and has less noise. The model is a linear map of rank one with
constant variances: it can follow one coordinate, or neither. Optimal policies matter: only then is
the gradient of V the one that reaches the state through Q alone.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import linalg, optimize

from configs import default
from envs.spec import EnvSpec
from experiment.configuration import resolve
from models import normalizer
from models.ensemble import Normalizers, Prediction, make_ensemble
from models.fit import make_fit
from models.objectives import OBJECTIVES, Context, Parts
from replay import Transition, buffer, example_transition

GAMMA = 0.9
A = np.array([[0.8, 0.0], [0.3, -0.4]])
B = np.array([[0.5], [1.0]])
NOISE = np.diag([0.3**2, 0.2**2])  # covariance of the noise
STATES = np.array([[1.0, 0.4], [0.4, 4.0]])  # covariance of the states in the data
INPUTS = linalg.block_diag(STATES, 0.5)  # of (s, a)
CHANGE = np.hstack([A - np.eye(2), B])  # s' - s = CHANGE (s, a) + noise
NEXT = np.hstack([A, B])

NO_CRITICS = {"none": jnp.zeros(1)}  # Q is known in closed form
VALUE_AWARE = ("ma_l1", "vaml", "vep", "vagram")
ROWS, RESTARTS, GRADIENT_STEPS = 20_000, 2, 250


# --- the control problem -------------------------------------------------------------------------


class Control(NamedTuple):
    """s' = a s + b u + noise under the optimal u = gain s; V(s) = -s p s + constant."""

    a: np.ndarray
    b: np.ndarray
    cost: np.ndarray  # r = -(s cost s + u u)
    gain: np.ndarray
    p: np.ndarray

    def q_values(self, critics, observation, action):
        """The closed-form Q, for one critic [1, B] and up to the constant."""
        a, b, cost, p = (jnp.float32(x) for x in (self.a, self.b, self.cost, self.p))
        mean = observation @ a.T + action @ b.T
        now = (observation @ cost * observation).sum(axis=-1) + jnp.square(action).sum(axis=-1)
        return (-now - GAMMA * (mean @ p * mean).sum(axis=-1))[None]

    def greedy(self, policy, observation):
        return observation @ jnp.float32(self.gain.T)

    def reward(self, observation, action, next_observation):
        state_cost = (observation @ jnp.float32(self.cost) * observation).sum(axis=-1)
        return -(state_cost + jnp.square(action).sum(axis=-1))


def solve(a, b, cost):
    scale = np.sqrt(GAMMA)
    p = linalg.solve_discrete_are(scale * a, scale * b, cost, np.eye(b.shape[1]))
    gain = -GAMMA * np.linalg.solve(np.eye(b.shape[1]) + GAMMA * b.T @ p @ b, b.T @ p @ a)
    return Control(a, b, cost, gain, p)


LQR = solve(A, B, np.diag([1.0, 0.0]))


def test_the_value_is_the_one_of_the_lyapunov_equation_and_of_simulated_returns():
    gain, p, cost = LQR.gain, LQR.p, LQR.cost
    closed = A + B @ gain
    lyapunov = linalg.solve_discrete_lyapunov(np.sqrt(GAMMA) * closed.T, cost + gain.T @ gain)
    np.testing.assert_allclose(p, lyapunov, atol=1e-10)
    assert p[0, 0] > 1
    np.testing.assert_allclose(p.ravel()[1:], 0.0, atol=1e-10)  # the second coordinate is worthless

    start = np.array([1.5, -1.0])
    rng = np.random.default_rng(0)
    state, returns = np.tile(start, (20_000, 1)), 0.0
    for k in range(120):
        action = state @ gain.T
        returns = returns - GAMMA**k * (state[:, 0] ** 2 + action[:, 0] ** 2)
        state = state @ A.T + action @ B.T + rng.multivariate_normal([0, 0], NOISE, len(state))
    constant = -GAMMA * np.trace(p @ NOISE) / (1 - GAMMA)
    expected = -start @ p @ start + constant
    standard_error = returns.std() / np.sqrt(len(returns))
    assert standard_error < 0.02
    assert abs(returns.mean() - expected) < 4 * standard_error
    observation = jnp.float32(start[None])
    action = LQR.greedy(None, observation)
    q = LQR.q_values(None, observation, action)[0, 0]
    assert q + constant == pytest.approx(expected, rel=1e-5)
    slope = jax.grad(lambda u: LQR.q_values(None, observation, u).sum())(action)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


# --- what the losses are in expectation ----------------------------------------------------------


def joint_covariance(linear):
    """Covariance of (s', model's s') for a model whose change is `linear` (s, a)."""
    to_model = np.hstack([np.eye(2), np.zeros((2, 1))]) + linear
    real = NEXT @ INPUTS @ NEXT.T + NOISE
    cross = NEXT @ INPUTS @ to_model.T
    return np.block([[real, cross], [cross.T, to_model @ INPUTS @ to_model.T]])


def value_error(linear):
    """E (V(s') - V(model's s'))^2: the second moment of a quadratic form of a Gaussian."""
    product = linalg.block_diag(LQR.p, -LQR.p) @ joint_covariance(linear)
    return 2 * np.trace(product @ product) + np.trace(product) ** 2


def absolute_error(linear):
    """E |V(s') - V(model's s')|: of the product of two Gaussians, s'_1 -+ the model's."""
    s = joint_covariance(linear)[np.ix_([0, 2], [0, 2])]
    x, y = np.array([1.0, -1.0]), np.array([1.0, 1.0])
    scale = np.sqrt((x @ s @ x) * (y @ s @ y))
    rho = np.clip((x @ s @ y) / scale, -1, 1)
    return LQR.p[0, 0] * scale * 2 / np.pi * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho))


def weighted_error(linear):
    """E sum_d (dV/ds'_d error_d)^2, by Isserlis' theorem."""
    s = joint_covariance(linear)
    gradient = np.hstack([-2 * LQR.p, np.zeros((2, 2))])
    error = np.hstack([np.eye(2), -np.eye(2)])
    covariance = np.vstack([gradient, error]) @ s @ np.vstack([gradient, error]).T
    variance, cross = np.diag(covariance), np.diag(covariance[:2, 2:])
    return (variance[:2] * variance[2:] + 2 * cross**2).sum()


def residuals(linear):
    """E error_d^2 [2]."""
    difference = CHANGE - linear
    return np.diag(difference @ INPUTS @ difference.T + NOISE)


EXPECTED = {
    "mse": lambda linear: residuals(linear).mean(),
    "mle": lambda linear: (1 + np.log(residuals(linear))).mean(),  # at the best variances
    "ma_l1": absolute_error,
    "vaml": value_error,
    "vep": lambda linear: GAMMA**2 * value_error(linear),
    "vagram": weighted_error,
}


@functools.cache
def optimum(objective):
    """The smallest expected loss of a rank-one model and its map, by restarted quasi-Newton."""
    rng = np.random.default_rng(1)

    def of(x):
        return np.outer(x[:2], x[2:])

    tries = [
        optimize.minimize(lambda x: EXPECTED[objective](of(x)), 0.5 * rng.normal(size=5), tol=1e-9)
        for _ in range(12)
    ]
    best = min(tries, key=lambda result: result.fun)
    return best.fun, of(best.x)


def test_the_optima_are_those_derived_by_hand():
    """With S = E s'_1^2, T its predictable part and W its noise: S = T + W.

    VaGraM predicts (1 + k) E[s'_1 | s, a], k = 2 W / (3 S - 2 W): the error is correlated with the
    gradient at the noisy s'. VAML predicts b E[s'_1 | s, a], b^2 = 1 + W / (3 T): the mean of V is
    not V of the mean. The model of least squares is the first singular direction of the changes.
    """
    p, w = LQR.p[0, 0], NOISE[0, 0]
    t = NEXT[0] @ INPUTS @ NEXT[0]
    s = t + w
    k = 2 * w / (3 * s - 2 * w)
    vagram = 4 * p**2 * (s * (k**2 * t + w) + 2 * (w - k * t) ** 2)
    assert optimum("vagram")[0] == pytest.approx(vagram, rel=1e-6)
    vaml = p**2 * (3 * s**2 - (s + 2 * t) ** 2 / 3)
    assert optimum("vaml")[0] == pytest.approx(vaml, rel=1e-6)
    whitened = CHANGE @ np.linalg.cholesky(INPUTS)
    left, singular, right = np.linalg.svd(whitened)
    assert optimum("mse")[0] == pytest.approx((singular[1] ** 2 + np.trace(NOISE)) / 2, rel=1e-6)
    best = singular[0] * np.outer(left[:, 0], right[0]) @ np.linalg.inv(np.linalg.cholesky(INPUTS))
    np.testing.assert_allclose(optimum("mse")[1], best, atol=1e-3)


# --- what gradient descent on our losses finds ---------------------------------------------------


def rank_one(params, normalizers, observation, action):
    inputs = jnp.concatenate([observation, action], axis=-1)
    mean = (inputs @ params["w"][..., None]) * params["u"][:, None]
    log_variance = jnp.broadcast_to(params["log_variance"][:, None], mean.shape)
    return Prediction(mean, log_variance)


def settings(objective, **fields):
    config = default.get_config("Hopper-v5")
    config.algo, config.model.objective, config.discount = "mbpo", objective, GAMMA
    config.objective.update({"gradient_quantile": 1.0, "vep_functions": "critics"})
    config.objective.update({"vep_count": 1})
    config.model.update({"hidden_depth": 1, "hidden_width": 8, "weight_decay": (0.0,)})
    config.model.learn_variance_bounds = False
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return resolve(config)


def never(observation, action, next_observation):
    return jnp.zeros(observation.shape[:-1], bool)


def parts_of(config, control):
    sizes = control.b.shape
    spec = EnvSpec("Toy-v0", *sizes, (-1.0,) * sizes[1], (1.0,) * sizes[1], never, control.reward)
    ensemble, init_critics = make_ensemble(config, spec), lambda key: NO_CRITICS
    return Parts(ensemble, spec, control.q_values, None, None, control.greedy, init_critics, None)


@functools.cache
def found(objective):
    """The map [2, 3] of the best of a few restarts."""
    config = settings(
        objective, model__learn_reward=False, model__num_members=RESTARTS, model__num_elites=1
    )
    parts = parts_of(config, LQR)
    parts = parts._replace(ensemble=parts.ensemble._replace(predict=rank_one))
    made = OBJECTIVES[objective](config, parts)
    identity = Normalizers(normalizer.identity(3), normalizer.identity(2))
    context = Context((), NO_CRITICS, NO_CRITICS, jnp.zeros(()), identity)
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (RESTARTS, *x.shape)), data())
    rng = np.random.default_rng(2)
    params = {
        "u": jnp.float32(0.3 * rng.normal(size=(RESTARTS, 2))),
        "w": jnp.float32(0.3 * rng.normal(size=(RESTARTS, 3))),
        **dict.fromkeys(
            ("log_variance", "log_variance_min", "log_variance_max"), jnp.zeros((RESTARTS, 2))
        ),
    }
    state = made.init(jax.random.key(0))
    if made.begin is not None:
        state = made.begin(state, context)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, GRADIENT_STEPS))

    def step(carry, _):
        params, opt_state = carry
        gradient, _ = jax.grad(made.loss, has_aux=True)(
            params, state, rows, context, jax.random.key(0)
        )
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def descend(params):
        start = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, start, length=GRADIENT_STEPS)
        return params, made.score(params, state, rows, context, jax.random.key(0)).mean(axis=1)

    params, losses = descend(params)
    best = int(losses.argmin())
    return np.outer(params["u"][best], params["w"][best])


@functools.cache
def data():
    rng = np.random.default_rng(3)
    inputs = rng.multivariate_normal(np.zeros(3), INPUTS, ROWS)
    noise = rng.multivariate_normal(np.zeros(2), NOISE, ROWS)
    next_observation = inputs[:, :2] + inputs @ CHANGE.T + noise
    s, u, s_next = (jnp.float32(x) for x in (inputs[:, :2], inputs[:, 2:], next_observation))
    zeros = jnp.zeros(ROWS)
    return Transition(s, u, LQR.reward(s, u, s_next), s_next, zeros, zeros)


def explained(linear):
    """The share [2] of the predictable variance of each coordinate's change that is predicted."""
    predictable = np.diag(CHANGE @ INPUTS @ CHANGE.T)
    return 1 - (residuals(linear) - np.diag(NOISE)) / predictable


@pytest.mark.parametrize("objective", sorted(EXPECTED))
def test_descent_on_the_loss_reaches_the_optimum_of_its_expectation(objective):
    best, _ = optimum(objective)
    reached = EXPECTED[objective](found(objective))
    margin = 0.01 if objective == "mle" else 0.01 * best  # a likelihood has no natural zero
    assert best - 1e-6 <= reached <= best + margin


@pytest.mark.parametrize("objective", sorted(EXPECTED))
def test_value_aware_objectives_follow_the_coordinate_that_matters(objective):
    relevant, other = explained(found(objective))
    error = value_error(found(objective)) / optimum("vaml")[0]  # 1: no model has a smaller one
    if objective in VALUE_AWARE:
        assert relevant > 0.95
        assert other < 0.1
        assert error < 1.1
    else:
        assert relevant < 0.1
        assert other > 0.99
        assert error > 2.5


def test_least_squares_follow_the_first_singular_direction():
    left = np.linalg.svd(CHANGE @ np.linalg.cholesky(INPUTS))[0][:, 0]
    direction = found("mse")[:, 0] / np.linalg.norm(found("mse")[:, 0])
    assert abs(left @ direction) > 0.999


# --- the whole fit of a small network, among distracting dimensions ------------------------------

RELEVANT, DISTRACTING, SEEDS = 2, 12, 3
REPLAY_ROWS, FIT_STEPS = 3000, 1000


def oscillator():
    """A driven rotation, and dimensions beside it that the cost does not know."""
    a, b = np.zeros((RELEVANT + DISTRACTING,) * 2), np.zeros((RELEVANT + DISTRACTING, 1))
    a[:RELEVANT, :RELEVANT], b[1] = [[0.9, 0.2], [-0.2, 0.9]], 0.5
    return solve(a, b, np.diag([1.0, 0.1] + [0.0] * DISTRACTING))


def distracted(control, rng, rotation, rows):
    """Transitions in which the distracting dimensions rotate, with less noise than the others."""
    size = RELEVANT + DISTRACTING
    observation, action = rng.normal(size=(rows, size)), rng.uniform(-1, 1, (rows, 1))
    next_observation = observation @ control.a.T + action @ control.b.T
    next_observation[:, RELEVANT:] = 0.95 * observation[:, RELEVANT:] @ rotation.T
    next_observation += rng.normal(size=(rows, size)) * np.repeat(
        [0.05, 0.01], (RELEVANT, DISTRACTING)
    )
    s, u, s_next = (jnp.float32(x) for x in (observation, action, next_observation))
    zeros = jnp.zeros(rows)
    return Transition(s, u, control.reward(s, u, s_next), s_next, zeros, zeros)


@functools.cache
def fitted_value_errors(objective):
    """Root-mean-square error of V on fresh rows, in standard deviations of V, for every seed."""
    control = oscillator()
    config = settings(
        objective,
        objective__gradient_quantile=0.95,
        model__num_members=2,
        model__num_elites=1,
        model__learning_rate=5e-3,
        model__max_gradient_steps=FIT_STEPS,
        model__patience=FIT_STEPS,
        model__validation="objective",
    )
    parts = parts_of(config, control)
    fit = make_fit(config, parts.ensemble, OBJECTIVES[objective](config, parts))

    @jax.jit
    def run(rows, test, key):
        replay = buffer.init(REPLAY_ROWS, example_transition(RELEVANT + DISTRACTING, 1))
        replay = buffer.add_masked(replay, rows, jnp.ones(REPLAY_ROWS, bool))
        init_key, fit_key = jax.random.split(key)
        model = fit.init(init_key)
        context = Context((), NO_CRITICS, NO_CRITICS, jnp.zeros(()), model.normalizers)
        model, metrics = fit.fit(model, replay, context, fit_key)
        observation, action = test.observation[None], test.action[None]
        target = parts.ensemble.predict(
            model.elite_params(), model.normalizers, observation, action
        ).mean
        return parts.ensemble.decode(observation, action, target)[0][0], metrics["model/fit_steps"]

    def error(seed):
        rng = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(DISTRACTING, DISTRACTING)))
        rows, test = (distracted(control, rng, rotation, REPLAY_ROWS) for _ in range(2))
        predicted, steps = run(rows, test, jax.random.key(seed))
        assert steps == FIT_STEPS
        value, predicted_value = (
            np.einsum("ni,ij,nj->n", x, -control.p, x) for x in (test.next_observation, predicted)
        )
        return np.sqrt(np.square(value - predicted_value).mean()) / value.std()

    return np.array([error(seed) for seed in range(SEEDS)])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vaml", "vagram"])
def test_a_small_network_spends_its_units_where_the_value_is(objective):
    likelihood, aware = fitted_value_errors("mle"), fitted_value_errors(objective)
    assert (aware < 0.5 * likelihood).all()  # the same network, three seeds
