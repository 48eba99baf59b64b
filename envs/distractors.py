"""Distracting dimensions: numbers beside the observation that have nothing to do with the task.

An environment id may end in `+<kind><count>`: `Hopper-v5+linear10` observes Hopper's 11 numbers and
10 more. Neither actions nor the real state influence them, and they influence neither rewards nor
terminations. Over episodes, each has mean 0 and variance 1 at every step. The matrix in their
dynamics is drawn from a constant seed: all runs of an id meet the same dynamics.

Sources: Nikishin et al. 2022 (arXiv:2106.03273) append noise, Voelcker et al. 2022
(arXiv:2204.01464; `mbrl/env/distractor_dimensions.py` of github.com/pairlab/vagram) noise, linear
and sinusoidal processes. The linear map of that file is a Gaussian matrix, under which the numbers
grow without bound. The processes here are ours: they keep their scale.
"""

import difflib
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import gymnasium
import numpy as np

from envs.spec import EnvSpec, RewardFn, TerminationFn
from errors import UserError

MAX_SIZE = 1_000  # we chose it: above the widest built-in observation, 376, and still fast

# We chose these two so that the best linear prediction leaves a tenth of the variance (0.09 for ten
# dimensions). Their product has to be below 1, or what is observed does not determine the state.
SINE_AMPLITUDE = 0.4
SINE_FREQUENCY = 2.0

_ROTATION_SEED = 0
_STREAM = 1  # sets our draws apart from the environment's, which has the same seed


class Process(NamedTuple):
    """A random process of n numbers, observed at every step."""

    initial: Callable[[np.random.Generator], np.ndarray]  # -> state [n]
    advance: Callable[[np.ndarray, np.random.Generator], np.ndarray]  # -> next state [n]
    observe: Callable[[np.ndarray], np.ndarray]  # state -> what is seen of it [n], invertible


class Distractors(NamedTuple):
    """What the suffix of an environment id asks for."""

    kind: str  # a name in `KINDS`
    size: int  # n

    @property
    def process(self) -> Process:
        """The process behind these dimensions."""
        return KINDS[self.kind](self.size)


def noise(size: int) -> Process:
    """Standard normal numbers, new at every step: nothing to predict (Nikishin et al. 2022)."""

    def draw(generator: np.random.Generator) -> np.ndarray:
        return generator.standard_normal(size)

    return Process(draw, lambda state, generator: draw(generator), _identity)


def linear(size: int) -> Process:
    """A linear map without noise, `z' = A z` with `A` from `rotation`, from `z ~ N(0, I)`."""
    matrix = rotation(size)
    return Process(
        initial=lambda generator: generator.standard_normal(size),
        advance=lambda state, generator: matrix @ state,
        observe=_identity,
    )


def sinusoidal(size: int) -> Process:
    """A non-linear map that is not chaotic: the linear process, each number bent by a sine.

    `z = h(u)`, `u' = A u` with `A` from `rotation`, `u ~ N(0, I)` at the start, that is
    `z' = h(A h^-1(z))`, where `h(u) = (u + a sin(k u)) / s` increases because `a k < 1`. `s^2` is
    the variance of the numerator: `1 + 2 a k exp(-k^2 / 2) + a^2 (1 - exp(-2 k^2)) / 2`.
    """
    a, k = SINE_AMPLITUDE, SINE_FREQUENCY
    variance = 1 + 2 * a * k * np.exp(-(k**2) / 2) + a**2 * (1 - np.exp(-2 * k**2)) / 2
    return linear(size)._replace(observe=lambda u: (u + a * np.sin(k * u)) / np.sqrt(variance))


def chaotic(size: int) -> Process:
    """Logistic maps at the parameter 4, one a dimension: Lyapunov exponent ln 2 per step.

    `z = sqrt(2) y`, `y' = 1 - 2 y^2` in [-1, 1]; this is `x' = 4 x (1 - x)` for `y = 2 x - 1`. It
    starts from its invariant density, `1 / (pi sqrt(1 - y^2))`, which is that of `cos(pi U)` for a
    uniform U. Each number determines the next, and yet they are uncorrelated.
    """
    return Process(
        initial=lambda generator: np.cos(generator.uniform(0.0, np.pi, size)),
        advance=lambda y, generator: 1.0 - 2.0 * y**2,
        observe=lambda y: np.sqrt(2.0) * y,
    )


KINDS: dict[str, Callable[[int], Process]] = {
    "noise": noise,
    "linear": linear,
    "sinusoidal": sinusoidal,
    "chaotic": chaotic,
}


@functools.cache
def rotation(size: int) -> np.ndarray:
    """A random orthogonal matrix [n, n], the same at every call: it preserves `N(0, I)`.

    It is uniformly distributed (Mezzadri 2007, arXiv:math-ph/0609050) among those whose determinant
    is `(-1)^n`: of the others, every one leaves a direction as it is. One dimension, or one
    direction of an odd number, can only change its sign at every step.
    """
    normal = np.random.default_rng(_ROTATION_SEED).standard_normal((size, size))
    q, r = np.linalg.qr(normal)
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) * (-1) ** size < 0:
        q[:, 0] *= -1
    q.setflags(write=False)  # all environments of the process share it
    return q


class DistractedObservation(gymnasium.Wrapper):
    """Appends the numbers of a process to the observation: [O] becomes [O + n]."""

    def __init__(self, env: gymnasium.Env, distractors: Distractors) -> None:
        super().__init__(env)
        self._process = distractors.process
        self._generator = np.random.default_rng()
        unbounded = np.full(distractors.size, np.inf)
        seen = env.observation_space
        self.observation_space = gymnasium.spaces.Box(
            np.concatenate([seen.low, -unbounded]),
            np.concatenate([seen.high, unbounded]),
            dtype=np.float64,
        )

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts both; a `seed` determines both."""
        observation, info = self.env.reset(**kwargs)
        seed = kwargs.get("seed")
        if seed is not None:
            # Not the environment's generator, whose draws have to stay what they are without us.
            self._generator = np.random.default_rng([seed, _STREAM])
        self._state = self._process.initial(self._generator)
        return self._with_distractors(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Advances both, each for itself."""
        observation, *others = self.env.step(action)
        self._state = self._process.advance(self._state, self._generator)
        return self._with_distractors(observation), *others

    def _with_distractors(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._process.observe(self._state)])


def extend(spec: EnvSpec, distractors: Distractors) -> EnvSpec:
    """The spec with distracting dimensions; its functions see the first O dimensions as before."""
    size = spec.observation_size
    return spec._replace(
        observation_size=size + distractors.size,
        termination=_of_first(size, spec.termination),
        reward=None if spec.reward is None else _of_first(size, spec.reward),
    )


@functools.cache  # or the specs of an id would not be equal
def _of_first(size: int, function: TerminationFn | RewardFn) -> TerminationFn | RewardFn:
    def of_first(
        observation: chex.Array, action: chex.Array, next_observation: chex.Array
    ) -> chex.Array:
        return function(observation[..., :size], action, next_observation[..., :size])

    return of_first


def split(name: str) -> tuple[str, Distractors | None]:
    """Splits an id without a module into the environment's id and what its suffix asks for.

    Raises:
      UserError: what follows the `+` is no known kind and a count.
    """
    env_id, plus, suffix = name.partition("+")
    if not plus:
        return env_id, None
    match = re.fullmatch(rf"({'|'.join(KINDS)})([1-9]\d*)", suffix, re.ASCII)
    if match is None or int(match[2]) > MAX_SIZE:
        raise UserError(_refusal(env_id, suffix))
    return env_id, Distractors(match[1], int(match[2]))


def _refusal(env_id: str, suffix: str) -> str:
    """Says what may follow a `+`, with the nearest suffix that exists."""
    example, hint = "linear10", ""
    first = suffix.partition("+")[0]  # of several, as good a guess as any
    letters = re.sub(r"[^a-z]", "", first.lower())
    if close := difflib.get_close_matches(letters, KINDS, n=1):
        count = re.search(r"[1-9]\d{0,5}", first)
        example = f"{close[0]}{min(int(count[0]), MAX_SIZE) if count else 10}"
        hint = f" Did you mean {env_id}+{example}?"
    return (
        f"{env_id + '+' + suffix!r}: +{suffix} names no distracting dimensions.{hint} Write one + "
        f"and behind it a kind ({', '.join(KINDS)}) and how many, from 1 to {MAX_SIZE}, as in "
        f"{env_id}+{example}; or {env_id} alone for none."
    )


def _identity(state: np.ndarray) -> np.ndarray:
    return state
