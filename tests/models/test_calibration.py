"""The variance of held-out residuals, of a toy model whose residuals are known."""

import jax
import jax.numpy as jnp
import numpy as np

from agents.sac import make_sac, parts_of
from models import normalizer
from models.calibration import SMALLEST_VARIANCE, with_holdout_variance
from models.ensemble import Normalizers, make_ensemble
from models.fit import make_fit
from models.normalizer import Normalizer
from models.objectives import OBJECTIVES, Context
from models.split import Split
from replay import Transition, buffer, example_transition
from tests.models.toy import toy_config, toy_predict, toy_spec


def replay_of(change, reward):
    """Transitions from state 0 with action 0: targets are change [N, 2] and reward [N]."""
    n = len(change)
    state, zeros = jnp.zeros((n, 2)), jnp.zeros(n)
    items = Transition(state, jnp.zeros((n, 1)), jnp.float32(reward), change, zeros, zeros)
    return buffer.add_masked(buffer.init(n, example_transition(2, 1)), items, jnp.ones(n, bool))


def test_each_member_gets_the_mean_square_of_its_own_held_out_residuals():
    ensemble = make_ensemble(toy_config(), toy_spec())._replace(predict=toy_predict)
    # the toy predicts (delta, 0) and reward 0 here; the last two rows are for training
    change = jnp.float32([[1.0, 2.0], [3.0, 0.0], [2.0, -2.0], [9.0, 9.0], [9.0, 9.0]])
    replay = replay_of(change, [0.0, 0.0, 0.0, 9.0, 9.0])
    split = Split(jnp.array([[3, 4]] * 2), jnp.int32(2), jnp.array([2, 0, 1, 3]), jnp.int32(3))
    scales = Normalizers(
        normalizer.identity(3), Normalizer(jnp.zeros(3), jnp.float32([1.0, 2.0, 1.0]))
    )
    params = {
        "delta": jnp.float32([0.0, 1.0]),
        "log_variance": jnp.zeros(2),
        "log_std": jnp.ones((2, 3)),
    }
    found = with_holdout_variance(ensemble, params, scales, replay, split)
    # member 0: (1 + 9 + 4) / 3, (4 + 0 + 4) / 3 / 2^2, none; member 1: (0 + 4 + 1) / 3
    expected = [[14 / 3, 2 / 3, SMALLEST_VARIANCE], [5 / 3, 2 / 3, SMALLEST_VARIANCE]]
    np.testing.assert_allclose(np.exp(2 * found["log_std"]), expected, rtol=1e-5)
    np.testing.assert_array_equal(found["delta"], params["delta"])


def test_a_fit_is_calibrated_on_rows_it_has_overfitted():
    """300 rows of pure noise, 60 of them held out, and enough steps to memorise the others."""
    fields = {
        "model.hidden_width": 64,
        "model.hidden_depth": 2,
        "model.weight_decay": (0.0,),
        "model.normalize_targets": True,
        "model.permanent_holdout": True,
        "model.first_gradient_steps": 300,
        "model.max_gradient_steps": 300,
        "model.keep": "last",
        "model.batch_size": 64,
    }
    noise = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    replay = replay_of(jnp.asarray(noise[:, :2]), noise[:, 2])
    state = jnp.asarray(noise[:, 3:5])
    items, _ = buffer.contents(replay)
    items = items._replace(
        observation=state, next_observation=state + items.next_observation, action=noise[:, 5:]
    )
    replay = buffer.with_contents(replay, items)
    squared = {}
    for variance in ("constant", "holdout"):
        config = toy_config(**fields, **{"model.variance": variance})
        ensemble = make_ensemble(config, toy_spec())
        parts = parts_of(make_sac(config, toy_spec()), ensemble, toy_spec())
        fit = make_fit(config, ensemble, OBJECTIVES["mle"](config, parts))
        model = fit.init(jax.random.key(0))
        context = Context(None, None, None, None, model.normalizers)
        _, metrics = jax.jit(fit.fit)(model, replay, context, jax.random.key(1))
        squared[variance] = float(metrics["model/holdout_z2"])
    np.testing.assert_allclose(squared["holdout"], 1.0, rtol=1e-4)
    assert squared["constant"] > 1.1
