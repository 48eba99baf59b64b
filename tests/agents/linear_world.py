"""A linear-Gaussian model with quadratic rewards, and what a linear actor-critic expects in it."""

import jax
import jax.numpy as jnp
import numpy as np

from agents.value_gradients import make_learner
from envs.spec import EnvSpec
from models import normalizer
from models.ensemble import Normalizers, Prediction, make_ensemble
from models.training import ModelState
from tests.integration import tiny

DISCOUNT, ELITES, STATES, ACTIONS = 0.9, 2, 2, 1


def config(**changes):
    """Linear policy and critics unless `sac__hidden_depth` says otherwise."""
    fixed = {
        "discount": DISCOUNT,
        "sac__hidden_depth": 0,
        "sac__layer_norm": False,
        "sac__num_critics": 2,
        "sac__batch_size": 8,
        "sac__learn_temperature": False,
        "sac__initial_temperature": 0.3,
        "sac__critic_learning_rate": 0.0,
        "sac__policy_learning_rate": 0.01,
        "sac__temperature_learning_rate": 0.0,
        "model__num_members": 3,
        "model__num_elites": ELITES,
    }
    return tiny.config("dhmbpo", "InvertedPendulum-v5", **(fixed | changes))


def spec(threshold=np.inf):
    """The episode ends where the first coordinate passes the threshold."""
    bounds = (1.0,) * ACTIONS
    low = tuple(-bound for bound in bounds)
    return EnvSpec(
        "Toy-v0", STATES, ACTIONS, low, bounds, lambda s, a, n: n[..., 0] > threshold, None
    )


def predict(params, normalizers, observation, action):
    """Change = drift + M s + g a, reward = c + w s - k (s, a)^2; variances are constant."""
    change = params["drift"][:, None] + jnp.einsum("koi,kbi->kbo", params["matrix"], observation)
    change += jnp.einsum("koa,kba->kbo", params["gain"], action)
    squares = jnp.square(jnp.concatenate([observation, action], axis=-1))
    reward = params["constant"][:, None] + jnp.einsum("ki,kbi->kb", params["slope"], observation)
    reward -= jnp.einsum("ki,kbi->kb", params["curvature"], squares)
    mean = jnp.concatenate([change, reward[..., None]], axis=-1)
    return Prediction(mean, jnp.broadcast_to(params["log_variance"][:, None], mean.shape))


def elites(**params):
    """What `update` calls elites: a still world without noise, in which given parameters differ."""
    shapes = {
        "drift": (STATES,),
        "matrix": (STATES, STATES),
        "gain": (STATES, ACTIONS),
        "constant": (),
        "slope": (STATES,),
        "curvature": (STATES + ACTIONS,),
    }
    defaults = {name: np.zeros((ELITES, *shape)) for name, shape in shapes.items()}
    defaults["log_variance"] = np.full((ELITES, STATES + 1), -np.inf)
    given = {
        name: jnp.broadcast_to(jnp.asarray(value), defaults[name].shape)
        for name, value in params.items()
    }
    sizes = STATES + ACTIONS, STATES + 1
    statistics = Normalizers(*(normalizer.identity(size) for size in sizes))
    params = jax.tree.map(jnp.asarray, defaults | given)
    return ModelState(params, statistics, jnp.arange(ELITES), optimizer=(), objective=())


def learner(threshold=np.inf, **changes):
    """The learner in this world."""
    settings = config(**changes)
    where = spec(threshold)
    return make_learner(settings, where, make_ensemble(settings, where)._replace(predict=predict))


def with_head(net, bias):
    """Networks whose outputs are constant, [..., outputs]."""
    net = jax.tree.map(jnp.zeros_like, net)
    net["params"][max(net["params"])]["bias"] = jnp.asarray(bias, jnp.float32)
    return net


def gaussian_log_prob(noise, mean, std):
    """Log-density [...] of tanh(mean + std noise), summed over the last axis."""
    z = mean + std * noise
    log_slope = 2 * (np.log(2) - z - np.logaddexp(0, -2 * z))
    return (-0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi) - log_slope).sum(axis=-1)


def imagined_return(policy, critics, bounds, model, start, noise, statistics, alpha, threshold):
    """The H-step objective in NumPy: mean over rows of the soft return, H from the noise.

    Args:
      policy: kernel [O, 2A] and bias [2A] of means and raw standard deviations.
      critics: kernel [C, O + A, 1] and bias [C, 1].
      bounds: lowest and highest value.
      model: parameters of `predict`.
      start: [B, O].
      noise: of policy [H + 1, B, A], of the model [H, B, O] as dealt, of the deal [H, B].
      statistics: mean and std [O] of the observations.
      alpha: temperature.
      threshold: of termination.
    """
    mean, std = statistics
    low, high = bounds

    def act(state, epsilon):
        outputs = (state - mean) / std @ policy["kernel"] + policy["bias"]
        centre, raw = np.split(outputs, 2, axis=-1)
        width = np.logaddexp(0, raw) + 1e-5
        return np.tanh(centre + width * epsilon), gaussian_log_prob(epsilon, centre, width)

    state, alive, total = start, np.ones(len(start)), np.zeros(len(start))
    for t, xi in enumerate(noise.model):
        action, log_prob = act(state, noise.policy[t])
        change, reward = np.zeros_like(state), np.zeros(len(state))
        dealt = (np.split(x, ELITES) for x in (np.argsort(noise.deal[t]), xi))
        for k, (rows, own_xi) in enumerate(zip(*dealt)):
            m = {name: value[k] for name, value in model.items()}
            s, a = state[rows], action[rows]
            sigma = np.exp(0.5 * m["log_variance"][:STATES])
            change[rows] = m["drift"] + s @ m["matrix"].T + a @ m["gain"].T + sigma * own_xi
            squares = np.concatenate([s, a], axis=-1) ** 2
            reward[rows] = m["constant"] + s @ m["slope"] - squares @ m["curvature"]
        total += DISCOUNT**t * alive * (reward - alpha * log_prob)
        state = state + change
        alive = alive * (state[:, 0] <= threshold)
    action, log_prob = act(state, noise.policy[-1])
    inputs = np.concatenate([(state - mean) / std, action], axis=-1)
    q = inputs @ critics["kernel"][..., 0].T + critics["bias"][:, 0]  # [B, C]
    q = (high - low) / 2 * q.mean(axis=1) + (high + low) / 2
    total += DISCOUNT ** len(noise.model) * alive * (q - alpha * log_prob)
    return total.mean(), alive
