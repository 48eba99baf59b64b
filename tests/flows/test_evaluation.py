"""The return gap of two sets of segments and its bound, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.registry import make_agent
from flows import evaluation
from flows.segments import Segments
from replay import Transition
from tests.integration import tiny

# Three segments of two steps. Real: the second is cut by a time limit after one step, the third
# terminates there. Model: the first terminates after one step.
REWARDS = {
    "real": [[1.0, 2.0], [3.0, 9.0], [4.0, 9.0]],
    "model": [[2.0, 9.0], [3.0, 9.0], [4.0, 5.0]],
}
VALID = {"real": [[1, 1], [1, 0], [1, 0]], "model": [[1, 0], [1, 0], [1, 1]]}
NOT_TRUNCATED = [[1, 1], [1, 0], [1, 1]]


def segments(side):
    reward = jnp.float32(REWARDS[side])
    observation = jnp.zeros((3, 2, 1))
    zeros = jnp.zeros((3, 2))
    transition = Transition(observation, observation, reward, observation, zeros, zeros)
    return Segments(transition, jnp.array(VALID[side], bool), jnp.array(NOT_TRUNCATED, bool))


@pytest.mark.parametrize("kl", [0.0, 0.1, 5.0])
def test_the_return_gap_and_its_bound_are_those_of_a_hand_computation(kl):
    gap, bound = evaluation._return_gap(segments("real"), segments("model"), jnp.float32(kl))
    # returns 1 + 2, 3, 4 against 2, 3, 4 + 5
    np.testing.assert_allclose(gap, (14.0 - 10.0) / 3, rtol=1e-6)
    # of five steps before a time limit, four are alive on either side: no divergence between those
    divergence = 0.8 * kl
    variation = min(np.sqrt(divergence / 2), np.sqrt(1 - np.exp(-divergence)))
    np.testing.assert_allclose(bound, 5 / 3 * 5.0 * variation, atol=1e-6, rtol=1e-5)


def test_terminating_more_often_than_the_real_system_widens_the_bound():
    model = segments("model")
    fewer = model._replace(valid=model.valid.at[2, 1].set(False))
    _, bound = evaluation._return_gap(segments("real"), fewer, jnp.float32(0.0))
    divergence = 0.6 * np.log(0.6 / 0.8) + 0.4 * np.log(0.4 / 0.2)
    np.testing.assert_allclose(bound, 5 / 3 * 4.0 * np.sqrt(divergence / 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "bounded"),
    [
        ({}, True),
        ({"flow__inputs": "sar"}, True),
        ({"flow__inputs": "sas"}, False),
        ({"flow__conditional": True}, False),
    ],
)
def test_the_bound_is_reported_only_where_the_divergence_covers_the_reward(changes, bounded):
    settings = tiny.config("cf_mbpo", use_algo="discriminator", **changes)
    agent = make_agent(settings, tiny.spec())
    state = jax.eval_shape(agent.init, jax.random.key(0))
    _, metrics = jax.eval_shape(dict(agent.refresh)["flows"], state)
    assert ("flow/return_gap_bound" in metrics) == bounded
    assert "flow/return_gap" in metrics
