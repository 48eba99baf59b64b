"""A run's model and values against fresh episodes of the real environment."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from analysis import diagnosis_table, prediction_error, value_error
from analysis.diagnosis_table import Row
from analysis.prediction_error import FEWEST_ROWS
from errors import UserError
from experiment.actors import DIAGNOSIS
from experiment.episodes import Episodes, cut, join, monte_carlo
from experiment.files import readable_bytes
from experiment.restore import Restored, seed_slice
from experiment.trajectories import collect
from models import diagnostics
from replay import Transition

SEGMENTS = 1000  # start positions of open-loop predictions and of value estimates
TRANSITIONS = 20_000  # of one-step predictions
LARGEST_ARRAY = 200 << 20  # bytes of one array of predictions; large observations get fewer rows
VALUE_SAMPLES = 5  # actions a state, where there are no elites to roll out
HORIZON = 20  # steps predicted open loop unless asked for more or less


def diagnose(restored: Restored, episodes: int, horizon: int | None) -> pd.DataFrame:
    """Plays new episodes with the policy as it explores and compares the run with them.

    Args:
      restored: with the state of the checkpoint "latest".
      episodes: per seed.
      horizon: steps of the open-loop predictions; None: `HORIZON`, or the steps of the longest
        episode if they are fewer.

    Returns:
      The table that `docs/diagnosis.md` describes.

    Raises:
      UserError: the algorithm does not show what is needed, or no episode is as long as `horizon`.
    """
    programs = _compile(restored)
    keys = [
        jax.random.split(jax.random.fold_in(jax.random.key(seed), DIAGNOSIS))
        for seed in restored.seeds
    ]
    # A state holds the replay, so only one seed's is copied out of the checkpoint at a time.
    played = [_play(restored, programs, k, episodes, key[0]) for k, key in enumerate(keys)]
    sizes = _sizes(restored, played, horizon)
    rows = {
        seed: _measure(restored, programs, sizes, k, played[k], keys[k][1])
        for k, seed in enumerate(restored.seeds)
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
            f"{restored.config.algo} cannot be diagnosed: it has no policy and value to look at. "
            "An agent of your own sets sample, value and temperature in `internals` "
            "(agents/base.py)."
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


def _sizes(restored: Restored, played: list[Episodes], horizon: int | None) -> _Sizes:
    lengths = [[len(episode.reward) for episode in own] for own in played]
    positions, longest = max(map(sum, lengths)), max(map(max, lengths))
    samples, depth = VALUE_SAMPLES, 0
    if restored.agent.internals.model is not None:
        samples = restored.config.model.num_elites
        depth = min(HORIZON, longest) if horizon is None else horizon
    row = 4 * samples * (restored.spec.observation_size + 1)
    # Longer predictions would be compared with nothing, or with too few to say anything.
    most = min(longest, LARGEST_ARRAY // (row * FEWEST_ROWS) - 1)
    if depth > most:
        reason = f"{FEWEST_ROWS} such predictions take over {readable_bytes(LARGEST_ARRAY)}"
        if most == longest:
            reason = f"no episode took more than {longest} steps"
        raise UserError(f"--horizon {depth} is too long: {reason}. Pass --horizon {most} or less.")
    return _Sizes(
        positions,
        min(positions, TRANSITIONS, LARGEST_ARRAY // row),
        min(positions, SEGMENTS, LARGEST_ARRAY // (row * (depth + 1))),
        depth,
        longest,
    )


def _play(restored: Restored, programs: _Programs, k: int, episodes: int, key: Any) -> Episodes:
    """Plays with the policy of the k-th seed, sampled anew at every step; consumes `key`."""
    state = seed_slice(restored.state, k)
    keys = (jax.random.fold_in(key, step) for step in itertools.count(1))

    def act(observations: np.ndarray) -> np.ndarray:
        action, _ = programs.sample(state, observations[0], next(keys))
        return np.asarray(action)[None]

    env, seed = restored.config.env, restored.seeds[k]
    return collect(env, [seed], episodes, act, stream=DIAGNOSIS, position=restored.env_step)[0]


def _measure(
    restored: Restored,
    programs: _Programs,
    sizes: _Sizes,
    k: int,
    episodes: Episodes,
    key: Any,
) -> list[Row]:
    """Returns everything measured on the k-th seed; consumes `key`."""
    state = seed_slice(restored.state, k)
    rng = np.random.default_rng(restored.seeds[k])
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
