"""Steps of episodes on rings filled by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from replay import Transition, buffer, example_transition
from replay.episodes import sample_early, steps_in_episode

CAPACITY = 8


def ring(ends, capacity=CAPACITY):
    """A ring into which transitions were put one after another; observations count them from 0.

    `ends` has a letter for each: "t" terminated, "c" truncated (cut), "-" neither.
    """
    state = buffer.init(capacity, example_transition(1, 1))
    add = jax.jit(buffer.add)
    for number, end in enumerate(ends):
        flags = [jnp.float32(end == letter) for letter in "tc"]
        at = jnp.full(1, float(number))
        state = add(state, Transition(at, jnp.zeros(1), jnp.zeros(()), at, *flags))
    return state


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("", [-1] * 8),
        ("---", [0, 1, 2, -1, -1, -1, -1, -1]),
        ("--t-c-", [0, 1, 2, 0, 1, 0, -1, -1]),
        ("--t----c", [0, 1, 2, 0, 1, 2, 3, 4]),
        ("ttctcttt", [0] * 8),
        # ten in eight slots: the first two hold numbers 8 and 9, the oldest left is number 2
        ("---t------", [4, 5, 0, 1, 0, 1, 2, 3]),
        ("----c---t-", [3, 0, 0, 1, 2, 0, 1, 2]),
        ("----------", [6, 7, 0, 1, 2, 3, 4, 5]),
    ],
)
def test_steps_are_counted_from_the_reset_or_from_the_oldest_that_is_left(ends, expected):
    np.testing.assert_array_equal(jax.jit(steps_in_episode)(ring(ends)), expected)


def test_early_draws_are_uniform_over_the_first_steps_of_all_episodes():
    ends = "---t-----c--t"  # numbers 0-3, 4-9 and 10-12
    state = ring(ends, capacity=16)
    draw = jax.jit(sample_early, static_argnums=(2, 3))
    found = np.asarray(draw(state, jax.random.key(0), 7_000, 2))
    assert found.shape == (7_000, 1)
    numbers, counts = np.unique(found, return_counts=True)
    np.testing.assert_array_equal(numbers, [0, 1, 4, 5, 10, 11])
    # six equally likely: 1,167 each, deviation 31
    np.testing.assert_allclose(counts, 7_000 / 6, atol=4.5 * 31)


def test_early_draws_from_a_ring_that_has_wrapped_around_take_only_what_it_holds():
    state = ring("----c---t-")  # numbers 2 to 9 are left, of which 2, 5 and 9 begin something
    found = np.asarray(sample_early(state, jax.random.key(0), 300, 1))
    np.testing.assert_array_equal(np.unique(found), [2, 5, 9])


def test_more_early_steps_than_an_episode_has_take_all_of_it():
    found = np.asarray(sample_early(ring("--t--"), jax.random.key(0), 300, 100))
    np.testing.assert_array_equal(np.unique(found), [0, 1, 2, 3, 4])


def test_an_empty_ring_gives_zeros():
    found = sample_early(ring(""), jax.random.key(0), 5, 2)
    np.testing.assert_array_equal(found, np.zeros((5, 1)))
