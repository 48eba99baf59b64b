"""What the flows tell apart: a simulator that drifts in some rollouts, and one that does not."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flows import diagnostics, rules
from flows.estimator import make_estimator
from flows.filter import flow_discriminator
from flows.segments import model_segments, pool
from tests.flows import toy

DRIFT, CORRUPT_SHARE = (0.02, 0.12), 0.3  # of the outcome of every step of a corrupt rollout
EPISODES, SCORED = 400, 500  # six segments each
pytestmark = pytest.mark.slow
TRAINING = {"flow.warmup_steps": (300, 500), "flow.batch_size": 256}


class Scored(NamedTuple):
    """Fresh model segments and their scores."""

    x: np.ndarray  # [N, 5]
    centred: np.ndarray  # [N, 5]
    corrupt: np.ndarray  # bool [N]

    def auc(self, x):
        """The chance that a corrupt x scores above a clean one."""
        everywhere = jnp.ones(x.shape, bool)
        corrupt = jnp.asarray(self.corrupt)
        return float(diagnostics.auc(x, everywhere & corrupt, x, everywhere & ~corrupt))


@functools.cache
def scored(inputs, smoothing):
    settings = toy.config(**{"flow.inputs": inputs, "flow.smoothing": smoothing}, **TRAINING)
    estimator = make_estimator(settings, toy.SPEC)

    def generate(key, real):
        corrupt_key, key = jax.random.split(key)
        corrupt = jax.random.bernoulli(corrupt_key, CORRUPT_SHARE, real.valid.shape[:1])
        drift = corrupt[:, None] * jnp.array([DRIFT])
        return model_segments(toy.simulator(drift), real, key), corrupt

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 6)
        real = toy.segments(toy.episodes(keys[0], EPISODES))
        generated, _ = generate(keys[1], real)
        flows = estimator.standardize(estimator.init(keys[2]), real)
        pools = (
            pool(estimator.inputs(flows, side.transition), side.valid) for side in (generated, real)
        )
        flows, _ = estimator.train(flows, *pools, sum(settings.flow.warmup_steps), keys[3])
        fresh = toy.segments(toy.episodes(keys[4], SCORED))
        x_real = estimator.log_ratio(flows, estimator.inputs(flows, fresh.transition)).reshape(-1)
        flows = estimator.recentre(flows, x_real, jnp.ones(x_real.shape, bool))
        generated, corrupt = generate(keys[5], fresh)
        z = estimator.inputs(flows, generated.transition)
        return estimator.log_ratio(flows, z), estimator.score(flows, z) - flows.centre, corrupt

    return Scored(*jax.tree.map(np.asarray, run(jax.random.key(0))))


def test_the_joint_density_of_state_action_and_change_finds_every_drifting_step():
    result = scored("sas", 0.1)
    assert min(result.auc(result.x[:, t]) for t in range(toy.HORIZON)) > 0.98
    assert result.auc(result.x.mean(axis=1)) > 0.99


def test_the_one_nat_rule_keeps_the_clean_steps_and_drops_the_drifting_ones():
    result = scored("sas", 0.1)
    xt = jnp.asarray(result.centred.reshape(-1))
    choice = jax.jit(rules.one_nat_threshold)(xt, jnp.ones(xt.shape, bool), 0.5)
    kept = result.centred <= choice.tau
    clean = np.broadcast_to(~result.corrupt[:, None], kept.shape)
    assert clean[kept].mean() > 0.93  # from 0.7
    assert kept[clean].mean() > 0.95


def test_states_and_actions_alone_see_a_drift_only_after_it_has_accumulated():
    result = scored("sa", 0.1)
    aucs = [result.auc(result.x[:, t]) for t in range(toy.HORIZON)]
    assert np.all(np.diff(aucs) > 0)
    assert aucs[0] < 0.65
    assert aucs[-1] > 0.70


def test_a_perfect_model_is_left_alone():
    settings = toy.config(**TRAINING, **{"flow.recency": 100_000, "flow.num_starts": 2_000})
    ensemble = toy.exact(settings)
    model = toy.model_of(settings, ensemble.init(None), toy.raw_units(ensemble))
    rollout_filter = flow_discriminator(settings, toy.parts_of(ensemble))

    @jax.jit
    def update(key):
        init_key, data_key, key = jax.random.split(key, 3)
        replay = toy.replay(toy.episodes(data_key, EPISODES))
        context = toy.context_of(model.normalizers)
        return rollout_filter.update(rollout_filter.init(init_key), model, replay, context, key)

    _, _, metrics = update(jax.random.key(0))
    assert abs(metrics["flow/dv_heldout"]) < 0.1
    assert 0.47 < metrics["flow/auc"] < 0.53
    assert metrics["flow/kept_fraction"] > 0.95
    assert metrics["flow/ess"] > 0.7  # 1 but for the noise of the estimate
