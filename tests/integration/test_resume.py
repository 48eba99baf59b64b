"""A run that is killed and started again with the same command ends like one that is not."""

import random
import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

import envs
from agents.registry import make_agent
from experiment import metrics, seeds
from experiment.checkpoint import Checkpointer
from tests.integration import tiny

SETTINGS = {
    "mbpo": {"num_seeds": 2, "total_steps": 1264, "updates_per_step": 1},
    "cf_mbpo": {  # all parts of the state of flows and refinement
        "num_seeds": 2,
        "total_steps": 764,
        "updates_per_step": 1,
        "flow.conditional": True,
        "flow.estimator": "ac",
        "flow.gate_tolerance": 0.0,
    },
    "vep": {  # an objective with a state: the critics of the last fits; and refits of the critics
        "num_seeds": 2,
        "updates_per_step": 1,
        "objective.vep_functions": "critics",
        "objective.vep_count": 3,
        "refit.interval": 10,
    },
    "dhmbpo": {"num_seeds": 2, "total_steps": 764}
    | {name.replace("__", "."): value for name, value in tiny.DOUBLE_HORIZON.items()},
    "mpc": {  # a plan that is carried over, and a copy of the data with noise
        "num_seeds": 2,
        "planner.name": "cem",
        "planner.num_candidates": 20,
        "planner.num_iterations": 2,
        "planner.num_elites": 4,
        "planner.horizon": 3,
        "planner.warm_start": True,
        "model.sl_noise": 0.01,
        "model.learn_reward": False,
        "model.keep": "last",
    },
}
CONFIGS = {
    "dhmbpo": ("dhmbpo.py:InvertedPendulum-v5",),
    "mpc": ("mbpo.py", "--config.algo=mpc"),
    "vep": ("value_aware.py", "--config.algo=vep"),
}
LAST_SECONDS = 120  # a process that gets nowhere for this long has failed


def arguments(algo, workdir):
    file, *more = CONFIGS.get(algo, (f"{algo}.py",))
    config = f"--config={tiny.REPOSITORY / 'configs' / file}"
    return [config, *more, *tiny.flags(**SETTINGS[algo]), f"--workdir={workdir}"]


def start(workdir, algo="mbpo"):
    return subprocess.Popen(
        tiny.command(*arguments(algo, workdir)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **tiny.process_options(),
    )


def wait_until(condition, process):
    deadline = time.monotonic() + LAST_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.0005)


def rows(workdir):
    path = workdir / "metrics" / "seed_0.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def interrupt(process, number):
    process.send_signal(number)
    output, _ = process.communicate(timeout=LAST_SECONDS)
    return output


def finish(workdir, algo="mbpo"):
    """Runs to the end, from wherever the run in the folder is; returns what was printed."""
    result = tiny.train(*arguments(algo, workdir))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(workdir)
    return workdir


def assert_same_run(actual, expected, algo="mbpo"):
    """Asserts equality, bit by bit, of what both runs recorded; returns their final state."""
    config = tiny.config(algo, **SETTINGS[algo])
    epochs = list(range(64, config.total_steps + 1, 100))
    left, right = metrics.read(actual), metrics.read(expected)
    assert list(left) == list(right) == [0, 1]
    for seed in left:
        kept = [n for n in right[seed] if n != "wall_clock" and not n.startswith("time/")]
        assert right[seed]["env_step"].tolist() == epochs
        learned = "planner/value" if algo == "mpc" else "critic/loss"
        assert right[seed][learned].notna().sum() == len(epochs) - 1
        for name in kept:  # not one bit may differ
            np.testing.assert_array_equal(left[seed][name], right[seed][name], err_msg=name)
    left, right = metrics.read_refreshes(actual), metrics.read_refreshes(expected)
    for seed in (0, 1):
        assert right[seed]["env_step"].tolist() == list(range(65, config.total_steps, 50))
        assert left[seed].equals(right[seed])
    agent = seeds.lift(make_agent(config, envs.spec(config.env)), 2)
    found = [Checkpointer(w / "checkpoints").restore(agent.state_shape) for w in (actual, expected)]
    (step, state, driver), (_, other_state, other_driver) = found
    assert step == config.total_steps
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    for (path, leaf), other in zip(paths, jax.tree.leaves(other_state), strict=True):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, other = jax.random.key_data(leaf), jax.random.key_data(other)
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))
    assert driver.keys() == other_driver.keys()
    for name in driver.keys() - {"wall_clock"}:
        np.testing.assert_array_equal(driver[name], other_driver[name], err_msg=name)
    return state


@pytest.mark.slow
def test_a_run_killed_three_times_equals_one_that_was_not(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    delay = random.Random(0)
    checkpoints = workdir / "checkpoints"

    def after_rows(count):
        return lambda: rows(workdir) >= count

    # once in the middle of an epoch or an evaluation, wherever that is
    process = start(workdir)
    wait_until(after_rows(2), process)
    time.sleep(delay.uniform(0.0, 0.5))
    interrupt(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    # once while a checkpoint is being written
    process = start(workdir)
    left_behind = set(checkpoints.glob("tmp_*"))
    wait_until(after_rows(5), process)
    wait_until(lambda: set(checkpoints.glob("tmp_*_latest_*")) - left_behind, process)
    interrupt(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    process = start(workdir)
    wait_until(after_rows(9), process)
    time.sleep(delay.uniform(0.0, 0.3))
    output = interrupt(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert "Resuming at step" in output

    assert "Resuming at step" in finish(workdir)
    assert not list(checkpoints.glob("tmp_*"))
    assert_same_run(workdir, undisturbed)


def killed_and_resumed(algo, epochs, tmp_path):
    """Kills a run after so many rows, resumes it, and compares it with one that was left alone.

    Returns the final state and the step at which it was resumed.
    """
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    finish(undisturbed, algo)
    process = start(workdir, algo)
    wait_until(lambda: rows(workdir) >= epochs, process)
    interrupt(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    resumed_at = int(re.search(r"Resuming at step (\d+)", finish(workdir, algo))[1])
    return assert_same_run(workdir, undisturbed, algo), resumed_at


@pytest.mark.long
def test_flows_and_refinement_survive_a_kill(tmp_path):
    # after four rows the second checkpoint with flows is written
    state, resumed_at = killed_and_resumed("cf_mbpo", 4, tmp_path)
    assert 264 <= resumed_at < 764
    paths, _ = jax.tree_util.tree_flatten_with_path(state.filter)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    for part in (".flows.joint.", ".flows.marginal.", ".flows.normalizer.", ".refinement.term."):
        assert any(name.startswith(part) for name in names), part
    assert np.isfinite(state.filter.mean_weight).all()
    table = metrics.read_refreshes(tmp_path / "run")[0]
    assert set(table["refine/accepted"]) == {0.0, 1.0}
    assert state.filter.refinement.rl_weight[0] < 2.5  # halved when the gate closed


@pytest.mark.long
def test_the_history_of_critics_of_a_value_aware_fit_survives_a_kill(tmp_path):
    state, resumed_at = killed_and_resumed("vep", 3, tmp_path)
    assert 164 <= resumed_at < 464
    for leaf in jax.tree.leaves(state.model.objective):
        assert leaf.shape[:3] == (2, 3, 2)  # seeds, fits, critics
        newest, second, third = np.moveaxis(np.asarray(leaf), 1, 0)
        assert (newest != second).any()
        assert (second != third).any()


@pytest.mark.slow
def test_a_ring_of_states_and_its_learner_survive_a_kill(tmp_path):
    state, resumed_at = killed_and_resumed("dhmbpo", 3, tmp_path)
    assert 164 <= resumed_at < 764
    assert state.ring.size.tolist() == [200, 200]
    assert state.learner.updates.tolist() == [14 * 5 + 2 * 64 + 13 * 2 * 50] * 2
    assert (np.asarray(state.learner.bounds.high) > np.asarray(state.learner.bounds.low)).all()


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue_and_that_works(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_until(lambda: rows(workdir) >= 3, process)
    output = interrupt(process, signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert "Interrupted. Continue from the last checkpoint with\n  python " in output
    assert output.rstrip().endswith(f"--workdir={workdir}")

    finish(workdir)
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
def test_ctrl_c_before_the_first_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_until((workdir / "config.json").exists, process)
    time.sleep(0.05)  # somewhere in building the agent or compiling the programs
    output = interrupt(process, signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert "Interrupted." in output


@pytest.mark.long
def test_plans_and_noisy_data_survive_a_kill(tmp_path):
    state, resumed_at = killed_and_resumed("mpc", 2, tmp_path)
    assert 64 <= resumed_at < 464
    assert (np.asarray(state.plan) != 0.0).any()
    assert (state.training_data.replay.rows != state.replay.rows).any()
