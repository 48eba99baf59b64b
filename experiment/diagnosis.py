"""A run's model and values against fresh episodes of the real environment."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from analysis import diagnosis_table, prediction_error, value_error
from analysis.diagnosis_table import Row
from errors import UserError
from experiment.actors import DIAGNOSIS
from experiment.episodes import Episodes, cut, join, monte_carlo
from experiment.restore import Restored, seed_slice
from experiment.trajectories import collect
from models import diagnostics
from replay import Transition

SEGMENTS = 1000  # start positions of open-loop predictions and of value estimates
TRANSITIONS = 20_000  # of one-step predictions
LARGEST_ARRAY = 200 << 20  # bytes of one array of predictions; large observations get fewer rows
VALUE_SAMPLES = 5  # actions a state, where there are no elites to roll out


def diagnose(restored: Restored, episodes: int, horizon: int) -> pd.DataFrame:
    """Plays new episodes with the policy as it explores and compares the run with them.

    Args:
      restored: with the state of the checkpoint "latest".
      episodes: per seed.
      horizon: steps of the open-loop predictions.

    Returns:
      The table that `docs/diagnosis.md` describes.
    """
    agents = [seed_slice(restored.state, k) for k in range(len(restored.seeds))]
    keys = [
        jax.random.split(jax.random.fold_in(jax.random.key(seed), DIAGNOSIS))
        for seed in restored.seeds
    ]
    programs = _compile(restored)
    played = collect(
        restored.config.env,
        restored.seeds,
        episodes,
        _exploration(programs, agents, [own[0] for own in keys]),
        stream=DIAGNOSIS,
        position=restored.env_step,
    )
    sizes = _sizes(restored, played, horizon)
    rows = {
        seed: _measure(restored, programs, sizes, agent, own, key[1], seed)
        for seed, agent, own, key in zip(restored.seeds, agents, played, keys)
    }
    config = restored.config
    return diagnosis_table.tidy(
        f"{config.algo} on {config.env} after {restored.env_step:,} steps", rows
    )


class _ModelPrograms(NamedTuple):
    """The functions of `models.diagnostics` of one agent, from its state and arrays, compiled."""

    one_step: Callable[..., diagnostics.OneStep]
    open_loop: Callable[..., diagnostics.OpenLoop]
    policy_rollout: Callable[..., diagnostics.PolicyRollout]


class _Programs(NamedTuple):
    """What runs on the device, compiled once for all seeds."""

    sample: Callable[..., tuple[jax.Array, jax.Array]]
    values: Callable[..., jax.Array]
    temperature: Callable[[Any], jax.Array]
    model: _ModelPrograms | None


def _compile(restored: Restored) -> _Programs:
    internals = restored.agent.internals
    sample, value, temperature = internals.sample, internals.value, internals.temperature
    if sample is None or value is None or temperature is None:
        raise UserError(
            f"{restored.config.algo} cannot be diagnosed: it does not show its policy and value. "
            "Its agent has to set sample, value and temperature in `internals` (agents/base.py)."
        )

    def values(state, observation, key):
        return diagnostics.values(lambda *states: value(state, *states), observation, key)

    return _Programs(
        jax.jit(sample), jax.jit(values), temperature, _compile_model(restored, sample)
    )


def _compile_model(restored: Restored, sample: Callable) -> _ModelPrograms | None:
    model, ensemble = restored.agent.internals.model, restored.agent.internals.ensemble
    spec, deterministic = restored.spec, restored.config.rollout.deterministic
    if model is None or ensemble is None:
        return None

    def one_step(state, batch):
        return diagnostics.one_step(ensemble, spec, model(state), batch)

    def open_loop(state, start, action):
        return diagnostics.open_loop(ensemble, spec, model(state), start, action)

    def policy_rollout(state, start, key, steps):
        return diagnostics.policy_rollout(
            ensemble,
            spec,
            model(state),
            lambda *states: sample(state, *states),
            start,
            key,
            steps=steps,
            deterministic=deterministic,
        )

    return _ModelPrograms(
        jax.jit(one_step), jax.jit(open_loop), jax.jit(policy_rollout, static_argnames="steps")
    )


class _Sizes(NamedTuple):
    """Rows and steps of every program: those of the seed with the most, others are padded."""

    positions: int  # steps of all episodes together
    transitions: int
    segments: int
    horizon: int  # 0 without a model
    longest: int  # steps of an episode


def _sizes(restored: Restored, played: list[Episodes], horizon: int) -> _Sizes:
    lengths = [[len(episode.reward) for episode in own] for own in played]
    positions = max(map(sum, lengths))
    samples = VALUE_SAMPLES
    if restored.agent.internals.model is None:
        horizon = 0
    else:
        samples = restored.config.model.num_elites
    row = 4 * samples * (restored.spec.observation_size + 1)
    return _Sizes(
        positions,
        min(positions, TRANSITIONS, LARGEST_ARRAY // row),
        min(positions, SEGMENTS, LARGEST_ARRAY // (row * (horizon + 1))),
        horizon,
        max(map(max, lengths)),
    )


def _exploration(
    programs: _Programs, agents: list[Any], keys: list[Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the policy of every seed, sampled anew at every call."""
    calls = 0

    def act(observations: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        actions = [
            programs.sample(agent, own, jax.random.fold_in(key, calls))[0]
            for agent, own, key in zip(agents, observations, keys)
        ]
        return np.stack(actions)

    return act


def _measure(
    restored: Restored,
    programs: _Programs,
    sizes: _Sizes,
    state: Any,
    episodes: Episodes,
    key: Any,
    seed: int,
) -> list[Row]:
    """Returns everything measured on one seed; consumes `key`."""
    rng = np.random.default_rng(seed)
    value_key, return_key = jax.random.split(key)
    rows = diagnosis_table.data_rows([len(episode.reward) for episode in episodes])
    discount = restored.config.discount
    rows += _value_rows(programs, sizes, discount, state, episodes, value_key, rng)
    if programs.model is None:
        return rows
    rows += _prediction_rows(programs.model, sizes, state, episodes, rng)
    start = np.stack([episode.observation[0] for episode in episodes])
    rollout = jax.device_get(
        programs.model.policy_rollout(state, start, return_key, steps=sizes.longest)
    )
    real = [(episode.reward, bool(episode.terminated[-1])) for episode in episodes]
    gap = value_error.return_gap(real, rollout.reward, rollout.alive[:-1], rollout.diverged)
    return rows + diagnosis_table.return_rows(gap, rollout.diverged)


def _prediction_rows(
    programs: _ModelPrograms,
    sizes: _Sizes,
    state: Any,
    episodes: Episodes,
    rng: np.random.Generator,
) -> list[Row]:
    """Compares predictions of one step and of `sizes.horizon` steps with what happened."""
    joined = join(episodes)
    total = len(joined.reward)
    scale = prediction_error.scales(joined.observation)
    chosen = _draw(rng, np.arange(total), sizes.transitions)
    batch = Transition(*(field[_padded(chosen, sizes.transitions, 0)] for field in joined))
    predictions = jax.device_get(programs.one_step(state, batch))
    rows = diagnosis_table.one_step_rows(
        predictions, Transition(*(field[: len(chosen)] for field in batch)), scale
    )
    starts = _draw(rng, np.arange(total), sizes.segments)
    segments = cut(episodes, sizes.horizon, _padded(starts, sizes.segments, -1))
    replayed = jax.device_get(programs.open_loop(state, segments.start, segments.action))
    reward_scale = prediction_error.scales(joined.reward[:, None]).item()
    return rows + diagnosis_table.open_loop_rows(replayed, segments, scale, reward_scale)


def _value_rows(
    programs: _Programs,
    sizes: _Sizes,
    discount: float,
    state: Any,
    episodes: Episodes,
    key: Any,
    rng: np.random.Generator,
) -> list[Row]:
    """Compares value estimates with Monte-Carlo returns; consumes `key`."""
    bonus_key, last_key, rollout_key, critic_key = jax.random.split(key, 4)
    temperature = float(programs.temperature(state))
    visited = np.concatenate([episode.observation for episode in episodes])
    padded = visited[_padded(np.arange(len(visited)), sizes.positions, 0)]
    log_prob = np.asarray(programs.sample(state, padded, bonus_key)[1])[: len(visited)]
    last = np.stack([episode.next_observation[-1] for episode in episodes])
    last_value = np.asarray(programs.values(state, last[None], last_key))[0]
    returns, counted = monte_carlo(episodes, -temperature * log_prob, last_value, discount)

    chosen = _draw(rng, np.flatnonzero(counted), sizes.segments)
    start = visited[_padded(chosen, sizes.segments, 0)]
    if programs.model is not None:
        rollout = programs.model.policy_rollout(state, start, rollout_key, steps=sizes.horizon)
        observation = rollout.observation
        reward, log_prob, alive, diverged = jax.device_get(rollout[1:])
    else:
        observation = np.broadcast_to(start, (1, VALUE_SAMPLES, *start.shape))
        reward = log_prob = np.zeros((0, *observation.shape[1:-1]))
        alive = np.ones(observation.shape[:-1], bool)
        diverged = ~alive[0]
    value = np.asarray(programs.values(state, observation, critic_key))
    estimates = value_error.model_values(
        reward, -temperature * log_prob, alive, value, diverged, discount
    )
    return diagnosis_table.value_rows(estimates[:, : len(chosen)], returns[chosen])


def _draw(rng: np.random.Generator, candidates: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` of the candidates, without replacement."""
    return rng.choice(candidates, min(count, len(candidates)), replace=False, shuffle=False)


def _padded(rows: np.ndarray, count: int, fill: int) -> np.ndarray:
    return np.pad(rows, (0, count - len(rows)), constant_values=fill)
