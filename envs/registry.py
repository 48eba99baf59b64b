"""From an environment's id to the environment and to its `EnvSpec`.

Whatever `make` returns shows float32 vectors and takes actions in [-1, 1] or, where the agent has
to choose, one-hot vectors. Some environments exist as pure functions too (`functional`).

Environments of your own are registered next to the built-in ones:

    register("MyEnv-v0", termination=my_termination)

in a module that is named in front of the id, `my_package.my_envs:MyEnv-v0`. Any id may end in
distracting dimensions, `Hopper-v5+linear10` (`envs.distractors`).
"""

import difflib
import functools
import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import NamedTuple

import gymnasium

from envs import boundary, distractors, retired, rewards, terminations
from envs.functional import DISTRACTED, FunctionalEnv
from envs.functional_cartpole import cartpole
from envs.spec import EnvSpec, RewardFn, TerminationFn
from errors import UserError

EnvFactory = Callable[..., gymnasium.Env]
"""Takes nothing, or the keyword `render_mode`; the time limit is part of what it returns."""

_TRUNCATED_SIZES = {"Ant": terminations.ANT_STATE_SIZE, "Humanoid": 45}  # qpos[2:] and qvel

_REGISTRATION = """\
from envs import register, terminations
def terminated(observation, action, next_observation):
    return next_observation[..., 0] < 0.2  # your condition; if there is none: terminations.never
register("{name}", termination=terminated)
"""


class _Entry(NamedTuple):
    termination: TerminationFn
    reward: RewardFn | None
    make: EnvFactory
    functional: FunctionalEnv | None


_entries: dict[str, _Entry] = {}
_specs: dict[str, EnvSpec] = {}


def register(
    env_id: str,
    *,
    termination: TerminationFn,
    reward: RewardFn | None = None,
    make: EnvFactory | None = None,
    functional: FunctionalEnv | None = None,
) -> None:
    """Makes an environment known under `env_id`, in place of an earlier one of that id.

    Args:
      env_id: `MyEnv-v0`; a module in front of it is left out. No `+` in it: what follows one names
        distracting dimensions, which every registered environment can have.
      termination: `(observation [..., O], action [..., A], next_observation [..., O]) ->
        terminated [...]` (bool), in `jax.numpy`; actions in [-1, 1], or one-hot if they are
        `Discrete`. `terminations.never` if episodes end only by their time limit.
      reward: the same arguments `-> reward [...]` (float); None if it has to be learned.
      make: creates the environment, time limit included; `gymnasium.make(env_id)` by default. It is
        given `render_mode` if it has a parameter of that name.
      functional: the same environment as pure functions, if there is one.

    Raises:
      UserError: `termination`, `reward` or `make` is not a function, `functional` is not a
        `FunctionalEnv`, or the id contains a `+`.
    """
    name = env_id.rpartition(":")[2]
    if "+" in name:
        raise UserError(
            f"register({env_id!r}, ...): what follows a + in an id names distracting dimensions. "
            f"Register {name.partition('+')[0]!r}; its id can then be used with any of them."
        )
    functions = {"termination": termination, "reward": reward, "make": make}
    for argument, function in functions.items():
        if not callable(function) and (argument == "termination" or function is not None):
            raise UserError(
                f"register({env_id!r}, ...) was given {argument}={function!r}, which is not a "
                f"function. Give a function, as in:\n\n{_REGISTRATION.format(name=env_id)}"
            )
    if not isinstance(functional, FunctionalEnv | None):
        raise UserError(
            f"register({env_id!r}, ...) was given functional={functional!r}. Give an "
            "envs.FunctionalEnv(reset, step, max_steps), or leave it out."
        )
    factory = make or functools.partial(_gym_make, name)
    _entries[name] = _Entry(termination, reward, factory, functional)
    _specs.pop(name, None)


def registered_ids() -> tuple[str, ...]:
    """All ids that `make` and `spec` accept, sorted; each may end in distracting dimensions."""
    return tuple(sorted(_entries))


def import_module_for(env_id: str) -> str:
    """Imports the module in front of `env_id`, so that it can register its environments.

    Args:
      env_id: `my_package.my_envs:MyEnv-v0`, or an id without a module.

    Returns:
      The id without the module; distracting dimensions stay.

    Raises:
      UserError: there is no such module.
    """
    module, colon, name = env_id.rpartition(":")
    if not colon:
        return name
    missing = UserError(
        f"The environment {env_id!r} asks for the Python module {module!r}, which was not found. "
        "Write module:id, as in my_package.my_envs:MyEnv-v0, and start Python in the folder that "
        "holds the module or add that folder to PYTHONPATH."
    )
    if not all(part.isidentifier() for part in module.split(".")):
        raise missing
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # If the module exists and what it imports itself does not, its traceback is the message.
        if f"{module}.".startswith(f"{error.name}."):
            raise missing from error
        raise
    return name


def make(env_id: str, render_mode: str | None = None) -> gymnasium.Env:
    """Creates an environment as agents see it.

    Args:
      env_id: a registered id, with a module in front of it and `+<kind><count>` behind if need be.
      render_mode: a Gymnasium render mode, for instance "rgb_array".

    Returns:
      An environment with float32 observations [O] and actions [A] in [-1, 1]; larger actions are
      clipped. Of discrete actions it takes one-hot vectors [A], or any whose largest entry is the
      choice. Its time limit is reported as `truncated`.

    Raises:
      UserError: the id is unknown, the environment cannot be created, or its spaces do not fit.
    """
    name, added = distractors.split(import_module_for(env_id))
    environment = _create(name, _find(name).make, render_mode)
    if added is not None:
        environment = distractors.DistractedObservation(environment, added)
    return boundary.AgentBoundary(environment)


def spec(env_id: str) -> EnvSpec:
    """What an algorithm may know about an environment; computed once for each id.

    Args:
      env_id: a registered id, with a module in front of it and `+<kind><count>` behind if need be.

    Raises:
      UserError: as for `make`, or a registered function does not map a batch to one value a row.
    """
    name, added = distractors.split(import_module_for(env_id))
    if name not in _specs:
        entry = _find(name)
        environment = _create(name, entry.make)
        actions = boundary.action_box(environment.action_space)
        environment_spec = EnvSpec(
            env_id=name,
            observation_size=environment.observation_space.shape[0],
            action_size=actions.shape[0],
            action_low=tuple(actions.low.tolist()),
            action_high=tuple(actions.high.tolist()),
            termination=entry.termination,
            reward=entry.reward,
            discrete=isinstance(environment.action_space, gymnasium.spaces.Discrete),
        )
        environment.close()
        boundary.check_functions(environment_spec)
        _specs[name] = environment_spec
    environment_spec = _specs[name]._replace(env_id=env_id)
    return environment_spec if added is None else distractors.extend(environment_spec, added)


def functional(env_id: str) -> FunctionalEnv | None:
    """The environment as pure functions; None where none are known: then there is only `make`.

    Args:
      env_id: as for `make`. Of distracting dimensions, noise exists as pure functions.

    Raises:
      UserError: as for `spec`, or the registered functions do not fit it.
    """
    name, added = distractors.split(import_module_for(env_id))
    env = _find(name).functional
    if env is None:
        return None
    boundary.check_functional(spec(name), env)
    if added is None:
        return env
    extend = DISTRACTED.get(added.kind)
    return None if extend is None else extend(env, added.size)


def _gym_make(gym_id: str, render_mode: str | None = None) -> gymnasium.Env:
    with warnings.catch_warnings():
        # Published tables use version 4: choosing it is no mistake.
        warnings.filterwarnings("ignore", ".* is out of date", DeprecationWarning)
        # Not every environment has the argument, so it is passed only when it says something.
        options = {} if render_mode is None else {"render_mode": render_mode}
        return gymnasium.make(gym_id, **options)


def _truncated_make(gym_id: str, size: int, render_mode: str | None = None) -> gymnasium.Env:
    environment = _gym_make(gym_id, render_mode)
    seen = environment.observation_space
    space = gymnasium.spaces.Box(seen.low[:size], seen.high[:size], dtype=seen.dtype)
    return gymnasium.wrappers.TransformObservation(environment, lambda x: x[:size], space)


def _find(name: str) -> _Entry:
    """The entry of an id without a module.

    Raises:
      UserError: there is none; the message depends on what Gymnasium knows about the id.
    """
    if name in _entries:
        return _entries[name]
    retired.refuse(name, _entries)
    if name in gymnasium.registry:
        # An environment with unsuitable spaces must not be answered with code that cannot help.
        _create(name, functools.partial(_gym_make, name)).close()
        raise UserError(
            f"Gymnasium knows {name!r}, but nobody has said when its episodes end, which a model "
            f"needs. Save these four lines as my_envs.py:\n\n{_REGISTRATION.format(name=name)}\n"
            f"and use the id my_envs:{name}."
        )
    known = {known_id.lower(): known_id for known_id in registered_ids()}
    close = [known[match] for match in difflib.get_close_matches(name.lower(), known)]
    suggestion = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(
        f"There is no environment {name!r}.{suggestion} Known: {', '.join(registered_ids())}. "
        "An environment of your own is named with its module, as in "
        "my_package.my_envs:MyEnv-v0."
    )


def _create(name: str, factory: EnvFactory, render_mode: str | None = None) -> gymnasium.Env:
    """Calls a factory and checks that the environment's spaces suit the agents.

    Raises:
      UserError: the environment cannot be created or its spaces do not fit.
    """
    options = {} if render_mode is None else {"render_mode": render_mode}
    parameters = inspect.signature(factory).parameters.values()
    if options and not any(p.name in options or p.kind is p.VAR_KEYWORD for p in parameters):
        raise UserError(
            f"{name!r} cannot be made with render_mode={render_mode!r}: the make function it was "
            "registered with has no such argument. Write def make(render_mode=None): ..."
        )
    try:
        environment = factory(**options)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(
            f"The environment {name!r} could not be created: {error}\n"
            "Check that the package it comes from is installed (for MuJoCo: pip install "
            '"gymnasium[mujoco]") and imported by the module that calls register.'
        ) from error
    boundary.check_action_space(name, environment.action_space)
    boundary.check_observation_space(name, environment.observation_space)
    return environment


def _register_builtins() -> None:
    never = terminations.never
    register("Pendulum-v1", termination=never, reward=rewards.pendulum)
    register(
        "CartPole-v1",
        termination=terminations.cartpole,
        reward=rewards.one_per_step,
        functional=cartpole,
    )
    double_pendulum = terminations.inverted_double_pendulum
    for version in ("v4", "v5"):
        register(f"InvertedDoublePendulum-{version}", termination=double_pendulum)
        register(f"Hopper-{version}", termination=terminations.hopper)
        register(f"Walker2d-{version}", termination=terminations.walker2d)
        register(f"HalfCheetah-{version}", termination=never)
        register(f"Swimmer-{version}", termination=never)
        register(f"Ant-{version}", termination=terminations.ant)
        register(f"Humanoid-{version}", termination=terminations.humanoid)
        for family, size in _TRUNCATED_SIZES.items():
            register(
                f"{family}Truncated-{version}",
                termination=_entries[f"{family}-{version}"].termination,
                make=functools.partial(_truncated_make, f"{family}-{version}", size),
            )
    inverted_pendulum = terminations.inverted_pendulum
    register(
        "InvertedPendulum-v4",
        termination=inverted_pendulum,
        reward=rewards.one_per_step,
    )
    register(
        "InvertedPendulum-v5",
        termination=inverted_pendulum,
        reward=rewards.inverted_pendulum_v5,
    )
    register("Reacher-v4", termination=never, reward=rewards.reacher_v4)
    register("Reacher-v5", termination=never, reward=rewards.reacher_v5)
    register("Pusher-v5", termination=never, reward=rewards.pusher_v5)


_register_builtins()
