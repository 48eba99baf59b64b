"""An agent of two numbers whose value is a known function, for the value-aware objectives."""

import jax
import jax.numpy as jnp
import numpy as np

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
    config.objective.critic = "first"  # one value function, so that everything fits on paper
    values = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(values)
    return resolve(config)


def q_values(critics, observation, action):
    """Q_c = w_c . s^2 / 2 + 0.1 a s_0: nonlinear, and aware of the action."""
    squares = 0.5 * jnp.square(observation)
    return critics["w"] @ squares.T + 0.1 * (action[..., 0] * observation[..., 0])[None]


def greedy(policy, observation):
    return jnp.tanh(policy * observation[..., :1])


def sample_and_log_prob(policy, observation, key):
    noise = jax.random.normal(key, (*observation.shape[:-1], 1))
    return greedy(policy, observation) + 0.1 * noise, -jnp.square(observation[..., 1])


def init_critics(key):
    return {"w": jax.random.normal(key, (2, 2))}


def context(normalizers=None):
    critics = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    targets = jax.tree.map(lambda w: w - 0.25, critics)
    normalizers = normalizers or Normalizers(normalizer.identity(3), normalizer.identity(3))
    return Context(jnp.float32(0.7), critics, targets, jnp.log(jnp.float32(0.2)), normalizers)


def batch(terminated=0.0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (MEMBERS, ROWS)
    draw = lambda *more: jnp.float32(rng.normal(size=(*shape, *more)))  # noqa: E731
    return Transition(
        draw(2), jnp.tanh(draw(1)), draw(), draw(2), jnp.full(shape, terminated), jnp.zeros(shape)
    )


def still(reward):
    """`Ensemble.predict` of a model that predicts no change and these rewards [E, B]."""

    def predict(params, normalizers, observation, action):
        mean = jnp.concatenate([jnp.zeros(observation.shape), reward[..., None]], axis=-1)
        return Prediction(mean, jnp.zeros_like(mean))

    return predict


def parts_of(config, spec=SPEC, predict=None, **functions):
    """The agent's functions; those above unless others are given."""
    ensemble = make_ensemble(config, spec)
    if predict is not None:
        ensemble = ensemble._replace(predict=predict)
    parts = Parts(ensemble, spec, q_values, None, sample_and_log_prob, greedy, init_critics, None)
    return parts._replace(**functions)


def build(objective, functions=None, **fields):
    """The objective, parameters of its ensemble and its state; `functions` go to `parts_of`."""
    config = settings(objective, **fields)
    parts = parts_of(config, **(functions or {}))
    made = OBJECTIVES[config.model.objective](config, parts)
    return made, jax.jit(parts.ensemble.init)(jax.random.key(0)), made.init(jax.random.key(1))


def loss(objective, params, state, rows, ctx=None, key=2):
    return objective.loss(params, state, rows, ctx or context(), jax.random.key(key))[0]


def value(observation, weights=(1.0, -2.0), policy=0.7):
    """V(s) [...] of the greedy action and one critic, in NumPy."""
    s = np.asarray(observation, np.float64)
    action = np.tanh(policy * s[..., 0])
    return 0.5 * np.square(s) @ np.asarray(weights, np.float64) + 0.1 * action * s[..., 0]
