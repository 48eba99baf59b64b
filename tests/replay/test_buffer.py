"""The ring against Python's own first-in-first-out store, and its promises to compiled programs."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from replay import Transition, buffer, example_transition

CHI_SQUARE_4_999 = 18.467  # 99.9 % quantile of chi-square with 4 degrees of freedom (tables)

add = jax.jit(buffer.add)
add_masked = jax.jit(buffer.add_masked)


def ring_of(values, capacity):
    """A ring of scalars to which `values` were added one by one."""
    state = buffer.init(capacity, jnp.zeros(()))
    for value in values:
        state = add(state, jnp.float32(value))
    return state


def newest_first(state):
    return np.asarray(buffer.gather(state, jnp.arange(int(state.size)))).tolist()


def random_transitions(seed, *batch, observation_size=3, action_size=2):
    """Transitions whose numbers are all different, so that no two fields can be confused."""
    rng = np.random.default_rng(seed)
    shapes = {
        "observation": (observation_size,),
        "action": (action_size,),
        "reward": (),
        "next_observation": (observation_size,),
        "terminated": (),
        "truncated": (),
    }
    return Transition(
        **{name: jnp.float32(rng.normal(size=(*batch, *shape))) for name, shape in shapes.items()}
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [5, 6, 13])
def test_random_adds_and_masked_adds_leave_what_a_deque_holds(capacity, seed):
    rng = np.random.default_rng(seed)
    state, model = buffer.init(capacity, jnp.zeros(())), deque(maxlen=capacity)
    value = 0.0
    for _ in range(25):
        if rng.random() < 0.4:
            value += 1
            state = add(state, jnp.float32(value))
            model.append(value)
        else:
            values, mask = value + 1 + np.arange(5.0), rng.random(5) < rng.random()
            value = values[-1]
            state = add_masked(state, jnp.float32(values), jnp.asarray(mask))
            model.extend(values[mask])
        assert newest_first(state) == list(model)[::-1]
        assert int(state.size) == len(model)
        _, stored = buffer.contents(state)
        assert int(stored.sum()) == len(model)


def test_rows_outside_the_mask_change_nothing():
    state = ring_of(range(1, 8), capacity=5)
    after = add_masked(state, jnp.full(4, 99.0), jnp.zeros(4, bool))
    np.testing.assert_array_equal(after.rows, state.rows)
    assert (int(after.position), int(after.size)) == (7 % 5, 5)


def test_masked_rows_take_no_slot_before_the_ring_wraps():
    state = add_masked(
        buffer.init(6, jnp.zeros(())),
        jnp.array([1.0, 2.0, 3.0, 4.0]),
        jnp.array([True, False, False, True]),
    )
    np.testing.assert_array_equal(state.rows[:, 0], [1, 4, 0, 0, 0, 0])
    assert (int(state.position), int(state.size)) == (2, 2)


def test_filling_the_whole_ring_at_once_keeps_the_order():
    state = ring_of([-1, -2, -3], capacity=4)
    state = add_masked(state, jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.ones(4, bool))
    assert newest_first(state) == [4, 3, 2, 1]


def test_more_items_than_capacity_raises():
    with pytest.raises(ValueError, match="4 items do not fit a replay of 3"):
        buffer.add_masked(buffer.init(3, jnp.zeros(())), jnp.zeros(4), jnp.zeros(4, bool))


def test_window_sampling_is_uniform_over_exactly_the_newest_items():
    state = ring_of(range(13), capacity=8)  # wrapped: holds 5 .. 12
    drawn = buffer.sample(state, jax.random.key(0), 20_000, window=5)
    values, counts = np.unique(np.asarray(drawn), return_counts=True)
    np.testing.assert_array_equal(values, [8, 9, 10, 11, 12])
    assert np.square(counts - 4_000).sum() / 4_000 < CHI_SQUARE_4_999


@pytest.mark.parametrize("window", [None, 5, 100])
def test_sampling_never_leaves_the_stored_items(window):
    state = ring_of(range(1, 6), capacity=20)
    drawn = buffer.sample(state, jax.random.key(1), 20_000, window)
    values, counts = np.unique(np.asarray(drawn), return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 3, 4, 5])
    assert np.square(counts - 4_000).sum() / 4_000 < CHI_SQUARE_4_999


def test_an_empty_ring_gives_items_of_zeros():
    state = buffer.init(4, example_transition(3, 2))
    drawn = buffer.sample(state, jax.random.key(0), 6)
    for leaf, shape in zip(drawn, [(6, 3), (6, 2), (6,), (6, 3), (6,), (6,)]):
        np.testing.assert_array_equal(leaf, np.zeros(shape))


def test_every_field_comes_back_as_it_was_stored():
    items = random_transitions(0, 6)
    state = buffer.init(9, example_transition(3, 2))
    state = add_masked(state, items, jnp.ones(6, bool))
    back = buffer.gather(state, jnp.arange(5, -1, -1))
    for name, stored, returned in zip(Transition._fields, items, back):
        np.testing.assert_array_equal(returned, stored, err_msg=name)


def test_single_adds_and_batched_adds_store_the_same_rows():
    items = random_transitions(1, 4)
    one_by_one = buffer.init(4, example_transition(3, 2))
    for index in range(4):
        one_by_one = add(one_by_one, jax.tree.map(lambda leaf, i=index: leaf[i], items))
    # a row is the fields one after the other: 3 + 2 + 1 + 3 + 1 + 1 numbers
    expected = np.concatenate([np.reshape(leaf, (4, -1)) for leaf in items], axis=1)
    assert expected.shape == (4, 11)
    np.testing.assert_array_equal(one_by_one.rows, expected)
    batched = add_masked(buffer.init(4, example_transition(3, 2)), items, jnp.ones(4, bool))
    np.testing.assert_array_equal(batched.rows, expected)


def test_terminated_and_truncated_stay_apart():
    item = example_transition(2, 1)
    state = buffer.init(3, item)
    state = add(state, item._replace(terminated=jnp.ones(())))
    state = add(state, item._replace(truncated=jnp.ones(())))
    newest = buffer.gather(state, jnp.array([0, 1]))
    np.testing.assert_array_equal(newest.truncated, [1, 0])
    np.testing.assert_array_equal(newest.terminated, [0, 1])


def test_a_donated_add_writes_in_place_and_is_traced_once_for_all_sizes():
    traces = []

    def counted(state, item):
        traces.append(None)
        return buffer.add(state, item)

    donating = jax.jit(counted, donate_argnums=0)
    state = buffer.init(1_000, example_transition(3, 2))
    address = state.rows.unsafe_buffer_pointer()
    for _ in range(3):
        state = donating(state, example_transition(3, 2))
        assert state.rows.unsafe_buffer_pointer() == address
    assert int(state.size) == 3
    assert len(traces) == 1


def test_a_donated_masked_add_needs_no_second_ring():
    state = buffer.init(10_000, example_transition(3, 2))
    items, mask = random_transitions(2, 8), jnp.ones(8, bool)
    compiled = jax.jit(buffer.add_masked, donate_argnums=0).lower(state, items, mask).compile()
    ring_bytes = 10_000 * 11 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < ring_bytes // 10
    address = state.rows.unsafe_buffer_pointer()
    assert compiled(state, items, mask).rows.unsafe_buffer_pointer() == address


def test_the_data_of_one_seed_does_not_touch_another():
    def run(states, items, mask, keys):
        states = jax.vmap(buffer.add_masked)(states, items, mask)
        return states, jax.vmap(lambda s, k: buffer.sample(s, k, 16, window=4))(states, keys)

    empty = buffer.init(7, example_transition(3, 2))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), empty)
    keys = jax.random.split(jax.random.key(0), 2)
    items, mask = random_transitions(3, 2, 5), jnp.ones((2, 5), bool)
    altered = jax.tree.map(lambda leaf: leaf.at[1].multiply(-3.0), items)
    first, first_drawn = jax.jit(run)(states, items, mask, keys)
    second, second_drawn = jax.jit(run)(states, altered, mask.at[1, :3].set(False), keys)
    for a, b in zip(jax.tree.leaves((first, first_drawn)), jax.tree.leaves((second, second_drawn))):
        np.testing.assert_array_equal(a[0], b[0])
    assert int(second.size[1]) == 2
    np.testing.assert_array_equal(second.rows[1, :2, :3], -3.0 * items.observation[1, 3:])
