"""A noisy pendulum under a fixed policy, and models of it that can be fitted in a second.

The state is (angle, speed). A model that is linear in state and action cannot represent the sine.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs import terminations
from envs.spec import EnvSpec
from flows.segments import Segments
from models import normalizer
from models.ensemble import Normalizers, Prediction, make_ensemble
from models.objectives import Context, Parts, mle
from models.training import ModelState
from replay import Transition, buffer, example_transition
from tests.integration import tiny

HORIZON, EPISODE_LENGTH = 5, 30
SPEED_NOISE = 0.02
POLICY_NOISE = 0.25
NARROW, WIDE = 1.5, 2.7  # starting angles and speeds are uniform in [-limit, limit]

FLOWS = {
    "flow.inputs": "sas",
    "flow.horizon": HORIZON,
    "flow.num_layers": 4,
    "flow.hidden_width": 64,
}


def reward(observation, action, next_observation):
    del observation, action
    return jnp.cos(next_observation[..., 0])


SPEC = EnvSpec("Toy-v0", 2, 1, (-1.0,), (1.0,), terminations.never, reward)


def dynamics(observation, action, noise):
    """The next observations [..., 2]; `noise` [...] has unit variance."""
    angle, speed = observation[..., 0], observation[..., 1]
    acceleration = -9.8 * jnp.sin(angle) - 0.5 * speed + 6.0 * action[..., 0]
    speed = speed + 0.1 * acceleration + SPEED_NOISE * noise
    return jnp.stack([angle + 0.1 * speed, speed], axis=-1)


def policy(params, observation, key):
    del params
    mean = jnp.tanh(-0.6 * observation[..., :1] - 0.4 * observation[..., 1:])
    return jnp.clip(mean + POLICY_NOISE * jax.random.normal(key, mean.shape), -1.0, 1.0)


def random_actions(params, observation, key):
    del params
    return jax.random.uniform(key, (*observation.shape[:-1], 1), minval=-1.0, maxval=1.0)


def transition_of(observation, action, next_observation):
    zeros = jnp.zeros(observation.shape[:-1])
    rewards = reward(observation, action, next_observation)
    return Transition(observation, action, rewards, next_observation, zeros, zeros)


def simulator(drift=0.0, actions=policy):
    """The `Simulate` of policy and real dynamics; `drift` [B, 2] is added to every outcome."""

    def simulate(observation, key):
        action_key, noise_key = jax.random.split(key)
        action = actions((), observation, action_key)
        noise = jax.random.normal(noise_key, observation.shape[:-1])
        return transition_of(observation, action, dynamics(observation, action, noise) + drift)

    return simulate


@functools.partial(jax.jit, static_argnames=("n", "angle", "actions"))
def episodes(key, n, angle=NARROW, actions=policy):
    """Real transitions [n, 30]; starting angles are uniform in [-angle, angle]."""
    start_key, key = jax.random.split(key)
    limits = jnp.array([angle, NARROW])
    start = limits[None] * jax.random.uniform(start_key, (n, 2), minval=-1.0)

    simulate = simulator(actions=actions)

    def step(observation, key):
        transition = simulate(observation, key)
        return transition.next_observation, transition

    _, transitions = jax.lax.scan(step, start, jax.random.split(key, EPISODE_LENGTH))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), transitions)


def segments(transitions):
    """Cuts episodes [n, 30] into `Segments` [6 n, 5], all of them complete."""
    cut = jax.tree.map(lambda x: x.reshape(-1, HORIZON, *x.shape[2:]), transitions)
    everywhere = jnp.ones(cut.reward.shape, bool)
    return Segments(cut, everywhere, everywhere)


def flat(*transitions):
    """Rows [N] of these episodes [n, H], one after the other."""
    rows = [jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each) for each in transitions]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *rows)


def replay(*transitions):
    """A full replay of these episodes."""
    rows = flat(*transitions)
    state = buffer.init(len(rows.reward), example_transition(2, 1))
    return buffer.add_masked(state, rows, jnp.ones(len(rows.reward), bool))


def config(**changes):
    """Returns a resolved configuration with small flows over (state, action, change)."""
    values = {
        "model__num_members": 1,
        "model__num_elites": 1,
        "model__hidden_width": 32,
        "model__hidden_depth": 2,
        "model__learn_reward": False,
        "model__learn_variance_bounds": True,
        "model__batch_size": 256,
    } | {name.replace(".", "__"): value for name, value in FLOWS.items()}
    return tiny.config("cf_mbpo", **values | changes)


# --- models --------------------------------------------------------------------------------------


def network(settings):
    """Multilayer perceptrons, as in a run."""
    return make_ensemble(settings, SPEC)


def linear(settings):
    """Gaussians whose means are linear in (s, a) and whose variances are constant."""

    def init(key):
        del key
        members = settings.model.num_members
        return {
            "kernel": jnp.zeros((members, 3, 2)),
            "bias": jnp.zeros((members, 2)),
            "log_variance": jnp.zeros((members, 2)),
            "log_variance_min": jnp.zeros((members, 2)),  # penalised, and without effect here
            "log_variance_max": jnp.zeros((members, 2)),
        }

    def predict(params, normalizers, observation, action):
        del normalizers
        inputs = jnp.concatenate([observation, action], axis=-1)
        product = jnp.einsum("mbi,mio->mbo", inputs, params["kernel"])
        bias, log_variance = (
            jnp.broadcast_to(params[name][:, None], product.shape)
            for name in ("bias", "log_variance")
        )
        return Prediction(product + bias, log_variance)

    return network(settings)._replace(init=init, predict=predict)


def exact(settings):
    """The real dynamics: the outcome is the new speed, from which the new angle follows."""

    def predict(params, normalizers, observation, action):
        del normalizers
        speed = dynamics(observation, action, noise=jnp.zeros(observation.shape[:-1]))[..., 1:]
        log_variance = jnp.broadcast_to(params["log_variance"][:, None], speed.shape)
        return Prediction(speed, log_variance)

    def decode(observation, action, target):
        angle = observation[..., :1] + 0.1 * target
        following = jnp.concatenate([angle, target], axis=-1)
        return following, reward(observation, action, following)

    def init(key):
        del key
        return {"log_variance": jnp.full((settings.model.num_members, 1), 2 * np.log(SPEED_NOISE))}

    return network(settings)._replace(init=init, predict=predict, decode=decode, target_size=1)


def offset(settings, fitted):
    """Fitted networks with a constant added to their means, which alone can be trained."""
    net = network(settings)

    def init(key):
        del key
        bounds = {name: fitted.params[name] for name in ("log_variance_min", "log_variance_max")}
        return bounds | {"offset": jnp.zeros((settings.model.num_members, 2))}

    def predict(params, normalizers, observation, action):
        mean, log_variance = net.predict(fitted.params, normalizers, observation, action)
        added = jnp.broadcast_to(params["offset"][:, None], mean.shape)
        return Prediction(mean + added, log_variance)

    return net._replace(init=init, predict=predict)


def parts_of(ensemble):
    return Parts(ensemble, SPEC, None, policy, *[None] * 4)


def raw_units(ensemble):
    inputs, targets = map(normalizer.identity, (ensemble.input_size, ensemble.target_size))
    return Normalizers(inputs, targets)


def model_of(settings, params, normalizers):
    """A `ModelState` whose first members are the elites."""
    elites = jnp.arange(settings.model.num_elites)
    return ModelState(params, normalizers, elites, optimizer=(), objective=())


def context_of(normalizers):
    """All that the toy's policy and the likelihood need."""
    return Context((), (), (), jnp.zeros(()), normalizers)


def fit_linear(settings, *transitions):
    """The maximum-likelihood model of these episodes, the same for every member, in raw units."""
    ensemble = linear(settings)
    rows = jax.tree.map(np.float64, flat(*transitions))
    ones = np.ones((len(rows.reward), 1))
    inputs = np.concatenate([rows.observation, rows.action, ones], axis=1)
    targets = rows.next_observation - rows.observation
    weights = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    residual = targets - inputs @ weights
    params = ensemble.init(None)
    for name, value in {
        "kernel": weights[:-1],
        "bias": weights[-1],
        "log_variance": np.log(np.mean(np.square(residual), axis=0)),
    }.items():
        params[name] = jnp.broadcast_to(jnp.float32(value), params[name].shape)
    return model_of(settings, params, raw_units(ensemble))


def fit_network(settings, key, *transitions, steps=2_000):
    """Networks fitted to these episodes by maximum likelihood, with Adam steps that decay."""
    ensemble = network(settings)
    objective = mle.make(settings, parts_of(ensemble))
    rows = flat(*transitions)
    inputs = jnp.concatenate([rows.observation, rows.action], axis=-1)
    everywhere = jnp.ones(len(inputs), bool)
    normalizers = raw_units(ensemble)._replace(inputs=normalizer.fit(inputs, everywhere))
    context = context_of(normalizers)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    shape = (settings.model.num_members, settings.model.batch_size)

    @jax.jit
    def train(key):
        init_key, key = jax.random.split(key)
        params = ensemble.init(init_key)

        def step(carry, key):
            params, state = carry
            index = jax.random.randint(key, shape, 0, len(inputs))
            batch = jax.tree.map(lambda x: x[index], rows)
            grads = jax.grad(lambda p: objective.loss(p, (), batch, context, key)[0])(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, steps))[0][0]

    return model_of(settings, train(key), normalizers)
