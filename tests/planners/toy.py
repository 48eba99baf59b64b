"""Returns and models whose best plans are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from planners import search_space

SPACE = search_space(horizon=3, action_size=2)
TARGET = np.float32([[0.5, -0.25], [-0.75, 0.0], [0.25, 0.6]])  # within SPACE
OBSERVATION = jnp.zeros(2)
# The two flavours of CEM: Berkeley's CS 285, homework 4, and Chua et al. 2018.
CS285 = {
    "num_candidates": 1000,
    "num_elites": 5,
    "num_iterations": 4,
    "smoothing": 1.0,
    "sampler": "clipped",
    "warm_start": False,
}
PETS = {
    "num_candidates": 400,
    "num_elites": 40,
    "num_iterations": 5,
    "smoothing": 0.9,
    "sampler": "truncated",
    "warm_start": True,
}


def quadratic(params, key, observation, actions, model_fn, reward_fn):
    """An `Evaluate` whose best sequence is TARGET, without any model."""
    return -jnp.square(actions - jnp.asarray(TARGET)[None]).sum((1, 2))


class Recorder:
    """An `Evaluate` that keeps the candidates of every call, in order."""

    def __init__(self, evaluate=quadratic):
        self.evaluate, self.candidates = evaluate, []

    def __call__(self, params, key, observation, actions, model_fn, reward_fn):
        jax.debug.callback(
            lambda actions: self.candidates.append(np.array(actions)), actions, ordered=True
        )
        return self.evaluate(params, key, observation, actions, model_fn, reward_fn)


def returns_of(candidates):
    return -np.square(candidates - TARGET).sum((1, 2))


@functools.cache
def compiled(planner):
    return jax.jit(lambda key, state: planner.plan(None, key, state, OBSERVATION, None, None))


def run(planner, key=0, state=None):
    state = planner.init() if state is None else state
    output = compiled(planner)(jax.random.key(key), state)
    jax.effects_barrier()
    return output
