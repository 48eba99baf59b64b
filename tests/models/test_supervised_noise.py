import jax
import jax.numpy as jnp
import numpy as np

from models.supervised_noise import make_training_data
from replay import Transition, buffer, example_transition

SCALE, CAPACITY = 0.01, 20_000
MEANS = np.float32([-50.0, 0.0, 8.0])  # of the observations; next observations have the double

update = jax.jit(make_training_data(SCALE).update)


def transitions(count, seed=0):
    draw = np.random.default_rng(seed)
    observation = np.tile(MEANS, (count, 1)) + np.float32([1.0, 0.0, 0.5]) * draw.choice(
        [-1.0, 1.0], (count, 3)
    ).astype(np.float32)
    observation -= observation.mean(axis=0) - MEANS
    zeros = np.zeros(count, np.float32)
    action = draw.uniform(-1, 1, (count, 1)).astype(np.float32)
    reward = draw.normal(size=count).astype(np.float32)
    return Transition(observation, action, reward, 2 * observation, zeros, zeros)


def stored(items, capacity=CAPACITY):
    replay = buffer.init(capacity, example_transition(3, 1))
    return buffer.add_masked(replay, items, jnp.ones(len(items.reward), bool))


def test_noise_has_one_percent_of_the_mean_and_is_independent():
    items = transitions(CAPACITY)
    replay = stored(items)
    data = make_training_data(SCALE)
    start = data.init(buffer.init(CAPACITY, example_transition(3, 1)))
    _, noisy = update(start, replay, jnp.int32(CAPACITY), jax.random.key(0))
    rows, _ = buffer.contents(noisy)
    first = np.asarray(rows.observation) - items.observation
    second = np.asarray(rows.next_observation) - items.next_observation
    np.testing.assert_allclose(first.std(axis=0)[[0, 2]], [0.5, 0.08], rtol=0.03)
    np.testing.assert_allclose(second.std(axis=0)[[0, 2]], [1.0, 0.16], rtol=0.03)
    assert np.abs(first[:, 1]).max() < 1e-6  # where the mean is 0: 1e-8
    for j in (0, 2):
        assert abs(np.corrcoef(first[:, j], second[:, j])[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:, 0], first[:, 2])[0, 1]) < 0.03
    np.testing.assert_array_equal(rows.action, items.action)
    np.testing.assert_array_equal(rows.reward, items.reward)


def test_only_new_rows_get_noise_and_they_keep_it_in_a_ring():
    data = make_training_data(SCALE)
    replay = buffer.init(10, example_transition(3, 1))
    state = data.init(replay)
    seen = {}
    for refresh, count in enumerate((4, 3, 0, 5)):  # wraps around
        items = transitions(max(count, 2), seed=refresh)
        mask = jnp.arange(max(count, 2)) < count
        replay = buffer.add_masked(replay, items, mask)
        env_steps = jnp.int32(sum((4, 3, 0, 5)[: refresh + 1]))
        state, noisy = update(state, replay, env_steps, jax.random.key(refresh))
        clean, valid = buffer.contents(replay)
        rows, _ = buffer.contents(noisy)
        for slot in np.flatnonzero(valid):
            reward = float(clean.reward[slot])
            observation = np.asarray(rows.observation[slot])
            assert (observation != np.asarray(clean.observation[slot]))[[0, 2]].all()
            np.testing.assert_array_equal(seen.setdefault(reward, observation), observation)
        assert int(noisy.position) == int(replay.position)
        assert int(noisy.size) == int(replay.size)
    assert len(seen) == 12


def test_means_are_those_of_the_new_rows():
    data = make_training_data(SCALE)
    replay = stored(transitions(100), capacity=5_000)
    state, _ = update(data.init(replay), replay, jnp.int32(100), jax.random.key(0))
    items = transitions(4_000, seed=1)
    items = items._replace(observation=items.observation * 10)
    replay = buffer.add_masked(replay, items, jnp.ones(4_000, bool))
    _, noisy = update(state, replay, jnp.int32(4_100), jax.random.key(1))
    noise = np.asarray(noisy.rows[100:4_100, 0]) - items.observation[:, 0]
    np.testing.assert_allclose(noise.std(), 5.0, rtol=0.05)


def test_without_noise_the_replay_itself_is_fitted():
    data = make_training_data(0.0)
    replay = stored(transitions(5), capacity=8)
    state, same = data.update(data.init(replay), replay, jnp.int32(5), jax.random.key(0))
    assert same is replay
    assert state == ()
