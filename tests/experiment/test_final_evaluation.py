import jax.numpy as jnp
import numpy as np
import scipy.stats

from analysis.prediction_error import Confusion
from envs import register
from experiment import final_evaluation
from experiment.restore import Restored
from replay import Transition
from tests.experiment import toy
from tests.integration import tiny

ROWS = [[100.0, 102.0, 104.0, 106.0], [10.0, 20.0, 30.0, 40.0], [1.0, 1.0, 1.0, 1.0]]


def restored(seeds):
    config = tiny.config("sac", env="InvertedPendulum-v5", num_seeds=len(seeds), seed=seeds[0])
    return Restored(config, tiny.spec(), seeds, None, 1234, None, None)


def episode(reward, terminated=True):
    """An episode of two steps; the observation counts them."""
    observation = np.array([[0.0], [1.0]], np.float32)
    ends = np.array([0.0, 1.0], np.float32)
    return Transition(
        observation,
        np.zeros((2, 1), np.float32),
        np.array([reward - 1.0, 1.0], np.float32),
        observation + 1,
        ends * terminated,
        ends * (not terminated),
    )


def described(rows, checkpoint="latest"):
    agent = restored(list(range(3, 3 + len(rows))))
    episodes = [[episode(value) for value in row] for row in rows]
    table = final_evaluation.episode_table(agent.seeds, episodes)
    spec = tiny.spec(1, termination=second_step)
    found = final_evaluation.compare_terminations(spec, episodes)
    return final_evaluation.describe(agent, checkpoint, table, found)


def second_step(observation, action, next_observation):
    return next_observation[..., 0] > 1.5


def test_a_row_per_episode():
    table = final_evaluation.episode_table([4], [[episode(7.0), episode(9.0, terminated=False)]])
    assert table.to_dict("list") == {
        "seed": [4, 4],
        "episode": [0, 1],
        "return": [7.0, 9.0],
        "length": [2, 2],
        "terminated": [True, False],
    }


def test_the_interval_over_seeds_is_that_of_their_means():
    means = np.mean(ROWS, axis=1)
    low, high = scipy.stats.t.interval(0.95, 2, means.mean(), scipy.stats.sem(means))
    text = described(ROWS)
    assert f"**{means.mean():.1f} ± {(high - low) / 2:.1f}**" in text
    assert "After 1,234 environment steps, the greedy policy" in text


def test_the_interval_of_one_seed_is_over_its_episodes():
    half = scipy.stats.t.ppf(0.975, 3) * scipy.stats.sem(ROWS[1])
    assert f"| 4 | 25.0 ± {half:.1f} | 10.0 to 40.0 | 2 | 100% |" in described(ROWS)


def test_two_seeds_get_their_range_and_one_seed_no_claim():
    assert "which lie between 25.0 and 103.0 and are too few" in described(ROWS[:2])
    assert "One seed says nothing" in described(ROWS[:1])


def test_the_best_checkpoint_is_said_to_be_chosen():
    assert "the step with the highest mean return while training" in described(ROWS, "best")
    assert "highest" not in described(ROWS)


def test_agreement_on_terminations_is_counted_by_hand():
    episodes = [[episode(0.0), episode(0.0)], [episode(0.0), episode(0.0, terminated=False)]]
    right = tiny.spec(1, termination=second_step)
    assert final_evaluation.compare_terminations(right, episodes[:1]) == (2, 0, 0)
    wrong = tiny.spec(1, termination=lambda o, a, n: n[..., 0] < 1.5)  # always the wrong step
    assert final_evaluation.compare_terminations(wrong, episodes) == (0, 4, 3)


def test_terminations_in_words():
    text = final_evaluation._terminations_in_words(Confusion(3, 0, 0), 1100)
    assert "agrees with the simulator on all 1,100 steps, of which 3 ended the episode" in text
    assert "a model's predictions terminate is measured by `diagnose.py`" in text
    text = final_evaluation._terminations_in_words(Confusion(3, 9, 2), 100)
    assert "**disagrees**" in text
    assert "of 100 steps, of which 5 ended" in text
    assert "misses 2 and ends 9" in text
    assert "`diagnose.py`" in text


def test_the_number_of_steps_is_that_of_all_episodes():
    assert "on all 24 steps, of which 12 ended" in described(ROWS)  # 12 episodes of two steps


def test_files_are_written_into_a_new_folder(tmp_path):
    table = final_evaluation.episode_table([4], [[episode(7.0)]])
    path = final_evaluation.write(tmp_path / "some" / "where", "best", table, "# text")
    assert path == tmp_path / "some" / "where" / "best.md"
    assert path.read_text() == "# text\n"
    assert path.with_suffix(".csv").read_text().splitlines() == [
        "seed,episode,return,length,terminated",
        "4,0,7.0,2,True",
    ]


def test_episodes_are_played_with_each_seeds_own_policy():
    agent = toy.agent(lambda policy, seen: jnp.full((seen.shape[0], 1), policy))
    tiny_env = "Rewarding-v0"
    register(
        tiny_env,
        termination=lambda o, a, n: n[..., 1] >= 3,
        make=lambda: Rewarding(3, terminates=True),
    )
    config = tiny.config("sac", env=tiny_env)
    policies = jnp.array([0.25, -0.5])
    restored = Restored(config, tiny.spec(), [0, 1], agent, 0, None, policies)
    episodes = final_evaluation.play(restored, 2)
    assert [[e.reward.sum() for e in row] for row in episodes] == [[0.75] * 2, [-1.5] * 2]


class Rewarding(tiny.Clock):
    """The reward is the action."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(action[0]), *rest
