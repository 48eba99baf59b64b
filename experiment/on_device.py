"""Environments that are pure functions: many of their steps are one compiled program.

The agent is part of the program, so that nothing goes to the host between two steps. The programs
are compiled once: how many steps they do is an argument.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import envs
from agents.base import Agent, AgentState, Metrics
from envs import FunctionalEnv
from experiment.actors import EVALUATION, TRAINING, episode_seed, not_finite
from experiment.evaluation import Evaluation
from experiment.seeds import LiftedAgent, compiled, seed_sharding
from experiment.stopwatch import Stopwatch
from replay import Transition

MOST_UPDATES = 1000  # of one program: Ctrl-C and the progress bar wait for its end; chosen by us


class Actor(NamedTuple):
    """The training environment of one seed between two steps."""

    key: chex.PRNGKey  # of the resets: episode k starts from `fold_in(key, k)`
    episode: chex.Array  # int32 []
    steps: chex.Array  # int32 [], of the episode so far
    env: Any  # the environment's own state
    observation: chex.Array  # [O], what to act on next


class Fault(NamedTuple):
    """The first step that made something of a finite action that is not finite."""

    step: chex.Array  # int32 [], within its episode, from 1; 0: there was none
    episode: chex.Array  # int32 []
    reward: chex.Array  # []
    observation: chex.Array  # [O]


class DeviceEnvironments:
    """Environments that are part of the compiled programs, see `environments.Environments`.

    What they cost cannot be told apart from what the agent costs: steps of learning are timed as
    "policy", those before it, as on the host, as "environment".
    """

    def __init__(
        self, config: ConfigDict, agent: LiftedAgent, seeds: list[int], watch: Stopwatch
    ) -> None:
        env = envs.functional(config.env)
        assert env is not None, "config.env_on_device is for environments that have one"
        one, count = agent.single, len(seeds)

        def explore(state: AgentState, transition: Transition, observation: chex.Array):
            return *one.explore(one.observe(state, transition), observation), {}

        self._env_id, self._agent, self._seeds, self._watch = config.env, agent, seeds, watch
        self._most_steps = max(1, MOST_UPDATES // config.updates_per_step)
        self._explore = compiled(make_chunk(env, explore), count, shared=True)
        self._learn = compiled(make_chunk(env, one.step), count, shared=True)
        play = make_episodes(env, one, config.eval_episodes)
        self._play = compiled(play, count, donate=False)
        start = compiled(functools.partial(first_episode, env), count, donate=False)
        self._actor = start(self._stream(TRAINING))

    def begin(self, state: AgentState) -> AgentState:
        """Chooses the first actions."""
        state, self.action = self._agent.explore(state, self._actor.observation)
        return state

    def explore(self, state: AgentState, at_most: int) -> tuple[AgentState, Metrics, int]:
        """Does up to `MOST_UPDATES` steps without learning."""
        with self._watch("environment"):
            return self._run(self._explore, state, at_most)

    def learn(self, state: AgentState, at_most: int) -> tuple[AgentState, Metrics, int]:
        """Does up to `MOST_UPDATES` steps and everything the agent learns from them."""
        with self._watch("policy"):
            return self._run(self._learn, state, at_most)

    def evaluate(self, policy: Any, position: int) -> Evaluation:
        """Plays N greedy episodes of each seed at once."""
        returns, lengths = self._play(policy, self._stream(EVALUATION, position))
        return Evaluation(np.asarray(returns, np.float64), np.asarray(lengths))

    def training_episodes(self) -> list[dict[str, float]]:
        """Returns nothing: the returns of training episodes are not kept on the device."""
        return [{} for _ in self._seeds]

    def log(self) -> dict[str, Any]:
        """Returns the action and the leaves of the training environments."""
        leaves = [np.asarray(_data(leaf)) for leaf in jax.tree.leaves(self._actor)]
        return {"action": np.asarray(self.action), "actor": leaves}

    def restore(self, log: dict[str, Any]) -> None:
        """Brings the environments to where `log` was taken; nothing is replayed."""
        sharding = seed_sharding(len(self._seeds))
        leaves, structure = jax.tree.flatten(self._actor)
        leaves = [
            _like(leaf, jax.device_put(stored, sharding))
            for leaf, stored in zip(leaves, log["actor"], strict=True)
        ]
        self._actor = jax.tree.unflatten(structure, leaves)
        self.action = jax.device_put(log["action"], sharding)

    def close(self) -> None:
        """Does nothing: there is no simulator."""

    def _run(
        self, program: Callable, state: AgentState, at_most: int
    ) -> tuple[AgentState, Metrics, int]:
        steps = min(at_most, self._most_steps)
        carry = state, self._actor, self.action
        (state, self._actor, self.action), metrics, faults = program(carry, np.int32(steps))
        faults = jax.device_get(faults)  # waits for the program
        for k in np.flatnonzero(faults.step).tolist():
            step, episode, reward, observation = (field[k] for field in faults)
            raise not_finite(self._env_id, self._seeds[k], episode, step, reward, observation)
        return state, metrics, steps

    def _stream(self, *position: int) -> chex.Array:
        """Seeds [S] of a stream of episodes."""
        return jnp.asarray([episode_seed(seed, *position) for seed in self._seeds], jnp.uint32)


def first_episode(env: FunctionalEnv, seed: chex.Array) -> Actor:
    """Returns an environment at the start of episode 0 of the stream `seed` (uint32 [])."""
    key, zero = jax.random.key(seed), jnp.zeros((), jnp.int32)
    return Actor(key, zero, zero, *env.reset(jax.random.fold_in(key, zero)))


def make_chunk(env: FunctionalEnv, act: Callable) -> Callable:
    """Returns a function that alternates between an environment and an agent.

    Args:
      env: the environment.
      act: `(agent_state, transition, next_observation) -> (agent_state, action, metrics)`.

    Returns:
      `((agent_state, Actor, action), steps) -> ((agent_state, Actor, action), metrics, Fault)`
      where `steps` is int32 [] and the metrics are sums over these steps.
    """

    @jax.jit  # within the loop this has no effect but that it is traced once for shapes and loop
    def step(carry: tuple) -> tuple[tuple, Metrics, Transition]:
        state, actor, action = carry
        actor, transition = _step(env, actor, action)
        state, action, metrics = act(state, transition, actor.observation)
        return (state, actor, action), metrics, transition

    def run(carry: tuple, steps: chex.Array) -> tuple[tuple, Metrics, Fault]:
        def body(_: chex.Array, total: tuple) -> tuple:
            carry, sums, fault = total
            before = carry[1]
            carry, metrics, transition = step(carry)
            sums = jax.tree.map(jnp.add, sums, metrics)
            return carry, sums, _first_fault(fault, before, transition)

        _, metrics, _ = jax.eval_shape(step, carry)
        sums = jax.tree.map(lambda value: jnp.zeros(value.shape), metrics)
        zero = jnp.zeros((), jnp.int32)
        fault = Fault(zero, zero, jnp.zeros(()), jnp.zeros_like(carry[1].observation))
        return jax.lax.fori_loop(0, steps, body, (carry, sums, fault))

    return run


def make_episodes(env: FunctionalEnv, agent: Agent, count: int) -> Callable:
    """Returns `(policy_params, seed) -> (returns [count], lengths [count])` of greedy episodes.

    Episode n is reset with a key that depends on the seed (uint32 []) and on n alone; returns are
    undiscounted.
    """

    def play(policy: Any, seed: chex.Array) -> tuple[chex.Array, chex.Array]:
        def step(carry: tuple) -> tuple:
            env_state, observation, running, returns, lengths, memory = carry
            action, memory = agent.act(policy, memory, observation)
            env_state, observation, reward, terminated, truncated = jax.vmap(env.step)(
                env_state, action
            )
            returns += jnp.where(running, reward, 0.0)
            lengths += running
            running &= (terminated == 0) & (truncated == 0)
            return env_state, observation, running, returns, lengths, memory

        fold_in = functools.partial(jax.random.fold_in, jax.random.key(seed))
        start = jax.vmap(env.reset)(jax.vmap(fold_in)(jnp.arange(count)))
        statistics = jnp.ones(count, bool), jnp.zeros(count), jnp.zeros(count, jnp.int32)
        *_, returns, lengths, _ = jax.lax.while_loop(
            lambda carry: carry[2].any() & (carry[4].max() < env.max_steps),
            step,
            (*start, *statistics, agent.begin(policy, count)),
        )
        return returns, lengths

    return play


def _step(env: FunctionalEnv, actor: Actor, action: chex.Array) -> tuple[Actor, Transition]:
    """Applies an action, and resets the environment if that ends the episode."""
    after, seen, reward, terminated, truncated = env.step(actor.env, action)
    transition = Transition(actor.observation, action, reward, seen, terminated, truncated)
    over = (terminated > 0) | (truncated > 0)
    episode = actor.episode + over
    after, observation = jax.lax.cond(
        over,
        lambda: env.reset(jax.random.fold_in(actor.key, episode)),
        lambda: (after, seen),
    )
    steps = jnp.where(over, 0, actor.steps + 1)
    return Actor(actor.key, episode, steps, after, observation), transition


def _first_fault(fault: Fault, actor: Actor, transition: Transition) -> Fault:
    """Returns the fault there already is, or that of a transition made by `actor`."""
    reward, observation = transition.reward, transition.next_observation
    broken = ~(jnp.isfinite(reward) & jnp.isfinite(observation).all())
    blamed = broken & jnp.isfinite(transition.action).all() & (fault.step == 0)
    found = Fault(actor.steps + 1, actor.episode, reward, observation)
    return jax.tree.map(functools.partial(jnp.where, blamed), found, fault)


def _is_key(leaf: chex.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: chex.Array) -> chex.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: chex.Array, data: chex.Array) -> chex.Array:
    """Returns what `_data` made of an array like `leaf`."""
    if not _is_key(leaf):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
