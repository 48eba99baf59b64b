"""Where Gymnasium's conventions end and the agents' begin: spaces, dtypes and actions."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.functional import FunctionalEnv
from envs.spec import EnvSpec
from errors import UserError


class AgentBoundary(gymnasium.Wrapper):
    """Observations to float32; actions from [-1, 1] to a box, or from one-hot to the choice."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space, seen = env.action_space, env.observation_space
        self._to_environment: Callable[[np.ndarray], np.ndarray | np.integer]
        if isinstance(space, gymnasium.spaces.Discrete):
            self.action_space = action_box(space)
            self._to_environment = functools.partial(_chosen, space)
        else:
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, space.shape, np.float32)
            self._to_environment = functools.partial(_scaled, space)
        self.observation_space = gymnasium.spaces.Box(
            seen.low.astype(np.float32), seen.high.astype(np.float32), dtype=np.float32
        )

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the first observation [O], float32, and Gymnasium's info."""
        observation, info = self.env.reset(**kwargs)
        return np.array(observation, np.float32), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies an action [A] in [-1, 1], or the one of A choices whose entry is largest.

        Returns what Gymnasium does, with float32 observations.
        """
        given = self._to_environment(action)
        observation, reward, terminated, truncated, info = self.env.step(given)
        seen = np.array(observation, np.float32)
        return seen, float(reward), bool(terminated), bool(truncated), info


def _scaled(box: gymnasium.spaces.Box, action: np.ndarray) -> np.ndarray:
    # A weighted mean of the two bounds, unlike centre plus half width, is exact at -1, 0 and 1.
    upper = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
    return (box.low * (1.0 - upper) + box.high * upper).astype(box.dtype)


def _chosen(choices: gymnasium.spaces.Discrete, action: np.ndarray) -> np.integer:
    return choices.start + choices.dtype.type(np.argmax(action))


def action_box(space: gymnasium.spaces.Box | gymnasium.spaces.Discrete) -> gymnasium.spaces.Box:
    """The box itself, or [0, 1]^n, the box of the one-hot vectors of n choices."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return gymnasium.spaces.Box(0.0, 1.0, (int(space.n),), np.float32)
    return space


def check_action_space(name: str, space: gymnasium.Space) -> None:
    """Raises UserError unless actions are choices, or continuous vectors with finite bounds."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return
    continuous = isinstance(space, gymnasium.spaces.Box) and space.dtype.kind == "f"
    if not continuous or len(space.shape) != 1:
        raise UserError(
            f"{name!r} has the action space {space}, but agents need a Discrete one or a "
            "continuous one (Box) of one dimension. Choose another environment, or register one "
            "with a make function that wraps this one in gymnasium.wrappers.TransformAction."
        )
    if not np.all(np.isfinite(space.low) & np.isfinite(space.high)):
        raise UserError(
            f"{name!r} has the action space {space}, but its bounds must be finite, because "
            "actions in [-1, 1] are scaled to them. Give it bounds where you register it:\n\n"
            f"register({name!r}, termination=..., make=lambda: gymnasium.wrappers.TransformAction("
            f"gymnasium.make({name!r}), lambda action: action, "
            f"gymnasium.spaces.Box(-1.0, 1.0, {space.shape})))"
        )


def check_observation_space(name: str, space: gymnasium.Space) -> None:
    """Raises UserError unless observations are vectors."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        kind = "images or arrays" if isinstance(space, gymnasium.spaces.Box) else str(space)
        shape = f" of shape {space.shape}" if space.shape is not None else ""
        raise UserError(
            f"{name!r} observes {kind}{shape}, but this agent needs vectors (a Box of one "
            "dimension). Flatten them where you register the environment:\n\n"
            f"register({name!r}, termination=..., make=lambda: "
            f"gymnasium.wrappers.FlattenObservation(gymnasium.make({name!r})))"
        )


def check_functions(env_spec: EnvSpec) -> None:
    """Raises UserError unless termination and reward map a batch of rows to one value a row."""
    rows = env_spec.observation_size + env_spec.action_size + 1  # unlike any size in a row
    observation = jax.ShapeDtypeStruct((rows, env_spec.observation_size), jnp.float32)
    action = jax.ShapeDtypeStruct((rows, env_spec.action_size), jnp.float32)
    wanted = {"termination": (env_spec.termination, jnp.bool_)}
    if env_spec.reward is not None:
        wanted["reward"] = (env_spec.reward, jnp.floating)
    for argument, (function, dtype) in wanted.items():
        rule = (
            f"The {argument} function registered for {env_spec.env_id!r} must map arrays "
            f"[..., size] to {'bool' if argument == 'termination' else 'float'} [...], in jax.numpy"
        )
        try:
            result = jax.eval_shape(function, observation, action, observation)
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(f"{rule}, but it failed on a batch of rows: {error}") from error
        if result.shape != (rows,) or not jnp.issubdtype(result.dtype, dtype):
            raise UserError(
                f"{rule}, but it maps {rows} rows to {result.dtype}{list(result.shape)}. Write "
                "next_observation[..., 0] rather than next_observation[0], and jnp.any(..., "
                "axis=-1) rather than any(...)."
            )


def check_functional(env_spec: EnvSpec, env: FunctionalEnv) -> None:
    """Raises UserError unless the functions have the spec's sizes and return one type of state."""
    rule = f"The functional environment registered for {env_spec.env_id!r}"
    action = jax.ShapeDtypeStruct((env_spec.action_size,), jnp.float32)
    try:
        state, first = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
        after, observation, *others = jax.eval_shape(env.step, state, action)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{rule} must have reset(key) -> (state, observation [O]) and step(state, action [A]) "
            "-> (state, observation [O], reward [], terminated [], truncated []), in jax.numpy, "
            f"but it failed: {error}"
        ) from error
    weak = any(leaf.weak_type for leaf in jax.tree.leaves((state, after)))
    if weak or _types(state) != _types(after):
        raise UserError(
            f"{rule} must return the same arrays as its state from step as from reset, but from "
            f"reset it returns {state} and from step {after}. Write jnp.zeros((), jnp.int32) "
            "rather than 0 for a counter."
        )
    seen = jax.ShapeDtypeStruct((env_spec.observation_size,), jnp.float32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    if _types((first, observation, *others)) != _types((seen, seen, scalar, scalar, scalar)):
        raise UserError(
            f"{rule} must return float32: an observation [{env_spec.observation_size}] from reset "
            "and from step, and from step also a reward [], terminated [] and truncated []. From "
            f"reset it returns {first} and from step {(observation, *others)}."
        )


def _types(tree: chex.ArrayTree) -> tuple[Any, list[Any]]:
    """Structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
