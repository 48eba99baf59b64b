"""Environments as pure functions: which exist, their check, and their distracting noise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs import FunctionalEnv, functional, make, register, registry, spec, terminations
from envs.functional import with_noise
from errors import UserError
from tests.integration import tiny

NOISE = 8
LEFT, RIGHT = jnp.eye(2)


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_specs", {})


class ClockState(NamedTuple):
    draw: jax.Array
    steps: jax.Array


def reset(key):
    state = ClockState(jax.random.uniform(key), jnp.zeros((), jnp.int32))
    return state, observed(state)


def step(state, action):
    state = state._replace(steps=state.steps + 1)
    ends = jnp.zeros(()), (state.steps == 5).astype(jnp.float32)
    return state, observed(state), state.steps.astype(jnp.float32), *ends


def observed(state):
    """As `tiny.Clock` does: a number drawn at the reset, and steps since then."""
    return jnp.stack([state.draw, state.steps.astype(jnp.float32)])


CLOCK = FunctionalEnv(reset, step, 5)


def register_clock(env):
    register(
        "Clock-v0",
        termination=terminations.never,
        make=lambda: tiny.Clock(5, False),
        functional=env,
    )


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as raised:
        call(*arguments, **options)
    return str(raised.value)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Hopper-v5+noise4", "Pendulum-v1"])
def test_of_most_environments_no_functional_form_is_known(env_id):
    assert functional(env_id) is None


@pytest.mark.parametrize("kind", ["linear", "sinusoidal", "chaotic"])
def test_of_the_distracting_dimensions_only_noise_is_functional(kind):
    assert functional(f"CartPole-v1+{kind}16") is None
    assert functional("CartPole-v1+noise16") is not None


def test_unknown_environments_are_refused_as_in_make():
    assert refusal(functional, "CartPole-v7") == refusal(make, "CartPole-v7")
    assert refusal(functional, "CartPole-v1+nois4") == refusal(make, "CartPole-v1+nois4")


def test_a_registered_form_is_found_also_behind_its_module(tmp_path, monkeypatch):
    (tmp_path / "functional_probe.py").write_text(
        "from envs import register, terminations\n"
        "from tests.envs.test_functional import CLOCK, tiny\n"
        "register('Mine-v0', termination=terminations.never,\n"
        "         make=lambda: tiny.Clock(5, False), functional=CLOCK)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = functional("functional_probe:Mine-v0")
    assert env.max_steps == 5
    noisy = functional("functional_probe:Mine-v0+noise3")
    assert jax.eval_shape(noisy.reset, jax.random.key(0))[1].shape == (5,)
    register("Mine-v0", termination=terminations.never, make=lambda: tiny.Clock(5, False))
    assert functional("Mine-v0") is None


def test_registration_takes_a_functional_environment():
    with pytest.raises(UserError, match=r"Give an envs.FunctionalEnv\(reset, step, max_steps\)"):
        register_clock(reset)


def without_state(key):
    return reset(key)[1]


def without_truncation(state, action):
    return step(state, action)[:4]


def python_counter(key):
    state, observation = reset(key)
    return state._replace(steps=0), observation


def float_counter(state, action):
    state, *others = step(state, action)
    return state._replace(steps=state.steps + 1.0), *others


def other_structure(state, action):
    state, *others = step(state, action)
    return tuple(state), *others


def branches(state, action):
    return step(state, action) if state.steps > 3 else step(state, -action)


def too_wide(state, action):
    state, _, *others = step(state, action)
    return state, jnp.zeros(3), *others


def boolean(state, action):
    *others, truncated = step(state, action)
    return *others, truncated > 0


def of_a_vector(state, action):
    state, observation, _, *others = step(state, action)
    return state, observation, action, *others


@pytest.mark.parametrize(
    ("functions", "advice"),
    [
        ({"reset": without_state}, r"reset\(key\) -> \(state, observation \[O\]\)"),
        ({"step": without_truncation}, r"From reset it returns .* and from step"),
        ({"step": branches}, "in jax.numpy, but it failed: Attempted boolean conversion"),
        ({"reset": python_counter}, r"Write jnp.zeros\(\(\), jnp.int32\) rather than 0"),
        ({"step": float_counter}, r"same arrays as its state from step as from reset"),
        ({"step": other_structure}, r"same arrays as its state from step as from reset"),
        ({"step": too_wide}, r"float32: an observation \[2\] from reset and from step"),
        ({"step": boolean}, "must return float32.*dtype=bool"),
        ({"step": of_a_vector}, r"a reward \[\], terminated \[\] and truncated \[\]"),
    ],
)
def test_functions_that_do_not_fit_are_refused(functions, advice):
    register_clock(CLOCK)
    assert functional("Clock-v0") is CLOCK
    register_clock(CLOCK._replace(**functions))
    with pytest.raises(UserError, match=advice) as raised:
        functional("Clock-v0")
    assert "The functional environment registered for 'Clock-v0'" in str(raised.value)


def noisy_episodes(count, steps):
    """Starts [count, 4 + n], then observations [count, steps, 4 + n], of CartPole with noise."""
    env = functional(f"CartPole-v1+noise{NOISE}")

    @jax.jit
    def play(keys):
        state, first = jax.vmap(env.reset)(keys)

        def advance(state, _):
            state, observation, *_ = jax.vmap(env.step, (0, None))(state, RIGHT)
            return state, observation

        return first, jax.lax.scan(advance, state, None, steps)[1]

    first, others = play(jax.random.split(jax.random.key(0), count))
    return np.asarray(first), np.asarray(others).swapaxes(0, 1)


def test_the_noise_is_standard_normal_and_new_at_every_reset_and_step():
    first, others = noisy_episodes(2000, 5)
    numbers = np.concatenate([first[:, None], others], axis=1)[..., 4:]  # [2000, 6, NOISE]
    for time in range(6):  # 16,000 numbers: standard errors 0.008 and 0.006
        assert stats.kstest(numbers[:, time].ravel(), stats.norm.cdf).pvalue > 1e-3
        assert numbers[:, time].mean() == pytest.approx(0.0, abs=0.04)
        assert numbers[:, time].std() == pytest.approx(1.0, abs=0.03)
    # All numbers of an episode and its start are uncorrelated over episodes; standard error 0.022.
    columns = np.concatenate([first[:, :4], numbers.reshape(2000, -1)], axis=1)
    correlations = np.corrcoef(columns.T) - np.eye(4 + 6 * NOISE)
    np.testing.assert_allclose(correlations, 0.0, atol=0.11)
    # Neither a step nor an episode repeats the numbers of another.
    assert len(np.unique(numbers.reshape(-1, NOISE), axis=0)) == 2000 * 6


def test_the_noise_is_beside_an_episode_that_does_not_notice_it():
    plain, noisy = functional("CartPole-v1"), functional(f"CartPole-v1+noise{NOISE}")
    assert noisy.max_steps == plain.max_steps
    state, observation = noisy.reset(jax.random.key(1))
    real = state.environment
    np.testing.assert_array_equal(observation[:4], real.physics)
    for action in (RIGHT, LEFT, RIGHT):
        state, observation, *others = noisy.step(state, action)
        real, expected, *expected_others = plain.step(real, action)
        np.testing.assert_array_equal(observation[:4], expected)
        assert others == expected_others
    assert state.environment.steps == 3


def test_the_layout_is_that_of_the_environment_on_the_host():
    env_id = f"CartPole-v1+noise{NOISE}"
    observation = functional(env_id).reset(jax.random.key(0))[1]
    host = make(env_id).reset(seed=0)[0]
    assert observation.shape == host.shape == (spec(env_id).observation_size,)
    for seen in (observation, host):
        assert np.abs(seen[:4]).max() < 0.05 < np.abs(seen[4:]).max()


def test_a_state_and_an_action_determine_a_noisy_step():
    env = functional(f"CartPole-v1+noise{NOISE}")
    state, _ = env.reset(jax.random.key(0))
    once, again = env.step(state, LEFT), env.step(state, LEFT)
    np.testing.assert_array_equal(once[1], again[1])
    other, _ = env.reset(jax.random.key(1))
    assert not np.isin(env.step(other, LEFT)[1], once[1]).any()


def test_a_functional_form_of_ones_own_runs_in_one_program():
    register_clock(CLOCK)
    env = functional("Clock-v0")
    state, _ = env.reset(jax.random.key(0))
    _, (_, reward, _, truncated) = jax.lax.scan(
        lambda state, action: (lambda after, *others: (after, others))(*env.step(state, action)),
        state,
        jnp.zeros((5, 1)),
    )
    np.testing.assert_array_equal(reward, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(truncated, [0, 0, 0, 0, 1])


def test_the_noise_is_not_made_of_the_keys_that_the_environment_has():
    env = with_noise(with_noise(CLOCK, 3), 3)  # which draws as it does
    state, first = env.reset(jax.random.key(0))
    rows = jnp.stack([first, env.step(state, jnp.zeros(1))[1]])
    assert np.unique(rows[:, 2:]).size == 12
