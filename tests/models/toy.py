"""A learned model of two numbers whose every prediction can be computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import mbpo
from envs.spec import EnvSpec
from experiment.configuration import resolve
from models import normalizer
from models.ensemble import Normalizers, Prediction, make_ensemble
from models.objectives import Parts
from models.training import ModelState
from replay import Transition, buffer, example_transition


def toy_config(starts=12, num_members=3, num_elites=2, deterministic=True, **fields):
    config = mbpo.get_config("Hopper-v5")
    config.model.update({"num_members": num_members, "num_elites": num_elites})
    config.rollout.update({"starts": starts, "deterministic": deterministic})
    config.update_from_flattened_dict(fields)
    return resolve(config)


def toy_spec(threshold=jnp.inf):
    """States [2] whose episode ends where the first coordinate passes a threshold."""
    return EnvSpec("Toy-v0", 2, 1, (-1.0,), (1.0,), lambda s, a, n: n[..., 0] > threshold, None)


def toy_predict(params, normalizers, observation, action):
    """Change = (delta + action, -state[1] / 2), reward = state[0]; the same variance everywhere."""
    change = params["delta"][:, None, None] + action
    mean = jnp.concatenate([change, -0.5 * observation[..., 1:], observation[..., :1]], axis=-1)
    return Prediction(mean, jnp.broadcast_to(params["log_variance"][:, None, None], mean.shape))


def toy_policy(policy, observation, key):
    """Deterministic: a quarter of the second coordinate."""
    return 0.25 * observation[..., 1:]


def noisy_policy(policy, observation, key):
    return jax.random.uniform(key, (*observation.shape[:-1], 1), minval=-1.0, maxval=1.0)


def still_policy(policy, observation, key):
    return jnp.zeros((*observation.shape[:-1], 1))


def toy_model(deltas, elites, log_variance=-50.0):
    count = len(deltas)
    return ModelState(
        params={"delta": jnp.float32(deltas), "log_variance": jnp.full(count, log_variance)},
        normalizers=Normalizers(normalizer.identity(3), normalizer.identity(3)),
        elites=jnp.asarray(elites, jnp.int32),
        optimizer=(),
        objective=(),
    )


def replay_of(observations):
    observations = jnp.float32(observations)
    n = len(observations)
    zeros = jnp.zeros(n)
    items = Transition(observations, jnp.zeros((n, 1)), zeros, observations, zeros, zeros)
    return buffer.add_masked(buffer.init(n, example_transition(2, 1)), items, jnp.ones(n, bool))


def toy_parts(config, spec, policy):
    ensemble = make_ensemble(config, spec)._replace(predict=toy_predict)
    return Parts(ensemble, spec, None, policy, *[None] * 4)


def grid_of_states():
    return np.stack([np.linspace(-1.0, 1.0, 30), np.linspace(-1.0, 1.5, 30)], axis=1)
