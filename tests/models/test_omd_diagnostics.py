"""The diagnostics of OMD where the Hessian is known, and their bounds where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import soft_q
from models import normalizer
from models.ensemble import Normalizers, make_ensemble
from models.objectives import Context
from models.objectives.omd_diagnostics import cosine, make_diagnostics
from tests.models import omd_toy as toy

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def diagnose(batch=None, params=None, members=1, **changes):
    settings = toy.config(model__num_members=members, **changes)
    run = make_diagnostics(settings, toy.parts(members))
    params, batch = params or toy.params(), batch or toy.batch()
    metrics = jax.jit(run)(params, batch, toy.context(), KEY)
    return {name.removeprefix("omd/"): float(value) for name, value in metrics.items()}


def numpy_cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_the_numbers_of_two_rows_by_hand():
    metrics = diagnose()
    expected = {
        "inner_gradient": np.linalg.norm(toy.C) / np.linalg.norm(toy.V),
        "alignment": numpy_cosine(toy.C, toy.V),
        "cg_residual": 0.0,
        "cg_failed": 0.0,
        "cosine_identity_cg": numpy_cosine(toy.IDENTITY, toy.EXACT),
    }
    assert metrics == pytest.approx(expected, abs=1e-9)
    assert 0.9 < metrics["cosine_identity_cg"] < 1.0


@pytest.mark.parametrize("inverse", ["identity", "neumann"])
def test_the_inverse_of_the_objective_does_not_matter(inverse):
    assert diagnose(omd__inverse=inverse) == diagnose(omd__inverse="cg")


def test_one_step_of_conjugate_gradients_fails_and_is_said_to():
    metrics = diagnose(omd__cg_steps=1)
    first = toy.V * (toy.V @ toy.V) / (toy.V @ toy.HESSIAN @ toy.V)
    residual = np.linalg.norm(toy.HESSIAN @ first - toy.V) / np.linalg.norm(toy.V)
    assert metrics["cg_residual"] == pytest.approx(residual, rel=1e-9)
    assert metrics["cg_failed"] == 1.0
    # which is a question of the tolerance
    assert diagnose(omd__cg_steps=1, omd__cg_tolerance=residual / 5)["cg_failed"] == 0.0
    assert diagnose(omd__cg_steps=1, omd__cg_tolerance=residual / 20)["cg_failed"] == 1.0


def test_too_much_damping_fails():
    damped = np.linalg.solve(toy.HESSIAN + 2.0 * np.eye(2), toy.V)  # half of each: damping 1
    residual = np.linalg.norm(toy.HESSIAN @ damped - toy.V) / np.linalg.norm(toy.V)
    metrics = diagnose(omd__damping=1.0)
    assert metrics["cg_residual"] == pytest.approx(residual, rel=1e-9)
    assert metrics["cg_failed"] == 1.0


def test_a_perfect_model_is_aligned():
    next_states, rewards = toy.numpy_imagined()
    batch = toy.batch()._replace(next_observation=next_states[None, :, None], reward=rewards[None])
    metrics = diagnose(batch)
    assert (metrics["inner_gradient"], metrics["alignment"]) == pytest.approx((1.0, 1.0))


def test_critics_that_fit_reality_leave_finite_numbers():
    backup = toy.numpy_backup(toy.NEXT, np.zeros(2))
    reward = (toy.W[toy.ACTIONS] * toy.STATES - backup)[None]
    metrics = diagnose(toy.batch()._replace(reward=reward))
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["inner_gradient"] > 1e6


def test_the_first_member_is_diagnosed():
    params, batch = toy.params(members=2), toy.batch(2)
    params["theta"] = params["theta"].at[1].set(5.0)
    batch = batch._replace(reward=batch.reward.at[1].set(-3.0))
    assert diagnose(batch, params, members=2) == pytest.approx(diagnose(), rel=1e-9, abs=1e-9)


def test_cosines_of_networks_are_cosines():
    config = toy.config(sac__hidden_width=6, omd__cg_steps=5)
    ensemble = make_ensemble(config, toy.SPEC)
    parts = soft_q.make_learner(config, toy.SPEC).parts(ensemble)
    normalizers = Normalizers(normalizer.identity(3), normalizer.identity(2))
    run = jax.jit(make_diagnostics(config, parts))

    def at(seed):
        rng = np.random.default_rng(seed)

        def draw(init):
            shapes = jax.eval_shape(init, KEY)
            return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)

        critics, targets = draw(parts.init_critics), draw(parts.init_critics)
        context = Context(critics, critics, targets, jnp.zeros(()), normalizers)
        return run(draw(ensemble.init), toy.batch(), context, KEY)

    found = [jax.device_get(at(seed)) for seed in range(5)]
    for name in ("omd/alignment", "omd/cosine_identity_cg"):
        values = [metrics[name] for metrics in found]
        assert np.abs(values).max() <= 1 + 1e-12
        assert np.std(values) > 1e-3


def test_the_cosine_by_hand():
    a = {"x": jnp.array([3.0, 0.0]), "y": jnp.array(4.0)}
    b = {"x": jnp.array([0.0, 1.0]), "y": jnp.array(1.0)}
    assert cosine(a, b) == pytest.approx(4 / (5 * np.sqrt(2)))
    assert cosine(a, jax.tree.map(jnp.negative, a)) == pytest.approx(-1.0)
    assert cosine(a, jax.tree.map(jnp.zeros_like, a)) == 0.0
    huge, small = (jax.tree.map(lambda x, c=c: jnp.float32(c * x), a) for c in (1e30, 1e-30))
    assert cosine(huge, small) == pytest.approx(1.0)  # though their squares overflow
    assert np.isnan(cosine(a, jax.tree.map(lambda x: x * jnp.nan, a)))
