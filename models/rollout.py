"""Short branched rollouts of the policy in the learned model (Janner et al. 2019, algorithm 2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.ensemble import predicted_transition
from models.objectives import Parts
from models.training import ModelState
from replay import ReplayState, Transition, WeightedTransition, buffer

CPU_BLOCK_ROWS = 2048  # rows simulated together on CPU, so that activations stay in cache

Simulate = Callable[[chex.Array, chex.PRNGKey], Transition]
"""`(observation [B, O], key) -> Transition [B, ...]`: one step of policy and model per row."""


class RolloutFilter(NamedTuple):
    """Decides which model transitions are worth learning from. Its functions consume their key.

    Attributes:
      init: `(key) -> filter_state`.
      update: `(filter_state, model_state, replay, context, key) -> (filter_state, model_state,
        metrics)`, once per refresh, between the fit and the rollouts. A filter whose estimate of
        the model's error can also reduce it returns a better model. `None`: there is nothing to do.
      propose: `(filter_state, simulate, observation [B, O], steps_left, key) -> (Transition [B],
        weight [B])`: the next step of every branch, which has `steps_left` to go. A branch ends
        where the weight is 0, and the transition is dropped; otherwise the weight goes with the
        transition into the critic loss.
    """

    init: Callable[[chex.PRNGKey], Any]
    update: Callable[..., tuple[Any, ModelState, dict[str, chex.Array]]] | None
    propose: Callable[
        [Any, Simulate, chex.Array, chex.Array, chex.PRNGKey], tuple[Transition, chex.Array]
    ]


class Store(NamedTuple):
    """What of the branches is kept, in a replay.

    Attributes:
      begin: `(replay, observation [B, O]) -> replay`, at the start of B branches.
      add: `(replay, transition [B], weight [B], kept bool [B]) -> replay`, after every step; `kept`
        is unset where the branch has ended before, or is ended by the filter.
    """

    begin: Callable[[ReplayState, chex.Array], ReplayState]
    add: Callable[[ReplayState, Transition, chex.Array, chex.Array], ReplayState]


def _add_transitions(
    replay: ReplayState, transition: Transition, weight: chex.Array, kept: chex.Array
) -> ReplayState:
    return buffer.add_masked(replay, WeightedTransition(transition, weight), kept)


def _add_reached(
    replay: ReplayState, transition: Transition, weight: chex.Array, kept: chex.Array
) -> ReplayState:
    del weight
    return buffer.add_masked(
        replay, transition.next_observation, kept & (transition.terminated == 0)
    )


TRANSITIONS = Store(lambda replay, observation: replay, _add_transitions)
"""Every kept transition, as a `WeightedTransition`."""

STATES = Store(
    lambda replay, observation: buffer.add_masked(
        replay, observation, jnp.ones(len(observation), bool)
    ),
    _add_reached,
)
"""Every state from which an episode goes on, the first of each branch included."""


def real_states(replay: ReplayState, key: chex.PRNGKey, n: int) -> chex.Array:
    """Draws observations [n, O] of the real replay uniformly; consumes `key`."""
    return buffer.sample(replay, key, n).observation


def keep_all(config: ConfigDict, parts: Parts) -> RolloutFilter:
    """Returns the filter that keeps every transition: plain MBPO."""
    del config, parts

    def propose(state, simulate, observation, steps_left, key) -> tuple[Transition, chex.Array]:
        del state, steps_left
        transition = simulate(observation, key)
        return transition, jnp.ones(transition.reward.shape)

    return RolloutFilter(init=lambda key: (), update=None, propose=propose)


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


def make_simulator(
    config: ConfigDict, parts: Parts
) -> Callable[[ModelState, chex.ArrayTree], Simulate]:
    """Builds `simulator(model, policy)`, which returns the `Simulate` of these parameters.

    At every step each elite predicts an equal share of the rows, assigned by a random permutation,
    so a row costs one member's forward pass; to one row this is the same as drawing an elite at
    random (TS1 of Chua et al. 2018). The number of rows has to be a multiple of the elites'.
    """
    ensemble, spec = parts.ensemble, parts.spec
    num_elites = config.model.num_elites

    def simulator(model: ModelState, policy: chex.ArrayTree) -> Simulate:
        elites = model.elite_params()

        def simulate(observation: chex.Array, key: chex.PRNGKey) -> Transition:
            rows = observation.shape[0]
            policy_key, share_key, model_key = jax.random.split(key, 3)
            action = parts.sample_policy(policy, observation, policy_key)
            order = jax.random.permutation(share_key, rows)

            def share(x: chex.Array) -> chex.Array:
                return x[order].reshape(num_elites, rows // num_elites, -1)

            prediction = ensemble.predict(
                elites, model.normalizers, share(observation), share(action)
            )
            target = (
                prediction.mean if config.rollout.deterministic else prediction.sample(model_key)
            )
            target = (
                jnp.zeros((rows, ensemble.target_size))
                .at[order]
                .set(target.reshape(rows, -1), unique_indices=True)
            )
            return predicted_transition(ensemble, spec, observation, action, target)

        return simulate

    return simulator


def make_rollout(
    config: ConfigDict,
    parts: Parts,
    rollout_filter: RolloutFilter,
    starts: int,
    store: Store = TRANSITIONS,
    draw: Callable[[ReplayState, chex.PRNGKey, int], chex.Array] = real_states,
) -> Callable[..., tuple[ReplayState, dict[str, chex.Array]]]:
    """Builds `generate(model, policy, filter_state, replay, model_replay, length, key)`.

    It starts `starts` branches from states of the real replay that `draw` chooses, runs each for
    `length` model steps or until it terminates or is filtered out, and returns the model replay
    with what `store` keeps of them added, and metrics.
    """
    simulator = make_simulator(config, parts)
    rows = block_rows(starts, config.model.num_elites)

    def generate(
        model: ModelState,
        policy: chex.ArrayTree,
        filter_state: Any,
        replay: ReplayState,
        model_replay: ReplayState,
        length: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[ReplayState, dict[str, chex.Array]]:
        simulate = simulator(model, policy)

        def block(index: chex.Array, carry: tuple[ReplayState, chex.Array, chex.Array]):
            start_key, branch_key = jax.random.split(jax.random.fold_in(key, index))
            observation = draw(replay, start_key, rows)

            def step(t: chex.Array, carry):
                observation, alive, model_replay, kept, ended = carry
                transition, weight = rollout_filter.propose(
                    filter_state,
                    simulate,
                    observation,
                    length - t,
                    jax.random.fold_in(branch_key, t),
                )
                finite = jnp.isfinite(transition.next_observation).all(axis=-1)
                alive &= (weight > 0) & finite & jnp.isfinite(transition.reward)
                model_replay = store.add(model_replay, transition, weight, alive)
                over = alive & (transition.terminated > 0)
                kept, ended = kept + alive.sum(), ended + over.sum()
                return transition.next_observation, alive & ~over, model_replay, kept, ended

            model_replay, *counts = carry
            model_replay = store.begin(model_replay, observation)
            branches = (observation, jnp.ones(rows, bool), model_replay, *counts)
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
