"""Refinement with a critic of the model's decisions instead of rollouts (Wu et al. 2022, P2P-RL).

The model is the actor of the rollout MDP (see `flows.gradients`), twin critics Q(u, v) bootstrap
its return, and the actor follows the gradient of the smaller one. There is no entropy bonus: it
would pay the model for inflating its variance. The members of the ensemble share the critics.
"""

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from envs.spec import EnvSpec
from flows import gradients
from flows.estimator import input_size
from flows.gradients import RLTerm, Starts, World
from models.mlp import MLP, init_ensemble

NUM_CRITICS = 2
HIDDEN_WIDTH, HIDDEN_DEPTH = 256, 2  # those and the next two: Plan to Predict
LEARNING_RATE = 3e-4
TARGET_UPDATE_RATE = 0.005
SMALLEST_SCALE = 1e-3  # keeps 1 / mean |Q| finite


class CriticState(struct.PyTreeNode):
    """Critics of the standardised z = (s, a, r, s' - s)."""

    params: chex.ArrayTree  # leading axis C
    target: chex.ArrayTree  # Polyak average
    optimizer: optax.OptState


def actor_critic(config: ConfigDict, spec: EnvSpec) -> RLTerm:
    """Builds the estimator; its loss is -min Q / mean |Q|, of order 1."""
    net = MLP(1, HIDDEN_WIDTH, HIDDEN_DEPTH)
    adam = optax.adam(LEARNING_RATE)
    inputs = input_size(config.flow.inputs, spec)

    def init(key: chex.PRNGKey) -> CriticState:
        params = init_ensemble(net, key, NUM_CRITICS, inputs)
        return CriticState(params, jax.tree.map(jnp.copy, params), adam.init(params))

    def q_values(params: chex.ArrayTree, z: chex.Array) -> chex.Array:
        return jax.vmap(net.apply, in_axes=(0, None))(params, z)[..., 0]  # [C, M, n]

    def update(
        state: CriticState,
        params: chex.ArrayTree,
        world: World,
        starts: Starts,
        key: chex.PRNGKey,
    ) -> CriticState:
        now_key, next_key = jax.random.split(key)
        now, _, _ = gradients.outcome(world, params, starts.observation, starts.action, now_key)
        following, _, _ = gradients.decide(world, params, now.next_observation, next_key)
        reward = world.reward(now)
        reward -= reward.mean()  # so that an early end is worth neither more nor less than going on
        next_q = q_values(state.target, world.inputs(following)).min(axis=0)
        target = reward + config.flow.discount * (1.0 - now.terminated) * next_q

        z = world.inputs(now)

        def loss(critics: chex.ArrayTree) -> chex.Array:
            return jnp.square(q_values(critics, z) - target[None]).mean()

        updates, optimizer = adam.update(jax.grad(loss)(state.params), state.optimizer)
        critics = optax.apply_updates(state.params, updates)
        averaged = optax.incremental_update(critics, state.target, TARGET_UPDATE_RATE)
        return CriticState(critics, averaged, optimizer)

    def loss(
        params: chex.ArrayTree,
        state: CriticState,
        world: World,
        starts: Starts,
        key: chex.PRNGKey,
    ) -> chex.Array:
        now, _, _ = gradients.outcome(world, params, starts.observation, starts.action, key)
        q = q_values(state.params, world.inputs(now)).min(axis=0)  # [M, n]
        scale = SMALLEST_SCALE + jax.lax.stop_gradient(jnp.abs(q).mean())
        return -q.mean(axis=-1) / scale

    return RLTerm(init, update, loss)
