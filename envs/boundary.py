"""Where Gymnasium's conventions end and the agents' begin: spaces, dtypes and action scaling."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.spec import EnvSpec
from errors import UserError


class AgentBoundary(gymnasium.Wrapper):
    """Observations to float32, actions from [-1, 1] to the environment's box."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        box, seen = env.action_space, env.observation_space
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, box.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(
            seen.low.astype(np.float32), seen.high.astype(np.float32), dtype=np.float32
        )

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the first observation [O], float32, and Gymnasium's info."""
        observation, info = self.env.reset(**kwargs)
        return np.array(observation, np.float32), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies an action [A] in [-1, 1]; returns as Gymnasium does, float32 observations."""
        observation, reward, terminated, truncated, info = self.env.step(self._scaled(action))
        seen = np.array(observation, np.float32)
        return seen, float(reward), bool(terminated), bool(truncated), info

    def _scaled(self, action: np.ndarray) -> np.ndarray:
        # A weighted mean of the two bounds, unlike centre plus half width, is exact at -1, 0 and 1.
        box = self.env.action_space
        upper = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
        return (box.low * (1.0 - upper) + box.high * upper).astype(box.dtype)


def check_action_space(name: str, space: gymnasium.Space) -> None:
    """Raises UserError unless the space is a continuous vector with finite bounds."""
    continuous = isinstance(space, gymnasium.spaces.Box) and space.dtype.kind == "f"
    if not continuous or len(space.shape) != 1:
        raise UserError(
            f"{name!r} has the action space {space}, but this agent needs a continuous (Box) "
            "action space of one dimension. Choose another environment, or register one with a "
            "make function that wraps this one in gymnasium.wrappers.TransformAction."
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
