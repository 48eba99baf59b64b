"""Segments of numbered transitions: which ones are drawn, and where they end.

Transition i of a run observes (i, -i) and is stored in slot i modulo the capacity.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flows import segments
from flows.segments import Pool, Segments, model_segments, pool, real_segments
from replay import Transition, buffer, example_transition

HORIZON, CHUNK = 3, 12  # a chunk is four horizons
EVERYTHING = 10_000  # a recency that covers any replay here
DRAWS = 4_000

# Rings of 97 slots hold eight chunks and one slot; the fifth chunk, slots 48 to 59, is held out.
RINGS = {
    "part": (97, 75),
    "full": (97, 97),
    "wrapped": (97, 97 + 30),
    "wrapped into the held-out chunk": (97, 97 + 53),
    "wrapped twice": (97, 2 * 97 + 61),
    "whole chunks": (120, 120 + 47),
}


def numbered(first, last, terminated=(), truncated=()):
    """Transitions first, ..., last - 1; those listed end an episode."""
    i = np.arange(first, last)
    return Transition(
        observation=jnp.float32(np.stack([i, -i], axis=1)),
        action=jnp.float32(i[:, None] + 0.25),
        reward=jnp.float32(10 * i),
        next_observation=jnp.float32(np.stack([i + 0.5, -i], axis=1)),
        terminated=jnp.float32(np.isin(i, terminated)),
        truncated=jnp.float32(np.isin(i, truncated)),
    )


def ring(capacity, count, **ends):
    """A replay of so many slots after transitions 0 to count - 1."""
    state = buffer.init(capacity, example_transition(2, 1))
    for first in range(0, count, capacity):
        items = numbered(first, min(first + capacity, count), **ends)
        state = buffer.add_masked(state, items, jnp.ones(len(items.reward), bool))
    return state


@functools.partial(jax.jit, static_argnames=("n", "horizon", "held_out"))
def run(key, replay, n, horizon, recency, held_out):
    return real_segments(key, replay, n, horizon=horizon, recency=recency, held_out=held_out)


def draw(replay, *, n=DRAWS, horizon=HORIZON, recency=EVERYTHING, held_out=False, seed=0):
    drawn = run(jax.random.key(seed), replay, n, horizon, recency, held_out)
    return jax.tree.map(np.asarray, drawn)


def numbers(drawn):
    return drawn.transition.observation[..., 0].astype(int)


def possible_starts(capacity, count, recency, held_out, horizon=HORIZON):
    """The first transitions of all segments that may be drawn, by trying every one."""
    oldest = max(count - min(capacity, recency), 0)
    found = []
    for start in range(oldest, count - horizon + 1):
        slots = [i % capacity for i in range(start, start + horizon)]
        chunks = {slot // (4 * horizon) for slot in slots}
        consecutive = slots == list(range(slots[0], slots[0] + horizon))
        if consecutive and len(chunks) == 1 and (chunks.pop() % 5 == 4) == held_out:
            found.append(start)
    return found


# --- which steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("where", RINGS)
def test_segments_are_consecutive_rows_inside_a_chunk(where, held_out):
    capacity, count = RINGS[where]
    drawn = draw(ring(capacity, count), held_out=held_out)
    number = numbers(drawn)
    np.testing.assert_array_equal(number, number[:, :1] + np.arange(HORIZON))  # no seam, no newest
    assert number.min() >= count - capacity
    assert number.max() < count
    slot = number % capacity
    np.testing.assert_array_equal(slot, slot[:, :1] + np.arange(HORIZON))
    np.testing.assert_array_equal(slot // CHUNK, np.repeat(slot[:, :1] // CHUNK, HORIZON, axis=1))
    assert ((slot // CHUNK % 5 == 4) == held_out).all()
    assert drawn.valid.all()
    assert drawn.not_truncated.all()
    expected = numbered(0, count)
    for actual, field in zip(drawn.transition, expected):
        np.testing.assert_array_equal(actual, np.asarray(field)[number])


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("recency", [EVERYTHING, 80])
@pytest.mark.parametrize("where", RINGS)
def test_every_possible_segment_is_equally_likely(where, recency, held_out):
    capacity, count = RINGS[where]
    expected = possible_starts(capacity, count, recency, held_out)
    drawn = draw(ring(capacity, count), recency=recency, held_out=held_out)
    starts, counts = np.unique(numbers(drawn)[:, 0], return_counts=True)
    assert starts.tolist() == expected
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("where", RINGS)
def test_held_out_and_training_segments_share_no_slot_at_any_time(where):
    capacity, count = RINGS[where]

    def visited(held_out, count):
        replay = ring(capacity, count)
        return set((numbers(draw(replay, held_out=held_out)) % capacity).flatten().tolist())

    training, held_out = visited(False, count), visited(True, count)
    assert training
    assert held_out
    later = visited(False, count + 2 * capacity // 3), visited(True, count + 2 * capacity // 3)
    assert not (training | later[0]) & (held_out | later[1])


@pytest.mark.parametrize(
    ("held_out", "belongs"),
    [
        (False, lambda chunk: chunk % 5 != 4),
        (True, lambda chunk: chunk % 5 == 4),
        (None, lambda chunk: True),
    ],
)
@pytest.mark.parametrize("where", RINGS)
def test_single_steps_are_all_that_are_stored_in_the_chunks_asked_for(where, held_out, belongs):
    capacity, count = RINGS[where]
    slots, found = segments.slots(
        jax.random.key(0),
        ring(capacity, count),
        DRAWS,
        horizon=HORIZON,
        length=1,
        recency=capacity,
        held_out=held_out,
    )
    stored = range(min(capacity, count))
    assert sorted(set(slots.tolist())) == [s for s in stored if belongs(s // CHUNK)]
    assert bool(found)
    assert slots.dtype == jnp.int32


@pytest.mark.parametrize("recency", [3, 7, 20, 40, 97])
def test_only_the_newest_transitions_are_drawn(recency):
    capacity, count = RINGS["wrapped"]
    drawn = draw(ring(capacity, count), recency=recency)
    assert numbers(drawn).min() >= count - recency
    assert sorted(set(numbers(drawn)[:, 0])) == possible_starts(capacity, count, recency, False)


def test_draws_depend_on_the_key_alone():
    replay = ring(*RINGS["wrapped"])
    first, again, other = (numbers(draw(replay, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize(
    ("capacity", "count", "recency", "held_out"),
    [
        (97, 0, EVERYTHING, False),
        (97, 2, EVERYTHING, False),  # shorter than a segment
        (97, 97 + 30, 2, False),  # as is what is recent
        (97, 50, EVERYTHING, True),  # two slots of the first held-out chunk are filled
        (40, 400, EVERYTHING, True),  # a ring of fewer than five chunks holds nothing out
        (2, 10, EVERYTHING, False),  # a ring shorter than a segment
    ],
)
def test_without_a_segment_everything_is_invalid_and_in_range(capacity, count, recency, held_out):
    replay = ring(capacity, count)
    drawn = draw(replay, n=20, recency=recency, held_out=held_out)
    assert not drawn.valid.any()
    assert not drawn.not_truncated.any()
    assert drawn.transition.observation.shape == (20, HORIZON, 2)
    assert all(np.isfinite(field).all() for field in drawn.transition)


@pytest.mark.parametrize(("capacity", "count", "held_out"), [(97, 3, False), (97, 51, True)])
def test_one_segment_is_enough(capacity, count, held_out):
    drawn = draw(ring(capacity, count), n=20, held_out=held_out)
    assert drawn.valid.all()
    np.testing.assert_array_equal(numbers(drawn)[:, -1], np.full(20, count - 1))


# --- where they end ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminated", "truncated", "valid", "not_truncated"),
    [
        ((), (), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ((2,), (), (1, 1, 1, 0, 0), (1, 1, 1, 1, 1)),
        ((), (2,), (1, 1, 1, 0, 0), (1, 1, 1, 0, 0)),
        ((0,), (), (1, 0, 0, 0, 0), (1, 1, 1, 1, 1)),
        ((4,), (4,), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ((3,), (1,), (1, 1, 0, 0, 0), (1, 1, 0, 0, 0)),
        ((1,), (3,), (1, 1, 0, 0, 0), (1, 1, 1, 1, 0)),
        ((2,), (2,), (1, 1, 1, 0, 0), (1, 1, 1, 0, 0)),
        ((0, 1, 2), (1, 3), (1, 0, 0, 0, 0), (1, 1, 0, 0, 0)),
    ],
)
def test_the_last_step_of_an_episode_is_the_last_of_its_segment(
    terminated, truncated, valid, not_truncated
):
    replay = ring(5, 5, terminated=terminated, truncated=truncated)  # room for one segment
    drawn = draw(replay, n=3, horizon=5)
    np.testing.assert_array_equal(drawn.valid, np.tile(np.bool_(valid), (3, 1)))
    np.testing.assert_array_equal(drawn.not_truncated, np.tile(np.bool_(not_truncated), (3, 1)))


def test_no_segment_of_a_long_run_goes_on_after_an_episode():
    rng = np.random.default_rng(0)
    terminated, truncated = rng.choice(127, 15, replace=False), rng.choice(127, 15, replace=False)
    drawn = draw(ring(97, 127, terminated=terminated, truncated=truncated))
    for number, valid, not_truncated in zip(numbers(drawn), drawn.valid, drawn.not_truncated):
        for t in range(HORIZON):
            cut = np.isin(number[:t], truncated).any()
            assert not_truncated[t] == (not cut)
            assert valid[t] == (not cut and not np.isin(number[:t], terminated).any())
    assert 0.6 < drawn.valid.mean() < 0.9


# --- the model's side ----------------------------------------------------------------------------


def step_of(bad=lambda state: False, ends=lambda state: False):
    """The model s' = s + 1 with r = s, and what else happens where."""

    def simulate(observation, key):
        del key
        n = len(observation)
        state = observation[:, 0]
        following = observation + 1.0
        following = following.at[:, 1].set(jnp.where(bad(state), jnp.nan, following[:, 1]))
        over = jnp.broadcast_to(ends(following[:, 0]), (n,)).astype(jnp.float32)
        return Transition(observation, jnp.zeros((n, 1)), state, following, over, jnp.zeros(n))

    return simulate


def real_of(starts, horizon=5, valid=None, not_truncated=None):
    """Real segments of which only the start matters."""
    starts = np.float32(starts)
    n = len(starts)
    observation = np.full((n, horizon, 2), 99.0, np.float32)
    observation[:, 0] = np.stack([starts, -starts], axis=1)
    zeros = np.zeros((n, horizon), np.float32)
    transition = Transition(observation, zeros[..., None], zeros, observation, zeros, zeros)
    everywhere = np.ones((n, horizon), bool)
    return jax.tree.map(
        jnp.asarray,
        Segments(
            transition,
            everywhere if valid is None else np.bool_(valid),
            everywhere if not_truncated is None else np.bool_(not_truncated),
        ),
    )


def generated(simulate, real, seed=0):
    out = jax.jit(functools.partial(model_segments, simulate))(real, jax.random.key(seed))
    return jax.tree.map(np.asarray, out)


def test_the_model_starts_where_reality_did_and_follows_itself():
    out = generated(step_of(), real_of([0.0, 10.0, -3.0]))
    expected = np.array([[0], [10], [-3]]) + np.arange(5)
    np.testing.assert_array_equal(out.transition.observation[..., 0], expected)
    shift = np.array([[0], [20], [-6]])  # from s_1 = -s_0 at the start
    np.testing.assert_array_equal(out.transition.observation[..., 1] + shift, expected)
    np.testing.assert_array_equal(out.transition.reward, expected)
    np.testing.assert_array_equal(out.transition.next_observation[..., 0], expected + 1)
    assert out.valid.shape == (3, 5)
    assert out.valid.all()


def test_the_model_ends_where_it_terminates_itself():
    real = real_of([0.0, 2.0, 7.0, -9.0], valid=[[1, 1, 0, 0, 0]] * 4)  # reality ended after two
    out = generated(step_of(ends=lambda following: following == 4.0), real)
    expected = [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(out.valid, np.bool_(expected))


def test_a_truncation_of_reality_ends_the_model_at_the_same_step():
    not_truncated = np.bool_([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    real = real_of([0.0, 0.0, 1.0], valid=not_truncated, not_truncated=not_truncated)
    out = generated(step_of(ends=lambda following: following == 3.0), real)
    expected = [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(out.valid, np.bool_(expected))
    np.testing.assert_array_equal(out.not_truncated, not_truncated)


def test_a_prediction_that_is_not_finite_is_not_part_of_the_segment():
    out = generated(step_of(bad=lambda state: state == 2.0), real_of([0.0, 2.0, 5.0]))
    expected = [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(out.valid, np.bool_(expected))

    def infinite_reward(observation, key):
        transition = step_of()(observation, key)
        reward = jnp.where(transition.reward == 2.0, -jnp.inf, transition.reward)
        return transition._replace(reward=reward)

    again = generated(infinite_reward, real_of([0.0, 2.0, 5.0]))
    np.testing.assert_array_equal(again.valid, np.bool_(expected))


def test_without_real_segments_there_are_none_of_the_model():
    real = draw(ring(97, 2), n=4)
    out = generated(step_of(), jax.tree.map(jnp.asarray, real))
    assert not out.valid.any()


def test_every_step_of_the_model_has_a_key_of_its_own():
    def noisy(observation, key):
        transition = step_of()(observation, key)
        return transition._replace(reward=jax.random.normal(key, transition.reward.shape))

    first, again, other = (
        generated(noisy, real_of(np.zeros(50)), seed).transition.reward for seed in (0, 0, 1)
    )
    assert len(np.unique(first)) == 250
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()


# --- minibatches ---------------------------------------------------------------------------------


def test_a_pool_is_the_valid_rows_in_order():
    rng = np.random.default_rng(0)
    z, valid = rng.normal(size=(6, 4, 3)).astype(np.float32), rng.random((6, 4)) < 0.5
    z[~valid] = np.nan
    packed = jax.jit(pool)(z, valid)
    size = int(packed.size)
    assert 0 < size < 24
    assert packed.size.dtype == jnp.int32
    np.testing.assert_array_equal(packed.z[:size], z[valid])


def test_a_pool_is_drawn_from_uniformly():
    z = jnp.full((50, 2), jnp.nan).at[:7].set(jnp.arange(14.0).reshape(7, 2))
    rows = np.asarray(Pool(z, jnp.int32(7)).draw(jax.random.key(0), 7_000))
    np.testing.assert_array_equal(rows[:, 1], rows[:, 0] + 1)
    values, counts = np.unique(rows[:, 0], return_counts=True)
    np.testing.assert_array_equal(values, 2.0 * np.arange(7))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_an_empty_pool_gives_rows_of_zeros():
    empty = pool(jnp.full((3, 2, 4), jnp.nan), jnp.zeros((3, 2), bool))
    np.testing.assert_array_equal(empty.draw(jax.random.key(0), 5), np.zeros((5, 4)))
