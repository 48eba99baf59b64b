"""The hypergradient of the objective: by hand, by explicit products, differences and unrolling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from agents import sac, soft_q
from envs import terminations
from envs.spec import EnvSpec
from models import normalizer
from models.ensemble import Normalizers, make_ensemble
from models.objectives import mle, omd
from replay import Transition
from tests.integration import tiny
from tests.models import omd_toy as toy

KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def gradient_of(objective, params, batch, context, state=(), key=KEY):
    """The gradient, and what the loss returns beside its value."""
    grads, others = jax.jit(jax.grad(objective.loss, has_aux=True))(
        params, state, batch, context, key
    )
    return grads, others


def close(found, expected, tolerance=1e-12):
    found, expected = ravel_pytree(found)[0], ravel_pytree(expected)[0]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# --- two rows by hand ----------------------------------------------------------------------------


def hand_gradient(**changes):
    objective, _ = toy.make(**changes)
    grads, (_, metrics) = gradient_of(objective, toy.params(), toy.batch(), toy.context())
    return grads["theta"][0], metrics


def test_the_toy_is_that_of_the_reference_values():
    real, imagined = (
        toy.numpy_backup(toy.NEXT, toy.REWARDS),
        toy.numpy_backup(*toy.numpy_imagined()),
    )
    close(toy.numpy_gradient(toy.W, real), toy.V)
    close(toy.numpy_gradient(toy.W, imagined), toy.C)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # half of c times half of v; the halves cancel in H^-1 v
        ({"omd__inverse": "identity"}, toy.IDENTITY / 4),
        ({"omd__inverse": "exact"}, toy.EXACT / 2),
        ({"omd__inverse": "cg", "omd__cg_tolerance": 1e-12}, toy.EXACT / 2),
        ({"omd__inverse": "neumann", "omd__neumann_terms": 200}, toy.EXACT / 2),
    ],
)
def test_the_hypergradient_of_every_inverse_is_the_reference_value(changes, expected):
    gradient, metrics = hand_gradient(**changes, omd__neumann_step=0.8)
    close(gradient, expected, 1e-9)
    close(metrics["real_bellman"], toy.TRUE_LOSS / 2, 1e-9)


def test_the_settings_of_the_inverses_arrive():
    hessian, v = toy.HESSIAN / 2, toy.V / 2
    step, terms = 0.3, 3
    shrink = np.eye(2) - step * hessian
    series = step * (v + shrink @ v + shrink @ shrink @ v)
    _, metrics = hand_gradient(
        omd__inverse="neumann", omd__neumann_terms=terms, omd__neumann_step=step
    )
    close(
        metrics["hessian_residual"], np.linalg.norm(hessian @ series - v) / np.linalg.norm(v), 1e-9
    )
    damped = np.linalg.solve(hessian + 0.5 * np.eye(2), v)
    residual = np.linalg.norm(hessian @ damped - v) / np.linalg.norm(v)
    for inverse in ("exact", "cg"):
        _, metrics = hand_gradient(omd__inverse=inverse, omd__damping=0.5, omd__cg_tolerance=1e-12)
        close(metrics["hessian_residual"], residual, 1e-9)
    first = v * (v @ v) / (v @ hessian @ v)
    _, metrics = hand_gradient(omd__inverse="cg", omd__cg_steps=1)
    close(
        metrics["hessian_residual"], np.linalg.norm(hessian @ first - v) / np.linalg.norm(v), 1e-9
    )
    _, metrics = hand_gradient(omd__inverse="cg", omd__cg_tolerance=0.9)
    assert metrics["hessian_residual"] > 0.1


def test_a_solution_that_is_worse_than_none_has_failed():
    _, metrics = hand_gradient(omd__inverse="neumann", omd__neumann_terms=4, omd__neumann_step=3.0)
    assert metrics["hessian_residual"] > 1.0
    assert metrics["hessian_failed"] == 1.0


def test_conjugate_gradients_solve_what_the_identity_does_not():
    _, metrics = hand_gradient(omd__inverse="cg", omd__cg_steps=2, omd__cg_tolerance=1e-12)
    of_identity = np.linalg.norm(toy.HESSIAN @ toy.V / 2 - toy.V) / np.linalg.norm(toy.V)
    assert metrics["hessian_residual"] < 1e-9 < of_identity
    assert metrics["hessian_failed"] == 0.0
    _, metrics = hand_gradient(omd__inverse="identity")
    assert set(metrics) == {"real_bellman"}


def test_the_real_termination_masks_what_follows_in_both():
    objective, _ = toy.make()
    grads, (_, metrics) = gradient_of(
        objective, toy.params(), toy.batch(terminated=1.0), toy.context()
    )
    v = toy.numpy_gradient(toy.W, toy.REWARDS) / 2
    close(
        metrics["real_bellman"],
        0.5 * np.mean(np.square(toy.W[toy.ACTIONS] * toy.STATES - toy.REWARDS)),
    )
    # c_a = mean (w_a s - theta_3) s [a]: its derivative by the reward is the mean of -s [a]
    slope = np.array([np.mean(-toy.STATES * (a == toy.ACTIONS)) for a in (0, 1)])
    close(grads["theta"][0], [0.0, 0.0, -slope @ v])


def test_the_score_is_the_squared_error_of_the_backup():
    objective, _ = toy.make(model__num_members=2)
    params = toy.params(members=2)
    params["theta"] = params["theta"].at[1].set(jnp.array([0.3, -0.5, 0.1]))
    score = objective.score(params, (), toy.batch(2), toy.context(), KEY)
    real = toy.numpy_backup(toy.NEXT, toy.REWARDS)
    for member, theta in enumerate(np.asarray(params["theta"])):
        imagined = toy.numpy_backup(*toy.numpy_imagined(theta))
        close(score[member], np.square(imagined - real))
    assert score.shape == (2, 2)


def perfect():
    """The toy with rewards and next states that the model predicts."""
    next_states, rewards = toy.numpy_imagined()
    return toy.batch()._replace(next_observation=next_states[None, :, None], reward=rewards[None])


def test_in_a_perfect_model_both_gradients_are_the_same():
    objective, _ = toy.make()
    grads, _ = gradient_of(objective, toy.params(), perfect(), toy.context())
    h = 1e-6

    def half_length(theta):  # of c; its derivative is (dc / dtheta)^T c
        c = toy.numpy_gradient(toy.W, toy.numpy_backup(*toy.numpy_imagined(theta))) / 2
        return 0.5 * c @ c

    slopes = [
        (half_length(toy.THETA + e) - half_length(toy.THETA - e)) / (2 * h) for e in h * np.eye(3)
    ]
    close(grads["theta"][0], -np.array(slopes), 1e-8)
    score = objective.score(toy.params(), (), perfect(), toy.context(), KEY)
    np.testing.assert_array_equal(score, 0.0)


def test_there_is_nothing_to_learn_where_the_critics_fit_reality():
    backup = toy.numpy_backup(toy.NEXT, np.zeros(2))
    fitting = toy.batch()._replace(reward=(toy.W[toy.ACTIONS] * toy.STATES - backup)[None])
    objective, _ = toy.make()
    grads, (_, metrics) = gradient_of(objective, toy.params(), fitting, toy.context())
    close(metrics["real_bellman"], 0.0)
    close(grads["theta"], np.zeros((1, 3)), 1e-15)


# --- critics of its own --------------------------------------------------------------------------


def hand_inner_loop(w, target_w, steps, rate, tau, moments=None, count=0):
    """Adam on the Bellman error in the model, in NumPy."""
    mean, square = moments or (np.zeros(2), np.zeros(2))
    for step in range(count + 1, count + steps + 1):
        gradient = toy.numpy_gradient(w, toy.numpy_backup(*toy.numpy_imagined(), target_w)) / 2
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * np.square(gradient)
        change = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        w = w - rate * change
        target_w = tau * w + (1 - tau) * target_w
    return w, target_w, (mean, square)


OWN = {"agent": "mbpo", "sac__learning_rate": 0.03, "sac__target_update_rate": 0.1}


def test_its_own_critics_start_as_the_agents_and_follow_the_model():
    objective, _ = toy.make(**OWN, omd__inner_steps=3)
    state = objective.begin(objective.init(KEY), toy.context())
    close((state.online[0], state.target[0]), (toy.W, toy.TARGET_W))
    assert {int(leaf) for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim == 0} == {0}
    w, target_w, moments, count = toy.W, toy.TARGET_W, None, 0
    for _ in range(2):  # the second call continues where the first stopped
        grads, (state, _) = gradient_of(objective, toy.params(), toy.batch(), toy.context(), state)
        w, target_w, moments = hand_inner_loop(w, target_w, 3, 0.03, 0.1, moments, count)
        count += 3
        close(state.online[0], w, 1e-9)
        close(state.target[0], target_w, 1e-9)
        # the hypergradient is that of these critics, after their steps
        with_agents, _ = toy.make()
        expected, _ = gradient_of(with_agents, toy.params(), toy.batch(), toy.context(w, target_w))
        close(grads["theta"], expected["theta"], 1e-8)
    assert np.abs(w - toy.W).max() > 0.1


def test_its_own_critics_learn_from_the_rows_of_all_members():
    objective, _ = toy.make(**OWN, model__num_members=2)
    params = toy.params(members=2)
    params["theta"] = params["theta"].at[1].set(jnp.array([-0.8, 1.0, -2.0]))
    state = objective.begin(objective.init(KEY), toy.context())
    _, (state, _) = gradient_of(objective, params, toy.batch(2), toy.context(), state)
    gradients = [
        toy.numpy_gradient(toy.W, toy.numpy_backup(*toy.numpy_imagined(theta))) / 2
        for theta in np.asarray(params["theta"])
    ]
    mean = np.mean(gradients, axis=0)
    close(state.optimizer[0].mu[0], 0.1 * mean, 1e-9)
    assert np.abs(mean - gradients[0]).max() > 0.1


def test_critics_of_a_one_step_agent_need_no_state():
    objective, _ = toy.make()
    assert objective.begin is None
    assert objective.init(KEY) == ()


# --- networks ------------------------------------------------------------------------------------

MEMBERS, ROWS, OBSERVATIONS, CHOICES = 2, 6, 3, 2


def soft_q_problem(**changes):
    """Parts of soft Q-learning, an ensemble of networks, data and a context, in float64."""
    config = toy.config(
        model__num_members=MEMBERS, sac__hidden_width=6, model__head_scale=1.0, **changes
    )
    bounds = (0.0,) * CHOICES, (1.0,) * CHOICES
    spec = EnvSpec("Toy-v0", OBSERVATIONS, CHOICES, *bounds, terminations.never, None, True)
    return problem(config, spec, soft_q.make_learner(config, spec), one_hot=True)


def sac_problem(**changes):
    """The same with soft actor-critic."""
    config = toy.config(
        model__num_members=MEMBERS, sac__hidden_width=6, model__head_scale=1.0, **changes
    )
    spec = tiny.spec(OBSERVATIONS, CHOICES)
    return problem(config, spec, sac.make_learner(config, spec), one_hot=False)


def problem(config, spec, learner, one_hot):
    ensemble = make_ensemble(config, spec)
    parts = learner.parts(ensemble)
    state = random_tree(learner.init, seed=1)
    normalizers = Normalizers(
        normalizer.identity(ensemble.input_size), normalizer.identity(ensemble.target_size)
    )
    context = learner.context(state, normalizers)
    if not one_hot:
        context = context.replace(log_temperature=jnp.log(0.3))
    params = random_tree(ensemble.init, seed=2)
    rng = np.random.default_rng(0)
    shape = (MEMBERS, ROWS)
    action = np.eye(CHOICES)[rng.integers(CHOICES, size=shape)]
    batch = Transition(
        rng.normal(size=(*shape, OBSERVATIONS)),
        action if one_hot else rng.uniform(-1.0, 1.0, (*shape, CHOICES)),
        rng.normal(size=shape),
        rng.normal(size=(*shape, OBSERVATIONS)),
        np.float64(rng.uniform(size=shape) < 0.3),
        np.zeros(shape),
    )
    return config, parts, params, jax.tree.map(jnp.asarray, batch), context


@functools.cache
def solved(make_problem, **changes):
    """A problem and the gradient of the objective."""
    config, parts, params, batch, context = make_problem(**changes)
    grads, _ = gradient_of(omd.make(config, parts), params, batch, context)
    return config, parts, params, batch, context, grads


def random_tree(init, seed):
    """What `init` returns, with other numbers."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape))

    return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0)))


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index : index + 1], tree)


def explicit_losses(config, parts, context, batch, index):
    """Of one member, written anew: `(theta, w) -> []` in the model and `w -> []` in reality."""
    real = jax.tree.map(lambda x: x[index], batch)
    mask = config.discount * (1.0 - real.terminated)
    alpha = config.soft_q.temperature
    net = functools.partial(
        parts.ensemble.predict,
        normalizers=context.normalizers,
        observation=real.observation[None],
        action=real.action[None],
    )

    def error(w, next_observation, reward):
        everything = jnp.eye(CHOICES)
        next_q = jnp.stack(
            [
                parts.q_values(context.target_critics, next_observation, jnp.tile(a, (ROWS, 1)))
                for a in everything
            ],
            axis=-1,
        ).min(axis=0)
        y = reward + mask * alpha * jnp.log(jnp.exp(next_q / alpha).sum(axis=-1))
        q = parts.q_values(w, real.observation, real.action)
        return sum(jnp.mean((q[c] - y) ** 2) for c in range(q.shape[0])) / 2

    def in_model(theta, w):
        mean = net(theta).mean[0]
        return error(w, mean[:, :OBSERVATIONS], mean[:, OBSERVATIONS])

    return in_model, lambda w: error(w, real.next_observation, real.reward)


@pytest.mark.parametrize("index", range(MEMBERS))
def test_the_gradient_of_a_member_is_that_of_explicit_products(index):
    config, parts, params, batch, context, grads = solved(soft_q_problem)
    in_model, in_reality = explicit_losses(config, parts, context, batch, index)

    @jax.jit
    def explicit(theta):
        v = jax.grad(in_reality)(context.critics)
        _, pull = jax.vjp(
            lambda theta: jax.grad(in_model, argnums=1)(theta, context.critics), theta
        )
        return jax.tree.map(jnp.negative, pull(v)[0])

    expected = explicit(member(params, index))
    close(member(grads, index)["net"], expected["net"])
    assert optax.tree.norm(expected["net"]) > 0.01


def test_the_gradient_is_that_of_one_small_unrolled_step():
    config, parts, params, batch, context, grads = solved(soft_q_problem)
    in_model, in_reality = explicit_losses(config, parts, context, batch, 0)
    eta = 1e-6

    @jax.jit
    def unrolled(theta):
        w = context.critics
        step = jax.grad(in_model, argnums=1)(theta, w)
        return in_reality(jax.tree.map(lambda w, g: w - eta * g, w, step)) / eta

    expected = ravel_pytree(jax.grad(unrolled)(member(params, 0))["net"])[0]
    found = ravel_pytree(member(grads, 0)["net"])[0]
    lengths = np.linalg.norm(found), np.linalg.norm(expected)
    assert found @ expected / np.prod(lengths) > 1 - 1e-6
    assert lengths[0] / lengths[1] == pytest.approx(1.0, abs=1e-4)


def test_members_learn_from_their_own_rows_alone():
    config, parts, params, batch, context, grads = solved(soft_q_problem)
    other = batch._replace(reward=batch.reward.at[1].add(1.0))
    changed, _ = gradient_of(omd.make(config, parts), params, other, context)
    close(member(grads, 0), member(changed, 0))
    difference = jax.tree.map(jnp.subtract, member(grads, 1)["net"], member(changed, 1)["net"])
    assert optax.tree.norm(difference) > 0.01


def test_the_gradient_of_sac_is_that_of_differences_with_frozen_actions():
    config, parts, params, batch, context, grads = solved(sac_problem)
    index, h = 1, 1e-5
    key = jax.random.split(jax.random.split(KEY, 3)[2], MEMBERS)[index]
    real = jax.tree.map(lambda x: x[index], batch)

    def imagined(theta):
        inputs = (real.observation[None], real.action[None])
        mean = parts.ensemble.predict(theta, context.normalizers, *inputs).mean[0]
        return mean[:, :OBSERVATIONS], mean[:, OBSERVATIONS]

    def gradient(next_observation, reward, action, log_prob):
        """Of the Bellman error by the critics, actions and their entropy being given."""

        def error(w):
            next_q = parts.q_values(context.target_critics, next_observation, action).min(axis=0)
            v = next_q - 0.3 * log_prob
            y = reward + config.discount * (1.0 - real.terminated) * v
            return (
                0.5
                * jnp.square(parts.q_values(w, real.observation, real.action) - y[None])
                .mean(axis=1)
                .sum()
            )

        return ravel_pytree(jax.grad(error)(context.critics))[0]

    theta = member(params, index)
    sample = functools.partial(parts.sample_and_log_prob, context.policy)
    v = gradient(real.next_observation, real.reward, *sample(real.next_observation, key))
    frozen = sample(imagined(theta)[0], key)  # at the model as it is: the same noise
    flat, unravel = ravel_pytree(theta["net"])
    loss = jax.jit(lambda flat: -gradient(*imagined(theta | {"net": unravel(flat)}), *frozen) @ v)
    found = ravel_pytree(member(grads, index)["net"])[0]
    for direction in np.random.default_rng(5).normal(size=(4, flat.size)):
        slope = (loss(flat + h * direction) - loss(flat - h * direction)) / (2 * h)
        assert float(found @ direction) == pytest.approx(float(slope), rel=1e-6)
    assert np.linalg.norm(found) > 0.01


@pytest.mark.parametrize("make_problem", [soft_q_problem, sac_problem])
@pytest.mark.parametrize("agent", ["dyna", "mbpo"])
def test_the_agent_gets_no_gradient(make_problem, agent):
    config, parts, params, batch, context = make_problem(agent=agent)
    objective = omd.make(config, parts)
    state = objective.begin(objective.init(KEY), context) if objective.begin else ()

    def loss(context):
        return objective.loss(params, state, batch, context, KEY)[0]

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(context)):
        np.testing.assert_array_equal(leaf, 0.0)


def test_the_likelihood_can_be_added():
    changes = {"rollout__deterministic": True, "model__learn_variance_bounds": True}
    config, parts, params, batch, context, plain = solved(soft_q_problem, **changes)
    likelihood, _ = gradient_of(mle.make(config, parts), params, batch, context)
    *_, both = solved(soft_q_problem, objective__mle_weight=0.3, **changes)
    close(both, jax.tree.map(lambda a, b: a + 0.3 * b, plain, likelihood), 1e-10)
    # without the likelihood, the variance and its bounds stay as they are
    np.testing.assert_array_equal(plain["log_variance_max"], 0.0)
    assert np.abs(likelihood["log_variance_max"]).max() > 1e-3


def test_a_sampled_prediction_trains_the_variance():
    heads = {}
    for deterministic in (True, False):
        *_, grads = solved(soft_q_problem, rollout__deterministic=deterministic)
        nets = grads["net"]["params"]
        heads[deterministic] = [
            np.asarray(nets[name]["layer_2"]["bias"]) for name in ("state", "reward")
        ]
    for size, head in zip((OBSERVATIONS, 1), heads[True]):
        np.testing.assert_array_equal(head[:, size:], 0.0)  # means come first
    for size, head in zip((OBSERVATIONS, 1), heads[False]):
        assert np.abs(head[:, size:]).min() > 0.0


def test_the_loss_samples_with_the_key_that_agents_imagine_with():
    changes = {"rollout__deterministic": False, "model__learn_variance_bounds": False}
    config, parts, params, batch, context, found = solved(soft_q_problem, **changes)
    ensemble = parts.ensemble

    def sampled(*arguments):
        prediction = ensemble.predict(*arguments)
        return prediction._replace(mean=prediction.sample(omd.imagination_key(KEY)))

    config, *_ = soft_q_problem()  # of means
    drawn = parts._replace(ensemble=ensemble._replace(predict=sampled))
    expected, _ = gradient_of(omd.make(config, drawn), params, batch, context)
    close(found["net"], expected["net"])
