"""Soft Q-learning for discrete actions, as in Nikishin et al. 2022 (arXiv 2106.03273), section 5.

Haarnoja et al. 2017 (arXiv 1702.08165) with a double Q-function.
"""

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from agents.base import Metrics
from agents.discrete import make_discrete_networks
from agents.learner import Learner
from agents.sac import adam
from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers
from models.objectives.base import Context, Parts
from replay import Transition

HASH_MULTIPLIERS = (0x85EB_CA6B, 0xC2B2_AE35)  # of the last step of MurmurHash3 (Appleby)
HASH_INCREMENT = 0x9E37_79B9  # 2^32 / golden ratio, odd: tells coordinates apart


class SoftQState(struct.PyTreeNode):
    """Everything the update carries."""

    critics: chex.ArrayTree  # leading axis C: networks observation -> Q of every action
    target_critics: chex.ArrayTree  # Polyak average of the critics
    optimizer: optax.OptState  # of the critics
    updates: chex.Array  # int32 [], gradient updates done


def make_learner(config: ConfigDict, spec: EnvSpec) -> Learner:
    """Builds soft Q-learning from a resolved configuration (its blocks `soft_q` and `sac`)."""
    hyper, soft, discount = config.sac, config.soft_q, config.discount
    net = make_discrete_networks(config, spec)
    optimizer = adam(hyper.critic_learning_rate, hyper.max_grad_norm)

    def init(key: chex.PRNGKey) -> SoftQState:
        critics = net.init_critics(key)
        return SoftQState(
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            optimizer=optimizer.init(critics),
            updates=jnp.zeros((), jnp.int32),
        )

    def loss(critics: chex.ArrayTree, batch: Transition, target: chex.Array):
        q = net.q_values(critics, batch.observation, batch.action)
        return 0.5 * jnp.square(q - target[None]).mean(axis=1).sum(), q.mean()

    def update(
        state: SoftQState, batch: Transition, key: chex.PRNGKey
    ) -> tuple[SoftQState, Metrics]:
        del key  # sums over actions are exact
        next_value = net.value(state.target_critics, batch.next_observation)
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

    def behave(state: SoftQState, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        choose_key, policy_key, explore_key = jax.random.split(key, 3)
        explores = jax.random.bernoulli(choose_key, soft.exploration)
        by_policy = net.sample(state.critics, observation, policy_key)
        return jnp.where(explores, net.uniform(explore_key), by_policy)

    def act(critics: chex.ArrayTree, observations: chex.Array) -> chex.Array:
        if soft.evaluate_greedily:
            return net.greedy(critics, observations)
        keys = jax.vmap(_key_of)(observations)
        return jax.vmap(net.sample, in_axes=(None, 0, 0))(critics, observations, keys)

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
            q_values=net.q_values,
            sample_policy=net.sample,
            sample_and_log_prob=net.sample_and_log_prob,
            greedy_policy=net.greedy,
            init_critics=net.init_critics,
            value=lambda context, critics, observation, key: net.value(critics, observation),
        )

    return Learner(
        init=init,
        update=update,
        explore=net.uniform,
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
