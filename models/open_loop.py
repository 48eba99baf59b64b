"""What the model expects when real actions are replayed."""

import chex
import jax
import jax.numpy as jnp

from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers


def open_loop(
    ensemble: Ensemble,
    params: chex.ArrayTree,
    normalizers: Normalizers,
    observation: chex.Array,
    action: chex.Array,
) -> tuple[chex.Array, chex.Array]:
    """Replays H real actions; each member is fed its own mean prediction.

    Args:
      ensemble: its functions `predict` and `decode`.
      params: of M members, leading axis M.
      normalizers: the statistics the members were fitted with.
      observation: real states [N, O] to start from.
      action: [N, H, A].

    Returns:
      States [H, M, N, O] after 1, 2, ... H steps and their rewards [H, M, N]. Terminations are not
      looked at, and nothing bounds what a diverging member predicts.
    """
    members = jax.tree.leaves(params)[0].shape[0]

    def per_member(x: chex.Array) -> chex.Array:
        return jnp.broadcast_to(x[None], (members, *x.shape))

    def step(
        observation: chex.Array, action: chex.Array
    ) -> tuple[chex.Array, tuple[chex.Array, chex.Array]]:
        action = per_member(action)
        target = ensemble.predict(params, normalizers, observation, action).mean
        next_observation, reward = ensemble.decode(observation, action, target)
        return next_observation, (next_observation, reward)

    by_time = jnp.swapaxes(action, 0, 1)
    return jax.lax.scan(step, per_member(observation), by_time)[1]


def terminations(
    spec: EnvSpec, observation: chex.Array, action: chex.Array, predicted: chex.Array
) -> chex.Array:
    """Returns which steps of `open_loop` end the episode, bool [H, M, N].

    Args:
      spec: of the environment.
      observation: real states [N, O] to start from.
      action: [N, H, A].
      predicted: states [H, M, N, O], from `open_loop`.
    """
    first = jnp.broadcast_to(observation[None, None], (1, *predicted.shape[1:]))
    by_time = jnp.swapaxes(action, 0, 1)[:, None]
    return spec.termination(
        jnp.concatenate([first, predicted[:-1]]),
        jnp.broadcast_to(by_time, (*predicted.shape[:-1], action.shape[-1])),
        predicted,
    )
