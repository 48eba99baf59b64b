import jax
import jax.numpy as jnp
import numpy as np

from experiment import seeds
from experiment.environments import HostEnvironments
from experiment.stopwatch import Stopwatch
from tests.experiment import toy
from tests.integration import tiny

EPISODE = 3


def make(run_seeds):
    env_id = tiny.register_clock("HostClock-v0", steps=EPISODE, terminates=True)
    config = tiny.config("sac", env_id, num_seeds=len(run_seeds), eval_episodes=4)
    assert not config.env_on_device
    watch = Stopwatch()
    agent = seeds.lift(toy.agent(action=0.25), len(run_seeds))
    return agent, HostEnvironments(config, agent, run_seeds, watch), watch


def test_simulators_do_one_step_at_a_time_and_go_on_where_they_were():
    agent, environments, watch = make([0, 1])
    state = environments.begin(agent.init([0, 1]))
    np.testing.assert_array_equal(environments.action, np.full((2, 1), 0.25))

    state, metrics, steps = environments.explore(state, 100)
    assert (metrics, steps) == ({}, 1)
    assert set(watch.lap()) == {"environment"}
    np.testing.assert_array_equal(state, [1, 1])  # the toy agent counts

    state, metrics, steps = environments.learn(state, 100)
    np.testing.assert_array_equal(metrics["policy/steps"], [1, 1])
    assert steps == 1
    assert set(watch.lap()) == {"environment", "policy"}
    log = environments.log()
    np.testing.assert_array_equal(log["observation"][:, 1], [2, 2])

    state, _, _ = environments.learn(state, 100)
    assert environments.log()["episodes"] == [1, 1]
    environments.restore(log)
    for name, value in environments.log().items():
        np.testing.assert_array_equal(value, log[name], err_msg=name)
    assert log.keys() == {"action", "episodes", "observation", "actions_0", "actions_1"}
    environments.close()


def test_policies_are_evaluated_on_other_environments():
    _, environments, _ = make([0, 1])
    evaluation = environments.evaluate(jnp.zeros(2), position=7)
    np.testing.assert_array_equal(evaluation.returns, np.full((2, 4), 1 + 2 + 3))
    np.testing.assert_array_equal(evaluation.lengths, np.full((2, 4), EPISODE))
    assert environments._actors.log()["actions_0"].size == 0


def test_returns_of_training_episodes_are_means_over_what_has_ended():
    agent, environments, _ = make([0, 1])
    state = environments.begin(agent.init([0, 1]))
    assert environments.training_episodes() == [{}, {}]
    for _ in range(2 * EPISODE + 1):
        state, _, _ = environments.learn(state, 1)
    assert environments.training_episodes() == [{"train/return": 6.0, "train/length": 3.0}] * 2
    assert environments.training_episodes() == [{}, {}]


def test_a_policy_keeps_its_memory_during_an_evaluation_and_loses_it_afterwards():
    seen = []

    def act(policy, memory, observations):
        jax.debug.callback(lambda memory: seen.append(memory.tolist()), memory, ordered=True)
        return observations[:, :1], memory + 10.0

    agent = toy.agent()._replace(
        begin=lambda policy, episodes: policy + jnp.arange(float(episodes)), act=act
    )
    env_id = tiny.register_clock("MemoryClock-v0", steps=EPISODE, terminates=True)
    config = tiny.config("sac", env_id, eval_episodes=2)
    environments = HostEnvironments(config, seeds.lift(agent, 1), [0], Stopwatch())
    for _ in range(2):
        environments.evaluate(jnp.full(1, 0.5), position=7)
    jax.effects_barrier()
    assert seen == [[0.5, 1.5], [10.5, 11.5], [20.5, 21.5]] * 2
