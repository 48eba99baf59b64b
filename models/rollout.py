"""Short branched rollouts of the policy in the learned model (Janner et al. 2019, algorithm 2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.fit import ModelState
from models.objectives import Parts
from replay import ReplayState, Transition, buffer

CPU_BLOCK_ROWS = 2048  # rows simulated together on CPU, so that activations stay in cache


class RolloutFilter(NamedTuple):
    """Decides which model transitions are worth learning from.

    Attributes:
      init: `(key) -> filter_state`.
      update: `(filter_state, replay, model_state, context, key) -> (filter_state, metrics)`, once
        per refresh, after the model has been fitted.
      weigh: `(filter_state, transition [B, ...], key) -> weight [B]`; a branch ends where it is 0,
        and the transition is dropped.
    """

    init: Callable[[chex.PRNGKey], Any]
    update: Callable[..., tuple[Any, dict[str, chex.Array]]]
    weigh: Callable[[Any, Transition, chex.PRNGKey], chex.Array]


def keep_all(config: ConfigDict, parts: Parts) -> RolloutFilter:
    """Returns the filter that keeps every transition: plain MBPO."""
    del config, parts
    return RolloutFilter(
        init=lambda key: (),
        update=lambda state, replay, model, context, key: (state, {}),
        weigh=lambda state, transition, key: jnp.ones(transition.reward.shape),
    )


FILTERS = {"none": keep_all}
"""Name -> `(config, parts) -> RolloutFilter`; `config.rollout.filter` names one."""


def rollout_length(schedule: tuple[int, int, int, int], step: chex.Numeric) -> chex.Numeric:
    """Returns the rollout length at `step` environment steps after the initial exploration.

    Linear from `from_length` at `from_step` to `to_length` at `to_step`, truncated to an integer
    and constant outside (Janner et al. 2019, appendix C; there in epochs of 1000 steps).
    """
    from_step, to_step, from_length, to_length = schedule
    fraction = (step - from_step) / max(to_step - from_step, 1)
    length = from_length + jnp.clip(fraction, 0.0, 1.0) * (to_length - from_length)
    return jnp.floor(length + 1e-4).astype(jnp.int32)  # float32 must not land just below an integer


def block_rows(starts: int, num_elites: int) -> int:
    """Returns how many branches to simulate together: it divides `starts`, and K divides it."""
    if jax.default_backend() != "cpu":
        return starts
    per_elite = starts // num_elites
    largest = max(CPU_BLOCK_ROWS // num_elites, 1)
    return num_elites * max(d for d in range(1, min(largest, per_elite) + 1) if per_elite % d == 0)


def make_rollout(
    config: ConfigDict, parts: Parts, rollout_filter: RolloutFilter
) -> Callable[..., tuple[ReplayState, dict[str, chex.Array]]]:
    """Builds `generate(model, policy, filter_state, replay, model_replay, length, key)`.

    It starts `rollout.starts` branches from states of the real replay, runs each for `length` model
    steps or until it terminates or is filtered out, and returns the model replay with the valid
    transitions added, and metrics. At every step each elite predicts an equal share of the rows,
    assigned by a random permutation, so a row costs one member's forward pass; to one row this is
    the same as drawing an elite at random (TS1 of Chua et al. 2018).
    """
    ensemble, spec, sample_policy = parts.ensemble, parts.spec, parts.sample_policy
    num_elites, starts = config.model.num_elites, config.rollout.starts
    rows = block_rows(starts, num_elites)

    def model_step(elites, model: ModelState, observation, action, key) -> Transition:
        def share(x: chex.Array) -> chex.Array:
            return x.reshape(num_elites, rows // num_elites, -1)

        prediction = ensemble.predict(elites, model.normalizers, share(observation), share(action))
        target = prediction.mean if config.rollout.deterministic else prediction.sample(key)
        target = target.reshape(rows, -1)
        next_observation, reward = ensemble.decode(observation, action, target)
        terminated = spec.termination(observation, action, next_observation)
        return Transition(
            observation,
            action,
            reward,
            next_observation,
            terminated.astype(jnp.float32),
            jnp.zeros(rows),
        )

    def generate(
        model: ModelState,
        policy: chex.ArrayTree,
        filter_state: Any,
        replay: ReplayState,
        model_replay: ReplayState,
        length: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[ReplayState, dict[str, chex.Array]]:
        elites = jax.tree.map(lambda leaf: leaf[model.elites], model.params)

        def block(index: chex.Array, carry: tuple[ReplayState, chex.Array, chex.Array]):
            start_key, branch_key = jax.random.split(jax.random.fold_in(key, index))
            observation = buffer.sample(replay, start_key, rows).observation

            def step(t: chex.Array, carry):
                observation, alive, model_replay, kept, ended = carry
                shuffle_key, policy_key, model_key, filter_key = jax.random.split(
                    jax.random.fold_in(branch_key, t), 4
                )
                order = jax.random.permutation(shuffle_key, rows)
                observation, alive = observation[order], alive[order]
                action = sample_policy(policy, observation, policy_key)
                transition = model_step(elites, model, observation, action, model_key)
                weight = rollout_filter.weigh(filter_state, transition, filter_key)
                finite = jnp.isfinite(transition.next_observation).all(axis=-1)
                alive &= (weight > 0) & finite & jnp.isfinite(transition.reward)
                model_replay = buffer.add_masked(model_replay, transition, alive)
                over = alive & (transition.terminated > 0)
                kept, ended = kept + alive.sum(), ended + over.sum()
                return transition.next_observation, alive & ~over, model_replay, kept, ended

            branches = (observation, jnp.ones(rows, bool), *carry)
            return jax.lax.fori_loop(0, length, step, branches)[2:]

        zero = jnp.zeros((), jnp.int32)
        model_replay, kept, ended = jax.lax.fori_loop(
            0, starts // rows, block, (model_replay, zero, zero)
        )
        metrics = {
            "rollout/length": length,
            "rollout/transitions": kept,
            "rollout/kept_fraction": kept / (starts * length),
            "rollout/terminated_fraction": ended / starts,
        }
        return model_replay, metrics

    return generate
