"""A problem of two rows on which hypergradients can be computed by hand.

Scalar states, two actions, one linear critic Q_w(s, a) = w_a s, a model with s' = theta_1 s +
theta_2 [a = 1] and r = theta_3, soft values. The Bellman error of the project is half of that of
the numbers below, so v and c are halves of theirs and the Hessian is diag(1, 4) / 2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from envs import terminations
from envs.spec import EnvSpec
from models import normalizer
from models.ensemble import Ensemble, Normalizers, Prediction
from models.objectives import Context, Parts, omd
from replay import Transition
from tests.integration import tiny

SPEC = EnvSpec("Toy-v0", 1, 2, (0.0,) * 2, (1.0,) * 2, terminations.never, None, True)
TEMPERATURE, DISCOUNT = 0.5, 0.9
STATES, ACTIONS = np.array([1.0, -2.0]), np.array([0, 1])
NEXT, REWARDS = np.array([0.5, -1.5]), np.array([1.0, 0.5])
W, TARGET_W, THETA = np.array([0.5, -0.3]), np.array([0.4, -0.1]), np.array([0.8, 0.2, 0.7])

V = np.array([-0.893334642881048, 0.2512719501844771])  # d L_true / dw
C = np.array([-0.6549952996765, 0.6503756689266058])  # d L(theta, .) / dw
HESSIAN = np.diag([1.0, 4.0])
TRUE_LOSS, MODEL_LOSS = 0.4069155912043936, 0.2673829851406203
IDENTITY = np.array([-0.1979577800403139, 0.0004938749433903711, -1.3958785432500023])
EXACT = np.array([-0.19721696762522833, 0.00012346873584759277, -1.0189706179732867])


def config(**changes):
    sizes = {"model__num_members": 1, "model__num_elites": 1, "discount": DISCOUNT}
    fixed = {"soft_q__temperature": TEMPERATURE, "omd__damping": 0.0}
    return tiny.config("omd", "CartPole-v1", **sizes | fixed | changes)


def predict(params, normalizers, observation, action):
    del normalizers
    theta = params["theta"][:, :, None]  # [E, 3, 1]
    state = theta[:, 0] * observation[..., 0] + theta[:, 1] * action[..., 1]
    reward = jnp.broadcast_to(theta[:, 2], state.shape)
    mean = jnp.stack([state, reward], axis=-1)
    return Prediction(mean, jnp.broadcast_to(params["log_variance"], mean.shape))


def decode(observation, action, target):
    del observation, action
    return target[..., :1], target[..., 1]


def targets(batch):
    return jnp.concatenate([batch.next_observation, batch.reward[..., None]], axis=-1)


def ensemble(members):
    return Ensemble(params, predict, targets, decode, members, 3, 2)


def params(key=None, members=1, theta=THETA):
    del key
    bounds = {"log_variance_min": -10.0 * np.ones((members, 2))}
    bounds["log_variance_max"] = np.zeros((members, 2))
    return {"theta": jnp.tile(theta, (members, 1)), "log_variance": jnp.zeros(()), **bounds}


def q_values(critics, observation, action):
    return jnp.sum(critics[:, None] * action[None], axis=-1) * observation[None, :, 0]


def value(context, critics, observation, key):
    del context, key
    q = (critics[:, None] * observation[None]).min(axis=0)
    return TEMPERATURE * jax.nn.logsumexp(q / TEMPERATURE, axis=-1)


def parts(members=1):
    init_critics = lambda key: jnp.ones((1, 2))  # noqa: E731
    of_agent = (None, None, None, init_critics, value)
    return Parts(ensemble(members), SPEC, q_values, *of_agent)


def context(critics=W, target_critics=TARGET_W):
    identity = Normalizers(normalizer.identity(3), normalizer.identity(2))
    critics, target_critics = jnp.asarray(critics)[None], jnp.asarray(target_critics)[None]
    return Context(critics, critics, target_critics, jnp.log(TEMPERATURE), identity)


def batch(members=1, terminated=0.0):
    one = Transition(
        STATES[:, None],
        np.eye(2)[ACTIONS],
        REWARDS,
        NEXT[:, None],
        np.full(2, terminated),
        np.zeros(2),
    )
    return jax.tree.map(lambda x: jnp.tile(x, (members,) + (1,) * x.ndim), one)


def make(**changes):
    """The objective and its `Parts`."""
    settings = config(**changes)
    functions = parts(settings.model.num_members)
    return omd.make(settings, functions), functions


# --- the same in NumPy ---------------------------------------------------------------------------


def numpy_backup(next_states, rewards, target_w=TARGET_W, alive=1.0):
    q = next_states[:, None] * target_w / TEMPERATURE
    largest = q.max(axis=1)
    v = TEMPERATURE * (largest + np.log(np.exp(q - largest[:, None]).sum(axis=1)))
    return rewards + DISCOUNT * alive * v


def numpy_imagined(theta=THETA):
    return theta[0] * STATES + theta[1] * (ACTIONS == 1), np.full(2, theta[2])


def numpy_gradient(w, backup):
    """Of the mean squared error, twice the Bellman error."""
    error = w[ACTIONS] * STATES - backup
    return np.array([np.mean(2.0 * error * STATES * (a == ACTIONS)) for a in (0, 1)])
