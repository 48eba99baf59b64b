import re

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from configs import environments
from envs import distractors, make, register, registry, spec, terminations
from errors import UserError
from experiment import configuration
from tests.integration import tiny

KINDS = ("noise", "linear", "sinusoidal", "chaotic")
SMOOTH = ("linear", "sinusoidal")


def states(process, steps, seed=0):
    """The states [steps + 1, n] of one episode."""
    generator = np.random.default_rng(seed)
    found = [process.initial(generator)]
    for _ in range(steps):
        found.append(process.advance(found[-1], generator))
    return np.array(found)


def trajectory(kind, size, steps, seed=0):
    """What is observed of one episode, [steps + 1, n]."""
    process = distractors.KINDS[kind](size)
    return process.observe(states(process, steps, seed))


def bent(u):
    """The sine's part of the sinusoidal process, not yet scaled."""
    return u + distractors.SINE_AMPLITUDE * np.sin(distractors.SINE_FREQUENCY * u)


def bent_scale():
    variance = integrate.quad(lambda u: bent(u) ** 2 * stats.norm.pdf(u), -12, 12)[0]
    return np.sqrt(variance)


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_specs", {})


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as raised:
        call(*arguments, **options)
    return str(raised.value)


def test_the_kinds_are_those_that_are_tested():
    assert tuple(distractors.KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_over_episodes_every_dimension_has_mean_0_and_variance_1_at_every_step(kind):
    episodes = np.array([trajectory(kind, 5, 20, seed) for seed in range(2000)])
    # Standard errors: 0.022 of the mean; at most 0.032 of the variance (normal numbers).
    np.testing.assert_allclose(episodes.mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(episodes.var(axis=0), 1.0, atol=0.15)
    np.testing.assert_allclose(episodes.mean(axis=(0, 1)), 0.0, atol=0.08)
    np.testing.assert_allclose(np.mean(episodes**2), 1.0, atol=0.03)
    across = np.corrcoef(episodes[:, 20].T) - np.eye(5)
    np.testing.assert_allclose(across, 0.0, atol=0.1)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 11])
def test_the_matrix_is_orthogonal_and_leaves_no_direction_as_it_is(size):
    matrix = distractors.rotation(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-14)
    assert np.abs(np.linalg.eigvals(matrix) - 1).min() > 0.01
    assert (np.abs(np.linalg.eigvals(matrix) + 1) < 1e-12).sum() == size % 2


def test_the_linear_process_applies_its_matrix_and_keeps_its_norm():
    z = trajectory("linear", 7, 1000)
    np.testing.assert_allclose(z[1:], z[:-1] @ distractors.rotation(7).T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.linalg.norm(z[0]), rtol=1e-12)


def test_one_linear_dimension_changes_its_sign():
    np.testing.assert_array_equal(distractors.rotation(1), [[-1.0]])


def test_what_is_seen_of_the_sinusoidal_process_determines_what_comes_next():
    z = trajectory("sinusoidal", 6, 40, seed=3)
    scale = bent_scale()

    def unbent(value):
        return optimize.brentq(lambda u: bent(u) / scale - value, -20, 20, xtol=1e-14)

    u = np.array([[unbent(value) for value in row] for row in z[:-1]])
    np.testing.assert_allclose(z[1:], bent(u @ distractors.rotation(6).T) / scale, atol=1e-9)
    # It is bounded by its start.
    bound = (np.linalg.norm(u[0]) + distractors.SINE_AMPLITUDE) / scale
    assert np.abs(trajectory("sinusoidal", 6, 1000, seed=3)).max() < bound


def test_a_linear_prediction_of_the_sinusoidal_process_leaves_a_tenth():
    episodes = np.array([trajectory("sinusoidal", 10, 50, seed) for seed in range(200)])
    now, after = (part.reshape(-1, 10) for part in (episodes[:, :-1], episodes[:, 1:]))
    left = after - now @ np.linalg.lstsq(now, after)[0]
    assert left.var() / after.var() == pytest.approx(0.09, abs=0.015)


def test_the_chaotic_process_is_the_logistic_map():
    z = trajectory("chaotic", 4, 12)
    x = (z[0] / np.sqrt(2) + 1) / 2
    for after in z[1:]:
        x = 4 * x * (1 - x)
        np.testing.assert_allclose(after, np.sqrt(2) * (2 * x - 1), atol=1e-10)


def test_the_chaotic_process_is_bounded_and_visits_its_invariant_density():
    z = trajectory("chaotic", 8, 20_000)
    assert np.abs(z).max() <= np.sqrt(2)
    for column in z[::50].T:  # far enough apart to be independent
        arcsine = stats.arcsine(loc=-np.sqrt(2), scale=2 * np.sqrt(2))
        assert stats.kstest(column, arcsine.cdf).pvalue > 1e-3
    # Nothing linear connects a number with the next.
    np.testing.assert_allclose(np.mean(z[1:] * z[:-1], axis=0), 0.0, atol=0.05)


def separations(kind, steps, distance=1e-9):
    """Distance [steps + 1, 500] of two starts that lie close together, per step and dimension."""
    process = distractors.KINDS[kind](500)
    generator = np.random.default_rng(1)
    near = process.initial(generator)
    far = near - distance * np.sign(near)  # inwards
    found = []
    for _ in range(steps + 1):
        found.append(np.abs(process.observe(near) - process.observe(far)))
        near, far = process.advance(near, generator), process.advance(far, generator)
    return np.array(found)


def test_near_starts_of_the_chaotic_process_separate_exponentially_up_to_its_size():
    distances = separations("chaotic", 200)
    growth = np.log(distances[18] / distances[2]).mean() / 16
    assert growth == pytest.approx(np.log(2), abs=0.03)
    # After that they have nothing to do with each other: E |z - z'| of two arcsine variables.
    unrelated = np.sqrt(2) * 8 / np.pi**2
    assert distances[100:].mean() == pytest.approx(unrelated, abs=0.02)


@pytest.mark.parametrize("kind", SMOOTH)
def test_near_starts_of_the_other_deterministic_processes_stay_near(kind):
    # A rotation keeps the distance; the sine multiplies it by at most 1.8 / s.
    start = 1e-9 * np.sqrt(500)
    assert np.linalg.norm(separations(kind, 1000), axis=1).max() < 1.8 * start


def test_noise_is_new_at_every_step():
    z = trajectory("noise", 3, 5000)
    assert stats.kstest(z.ravel(), stats.norm.cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.mean(z[1:] * z[:-1], axis=0), 0.0, atol=0.06)


class Gusty(gymnasium.Env):
    """Draws from its own generator at every step."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.standard_normal(2), {}

    def step(self, action):
        return self.np_random.standard_normal(2), float(action[0]), False, False, {}


class Deaf(tiny.Clock):
    """Always starts alike and therefore ignores the seed."""

    def reset(self, *, seed=None, options=None):
        self._time, self._draw = 0, 0.5
        return self._observation(), {}


def episode(env_id, seed=3, actions=0, steps=12):
    """Rows [steps + 1, O] of an episode, and what else its steps returned."""
    environment = make(env_id)
    generator = np.random.default_rng(actions)
    rows, others = [environment.reset(seed=seed)[0]], []
    for _ in range(steps):
        action = generator.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
        row, *other = environment.step(action)
        rows.append(row)
        others.append(other[:3])
    return np.array(rows), others


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["Hopper-v5", "AntTruncated-v5", "CartPole-v1", "Gusty-v0"])
def test_the_real_part_of_an_episode_is_what_it_is_without_distractors(base, kind):
    register("Gusty-v0", termination=terminations.never, make=Gusty)
    rows, others = episode(base)
    seen, with_distractors = episode(f"{base}+{kind}4")
    size = rows.shape[1]
    assert seen.shape == (13, size + 4)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen[:, :size], rows)
    assert with_distractors == others


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_and_nothing_else_determines_the_distractors(kind):
    register("Gusty-v0", termination=terminations.never, make=Gusty)
    register("Deaf-v0", termination=terminations.never, make=lambda: Deaf(99, False))
    added = episode(f"Hopper-v5+{kind}4")[0][:, 11:]
    assert np.unique(added[0]).size == 4
    for env_id, actions in (("Hopper-v5", 7), ("Gusty-v0", 7), ("Pendulum-v1", 8), ("Deaf-v0", 9)):
        again = episode(f"{env_id}+{kind}4", actions=actions)[0][:, -4:]
        np.testing.assert_array_equal(again, added)
    other = episode(f"Hopper-v5+{kind}4", seed=4)[0][:, 11:]
    assert (other != added).all()


def test_the_distractors_are_not_the_numbers_that_the_environment_draws():
    register("Gusty-v0", termination=terminations.never, make=Gusty)
    rows, _ = episode("Gusty-v0+noise2")
    assert not np.isin(rows[:, 2:], rows[:, :2]).any()


def test_episodes_without_a_seed_go_on_with_new_numbers():
    def starts():
        environment = make("Pendulum-v1+linear2")
        seeds = (5, None, None)
        return np.array([environment.reset(seed=seed)[0][3:] for seed in seeds])

    assert len(np.unique(starts())) == 6
    np.testing.assert_array_equal(starts(), starts())


def test_the_dynamics_are_the_processes_in_float32():
    rows, _ = episode("Hopper-v5+linear6")
    matrix = distractors.rotation(6)
    np.testing.assert_allclose(rows[1:, 11:], rows[:-1, 11:] @ matrix.T, atol=1e-6)
    rows, _ = episode("Hopper-v5+chaotic6")
    np.testing.assert_allclose(
        rows[1:, 11:], np.sqrt(2) * (1 - rows[:-1, 11:].astype(float) ** 2), atol=1e-6
    )


@pytest.mark.parametrize(
    "base",
    ["Hopper-v5", "InvertedPendulum-v5", "CartPole-v1", "Reacher-v5", "Pendulum-v1", "Gusty-v0"],
)
@pytest.mark.parametrize("added", [0.3, 1e4, np.nan])
def test_termination_and_reward_do_not_see_the_distractors(base, added):
    register(
        "Gusty-v0",
        termination=lambda o, a, n: jnp.asarray(o.sum(-1) > n.sum(-1)),
        reward=lambda o, a, n: jnp.asarray(o.sum(-1) + 2 * n.sum(-1) + a.sum(-1)),
        make=Gusty,
    )
    base_spec, extended = spec(base), spec(f"{base}+chaotic3")
    generator = np.random.default_rng(0)
    size = base_spec.observation_size
    observation, next_observation = generator.normal(0.0, 0.8, (2, 7, 50, size))
    next_observation[..., 0] += 0.7  # Hopper's lowest height
    action = generator.uniform(-1, 1, (7, 50, base_spec.action_size))

    def beside(real):
        return np.concatenate([real, np.full((7, 50, 3), added)], axis=-1)

    given = observation, action, next_observation
    wide = beside(observation), action, beside(next_observation)
    ends = base_spec.termination(*given)
    np.testing.assert_array_equal(extended.termination(*wide), ends)
    if base in ("Hopper-v5", "InvertedPendulum-v5", "CartPole-v1", "Gusty-v0"):
        assert 0.02 < np.mean(ends) < 0.98
    assert (extended.reward is None) == (base_spec.reward is None)
    if base_spec.reward is not None:
        np.testing.assert_array_equal(extended.reward(*wide), base_spec.reward(*given))


def test_the_spec_and_the_spaces_are_wider_and_otherwise_the_same():
    base, extended = spec("AntTruncated-v5"), spec("AntTruncated-v5+noise4")
    assert (base.observation_size, extended.observation_size) == (27, 31)
    assert extended.env_id == "AntTruncated-v5+noise4"
    assert extended[2:5] == base[2:5]
    assert spec("CartPole-v1+noise4").discrete
    assert not extended.discrete
    environment, narrow = make("AntTruncated-v5+noise4"), make("AntTruncated-v5")
    assert environment.observation_space.shape == (31,)
    assert environment.observation_space.contains(environment.reset(seed=0)[0])
    assert environment.action_space == narrow.action_space
    assert environment.spec.max_episode_steps == 1000


def test_bounds_of_the_real_part_stay_and_distractors_have_none():
    space = make("Pendulum-v1+noise2").observation_space
    np.testing.assert_array_equal(space.high, [1, 1, 8, np.inf, np.inf])
    np.testing.assert_array_equal(space.low, -space.high)


def test_specs_of_one_id_are_equal_and_follow_a_new_registration():
    assert spec("Pendulum-v1+linear3") == spec("Pendulum-v1+linear3")
    assert spec("Pendulum-v1+linear3") != spec("Pendulum-v1+linear4")
    register("Pendulum-v1", termination=terminations.never)
    assert spec("Pendulum-v1+linear3").reward is None


def test_a_module_may_stand_in_front(tmp_path, monkeypatch):
    (tmp_path / "distractor_probe.py").write_text(
        "from envs import register, terminations\n"
        "from tests.integration import tiny\n"
        "register('Mine-v0', termination=terminations.never, make=lambda: tiny.Clock(3, False))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env_id = "distractor_probe:Mine-v0+chaotic8"
    assert spec(env_id).env_id == env_id
    assert spec(env_id).observation_size == 10
    assert make(env_id).reset(seed=0)[0].shape == (10,)


class Painted(tiny.Clock):
    """Shows one grey picture."""

    def __init__(self, render_mode=None):
        super().__init__(9, False)
        self.render_mode = render_mode

    def render(self):
        return np.full((2, 2, 3), 7, np.uint8)


def test_rendering_passes_through():
    register("Painted-v0", termination=terminations.never, make=Painted)
    environment = make("Painted-v0+linear2", render_mode="rgb_array")
    assert environment.render_mode == "rgb_array"
    environment.reset(seed=0)
    np.testing.assert_array_equal(environment.render(), np.full((2, 2, 3), 7))


@pytest.mark.parametrize(
    ("suffix", "meant"),
    [
        ("linaer5", "linear5"),
        ("Linear5", "linear5"),
        ("noise", "noise10"),
        ("noise0", "noise10"),
        ("noise-3", "noise3"),
        ("chaotic05", "chaotic5"),
        ("chaotic2.5", "chaotic2"),
        ("8sinusoid", "sinusoidal8"),
        ("noise1001", "noise1000"),
        ("noise4+linear5", "noise4"),
        (" noise4", "noise4"),
    ],
)
def test_a_suffix_that_is_nearly_right_gets_the_nearest(suffix, meant):
    message = refusal(spec, f"Hopper-v5+{suffix}")
    assert f"'Hopper-v5+{suffix}'" in message
    assert f"Did you mean Hopper-v5+{meant}?" in message
    assert refusal(make, f"Hopper-v5+{suffix}") == message
    assert spec(f"Hopper-v5+{meant}").observation_size > 11


@pytest.mark.parametrize("suffix", ["", "4", "brownian4", "+noise4"])
def test_an_unknown_kind_gets_all_kinds_and_an_example_that_works(suffix):
    message = refusal(spec, f"Hopper-v5+{suffix}")
    assert "Did you mean" not in message
    assert "a kind (noise, linear, sinusoidal, chaotic) and how many, from 1 to 1000" in message
    example = re.search(r"as in (\S+);", message)[1]
    assert spec(example).observation_size == 21


def test_unknown_environments_are_refused_as_without_distractors():
    assert refusal(spec, "Hoper-v5+linear4") == refusal(spec, "Hoper-v5")
    assert "Use Hopper-v5" in refusal(make, "Hopper-v2+linear4")


def test_an_id_with_a_plus_cannot_be_registered():
    message = refusal(register, "mine:Mine+er-v0", termination=terminations.never)
    assert "names distracting dimensions. Register 'Mine'" in message


@pytest.mark.parametrize("preset", environments.PRESETS)
def test_the_constants_are_those_of_the_environment(preset):
    plain = tiny.default.get_config("AntTruncated-v5")
    distracted = tiny.default.get_config("AntTruncated-v5+sinusoidal12")
    plain.preset = distracted.preset = preset
    plain, distracted = (configuration.resolve(c).to_dict() for c in (plain, distracted))
    assert distracted.pop("env") == "AntTruncated-v5+sinusoidal12"
    plain.pop("env")
    assert distracted == plain
    assert plain["total_steps"] == (100_000 if preset.startswith("dhmbpo") else 300_000)
