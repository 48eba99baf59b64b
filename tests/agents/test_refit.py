"""Value refitting within the model fit of the whole agent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import mbpo
from replay import Transition
from tests.integration import tiny

LENGTH = 2
OPTIONS = {
    "env": "InvertedPendulum-v5",
    "model__max_gradient_steps": 23,
    "model__patience": 50,
    "refit__interval": 5,
    "refit__starts": 8,
    "refit__updates": 5,
    "rollout__schedule": (0, 1, LENGTH, LENGTH),
    "sac__target_update_every": 4,
}


def prepared(**options):
    """The agent and its state after some transitions of noise, which never terminates."""
    config = tiny.config("vaml", **(OPTIONS | options))
    agent = mbpo.make_agent(config, tiny.spec(3, 1))
    state = jax.jit(agent.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    observe = jax.jit(agent.observe, donate_argnums=0)
    for _ in range(60):
        draw = jnp.float32(rng.normal(size=7))
        zero = jnp.zeros(())
        step = Transition(draw[:3], jnp.tanh(draw[3:4]), draw[4], draw[4:7], zero, zero)
        state = observe(state, step)
    return agent, state


@functools.cache
def fitted(**options):
    agent, state = prepared(**options)
    stage = next(stage for stage in agent.refresh if stage.name == "model")
    after, metrics = jax.jit(stage.run)(state)
    return state, after, metrics


def differs(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_critics_follow_and_policy_and_temperature_stay():
    before, after, _ = fitted()
    assert differs(before.sac.critics, after.sac.critics)
    assert differs(before.sac.target_critics, after.sac.target_critics)
    assert not differs(before.sac.policy, after.sac.policy)
    assert not differs(before.sac.log_temperature, after.sac.log_temperature)
    # of the optimisers (policy, critics, temperature) only the second moves: 4 refits of 5 updates
    policy, critics, temperature = after.sac.optimizer
    assert [int(o[0].count) for o in (policy, critics, temperature)] == [0, 20, 0]
    assert after.sac.updates == before.sac.updates


def test_the_model_replay_holds_one_refits_rollouts():
    _, after, _ = fitted()
    assert after.window == 8 * LENGTH
    assert after.model_replay.size == 8 * LENGTH


def test_the_rollouts_that_follow_are_added_to_those_of_the_last_refit():
    agent, state = prepared()
    for stage in agent.refresh:
        state, metrics = jax.jit(stage.run)(state)
    assert metrics["rollout/transitions"] == 20 * LENGTH
    assert state.window == (8 + 20) * LENGTH


@pytest.mark.slow
def test_target_critics_follow_every_fourth_update_of_all_refits_together():
    # refits of three updates: a count that began again with each would never reach four
    rate = 0.01
    options = {"refit__updates": 3, "sac__learning_rate": rate}
    before, one, _ = fitted(model__max_gradient_steps=5, **options)
    assert not differs(before.sac.target_critics, one.sac.target_critics)
    _, two, _ = fitted(model__max_gradient_steps=10, **options)
    assert int(two.sac.optimizer[1][0].count) == 6

    def check(start, target, third, sixth):
        fourth = start + (target - start) / 0.005  # the critics that the target moved towards
        # Adam steps by about its learning rate, so one away from the third and two from the sixth
        assert 0.5 * rate < np.abs(fourth - third).max() < 1.3 * rate
        assert 0.5 * rate < np.abs(fourth - sixth).max() < 2.6 * rate

    jax.tree.map(
        lambda *leaves: check(*map(np.float64, leaves)),
        before.sac.target_critics,
        two.sac.target_critics,
        one.sac.critics,
        two.sac.critics,
    )


def test_without_refits_the_fit_leaves_critics_and_model_replay_alone():
    before, after, _ = fitted(refit__interval=0)
    assert not differs(before.sac, after.sac)
    assert not differs(before.model_replay.rows, after.model_replay.rows)
    assert after.window == before.window == 0
