"""Refinement of models of a pendulum whose errors are known: what it repairs, and what it cannot.

Errors are root mean squares over both dimensions of the state after five steps of replayed actions,
in the units of the state; seeds are fixed.
"""

import functools
from typing import NamedTuple
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flows import reward
from flows.diagnostics import open_loop_errors
from flows.estimator import make_estimator
from flows.reward import RefinementState, make_refinement
from flows.segments import model_segments, pool
from models.ensemble import gaussian_nll
from models.rollout import make_simulator
from tests.flows import toy

FLOWS = {
    "flow.warmup_steps": (200, 100),
    "flow.batch_size": 256,
    "flow.refine_starts": 128,
    "flow.refine_learning_rate": 1e-3,
    "flow.gate_tolerance": 1e3,
}
KEYS = dict(zip(("real", "test", "wide", "fit", "refine"), jax.random.split(jax.random.key(0), 5)))


@functools.cache
def real():
    return toy.episodes(KEYS["real"], 300)


@functools.cache
def held_out():
    return toy.episodes(KEYS["test"], 100)


@functools.cache
def wide():
    return toy.episodes(KEYS["wide"], 300, toy.WIDE, toy.random_actions)


class Refined(NamedTuple):
    """What a refinement made of a model."""

    model: chex.ArrayTree
    metrics: dict

    @property
    def before(self):
        return float(self.metrics[f"refine/before_{toy.HORIZON}"])

    @property
    def after(self):
        return float(self.metrics[f"refine/after_{toy.HORIZON}"])


def make_refine(settings, ensemble, *, stops_early=False):
    """Compiles `(model, rl_weight, replay, key) -> Refined`, flows trained first."""
    parts = toy.parts_of(ensemble)
    estimator = make_estimator(settings, toy.SPEC)
    refinement = make_refinement(settings, parts, estimator)
    simulator = make_simulator(settings, parts)

    @jax.jit
    def refine(model, rl_weight, replay, segments, test, key):
        keys = jax.random.split(key, 5)
        generated = model_segments(simulator(model, ()), segments, keys[0])
        flows = estimator.standardize(estimator.init(keys[1]), segments)
        pools = (
            pool(estimator.inputs(flows, side.transition), side.valid)
            for side in (generated, segments)
        )
        flows, _ = estimator.train(flows, *pools, sum(settings.flow.warmup_steps), keys[2])
        state = RefinementState(rl_weight, refinement.init(keys[3]).term)
        context = toy.context_of(model.normalizers)
        _, _, model, metrics = refinement.refine(
            state, flows, model, context, replay, segments, test, keys[4]
        )
        return Refined(model, metrics)

    def call(model, rl_weight=10.0, replay=None, key=KEYS["refine"]):
        replay = toy.replay(real()) if replay is None else replay
        patience = reward.PATIENCE if stops_early else 10**6
        with mock.patch.object(reward, "PATIENCE", patience):
            segments, test = toy.segments(real()), toy.segments(held_out())
            return refine(model, jnp.float32(rl_weight), replay, segments, test, key)

    return call
