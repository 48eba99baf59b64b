"""Soft Q-learning for discrete actions, as in Nikishin et al. 2022 (arXiv 2106.03273), section 5.

Haarnoja et al. 2017 (arXiv 1702.08165) with a softmax that is exact, because actions can be
enumerated. Actions are one-hot vectors.
"""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from agents.base import Metrics
from agents.learner import Learner
from agents.sac import adam
from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers
from models.mlp import MLP, init_ensemble
from models.objectives.base import Context, Parts
from replay import Transition

GAIN, HEAD_GAIN = math.sqrt(2.0), 0.01  # of the orthogonal initial weights; released code of OMD

HASH_MULTIPLIERS = (0x85EB_CA6B, 0xC2B2_AE35)  # of the last step of MurmurHash3 (Appleby)
HASH_INCREMENT = 0x9E37_79B9  # 2^32 / golden ratio, odd: tells coordinates apart


class SoftQState(struct.PyTreeNode):
    """Everything the update carries."""

    critics: chex.ArrayTree  # leading axis C: networks observation -> Q of every action
    target_critics: chex.ArrayTree  # Polyak average of the critics
    optimizer: optax.OptState  # of the critics
    updates: chex.Array  # int32 [], gradient updates done


def soft_max(q: chex.Array, temperature: float) -> chex.Array:
    """Returns V [...] = alpha log sum_a exp(Q [..., A] / alpha); the maximum for alpha = 0."""
    if temperature == 0:
        return q.max(axis=-1)
    return temperature * jax.nn.logsumexp(q / temperature, axis=-1)


def make_learner(config: ConfigDict, spec: EnvSpec) -> Learner:
    """Builds soft Q-learning from a resolved configuration (its blocks `soft_q` and `sac`)."""
    hyper, soft, discount = config.sac, config.soft_q, config.discount
    num_actions = spec.action_size
    optimizer = adam(hyper.critic_learning_rate, hyper.max_grad_norm)
    net = MLP(
        num_actions,
        hyper.hidden_width,
        hyper.hidden_depth,
        layer_norm=hyper.layer_norm,
        kernel_init=nn.initializers.orthogonal(GAIN),
        head_init=nn.initializers.orthogonal(HEAD_GAIN),
    )

    def init_critics(key: chex.PRNGKey) -> chex.ArrayTree:
        return init_ensemble(net, key, hyper.num_critics, spec.observation_size)

    def init(key: chex.PRNGKey) -> SoftQState:
        critics = init_critics(key)
        return SoftQState(
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            optimizer=optimizer.init(critics),
            updates=jnp.zeros((), jnp.int32),
        )

    def all_q_values(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        """Maps observation [..., O] to Q [C, ..., A]."""
        return jax.vmap(net.apply, in_axes=(0, None))(critics, observation)

    def q_values(
        critics: chex.ArrayTree, observation: chex.Array, action: chex.Array
    ) -> chex.Array:
        return (all_q_values(critics, observation) * action[None]).sum(axis=-1)

    def value(
        state: SoftQState | Context, critics: chex.ArrayTree, observation: chex.Array, key
    ) -> chex.Array:
        del state, key
        # the minimum of each action's values, not of the two states' (spec of double Q-learning)
        return soft_max(all_q_values(critics, observation).min(axis=0), soft.temperature)

    def loss(critics: chex.ArrayTree, batch: Transition, target: chex.Array):
        q = q_values(critics, batch.observation, batch.action)
        return 0.5 * jnp.square(q - target[None]).mean(axis=1).sum(), q.mean()

    def update(
        state: SoftQState, batch: Transition, key: chex.PRNGKey
    ) -> tuple[SoftQState, Metrics]:
        next_value = value(state, state.target_critics, batch.next_observation, key)
        target = batch.reward + discount * (1.0 - batch.terminated) * next_value
        (q_loss, q_mean), grads = jax.value_and_grad(loss, has_aux=True)(
            state.critics, batch, target
        )
        changes, opt_state = optimizer.update(grads, state.optimizer)
        critics = optax.apply_updates(state.critics, changes)
        updates = state.updates + 1
        rate = jnp.where(updates % hyper.target_update_every == 0, hyper.target_update_rate, 0.0)
        state = SoftQState(
            critics=critics,
            target_critics=optax.incremental_update(critics, state.target_critics, rate),
            optimizer=opt_state,
            updates=updates,
        )
        return state, {"critic/loss": q_loss, "critic/q": q_mean, "critic/target": target.mean()}

    def log_probs(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        """Maps observation [..., O] to log pi [..., A], of the mean of the critics."""
        q = all_q_values(critics, observation).mean(axis=0)
        if soft.temperature == 0:
            return jnp.log(one_hot(q.argmax(axis=-1)))
        return jax.nn.log_softmax(q / soft.temperature)

    def one_hot(choice: chex.Array) -> chex.Array:
        return jax.nn.one_hot(choice, num_actions)

    def sample_and_log_prob(
        critics: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey
    ) -> tuple[chex.Array, chex.Array]:
        log_pi = log_probs(critics, observation)
        choice = jax.random.categorical(key, log_pi)
        return one_hot(choice), jnp.take_along_axis(log_pi, choice[..., None], axis=-1)[..., 0]

    def sample(critics: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        return sample_and_log_prob(critics, observation, key)[0]

    def greedy(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        return one_hot(log_probs(critics, observation).argmax(axis=-1))

    def explore(key: chex.PRNGKey) -> chex.Array:
        return one_hot(jax.random.randint(key, (), 0, num_actions))

    def behave(state: SoftQState, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        choose_key, policy_key, explore_key = jax.random.split(key, 3)
        uniform = jax.random.bernoulli(choose_key, soft.exploration)
        by_policy = sample(state.critics, observation, policy_key)
        return jnp.where(uniform, explore(explore_key), by_policy)

    def act(critics: chex.ArrayTree, observations: chex.Array) -> chex.Array:
        if soft.evaluate_greedily:
            return greedy(critics, observations)
        keys = jax.vmap(_key_of)(observations)
        return jax.vmap(sample, in_axes=(None, 0, 0))(critics, observations, keys)

    def context(state: SoftQState, normalizers: Normalizers) -> Context:
        return Context(
            policy=state.critics,
            critics=state.critics,
            target_critics=state.target_critics,
            log_temperature=jnp.log(jnp.float32(soft.temperature)),
            normalizers=normalizers,
        )

    def parts(ensemble: Ensemble) -> Parts:
        return Parts(
            ensemble=ensemble,
            spec=spec,
            q_values=q_values,
            sample_policy=sample,
            sample_and_log_prob=sample_and_log_prob,
            greedy_policy=greedy,
            init_critics=init_critics,
            value=value,
        )

    return Learner(
        init=init,
        update=update,
        explore=explore,
        behave=behave,
        context=context,
        parts=parts,
        policy=lambda state: state.critics,
        act=act,
    )


def _key_of(observation: chex.Array) -> chex.PRNGKey:
    """Returns a random key that depends on the observation [O] alone.

    Evaluation is given no key; one drawn from the observation makes every visit of a state
    repeat itself, and different states independent.
    """
    bits = jax.lax.bitcast_convert_type(observation.astype(jnp.float32), jnp.uint32)
    bits += jnp.uint32(HASH_INCREMENT) * jnp.arange(bits.shape[0], dtype=jnp.uint32)
    for multiplier in HASH_MULTIPLIERS:  # a sum of what is linear in the bits repeats on grids
        bits = (bits ^ (bits >> 16)) * jnp.uint32(multiplier)
    return jax.random.key((bits ^ (bits >> 16)).sum(dtype=jnp.uint32))
