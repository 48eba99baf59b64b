"""The driver, with an agent that only counts and an environment that is a clock."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from agents.base import Agent, Stage, reactive
from errors import UserError
from experiment import loop, metrics, run_folder
from experiment.checkpoint import Checkpointer
from experiment.interrupt import Interrupt
from tests.experiment import toy
from tests.integration import tiny

INITIAL, TOTAL, EPOCH, REFRESH, EPISODE = 10, 37, 8, 6, 5
STEPS = [10, 18, 26, 34, 37]  # the evaluations: after exploration, every 8 steps, at the end


class Counts(struct.PyTreeNode):
    """How often each function was called, and what it saw."""

    seed: jax.Array
    explored: jax.Array
    observed: jax.Array
    stepped: jax.Array
    refreshed: jax.Array
    rewards: jax.Array  # sum over all transitions
    last_time: jax.Array  # what was observed for the action under way
    actions: jax.Array  # sum over all transitions
    mismatches: jax.Array  # transitions that do not start where the last action was chosen


def counting_agent(broken_step=None):
    """Returns an agent whose metrics are its counters; `broken_step` of them is NaN."""

    def init(key):
        zero = jnp.zeros(())
        return Counts(jax.random.key_data(key)[-1].astype(jnp.float32), *[zero] * 8)

    def explore(state, observation):
        state = state.replace(explored=state.explored + 1, last_time=observation[1])
        return state, jnp.full((1,), 0.5)

    def see(state, transition):
        jumped = transition.observation[1] != state.last_time
        return state.replace(
            rewards=state.rewards + transition.reward,
            actions=state.actions + transition.action[0],
            mismatches=state.mismatches + jumped,
        )

    def observe(state, transition):
        return see(state, transition).replace(observed=state.observed + 1)

    def step(state, transition, next_observation):
        stepped = state.stepped + 1
        state = see(state, transition).replace(stepped=stepped, last_time=next_observation[1])
        value = (
            stepped if broken_step is None else jnp.where(stepped == broken_step, jnp.nan, stepped)
        )
        numbers = {"policy/loss": value, "critic/seed": state.seed, "rollout/seen": state.refreshed}
        return state, jnp.full((1,), (stepped % 8) / 16), numbers

    def fit(state):
        state = state.replace(refreshed=state.refreshed + 1)
        return state, {"model/after_steps": state.stepped}

    def generate(state):
        return state, {"rollout/fits": state.refreshed}

    return Agent(
        init=init,
        explore=explore,
        observe=observe,
        step=step,
        refresh=(Stage("model", fit), Stage("rollouts", generate)),
        policy=lambda state: state.stepped,
        act=reactive(lambda stepped, observations: jnp.zeros((len(observations), 1))),
        refresh_every=REFRESH,
    )


def settings(on_device=False, **changes):
    env_id = toy.register_functional("LoopClock-v0", toy.clock(EPISODE, terminates=False))
    sizes = {
        "env_on_device": on_device,
        "total_steps": TOTAL,
        "initial_steps": INITIAL,
        "epoch_length": EPOCH,
        "eval_episodes": 2,
        "num_seeds": 2,
        "seed": 5,
        "sac__batch_size": 4,
    }
    return tiny.config("mbpo", env_id, **(sizes | changes))


everywhere = pytest.mark.parametrize("on_device", [False, True])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the counting agent in tmp_path and returns the final state and the metrics."""

    def run_loop(config=None, **options):
        monkeypatch.setattr(loop, "make_agent", lambda config, spec: counting_agent(**options))
        loop.train_and_evaluate(config or settings(), tmp_path)
        return final_state(tmp_path), metrics.read(tmp_path)

    return run_loop


def final_state(workdir):
    example = loop.seeds.lift(counting_agent(), 2).state_shape
    _, state, _ = Checkpointer(workdir / "checkpoints").restore(example)
    return state


@everywhere
def test_every_function_is_called_when_it_should(run, on_device):
    state, _ = run(settings(on_device))
    learned = TOTAL - INITIAL
    np.testing.assert_array_equal(state.explored, 1 + INITIAL)  # the first action precedes a step
    np.testing.assert_array_equal(state.observed, INITIAL)
    np.testing.assert_array_equal(state.stepped, learned)
    np.testing.assert_array_equal(state.refreshed, -(-learned // REFRESH))
    np.testing.assert_array_equal(state.mismatches, 0)
    # rewards 1 .. 5 of seven whole episodes and 1, 2 of the eighth: no transition is lost
    np.testing.assert_array_equal(state.rewards, 7 * 15 + 3)
    # 0.5 while exploring, then (step of learning % 8) / 16; an action is stored one step later
    np.testing.assert_array_equal(state.actions, 11 * 0.5 + sum(n % 8 for n in range(1, 27)) / 16)
    np.testing.assert_array_equal(state.seed, [5, 6])


@everywhere
def test_rows_hold_the_means_of_their_epoch(run, on_device):
    _, tables = run(settings(on_device))
    assert list(tables) == [5, 6]
    for seed, table in tables.items():
        assert table["env_step"].tolist() == STEPS
        # steps of learning: 1-8, 9-16, 17-24, 25-27; none before the first evaluation
        np.testing.assert_array_equal(table["policy/loss"], [np.nan, 4.5, 12.5, 20.5, 26.0])
        np.testing.assert_array_equal(table["critic/seed"], [np.nan, *[seed] * 4])
        # refreshes come before the steps of learning 1, 7, 13, 19, 25
        np.testing.assert_array_equal(table["model/after_steps"], [np.nan, 3.0, 12.0, 18.0, 24.0])
        seen = [[1] * 6 + [2] * 2, [2] * 4 + [3] * 4, [3] * 2 + [4] * 6, [5] * 3]
        np.testing.assert_allclose(table["rollout/seen"][1:], [np.mean(x) for x in seen])
        np.testing.assert_array_equal(table["eval/return"], 15.0)
        np.testing.assert_array_equal(table["eval/return_std"], 0.0)
        np.testing.assert_array_equal(table["eval/length"], EPISODE)
        assert (np.diff(table["wall_clock"]) > 0).all()


@everywhere
def test_rows_have_the_returns_of_training_episodes_on_the_host(run, on_device):
    _, tables = run(settings(on_device))
    for table in tables.values():
        if on_device:
            assert "train/return" not in table
            continue
        np.testing.assert_array_equal(table["train/return"], 15.0)
        np.testing.assert_array_equal(table["train/length"], EPISODE)


@everywhere
def test_every_refresh_has_a_row_with_the_metrics_of_all_its_stages(run, tmp_path, on_device):
    _, tables = run(settings(on_device))
    refreshes = metrics.read_refreshes(tmp_path)
    assert list(refreshes) == [5, 6]
    for table in refreshes.values():
        assert list(table) == ["env_step", "model/after_steps", "rollout/fits"]
        assert table["env_step"].tolist() == [11, 17, 23, 29, 35]
        assert table["model/after_steps"].tolist() == [0.0, 6.0, 12.0, 18.0, 24.0]
        assert table["rollout/fits"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]  # after the fit
    for table in tables.values():
        np.testing.assert_array_equal(table["rollout/fits"], [np.nan, 1.5, 3.0, 4.0, 5.0])


class Late:
    """Metrics of two seeds that are ready only after some time."""

    def __init__(self, seconds):
        self._seconds = seconds

    def block_until_ready(self):
        time.sleep(self._seconds)
        return self

    def __array__(self, dtype=None, copy=None):
        return np.ones(2, np.float32)


def test_every_stage_is_timed_under_its_own_name_until_its_metrics_are_ready(run, monkeypatch):
    lift, order = loop.seeds.lift, []

    def stage(name, seconds):
        def refresh(state):
            order.append(name)
            return state, {f"{name}/value": Late(seconds)}

        return Stage(name, refresh)

    stages = (stage("model", 0.0), stage("flows", 0.05), stage("rollouts", 0.0))
    monkeypatch.setattr(
        loop.seeds, "lift", lambda *args: dataclasses.replace(lift(*args), refresh=stages)
    )
    _, tables = run()
    assert order == ["model", "flows", "rollouts"] * 5
    assert (tables[5]["time/flows"][1:] >= 0.05 * np.array([2, 1, 1, 1])).all()
    assert tables[5]["time/model"][1:].max() < 0.05
    assert tables[5]["time/rollouts"][1:].max() < 0.05
    assert tables[5]["flows/value"][1:].tolist() == [1.0] * 4


def test_a_last_epoch_that_is_complete_is_written_once(run):
    _, tables = run(settings(total_steps=26))
    assert tables[5]["env_step"].tolist() == [10, 18, 26]


def test_the_evaluation_before_learning_can_be_left_out(run):
    _, tables = run(settings(eval_untrained=False))
    assert tables[5]["env_step"].tolist() == STEPS[1:]
    np.testing.assert_array_equal(tables[5]["policy/loss"], [4.5, 12.5, 20.5, 26.0])
    np.testing.assert_array_equal(tables[5]["eval/return"], 15.0)


def test_episodes_of_exploration_are_left_out_with_its_evaluation(run, monkeypatch):
    returns = []
    taken = loop.HostEnvironments.training_episodes

    def recorded(self):
        returns.append(taken(self))
        return returns[-1]

    monkeypatch.setattr(loop.HostEnvironments, "training_episodes", recorded)
    run(settings(eval_untrained=False))
    assert len(returns) == len(STEPS)  # once when learning begins, then for every row


class Interrupting(tiny.Clock):
    """Raises KeyboardInterrupt in one step of the process."""

    left = 10**9

    def step(self, action):
        Interrupting.left -= 1
        if Interrupting.left == 0:
            raise KeyboardInterrupt
        return super().step(action)


class Impatient(Interrupt):
    """Requests an interruption after some calls of `advance`."""

    left = 10**9

    def check(self):
        if Impatient.left == 0:
            raise KeyboardInterrupt
        Impatient.left -= 1


ON_HOST, ON_DEVICE = (tiny, "Clock", Interrupting), (loop, "Interrupt", Impatient)


@pytest.mark.parametrize(
    ("every", "place", "runs"),
    [
        (1, ON_HOST, (7, 45, 90, 60)),
        (2, ON_HOST, (7, 45, 90, 60)),
        # before the first checkpoint; in the middle of the third epoch; after the fourth
        (2, ON_DEVICE, (2, 5, 4)),
    ],
)
def test_an_interrupted_run_ends_as_if_it_were_not(run, tmp_path, monkeypatch, every, place, runs):
    interrupting = place[-1]
    config = settings(interrupting is Impatient, checkpoint__every_epochs=every, eval_episodes=1)
    expected_state, expected = run(config)
    expected_refreshes = metrics.read_refreshes(tmp_path)
    monkeypatch.setattr(*place)
    for name in ("checkpoints", "metrics", "config.json"):
        (tmp_path / name).rename(tmp_path / f"first_{name}")
    interruptions = 0
    for steps in (*runs, 10**9):
        interrupting.left = steps
        try:
            state, tables = run(config)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 3
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state)):
        np.testing.assert_array_equal(a, b)
    timed = [name for name in expected[5] if name.startswith("time/")]
    for seed in (5, 6):
        drop = ["wall_clock", *timed]
        assert tables[seed].drop(columns=drop).equals(expected[seed].drop(columns=drop))
        assert metrics.read_refreshes(tmp_path)[seed].equals(expected_refreshes[seed])


def test_a_finished_run_is_not_run_again(run, tmp_path):
    run()
    before = (tmp_path / "metrics" / "seed_5.csv").read_bytes()
    run()
    assert (tmp_path / "metrics" / "seed_5.csv").read_bytes() == before


@everywhere
def test_a_metric_that_is_not_finite_stops_at_the_epoch_and_keeps_the_checkpoint(
    run, tmp_path, on_device
):
    config = settings(on_device)
    with pytest.raises(UserError, match=r"policy/loss of seed 5 is not finite at step 26"):
        run(config, broken_step=12)
    state = final_state(tmp_path)
    np.testing.assert_array_equal(state.stepped, 8)  # step 18, the epoch before
    run_folder.open_run(tmp_path, config.to_dict(), {})  # another process may use the folder
    run_folder.close_run(tmp_path)


def test_without_checkpoints_there_are_none(run, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_agent", lambda config, spec: counting_agent())
    loop.train_and_evaluate(settings(checkpoint__every_epochs=0), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
    assert metrics.read(tmp_path)[5]["env_step"].tolist() == STEPS


def test_the_best_policy_is_that_of_the_highest_mean_return(run, tmp_path, monkeypatch):
    # the untrained policy's episodes have return 15 in every epoch: only the first is an advance
    run()
    example = jax.ShapeDtypeStruct((2,), jnp.float32)
    policy, info = Checkpointer(tmp_path / "checkpoints").restore_best(example)
    assert info == {"env_step": INITIAL, "return": 15.0}
    np.testing.assert_array_equal(policy, 0.0)
