"""The registry: built-in environments, the agent's view of them, and every refusal."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from envs import EnvSpec, make, register, registry, spec, terminations
from envs.spec import TerminationFn
from errors import UserError

# Observation size, action size, action bound, time limit: the tables in Gymnasium's documentation.
BUILT_IN = {
    "Pendulum-v1": (3, 1, 2.0, 200),
    "InvertedPendulum-v4": (4, 1, 3.0, 1000),
    "InvertedPendulum-v5": (4, 1, 3.0, 1000),
    "InvertedDoublePendulum-v4": (11, 1, 1.0, 1000),
    "InvertedDoublePendulum-v5": (9, 1, 1.0, 1000),
    "Hopper-v4": (11, 3, 1.0, 1000),
    "Hopper-v5": (11, 3, 1.0, 1000),
    "Walker2d-v4": (17, 6, 1.0, 1000),
    "Walker2d-v5": (17, 6, 1.0, 1000),
    "HalfCheetah-v4": (17, 6, 1.0, 1000),
    "HalfCheetah-v5": (17, 6, 1.0, 1000),
    "Swimmer-v4": (8, 2, 1.0, 1000),
    "Swimmer-v5": (8, 2, 1.0, 1000),
    "Reacher-v4": (11, 2, 1.0, 50),
    "Reacher-v5": (10, 2, 1.0, 50),
    "Pusher-v5": (23, 7, 2.0, 100),
    "Ant-v4": (27, 8, 1.0, 1000),
    "Ant-v5": (105, 8, 1.0, 1000),
    "AntTruncated-v4": (27, 8, 1.0, 1000),
    "AntTruncated-v5": (27, 8, 1.0, 1000),
    "Humanoid-v4": (376, 17, 0.4, 1000),
    "Humanoid-v5": (348, 17, 0.4, 1000),
    "HumanoidTruncated-v4": (45, 17, 0.4, 1000),
    "HumanoidTruncated-v5": (45, 17, 0.4, 1000),
    # Ours: the sizes and episode lengths of CS285's homework, and of PETS's cart-poles.
    "cheetah-cs285-v0": (21, 6, 1.0, 500),
    "obstacles-cs285-v0": (4, 2, 0.99, 100),
    "reacher-cs285-v0": (20, 7, 1.0, 200),
    "cartpole-continuous-v0": (4, 1, 1.0, 200),
    "cartpole-pets-v0": (4, 1, 3.0, 200),
}
OURS = [env_id for env_id in BUILT_IN if env_id.startswith(("cheetah", "obst", "reach", "cart"))]


class Probe(gymnasium.Env):
    """Records the actions that reach it; its spaces are given."""

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.render_mode = render_mode
        self.received: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, Any, bool, dict[str, Any]]:
        self.received = action
        return self.observation_space.sample() * 0, np.float64(1.0), np.False_, False, {}


VECTOR = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
UNEVEN = gymnasium.spaces.Box(np.array([-0.3, 0.1]), np.array([0.7, 5.3]), dtype=np.float64)


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_specs", {})
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)


def register_probe(
    env_id: str,
    observation_space: gymnasium.Space = VECTOR,
    action_space: gymnasium.Space = UNEVEN,
    **functions: Any,
) -> None:
    functions = {"termination": terminations.never} | functions
    register(env_id, make=lambda: Probe(observation_space, action_space), **functions)


def refusal(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    return str(raised.value)


def test_the_table_is_complete() -> None:
    families = (
        "CartPole|Pendulum|Hopper|Walker2d|HalfCheetah|Swimmer|Reacher|Pusher|Ant|Humanoid|Inverted"
    )
    ours = "cheetah|obstacles|reacher|cartpole"
    known = {name for name in registry.registered_ids() if re.match(f"{families}|{ours}", name)}
    assert known == {"CartPole-v1", *BUILT_IN}
    assert list(registry.registered_ids()) == sorted(registry.registered_ids())


@pytest.mark.parametrize("env_id", BUILT_IN)
def test_built_in_environments_match_their_spec(env_id: str) -> None:
    observation_size, action_size, bound, time_limit = BUILT_IN[env_id]
    env_spec = spec(env_id)
    assert env_spec.env_id == env_id
    assert env_spec.observation_size == observation_size
    assert env_spec.action_size == action_size
    np.testing.assert_allclose(env_spec.action_low, [-bound] * action_size)
    np.testing.assert_allclose(env_spec.action_high, [bound] * action_size)

    environment = make(env_id)
    assert environment.spec.max_episode_steps == time_limit
    assert environment.action_space == gymnasium.spaces.Box(-1.0, 1.0, (action_size,), np.float32)
    assert environment.observation_space.shape == (observation_size,)
    observation, _ = environment.reset(seed=0)
    next_observation, reward, terminated, truncated, _ = environment.step(
        np.zeros(action_size, np.float32)
    )
    for seen in (observation, next_observation):
        assert seen.dtype == np.float32
        assert seen.shape == (observation_size,)
    assert [type(x) for x in (reward, terminated, truncated)] == [float, bool, bool]


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v4", "AntTruncated-v5", *OURS])
def test_a_reset_seed_and_the_actions_determine_an_episode(env_id: str) -> None:
    def episode(environment: gymnasium.Env, seed: int, scale: float) -> list[np.ndarray]:
        observation, _ = environment.reset(seed=seed)
        actions = scale * np.random.default_rng(0).uniform(
            -1, 1, (9, *environment.action_space.shape)
        )
        return [observation, *(environment.step(a.astype(np.float32))[0] for a in actions)]

    fresh, used = make(env_id), make(env_id)
    episode(used, 8, 0.5)
    expected = episode(fresh, 7, 1.0)
    np.testing.assert_array_equal(episode(used, 7, 1.0), expected)
    random_start = env_id != "reacher-cs285-v0"
    assert np.array_equal(fresh.reset(seed=8)[0], expected[0]) != random_start


def test_gymnasium_knows_our_environments_too() -> None:
    for env_id in OURS:
        size, _, _, time_limit = BUILT_IN[env_id]
        environment = gymnasium.make(env_id)
        assert environment.spec.max_episode_steps == time_limit
        assert environment.reset(seed=0)[0].shape == (size,)


def test_importing_the_package_does_not_import_mujoco() -> None:
    code = "import sys, envs; print('mujoco' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n"


def test_the_time_limit_truncates_and_does_not_terminate() -> None:
    environment = make("Reacher-v5")
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(2, np.float32))[2:4] for _ in range(50)]
    assert ends == [(False, False)] * 49 + [(False, True)]


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Humanoid-v5", "Pusher-v5", "Hopper-v4"])
def test_actions_hit_the_box_of_built_in_environments(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = make(env_id)
    simulator = environment.unwrapped
    box = simulator.action_space
    received = []

    def record(action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        received.append(action)
        return simulator.observation_space.sample(), 0.0, False, False, {}

    monkeypatch.setattr(simulator, "step", record)
    environment.reset(seed=0)
    for action in (-1.0, 0.0, 1.0):
        environment.step(np.full(box.shape, action, np.float32))
    np.testing.assert_array_equal(received, [box.low, np.zeros(box.shape), box.high])
    assert all(action.dtype == box.dtype for action in received)


def test_actions_are_scaled_to_an_uneven_box_and_clipped() -> None:
    register_probe("Uneven-v0")
    environment = make("Uneven-v0")
    cases = {-1.0: UNEVEN.low, 0.0: [0.2, 2.7], 0.5: [0.45, 4.0], 1.0: UNEVEN.high}
    for action, expected in cases.items():
        environment.step(np.full(2, action, np.float32))
        np.testing.assert_allclose(environment.unwrapped.received, expected, rtol=1e-15)
    for action, bound in (
        (-1.5, UNEVEN.low),
        (-1.0, UNEVEN.low),
        (1.0, UNEVEN.high),
        (9.0, UNEVEN.high),
    ):
        environment.step(np.full(2, action, np.float32))
        np.testing.assert_array_equal(environment.unwrapped.received, bound)


@pytest.mark.parametrize("dtype", [np.int64, np.int8])
def test_a_one_hot_vector_is_the_choice_that_is_counted_from_the_start(dtype: type) -> None:
    choices = gymnasium.spaces.Discrete(3, start=-1, dtype=dtype)
    register_probe("Choice-v0", action_space=choices)
    environment = make("Choice-v0")
    assert environment.action_space == gymnasium.spaces.Box(0.0, 1.0, (3,), np.float32)
    for action, choice in (
        ([1, 0, 0], -1),
        ([0, 1, 0], 0),
        ([0, 0, 1], 1),
        ([-3.0, -2.0, -2.5], 0),  # not one-hot: the largest
        ([0.2, 0.1, 0.7], 1),
        ([0.5, 0.5, 0.5], -1),  # as jnp.argmax: the first of the largest
    ):
        environment.step(np.array(action, np.float32))
        received = environment.unwrapped.received
        assert received == choice
        assert choices.contains(received)
        assert received.dtype == dtype


def test_actions_drawn_from_the_space_of_one_hot_vectors_are_uniform_choices() -> None:
    register_probe("Choice-v0", action_space=gymnasium.spaces.Discrete(3))
    environment = make("Choice-v0")
    environment.action_space.seed(0)
    drawn = []
    for _ in range(3000):
        environment.step(environment.action_space.sample())
        drawn.append(environment.unwrapped.received)
    # The standard error of each frequency is 0.009.
    np.testing.assert_allclose(np.bincount(drawn) / 3000, 1 / 3, atol=0.04)


def test_the_spec_of_a_discrete_environment_has_one_number_for_each_choice() -> None:
    register_probe("Choice-v0", action_space=gymnasium.spaces.Discrete(3, start=-1))
    found = spec("Choice-v0")
    assert found.discrete
    assert (found.action_size, found.action_low, found.action_high) == (3, (0.0,) * 3, (1.0,) * 3)
    register_probe("Continuous-v0")
    assert not spec("Continuous-v0").discrete


def test_cartpole_matches_its_spec() -> None:
    found, environment = spec("CartPole-v1"), make("CartPole-v1")
    assert found[:5] == ("CartPole-v1", 4, 2, (0.0, 0.0), (1.0, 1.0))
    assert found.discrete
    assert environment.spec.max_episode_steps == 500
    assert environment.action_space == gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    for choice, direction in ((0, -1.0), (1, 1.0)):
        before, _ = environment.reset(seed=0)
        after, reward, terminated, truncated, _ = environment.step(np.eye(2)[choice])
        assert np.sign(after[1] - before[1]) == direction
        assert [type(x) for x in (reward, terminated, truncated)] == [float, bool, bool]
        assert after.dtype == np.float32


@pytest.mark.parametrize(
    "env_id", ["AntTruncated-v4", "AntTruncated-v5", "HumanoidTruncated-v4", "HumanoidTruncated-v5"]
)
def test_truncated_observations_are_positions_and_velocities(env_id: str) -> None:
    environment = make(env_id)
    environment.reset(seed=0)
    observation = environment.step(np.full(environment.action_space.shape, 0.3, np.float32))[0]
    data = environment.unwrapped.data
    state = np.concatenate([data.qpos[2:], data.qvel])
    np.testing.assert_array_equal(observation, state.astype(np.float32))


def test_a_spec_is_computed_once() -> None:
    built = []

    def make_probe() -> gymnasium.Env:
        built.append(Probe(VECTOR, UNEVEN))
        return built[-1]

    register("Counted-v0", termination=terminations.never, make=make_probe)
    assert spec("Counted-v0") == spec("Counted-v0")
    assert len(built) == 1


def test_registering_again_replaces_the_spec() -> None:
    register_probe("Twice-v0")
    assert spec("Twice-v0").reward is None
    register_probe("Twice-v0", reward=lambda obs, action, next_obs: next_obs[..., 0])
    assert spec("Twice-v0").reward is not None


def test_render_mode_reaches_a_factory_that_takes_it() -> None:
    register(
        "Seen-v0",
        termination=terminations.never,
        make=lambda render_mode=None: Probe(VECTOR, UNEVEN, render_mode),
    )
    assert make("Seen-v0", render_mode="rgb_array").render_mode == "rgb_array"
    register_probe("Unseen-v0")
    assert "def make(render_mode=None)" in refusal(make, "Unseen-v0", render_mode="rgb_array")


def test_the_registration_shown_in_the_error_works() -> None:
    message = refusal(spec, "MountainCarContinuous-v0")
    code = "".join(re.findall(r"^from envs.*?\)$", message, re.DOTALL | re.MULTILINE))
    assert len(code.splitlines()) == 4
    exec(code, {})
    env_spec = spec("MountainCarContinuous-v0")
    assert isinstance(env_spec, EnvSpec)
    low_position = jnp.array([[0.1, 0.0], [0.3, 0.0]])
    terminated = env_spec.termination(low_position, jnp.zeros((2, 1)), low_position)
    np.testing.assert_array_equal(terminated, [True, False])
    assert make("MountainCarContinuous-v0").reset(seed=0)[0].shape == (2,)


def test_a_module_in_front_of_the_id_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "registry_probe"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(
        "import gymnasium\n"
        "from envs import register, terminations\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv',\n"
        "                   max_episode_steps=3)\n"
        "register('Mine-v0', termination=terminations.never)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env_id = "registry_probe.mine:Mine-v0"
    assert "There is no environment 'Mine-v0'" in refusal(spec, "Mine-v0")
    assert registry.import_module_for(env_id) == "Mine-v0"
    # The id with its module is what another process needs to find the environment again.
    assert spec(env_id).env_id == env_id
    assert spec("Mine-v0").env_id == "Mine-v0"
    assert make(env_id).spec.max_episode_steps == 3
    for module in ("registry_probe.mine", "registry_probe"):
        monkeypatch.delitem(sys.modules, module)


def test_an_import_error_inside_the_users_module_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry_broken.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        spec("registry_broken:Mine-v0")


@pytest.mark.parametrize("env_id", ["no_such_module:Foo-v0", "no_such.module:Foo-v0", ":Foo-v0"])
def test_a_module_that_is_not_there(env_id: str) -> None:
    message = refusal(make, env_id)
    assert repr(env_id) in message
    assert "PYTHONPATH" in message


@pytest.mark.parametrize(
    ("env_id", "close"),
    [("Hoper-v5", "Hopper-v5"), ("hopper-v5", "Hopper-v5"), ("Pendulum-v0", "Pendulum-v1")],
)
def test_an_unknown_id_gets_close_matches_and_the_list(env_id: str, close: str) -> None:
    message = refusal(spec, env_id)
    assert f"There is no environment {env_id!r}. Did you mean {close}" in message
    assert all(known in message for known in BUILT_IN)


@pytest.mark.parametrize(
    ("env_id", "advice"),
    [
        ("Hopper-v2", "Use Hopper-v5, or Hopper-v4"),
        ("HalfCheetah-v3", "Use HalfCheetah-v5, or HalfCheetah-v4"),
        ("Ant-v0", "Use Ant-v5, or Ant-v4"),
        ("AntTruncatedObs-v2", "Use AntTruncated-v5, or AntTruncated-v4"),
        ("Pusher-v2", "Use Pusher-v5."),
        ("Pusher-v4", "mujoco < 3. Use Pusher-v5."),
    ],
)
def test_retired_ids_name_the_id_to_use(env_id: str, advice: str) -> None:
    assert advice in refusal(make, env_id)


@pytest.mark.parametrize(
    "action_space",
    [
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.MultiBinary(2),
        gymnasium.spaces.Box(-1, 1, (2,), np.int64),
        gymnasium.spaces.Box(-1, 1, (2, 2), np.float32),
    ],
)
def test_actions_that_are_neither_a_choice_nor_a_vector_are_refused(
    action_space: gymnasium.Space,
) -> None:
    register_probe("Other-v0", action_space=action_space)
    for call in (make, spec):
        message = refusal(call, "Other-v0")
        assert f"'Other-v0' has the action space {action_space}" in message
        assert "agents need a Discrete one or a continuous one (Box) of one dimension" in message


def test_unbounded_actions_are_refused_with_code_that_bounds_them() -> None:
    unbounded = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    gymnasium.register("Free-v0", lambda: Probe(VECTOR, unbounded))
    register("Free-v0", termination=terminations.never)
    message = refusal(make, "Free-v0")
    assert "bounds must be finite" in message
    run_advice(message)
    np.testing.assert_array_equal(spec("Free-v0").action_high, [1.0, 1.0])


@pytest.mark.parametrize(
    "observation_space",
    [
        gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        gymnasium.spaces.Dict(position=VECTOR, goal=VECTOR),
        gymnasium.spaces.Discrete(5),
    ],
)
def test_observations_that_are_not_vectors_are_refused_with_code_that_flattens(
    observation_space: gymnasium.Space,
) -> None:
    gymnasium.register("Seeing-v0", lambda: Probe(observation_space, UNEVEN))
    register("Seeing-v0", termination=terminations.never)
    message = refusal(make, "Seeing-v0")
    assert "this agent needs vectors" in message
    run_advice(message)
    assert spec("Seeing-v0").observation_size == gymnasium.spaces.flatdim(observation_space)


def run_advice(message: str) -> None:
    """Runs the registration in a message, with a termination function put in its place."""
    code = "".join(re.findall(r"^register\(.*\)$", message, re.MULTILINE))
    names = {"register": register, "gymnasium": gymnasium, "never": terminations.never}
    exec(code.replace("termination=...", "termination=never"), names)


def test_an_environment_gymnasium_cannot_create() -> None:
    register("Nowhere-v0", termination=terminations.never)
    assert "'Nowhere-v0' could not be created" in refusal(make, "Nowhere-v0")


@pytest.mark.parametrize(
    "termination",
    [
        lambda observation, action, next_observation: next_observation[0] < 0.2,
        lambda observation, action, next_observation: next_observation[..., 0],
        lambda observation, action, next_observation: bool(next_observation[0, 0] < 0.2),
        lambda next_observation: next_observation[..., 0] < 0.2,
    ],
)
def test_termination_functions_that_do_not_map_batches_are_refused(
    termination: TerminationFn,
) -> None:
    register_probe("Wrong-v0", termination=termination)
    for _ in range(2):
        message = refusal(spec, "Wrong-v0")
        assert "The termination function registered for 'Wrong-v0'" in message


def test_reward_functions_that_do_not_map_batches_are_refused() -> None:
    register_probe("Wrong-v0", reward=lambda obs, action, next_obs: jnp.sum(action))
    assert "The reward function registered for 'Wrong-v0'" in refusal(spec, "Wrong-v0")


@pytest.mark.parametrize("functions", [{"termination": None}, {"reward": 1.0}, {"make": "Foo"}])
def test_registration_takes_functions(functions: dict[str, Any]) -> None:
    functions = {"termination": terminations.never} | functions
    assert "is not a function" in refusal(register, "Foo-v0", **functions)
