"""A bootstrapped ensemble of diagonal-Gaussian dynamics models.

Chua et al. 2018 (PETS, arXiv 1805.12114), as used by Janner et al. 2019 (MBPO, arXiv 1906.08253).
Every parameter has a leading member axis; members share nothing, so one member can be snapshot,
restored or sliced out on its own.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from envs.spec import EnvSpec
from models.mlp import DROPOUT, MLP, in_halves, init_ensemble, orthogonal, scaled
from models.normalizer import Normalizer
from replay import Transition

INITIAL_LOG_VARIANCE_BOUNDS = (-10.0, 0.5)  # PETS
BOUND_PENALTY = 0.01  # pulls learned log-variance bounds together (PETS, appendix A.1)


class Prediction(NamedTuple):
    """A diagonal Gaussian over the regression targets, in their raw units."""

    mean: chex.Array  # [..., D]
    log_variance: chex.Array  # [..., D]

    def sample(self, key: chex.PRNGKey) -> chex.Array:
        """Draws targets [..., D]; reparameterised. Consumes `key`."""
        return self.at(jax.random.normal(key, self.mean.shape))

    def at(self, noise: chex.Array) -> chex.Array:
        """Returns the targets [..., D] so many standard deviations from the mean."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


class Normalizers(NamedTuple):
    """Statistics the ensemble was last fitted with."""

    inputs: Normalizer  # of (observation, action)
    targets: Normalizer  # identity unless model.normalize_targets


class Ensemble(NamedTuple):
    """The functions of one ensemble. M is a number of members: all of them, or the elites.

    Attributes:
      init: `(key) -> params`, leading axis E.
      predict: `(params, normalizers, observation [M, B, O], action [M, B, A]) -> Prediction`,
        a Gaussian over [M, B, D]; M is the leading axis of the parameters.
      targets: `(Transition [...]) -> [..., D]`: change of the observation (or the next one),
        then reward.
      decode: `(observation [..., O], action [..., A], target [..., D]) -> next observation
        [..., O] and reward [...]`.
    """

    init: Callable[[chex.PRNGKey], chex.ArrayTree]
    predict: Callable[[chex.ArrayTree, Normalizers, chex.Array, chex.Array], Prediction]
    targets: Callable[[Transition], chex.Array]
    decode: Callable[[chex.Array, chex.Array, chex.Array], tuple[chex.Array, chex.Array]]
    num_members: int  # E
    input_size: int  # O + A
    target_size: int  # D = O + 1, or O when the reward function is given


def silu(x: chex.Array) -> chex.Array:
    """Returns x sigmoid(x), through tanh: faster on CPU than through exp, equal to rounding."""
    half = 0.5 * x
    return half + half * jnp.tanh(half)


def soft_clamp(x: chex.Array, lower: chex.Array, upper: chex.Array) -> chex.Array:
    """Bounds log-variances x smoothly from both sides (PETS, appendix A.1)."""
    x = upper - nn.softplus(upper - x)
    return lower + nn.softplus(x - lower)


def truncated_normal_init(
    key: chex.PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> chex.Array:
    """Gaussian weights of std 1 / (2 sqrt(fan_in)), redrawn beyond two of them (PETS)."""
    std = 1.0 / (2.0 * math.sqrt(shape[0]))
    return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


ACTIVATIONS: dict[str, Callable[[chex.Array], chex.Array]] = {
    "silu": silu,
    "relu": nn.relu,
    "tanh": jnp.tanh,
}


class Initializers(NamedTuple):
    """Of the weights of hidden layers, and of the last one: means, then log-variances.

    Biases are zero, or uniform within 1 / sqrt(fan_in).
    """

    hidden: nn.initializers.Initializer
    head: nn.initializers.Initializer
    uniform_bias: bool = False


_orthogonal = orthogonal(math.sqrt(2.0))
# within sqrt(3 scale / fan_in) = 1 / sqrt(fan_in), the default of PyTorch's Linear
_torch = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
INITIALIZERS: dict[str, Initializers] = {
    "truncated_normal": Initializers(truncated_normal_init, truncated_normal_init),
    # drawn together, means would be the shorter for a variance that nobody asks for
    "orthogonal": Initializers(_orthogonal, in_halves(_orthogonal)),
    "torch": Initializers(_torch, _torch, uniform_bias=True),
}
"""Values of `model.initializer`: PETS, what Nikishin et al. 2022 use, PyTorch's default."""


class SeparateReward(nn.Module):
    """Two networks: one for the first targets, one for the last, the reward.

    Both give means, then log-variances unless there is only one `kind` of outputs; so does their
    combination.
    """

    state: MLP
    reward: MLP
    kinds: int

    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps x [..., I] to [..., kinds D]."""
        nets = (self.state, self.reward)
        by_kind = zip(*(jnp.split(net(x), self.kinds, axis=-1) for net in nets))
        return jnp.concatenate([part for parts in by_kind for part in parts], axis=-1)


VARIANCES = ("head", "constant", "holdout")
"""Values of `model.variance`: predicted for every input; one for each member and target, learned,
or learned and then, after every fit, set to that of the held-out residuals."""


def _make_net(config: ConfigDict, spec: EnvSpec, kinds: int) -> nn.Module:
    hyper = config.model
    init = INITIALIZERS[hyper.initializer]

    def mlp(targets: int) -> MLP:
        return MLP(
            kinds * targets,
            hyper.hidden_width,
            hyper.hidden_depth,
            layer_norm=hyper.layer_norm,
            dropout=hyper.dropout,
            activation=ACTIVATIONS[hyper.activation],
            kernel_init=init.hidden,
            head_init=scaled(init.head if kinds == 2 else init.hidden, hyper.head_scale),
            uniform_bias=init.uniform_bias,
            precision=config.precision,
        )

    if hyper.separate_reward and hyper.learn_reward:
        return SeparateReward(mlp(spec.observation_size), mlp(1), kinds)
    return mlp(spec.observation_size + int(hyper.learn_reward))


def make_ensemble(config: ConfigDict, spec: EnvSpec, *, means_only: bool = False) -> Ensemble:
    """Builds the ensemble of a resolved configuration (its `model` block).

    Args:
      config: resolved.
      spec: of the environment.
      means_only: predictions have no variance: what it would take is not computed. The parameters
        are the same.
    """
    hyper = config.model
    input_size = spec.observation_size + spec.action_size
    target_size = spec.observation_size + int(hyper.learn_reward)
    variance_head = hyper.variance == "head"
    mean_net = _make_net(config, spec, kinds=1)
    net = _make_net(config, spec, kinds=2) if variance_head else mean_net
    head = f"layer_{hyper.hidden_depth}"

    def half_of_head(path: tuple, leaf: chex.Array) -> chex.Array:
        in_head = any(entry.key == head for entry in path)
        return leaf[..., : leaf.shape[-1] // 2] if in_head else leaf

    def init(key: chex.PRNGKey) -> chex.ArrayTree:
        lower, upper = INITIAL_LOG_VARIANCE_BOUNDS
        shape = (hyper.num_members, target_size)
        params = {
            "net": init_ensemble(net, key, hyper.num_members, input_size),
            "log_variance_min": jnp.full(shape, lower, jnp.float32),
            "log_variance_max": jnp.full(shape, upper, jnp.float32),
        }
        return params if variance_head else params | {"log_std": jnp.zeros(shape)}

    def outputs(params: chex.ArrayTree, inputs: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Means [M, B, D] and log-variances [M, B, D] in units of the networks."""
        rngs = {DROPOUT: params[DROPOUT]} if DROPOUT in params else None
        values = jax.vmap(lambda net_params, x, rngs: net.apply(net_params, x, rngs=rngs))(
            params["net"], inputs, rngs
        )
        if variance_head:
            mean, raw = jnp.split(values, 2, axis=-1)
            lower, upper = params["log_variance_min"][:, None], params["log_variance_max"][:, None]
            return mean, soft_clamp(raw, lower, upper)
        # The penalty on learned bounds would raise a learned one above what held-out rows say.
        lower = INITIAL_LOG_VARIANCE_BOUNDS[0]
        log_variance = jnp.maximum(2.0 * params["log_std"][:, None], lower)
        return values, jnp.broadcast_to(log_variance, values.shape)

    def predict(params, normalizers, observation, action) -> Prediction:
        inputs = normalizers.inputs.normalize(jnp.concatenate([observation, action], axis=-1))
        scale = normalizers.targets
        if means_only:
            means = params["net"]
            if variance_head:
                means = jax.tree_util.tree_map_with_path(half_of_head, means)
            mean = jax.vmap(mean_net.apply)(means, inputs)
            log_variance = jnp.full_like(mean, -jnp.inf)
        else:
            mean, log_variance = outputs(params, inputs)
            log_variance += 2.0 * jnp.log(scale.std[None, None])
        if hyper.freeze_constant:
            mean = jnp.where(scale.constant[None, None], 0.0, mean)
        return Prediction(scale.denormalize(mean), log_variance)

    def targets(transition: Transition) -> chex.Array:
        state = transition.next_observation
        if hyper.predict_delta:
            state = state - transition.observation
        if not hyper.learn_reward:
            return state
        return jnp.concatenate([state, transition.reward[..., None]], axis=-1)

    def decode(observation, action, target) -> tuple[chex.Array, chex.Array]:
        next_observation = target[..., : spec.observation_size]
        if hyper.predict_delta:
            next_observation = observation + next_observation
        if hyper.learn_reward:
            return next_observation, target[..., -1]
        assert spec.reward is not None, "checked with the configuration"
        return next_observation, spec.reward(observation, action, next_observation)

    return Ensemble(init, predict, targets, decode, hyper.num_members, input_size, target_size)


def predicted_transition(
    ensemble: Ensemble,
    spec: EnvSpec,
    observation: chex.Array,
    action: chex.Array,
    target: chex.Array,
) -> Transition:
    """Returns the transitions [...] that regression targets [..., D] stand for, never truncated."""
    next_observation, reward = ensemble.decode(observation, action, target)
    terminated = spec.termination(observation, action, next_observation).astype(jnp.float32)
    truncated = jnp.zeros(reward.shape)
    return Transition(observation, action, reward, next_observation, terminated, truncated)


def gaussian_nll(prediction: Prediction, target: chex.Array) -> chex.Array:
    """Returns per-element negative log-likelihoods [..., D], times two and without the constant.

    (mean - y)^2 exp(-l) + l with l the log-variance: the form PETS and MBPO minimise and report.
    """
    error = jnp.square(prediction.mean - target)
    return error * jnp.exp(-prediction.log_variance) + prediction.log_variance


def with_dropout(params: chex.ArrayTree, key: chex.PRNGKey) -> chex.ArrayTree:
    """Returns `params` of members [E] that predict with hidden units dropped; consumes `key`."""
    return params | {DROPOUT: jax.random.split(key, len(params["log_variance_min"]))}


def with_bounds(params: chex.ArrayTree, learned: bool) -> chex.ArrayTree:
    """Returns `params`, with log-variance bounds that are constants unless they are `learned`."""
    if learned:
        return params
    bounds = ("log_variance_min", "log_variance_max")
    return params | {name: jax.lax.stop_gradient(params[name]) for name in bounds}


def bound_penalty(params: chex.ArrayTree) -> chex.Array:
    """Returns the penalty on how far the log-variance bounds are apart."""
    spread = params["log_variance_max"] - params["log_variance_min"]  # [E, D]
    # averaged over members: the published penalty is on bounds that all members share
    return BOUND_PENALTY * spread.sum(axis=1).mean()
