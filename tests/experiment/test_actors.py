import itertools

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from envs import register, terminations
from errors import UserError
from experiment.actors import EVALUATION, TRAINING, Actors, episode_seed
from tests.integration import tiny


def actions(seeds, value=0.0):
    return np.full((seeds, 1), value, np.float32)


@pytest.mark.parametrize("terminates", [True, False])
def test_ends_of_episodes_are_stored_as_what_they_are(terminates):
    env_id = tiny.register_clock(f"Clock{terminates}-v0", steps=3, terminates=terminates)
    actors = Actors(env_id, [0, 1])
    first = actors.observation.copy()
    for t in (1, 2, 3):
        before = actors.observation.copy()
        transition = actors.step(actions(2, 0.1 * t))
        over = float(t == 3)
        np.testing.assert_array_equal(transition.terminated, [over * terminates] * 2)
        np.testing.assert_array_equal(transition.truncated, [over * (not terminates)] * 2)
        np.testing.assert_array_equal(transition.observation, before)
        np.testing.assert_array_equal(transition.action, actions(2, 0.1 * t))
        np.testing.assert_array_equal(transition.reward, [t, t])
        # the true final observation of the episode, not the first of the next one
        np.testing.assert_array_equal(
            transition.next_observation, np.column_stack([first[:, 0], [t, t]])
        )
    np.testing.assert_array_equal(actors.observation[:, 1], 0.0)
    assert (actors.observation[:, 0] != first[:, 0]).all()


def test_only_the_environment_that_ended_is_reset():
    lengths = itertools.count(2)  # one environment ends after 2 steps, the other after 3
    register(
        "Uneven-v0", termination=terminations.never, make=lambda: tiny.Clock(next(lengths), False)
    )
    actors = Actors("Uneven-v0", [0, 1])
    times = [actors.step(actions(2)) and actors.observation[:, 1].tolist() for _ in range(6)]
    assert times == [[1, 1], [0, 2], [1, 0], [0, 1], [1, 2], [0, 0]]


def test_episodes_start_from_their_own_seeds():
    env_id = tiny.register_clock("Clock-v0", steps=1, terminates=True)

    def starts(seeds, episodes=4):
        actors = Actors(env_id, seeds)
        found = [actors.observation[:, 0]]
        for _ in range(episodes - 1):
            actors.step(actions(len(seeds)))
            found.append(actors.observation[:, 0])
        return np.array(found)  # [episodes, seeds]

    together = starts([0, 1, 2])
    assert len(np.unique(together)) == 12
    np.testing.assert_array_equal(starts([1])[:, 0], together[:, 1])
    # Clock draws one number from the generator that Gymnasium seeds at the reset.
    generator, _ = gymnasium.utils.seeding.np_random(episode_seed(2, TRAINING, 3))
    assert together[3, 2] == np.float32(generator.random())


def test_episode_seeds_differ_and_repeat():
    places = list(itertools.product(range(5), (TRAINING, EVALUATION), range(20)))
    seeds = [episode_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert seeds == [episode_seed(*place) for place in places]
    assert len({episode_seed(0, EVALUATION, p, n) for p in (0, 1000) for n in range(10)}) == 20
    assert all(0 <= seed < 2**32 for seed in seeds)


def roll(actors, generator, steps):
    """Takes random steps; returns their transitions, stacked."""
    seeds, size = len(actors.observation), 3
    taken = [
        actors.step(generator.uniform(-1, 1, (seeds, size)).astype(np.float32))
        for _ in range(steps)
    ]
    return [np.stack(field) for field in zip(*taken)]


@pytest.mark.parametrize(
    ("env_id", "steps"),
    [
        ("Hopper-v5", 0),
        ("Hopper-v5", 7),
        ("Hopper-v5", 61),
        ("Hopper-v5+noise3", 61),
        ("Hopper-v5+linear3", 61),
        ("Hopper-v5+sinusoidal3", 61),
        ("Hopper-v5+chaotic3", 61),
    ],
)
def test_hopper_continues_exactly_in_the_middle_of_episodes(env_id, steps):
    generator = np.random.default_rng(steps)
    original = Actors(env_id, [3, 4])
    roll(original, generator, steps)
    log = original.log()
    log = {name: np.array(value) for name, value in log.items()}  # what a checkpoint gives back
    rest = generator.integers(2**32)
    expected = roll(original, np.random.default_rng(rest), 60)

    resumed = Actors(env_id, [3, 4])
    roll(resumed, generator, 11)  # restoring does not depend on where the environments are
    resumed.restore(log)
    np.testing.assert_array_equal(resumed.observation, log["observation"])
    actual = roll(resumed, np.random.default_rng(rest), 60)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert expected[4].any()  # some episode ended, and the next one began, after the restore
    for (name, a), b in zip(resumed.log().items(), original.log().values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


class Forgetful(tiny.Clock):
    """Draws its observations from a generator that no seed controls."""

    def _observation(self):
        return np.array([np.random.default_rng().random(), self._time], np.float32)


def test_an_environment_that_does_not_repeat_itself_cannot_be_resumed():
    register("Forgetful-v0", termination=terminations.never, make=lambda: Forgetful(9, False))
    actors = Actors("Forgetful-v0", [7])
    actors.step(actions(1))
    with pytest.raises(UserError, match=r"Forgetful-v0 does not repeat itself.*seed 7"):
        Actors("Forgetful-v0", [7]).restore(actors.log())


class Broken(tiny.Clock):
    """Returns something that is not a number in its third step."""

    def __init__(self, reward, observation):
        super().__init__(9, False)
        self._bad_reward, self._bad_observation = reward, observation

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self._time == 3:
            observation = observation + np.float32(self._bad_observation)
            reward += self._bad_reward
        return observation, reward, *rest


@pytest.mark.parametrize(
    ("reward", "observation"), [(np.nan, 0.0), (np.inf, 0.0), (0.0, np.nan), (0.0, -np.inf)]
)
def test_numbers_that_are_not_finite_name_environment_seed_and_step(reward, observation):
    register("Broken-v0", termination=terminations.never, make=lambda: Broken(reward, observation))
    actors = Actors("Broken-v0", [5])
    actors.step(actions(1))
    actors.step(actions(1))
    with pytest.raises(UserError, match=r"Broken-v0 .*seed 5, episode 0, step 3\)"):
        actors.step(actions(1))


class Huge(tiny.Clock):
    """Rewards that a float64 holds and the float32 of the replay does not."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1e39, *rest


def test_a_reward_too_large_for_the_replay_is_not_stored():
    register("Huge-v0", termination=terminations.never, make=lambda: Huge(9, False))
    with pytest.raises(UserError, match="Huge-v0"):
        Actors("Huge-v0", [0]).step(actions(1))


def test_the_time_limit_of_half_cheetah_is_no_termination():
    actors = Actors("HalfCheetah-v5", [0])
    generator = np.random.default_rng(0)
    taken = [actors.step(generator.uniform(-1, 1, (1, 6)).astype(np.float32)) for _ in range(1000)]
    assert not np.stack([t.terminated for t in taken]).any()
    assert np.flatnonzero(np.stack([t.truncated for t in taken])).tolist() == [999]
    assert all(jnp.asarray(leaf).dtype == jnp.float32 for leaf in taken[0])


def test_finished_episodes_are_handed_out_once_with_their_returns():
    lengths = itertools.count(2)  # one environment ends after 2 steps, the other after 3
    register(
        "Unequal-v0", termination=terminations.never, make=lambda: tiny.Clock(next(lengths), True)
    )
    actors = Actors("Unequal-v0", [0, 1])
    assert actors.take_finished() == [[], []]
    for _ in range(5):
        actors.step(actions(2))
    assert actors.take_finished() == [[(1 + 2, 2)] * 2, [(1 + 2 + 3, 3)]]
    actors.step(actions(2))
    assert actors.take_finished() == [[(3, 2)], [(6, 3)]]
    assert actors.take_finished() == [[], []]


def test_the_return_of_an_episode_under_way_survives_a_restart():
    env_id = tiny.register_clock("Restarted-v0", steps=4, terminates=True)
    actors = Actors(env_id, [0])
    for _ in range(2):
        actors.step(actions(1))
    again = Actors(env_id, [0])
    again.restore(actors.log())
    for _ in range(2):
        again.step(actions(1))
    assert again.take_finished() == [[(1 + 2 + 3 + 4, 4)]]
