"""The preset modhe2022 against the value-aware code of Modhe et al. (2021): settings and loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from experiment import configuration
from experiment.fields import get
from models.ensemble import Normalizers
from models.normalizer import Normalizer, identity
from models.objectives import OBJECTIVES
from tests.models import value_toy

ENVIRONMENTS = ("Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid", "InvertedPendulum")
TABLE = {  # in the order of the environments above
    "total_steps": (125_000, 300_000, 400_000, 300_000, 300_000, 20_000),
    "epoch_length": (1000, 1000, 1000, 1000, 1000, 250),
    "model.patience": (10, 10, 1, 10, 5, 5),
    "model.learning_rate": (1e-3, 3e-4, 1e-3, 3e-4, 5e-4, 1e-3),
    "model.weight_decay": ((5e-5,), (2e-5,), (2e-5,), (2e-5,), (3e-6,), (5e-5,)),
    "updates_per_step": (20, 20, 40, 20, 20, 20),
    "sac.critic_learning_rate": (3e-4, 3e-4, 3e-5, 3e-4, 1e-5, 3e-4),
    "sac.policy_learning_rate": (3e-5, 3e-4, 3e-4, 3e-4, 3e-4, 3e-4),
    "sac.temperature_learning_rate": (3e-4, 3e-3, 3e-4, 3e-3, 3e-4, 1e-4),
    "sac.policy_update_every": (1, 4, 4, 4, 16, 1),
    "sac.target_update_every": (4, 1, 4, 1, 8, 4),
    "sac.target_entropy": (-1.0, -3.0, -3.0, -3.0, -2.0, -0.05),
}
SCHEDULE = (  # of rollout lengths, in epochs counted from one
    (20, 150, 1, 15),
    (20, 150, 1, 1),
    (20, 150, 1, 1),
    (20, 100, 1, 25),
    (20, 300, 1, 25),
    (1, 15, 1, 1),
)
EPOCHS_RETAINED = (1, 1, 1, 1, 5, 1)
COMMON = {
    "initial_steps": 5_000,
    "discount": 0.99,
    "sac.batch_size": 256,
    "sac.hidden_width": 1024,
    "sac.hidden_depth": 2,
    "sac.num_critics": 2,
    "sac.target_update_rate": 0.005,
    "sac.learn_temperature": True,
    "sac.initial_temperature": 0.1,
    "sac.max_grad_norm": 2.0,
    "sac.explore_greedily": True,
    "model.num_members": 7,
    "model.num_elites": 5,
    "model.hidden_width": 200,
    "model.hidden_depth": 4,
    "model.batch_size": 256,
    "model.holdout_ratio": 0.2,
    "model.improvement_threshold": 0.01,
    "model.train_every": 250,
    "model.incumbent_competes": True,
    "model.validation": "mse",
    "model.max_gradient_steps": 0,
    "model.learn_variance_bounds": False,
    "model.normalize_targets": False,
    "rollout.starts": 400 * 250,
    "rollout.real_ratio": 0.0,
    "rollout.deterministic": False,
}
VALUE_AWARE = {
    "objective.critic": "first",
    "objective.action": "sample",
    "objective.num_model_samples": 1,
    "objective.mask_terminal": False,
    "objective.include_entropy": False,
    "objective.include_discount": False,
    "objective.reduction": "sum",
    "objective.value_weight": 0.01,
    "objective.mle_weight": 0.0,
    "model.max_grad_norm": 2.0,
    "refit.interval": 5,
    "refit.starts": 50_000,
    "refit.updates": 5,
}


def resolved(env="Hopper-v5", **given):
    config = default.get_config(env)
    config.preset = "modhe2022"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in given.items()})
    return configuration.resolve(config)


def assert_fields(config, expected):
    assert {name: get(config, name) for name in expected} == expected


@pytest.mark.parametrize("place", range(len(ENVIRONMENTS)), ids=ENVIRONMENTS)
@pytest.mark.parametrize("algo", ["ma_l1", "vaml"])
def test_every_environment_has_its_published_constants(place, algo):
    config = resolved(f"{ENVIRONMENTS[place]}-v5", algo=algo)
    configuration.validate(config)
    assert_fields(config, {name: row[place] for name, row in TABLE.items()} | COMMON)
    # the schedule is evaluated one epoch ahead, and ours counts steps
    epoch = TABLE["epoch_length"][place]
    first, last, shortest, longest = SCHEDULE[place]
    schedule = ((first - 1) * epoch, (last - 1) * epoch, shortest, longest)
    assert_fields(
        config,
        {
            "rollout.schedule": schedule,
            "rollout.retain_steps": EPOCHS_RETAINED[place] * epoch,
        },
    )


@pytest.mark.parametrize(("algo", "objective"), [("ma_l1", "ma_l1"), ("vaml", "vaml")])
def test_the_loss_has_its_published_options(algo, objective):
    assert_fields(resolved(algo=algo), VALUE_AWARE | {"model.objective": objective})


def test_the_likelihood_is_refitted_too_but_its_gradient_is_not_clipped():
    expected = {"refit.interval": 5, "sac.max_grad_norm": 2.0, "model.max_grad_norm": 0.0}
    assert_fields(resolved(algo="mbpo"), expected)


@pytest.mark.parametrize(("algo", "norm"), [("ma_l1", np.abs), ("vaml", np.square)])
def test_the_whole_loss(algo, norm):
    """0.01 times the sum of |Q1(s', u') - Q1(model's)| or its square, plus that of reward errors.

    One draw of state and reward from all members, an action of its own for either state, states as
    they are; neither discount nor mask nor entropy.
    """
    config = resolved(
        algo=algo,
        model__num_members=value_toy.MEMBERS,
        model__num_elites=2,
        model__hidden_width=8,
        model__hidden_depth=1,
    )
    spec = value_toy.SPEC._replace(termination=lambda s, a, n: n[..., 0] > 0.0)
    parts = value_toy.parts_of(config, spec)
    made = OBJECTIVES[algo](config, parts)
    rows = value_toy.batch()
    rows = rows._replace(terminated=jnp.float32(rows.next_observation[..., 0] > 0.0))
    assert 0 < rows.terminated.mean() < 1
    inputs = Normalizer(jnp.array([0.3, -0.2, 0.1]), jnp.array([1.5, 0.7, 2.0]))
    context = value_toy.context(Normalizers(inputs, identity(3)))
    params = jax.jit(parts.ensemble.init)(jax.random.key(0))
    key = jax.random.key(3)
    found = jax.jit(made.loss)(params, made.init(key), rows, context, key)[0]

    # its random numbers: of the prediction, of the action at s', of that at the model's state
    prediction_key, value_key = jax.random.split(key)
    (sample_key,) = jax.random.split(prediction_key, 1)
    real_key, model_key = jax.random.split(value_key)
    shape = (value_toy.MEMBERS, value_toy.ROWS)
    epsilon = np.float64(jax.random.normal(sample_key, (*shape, 3)))
    noise, model_noise = (
        0.1 * np.float64(jax.random.normal(k, (np.prod(shape), 1))).reshape(shape)
        for k in (real_key, model_key)
    )

    prediction = parts.ensemble.predict(params, context.normalizers, rows.observation, rows.action)
    mean, log_variance = map(np.float64, prediction)
    y = mean + np.exp(0.5 * log_variance) * epsilon
    model_s, model_r = np.float64(rows.observation) + y[..., :2], y[..., 2]

    def q1(s, noise):
        action = np.tanh(0.7 * s[..., 0]) + noise
        return 0.5 * (s[..., 0] ** 2 - 2.0 * s[..., 1] ** 2) + 0.1 * action * s[..., 0]

    m = q1(np.float64(rows.next_observation), noise) - q1(model_s, model_noise)
    reward = np.square(model_r - np.float64(rows.reward)).sum()
    expected = 0.01 * norm(m).sum() + reward
    assert 0.01 * norm(m).sum() > 1e-2
    assert found == pytest.approx(expected, rel=1e-5)
    # reward noise is part of it, and so are the states after a termination
    assert abs(np.square(mean[..., 2] - rows.reward).sum() - reward) > 0.1
    assert norm(m)[np.asarray(rows.terminated) > 0].sum() > 0.1
