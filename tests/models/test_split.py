"""Orders of rows, and fits that hold nothing out; more of the split is in test_fit.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.split import permanent_holdout, random_order, split_rows
from replay import buffer, example_transition


@pytest.mark.parametrize("capacity", [1, 7, 64, 100])
def test_an_order_permutes_the_stored_rows_and_puts_the_others_last(capacity):
    order = jax.jit(random_order, static_argnums=1)
    for size in range(capacity + 1):
        result = np.asarray(order(jax.random.key(size), capacity, jnp.int32(size)))
        assert sorted(result[:size]) == list(range(size))
        assert sorted(result) == list(range(capacity))


def test_every_order_of_three_rows_is_equally_likely():
    keys = jax.random.split(jax.random.key(0), 6000)
    orders = np.asarray(jax.vmap(lambda key: random_order(key, 40, jnp.int32(3))[:3])(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    # 6 outcomes, 1000 each, standard deviation 29: five of them
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 145


@pytest.mark.parametrize("bootstrap", [True, False])
def test_with_ratio_zero_all_rows_are_trained_on_and_scored(bootstrap):
    replay = buffer.init(50, example_transition(2, 1)).replace(size=jnp.int32(30))
    split = split_rows(
        jax.random.key(0),
        replay,
        num_members=2,
        holdout_ratio=0.0,
        holdout_max=20,
        bootstrap=bootstrap,
    )
    assert int(split.train_size) == 30
    assert int(split.holdout_size) == 20
    assert len(set(np.asarray(split.holdout))) == 20
    used = np.asarray(split.train)[:, :30]
    assert used.max() < 30
    if not bootstrap:
        assert sorted(used[0]) == list(range(30))


@jax.jit
def permanent_split(replay, key):
    return split_rows(
        key,
        replay,
        num_members=2,
        holdout_ratio=0.2,
        holdout_max=30,
        bootstrap=False,
        permanent=True,
    )


def test_a_slot_that_is_held_out_for_life_is_never_trained_on():
    replay, own = buffer.init(200, example_transition(2, 1)), permanent_holdout(200, 0.2)
    assert 25 < own.sum() < 55  # 40 in expectation, deviation 6
    for size in (7, 60, 200):
        mine = np.flatnonzero(own[:size])
        for seed in range(4):
            split = permanent_split(replay.replace(size=jnp.int32(size)), jax.random.key(seed))
            held_out = np.asarray(split.holdout)[: int(split.holdout_size)]
            assert len(set(held_out)) == len(held_out) == min(len(mine), 30)
            assert set(held_out) <= set(mine)
            train = np.asarray(split.train)[:, : int(split.train_size)]
            for member in train:
                assert sorted(member) == np.flatnonzero(~np.asarray(own[:size])).tolist()


def test_more_rows_for_life_than_are_scored_are_scored_in_turn():
    replay = buffer.init(500, example_transition(2, 1)).replace(size=jnp.int32(500))
    scored = [set(np.asarray(permanent_split(replay, jax.random.key(s)).holdout)) for s in range(3)]
    assert [len(slots) for slots in scored] == [30] * 3
    assert len(set.union(*scored)) > 50
    assert all(permanent_holdout(500, 0.2)[jnp.array(sorted(slots))].all() for slots in scored)
