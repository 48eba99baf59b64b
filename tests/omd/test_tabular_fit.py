"""Fits of tabular models: every number of the fixture, projections, and runs with known ends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from omd import implicit, published_tabular, tabular, tabular_fit
from omd.tabular import Model

GAMMA, ALPHA = 0.9, 0.01


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def mdp():
    return tabular.two_state_mdp()


@pytest.fixture
def model():
    logits = [[[0.5, -0.5], [-1.0, 1.0]], [[1.0, 0.0], [0.2, -0.3]]]
    return Model(ALPHA * jnp.array(logits), jnp.array([[0.1, -0.2], [0.3, 0.4]]))


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def return_loss(mdp):
    return lambda q: -tabular.expected_return(mdp, q)


def hypergradient(mdp, model, outer_loss, inverse, **options):
    """Returns the derivative by the logits / temperature [A, S, S] and by the rewards [S, A]."""
    gradient = tabular_fit.omd_gradient(mdp, outer_loss, inverse, **options)
    found, _ = gradient(model, jnp.zeros((2, 2)), jnp.zeros((), jnp.int32))
    return ALPHA * found.logits, found.reward


def optimal(believed):
    return tabular_fit.newton(partial(tabular.bellman, believed), jnp.zeros((2, 2))).value


# The fixture. Derivatives by logits are those of next state 0, [A, S]; state 1 is the negative.

Q = [[2.077372070752, 1.777372070752], [2.52247979436, 2.420876635979]]
RETURN_SLOPE = {  # of the return, not of the loss
    "exact": (
        [[0.0021935076010757, -0.0023334163847031], [3.109e-13, 0.0026009828981298]],
        [[-0.02784974692606819, -3.947e-12], [0.05547808470848963, -0.0276283377774157]],
    ),
    "identity": (
        [[-3.104e-13, -0.0011620972424357], [3.107e-13, 0.0026010842934927]],
        [[3.9413e-12, -3.9446e-12], [0.027629414826, -0.027629414826]],
    ),
}
BELLMAN_SLOPE = (
    [[-0.0221092687821696, 0.004027094278692], [-0.000146940120174, -0.0022233893891065]],
    [[0.2807090980682635, 0.001865617041001], [-0.0957460824338813, 0.0236174382757862]],
)
MLE_SLOPE = (
    [[0.0077646446575012, -0.0201992694944706], [-0.0647353553424988, -0.0918851671995364]],
    [[0.275, -0.05], [-0.1, -0.05]],
)


def test_the_fixture_and_its_losses(mdp, model):
    believed = tabular.imagined(mdp, model)
    sure = [0.73105857863, 0.119202922022, 0.73105857863, 0.622459331202]
    close(believed.transition[..., 0].ravel(), sure, 1e-9)
    q = optimal(believed)
    close(q, Q, 1e-9)
    assert tabular.expected_return(mdp, q) == pytest.approx(1.026996408625053, abs=1e-9)
    assert tabular.bellman_error(mdp, q) == pytest.approx(0.07982863922222579, abs=1e-9)
    assert tabular.mle_loss(mdp, model) == pytest.approx(0.2704396439891872, abs=1e-9)


@pytest.mark.parametrize("inverse", ["exact", "identity"])
def test_hypergradients_of_the_return(mdp, model, inverse):
    logits, reward = hypergradient(mdp, model, return_loss(mdp), implicit.INVERSES[inverse]())
    close(-logits[..., 0], RETURN_SLOPE[inverse][0], 1e-9)
    close(-reward, RETURN_SLOPE[inverse][1], 1e-9)
    close(logits.sum(axis=-1), 0.0, 1e-15)


def test_the_hypergradient_of_the_bellman_error(mdp, model):
    loss = partial(tabular.bellman_error, mdp)
    logits, reward = hypergradient(mdp, model, loss, implicit.exact())
    close(logits[..., 0], BELLMAN_SLOPE[0], 1e-9)
    close(reward, BELLMAN_SLOPE[1], 1e-9)
    slope = jax.grad(loss)(jnp.array(Q))
    close(
        slope,
        [[0.0918293816101774, 0.0018656170409834], [-0.0962678096540031, 0.0236174180979592]],
        1e-9,
    )
    close(logits.sum(axis=-1), 0.0, 1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_any_model_with_the_optimal_q_is_stationary(mdp, seed):
    logits = 3 * jax.random.normal(jax.random.key(seed), (2, 2, 2))
    q = optimal(mdp)
    reward = tabular.equivalent_reward(mdp, jax.nn.softmax(logits), q)
    gradient = tabular_fit.omd_gradient(mdp, partial(tabular.bellman_error, mdp), implicit.exact())
    slope, found = gradient(Model(ALPHA * logits, reward), jnp.zeros((2, 2)), jnp.int32(0))
    close(found, [[0.16363807, 0.06282009], [1.89091046, 0.66282009]], 1e-8)
    assert tabular.expected_return(mdp, found) == pytest.approx(1.0272550903, abs=1e-9)
    assert tabular.bellman_error(mdp, found) < 1e-18
    close(ALPHA * slope.logits, jnp.zeros((2, 2, 2)), 1e-10)
    close(slope.reward, jnp.zeros((2, 2)), 1e-10)


def test_the_gradient_of_the_likelihood(mdp, model):
    gradient, q = tabular_fit.mle_gradient(mdp)(model, jnp.ones((2, 2)), jnp.int32(0))
    close(ALPHA * gradient.logits[..., 0], MLE_SLOPE[0], 1e-9)
    close(gradient.reward, MLE_SLOPE[1], 1e-9)
    close(q, 1.0, 0.0)


@pytest.mark.parametrize("objective", ["return", "bellman"])
def test_hypergradients_equal_the_unrolled_solver_and_differences(mdp, model, objective):
    loss = {"return": return_loss(mdp), "bellman": partial(tabular.bellman_error, mdp)}[objective]
    found = hypergradient(mdp, model, loss, implicit.exact())

    def unrolled(logits, reward):
        apply = partial(tabular.bellman, tabular.imagined(mdp, Model(ALPHA * logits, reward)))
        return loss(jax.lax.fori_loop(0, 400, lambda _, q: apply(q), jnp.zeros((2, 2))))

    arguments = (model.logits / ALPHA, model.reward)
    for leaf, expected in zip(found, jax.grad(unrolled, (0, 1))(*arguments)):
        close(leaf, expected, 1e-12)
    step, compiled = 1e-6, jax.jit(unrolled)
    for place, leaf in enumerate(found):
        for index in np.ndindex(leaf.shape):
            ends = [
                compiled(
                    *[a.at[index].add(h) if i == place else a for i, a in enumerate(arguments)]
                )
                for h in (step, -step)
            ]
            close(leaf[index], (ends[0] - ends[1]) / (2 * step), 1e-7)


def test_plain_iteration_and_neumann_series_give_the_same(mdp, model):
    newton = hypergradient(mdp, model, return_loss(mdp), implicit.exact())
    plain = hypergradient(
        mdp, model, return_loss(mdp), implicit.neumann(300), solve=implicit.fixed_point
    )
    for found, expected in zip(plain, newton):
        close(found, expected, 1e-9)


@pytest.mark.parametrize("terms", [1, 10, 40])
def test_the_neumann_series_converges_at_the_rate_of_the_discount(mdp, model, terms):
    loss = partial(tabular.bellman_error, mdp)
    _, exact = hypergradient(mdp, model, loss, implicit.exact())  # by the rewards: the adjoint
    _, found = hypergradient(mdp, model, loss, implicit.neumann(terms))
    slope = jnp.abs(jax.grad(loss)(optimal(tabular.imagined(mdp, model)))).sum()
    error = jnp.abs(found - exact).sum()
    assert error <= GAMMA**terms * slope / (1 - GAMMA)
    assert error > 0.01 * GAMMA**terms * slope


def test_without_discount_the_identity_is_exact(mdp, model):
    mdp = mdp._replace(discount=1e-9)
    loss = partial(tabular.bellman_error, tabular.two_state_mdp())
    exact, identity = (
        hypergradient(mdp, model, loss, inverse)
        for inverse in (implicit.exact(), implicit.identity())
    )
    for found, expected in zip(identity, exact):
        close(found, expected, 1e-9)
    assert jnp.abs(exact[1]).max() > 1e-3


def test_newton_finds_the_fixed_point_in_few_steps(mdp):
    starts = 100 * jax.random.normal(jax.random.key(0), (100, 2, 2))
    operator = partial(tabular.bellman, mdp)
    found = jax.jit(jax.vmap(partial(tabular_fit.newton, operator)))(starts)
    expected = implicit.fixed_point(operator, jnp.zeros((2, 2))).value
    close(found.value, jnp.broadcast_to(expected, (100, 2, 2)), 1e-8)
    assert found.steps.max() <= 10
    again = tabular_fit.newton(operator, expected)
    assert again.steps <= 2


# Projections


@pytest.mark.parametrize("bound", [0.0, 0.5, 3.0])
def test_the_joint_projection_shortens_to_the_bound_once(bound):
    keys = jax.random.split(jax.random.key(0))
    model = Model(0.1 * jax.random.normal(keys[0], (2, 2, 2)), jax.random.normal(keys[1], (2, 2)))
    once = tabular_fit.project_jointly(model, bound, ALPHA)
    length = np.sqrt((np.asarray(once.logits / ALPHA) ** 2).sum() + (once.reward**2).sum())
    assert length == pytest.approx(bound, rel=1e-12, abs=0)
    assert tabular_fit.norm(once, ALPHA) == pytest.approx(length)
    for found, expected in zip(tabular_fit.project_jointly(once, bound, ALPHA), once):
        close(found, expected, 1e-15)
    for found, expected in zip(once, model):  # same direction
        close(found, expected * (bound / tabular_fit.norm(model, ALPHA)), 1e-15)


@pytest.mark.parametrize("project", tabular_fit.PROJECTIONS.values())
def test_no_projection_touches_a_model_within_the_bound(project, model):
    for found, expected in zip(project(model, 100.0, ALPHA), model):
        np.testing.assert_array_equal(found, expected)


def test_the_released_projection_by_hand():
    # logits: action 0 has (0.03, 0.04), 5 after division by 0.01; action 1 has 12: 13 in all.
    # rewards: state 0 has 0.06, 6 after division; state 1 has 8: 10 in all.
    model = Model(
        jnp.array([[[0.03, 0.0], [0.0, 0.04]], [[12.0, 0.0], [0.0, 0.0]]]),
        jnp.array([[0.06, 0.0], [0.0, 8.0]]),
    )
    found = tabular_fit.project_as_released(model, 6.5, 0.01)
    close(found.logits, model.logits * 0.5, 1e-15)
    close(found.reward, model.reward * 0.65, 1e-15)
    only_logits = tabular_fit.project_as_released(model, 11.0, 0.01)
    close(only_logits.logits, model.logits * (11 / 13), 1e-15)
    np.testing.assert_array_equal(only_logits.reward, model.reward)


def test_an_unknown_projection_is_a_user_error(mdp):
    with pytest.raises(UserError, match=r"one of joint, released, not 'jiont'"):
        tabular_fit.make_sweep(mdp, tabular_fit.mle_gradient(mdp), "jiont")


# Fits. Steps are few and seeds two, so that these take seconds.


def starts(mdp, seeds):
    with jax.threefry_partitionable(False):  # as when the notebook was released
        keys = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])
        return jax.vmap(partial(tabular_fit.init, mdp))(keys)


def returns(mdp, fit):
    return jax.vmap(jax.vmap(partial(tabular.expected_return, mdp)))(fit.q)


@pytest.fixture
def omd(mdp):
    return tabular_fit.omd_gradient(mdp, return_loss(mdp), implicit.exact())


def test_omd_under_no_norm_and_under_a_little(mdp, omd):
    sweep = tabular_fit.make_sweep(mdp, omd, "released")
    fit = sweep(starts(mdp, [1, 2]), jnp.array([0.0, 6 / 19]), 3000)
    for leaf in jax.tree.leaves(fit.model):
        close(leaf[0], jnp.zeros_like(leaf[0]), 0.0)
    for q in fit.q[0]:
        close(jnp.abs(q - optimal(mdp)).max(), 1.8285, 5e-5)
    assert (fit.steps[0] <= 4).all()  # those stop by themselves
    assert (fit.steps[1] > 1000).all()
    close(returns(mdp, fit), jnp.array([[-0.8550] * 2, [-0.5928] * 2]), 1e-4)


def test_likelihood_finds_the_mdp_as_soon_as_it_fits(mdp):
    sweep = tabular_fit.make_sweep(mdp, tabular_fit.mle_gradient(mdp))
    fit = sweep(starts(mdp, [1, 2]), jnp.array([4.9, 6.0]), 2000)
    believed = jax.vmap(jax.vmap(partial(tabular.imagined, mdp)))(fit.model)
    close(believed.transition, jnp.broadcast_to(mdp.transition, (2, 2, 2, 2, 2)), 1e-6)
    close(fit.model.reward, jnp.broadcast_to(mdp.reward, (2, 2, 2, 2)), 1e-6)
    close(returns(mdp, fit), jnp.full((2, 2), 1.02725509), 1e-6)
    assert (fit.steps < 1000).all()
    close(jax.vmap(jax.vmap(tabular.bellman))(believed, fit.q), fit.q, 1e-9)


def test_a_fit_whose_inner_solution_fails_says_so(mdp):
    def broken(operator, q):
        return implicit.FixedPoint(q * jnp.nan, jnp.array(jnp.nan), jnp.int32(1))

    gradient = tabular_fit.omd_gradient(mdp, return_loss(mdp), implicit.exact(), broken)
    start = jax.tree.map(lambda leaf: leaf[0], starts(mdp, [1]))
    fit = tabular_fit.fit(mdp, gradient, lambda model: model, start, 3)
    assert not jnp.isfinite(fit.q).any()


@pytest.mark.parametrize(
    ("projection", "bound", "expected"),
    [("released", 6 / 19, -0.8251), ("joint", 18 / 19, -0.7496), ("joint", 66 / 19, 0.7854)],
)
def test_likelihood_under_a_bound(mdp, projection, bound, expected):
    sweep = tabular_fit.make_sweep(mdp, tabular_fit.mle_gradient(mdp), projection)
    fit = sweep(starts(mdp, [1, 2]), jnp.array([bound]), 10_000)
    close(returns(mdp, fit), jnp.full((1, 2), expected), 1e-3)


def test_noise_reaches_the_outer_loss_alone(mdp, model, omd):
    shift = jnp.array([[0.004, -0.002], [0.003, 0.001]])
    noisy = tabular_fit.omd_gradient(
        mdp, return_loss(mdp), implicit.exact(), noise=lambda step: step * shift
    )
    q = jnp.zeros((2, 2))
    without, expected_q = omd(model, q, jnp.int32(0))
    same, _ = noisy(model, q, jnp.int32(0))
    close(same.reward, without.reward, 1e-15)
    found, found_q = noisy(model, q, jnp.int32(1))
    close(found_q, expected_q, 1e-15)
    shifted = tabular_fit.omd_gradient(mdp, lambda q: return_loss(mdp)(q + shift), implicit.exact())
    close(found.logits, shifted(model, q, jnp.int32(0))[0].logits, 1e-12)
    assert jnp.abs(found.reward - without.reward).max() > 1e-3


@pytest.mark.slow
def test_one_published_run_to_seven_digits(mdp):
    gradient = tabular_fit.omd_gradient(
        mdp, return_loss(mdp), implicit.exact(), solve=implicit.fixed_point
    )
    sweep = tabular_fit.make_sweep(mdp, gradient, "released")
    bound = jnp.array([6.0])
    before_last = sweep(starts(mdp, [1]), bound, 9999)
    last = sweep(starts(mdp, [1]), bound, 10_000)
    close(before_last.q[0, 0], published_tabular.SEED_1_Q, 1e-7)
    close(last.model.reward[0, 0], published_tabular.SEED_1_REWARD, 1e-8)
    close(returns(mdp, last), jnp.array([[1.02727]]), 5e-6)
