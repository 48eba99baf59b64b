"""Hypergradients against hand computation, NumPy, unrolled solvers and finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from omd import implicit

SOLVERS = {
    "identity": implicit.INVERSES["identity"](),
    "neumann": implicit.INVERSES["neumann"](20),
    "cg": implicit.INVERSES["cg"](tolerance=1e-12),
    "exact": implicit.INVERSES["exact"](),
}
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def close(found, expected, tolerance=1e-12):
    found, expected = ravel_pytree(found)[0], ravel_pytree(expected)[0]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# Linear systems A u = v on trees of two leaves.

SIZE = 6
V = RNG.normal(size=SIZE)
GENERAL = RNG.normal(size=(SIZE, SIZE))
DEFINITE = GENERAL @ GENERAL.T + np.eye(SIZE)
INDEFINITE = GENERAL + GENERAL.T


def tree(flat):
    return {"bias": flat[:2], "kernel": flat[2:].reshape(2, 2)}


def flatten(leaves):
    return jnp.concatenate([leaves["bias"], leaves["kernel"].ravel()])


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(inverse, matrix, v, transpose):
    back = (lambda u: tree(matrix.T @ flatten(u))) if transpose else None
    u, residual = inverse(lambda u: tree(matrix @ flatten(u)), back, tree(v))
    return flatten(u), residual


def solve(inverse, matrix, v, transpose=False):
    u, residual = map(np.asarray, run(inverse, matrix, v, transpose))
    size = np.linalg.norm(v)
    close(residual, np.linalg.norm(matrix @ u - v) / size if size else 0.0)
    return u, residual


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize(
    ("make", "matrix", "transpose"),
    [
        (implicit.exact, GENERAL, False),
        (functools.partial(implicit.cg, 100, 1e-13), DEFINITE, False),
        (functools.partial(implicit.cg, 100, 1e-13), GENERAL, True),
    ],
)
def test_exact_and_cg_agree_with_numpy(make, matrix, transpose, damping):
    u, residual = solve(make(damping=damping), matrix, V, transpose)
    close(u, np.linalg.solve(matrix + damping * np.eye(SIZE), V), 1e-9)
    # the residual is that of the undamped system
    assert residual < 1e-9 if damping == 0.0 else residual > 1e-2


def test_the_first_step_of_cg_by_hand():
    u, _ = solve(implicit.cg(max_steps=1), DEFINITE, V)
    close(u, V * (V @ V) / (V @ DEFINITE @ V))


def test_cg_stops_at_its_tolerance():
    second, third = (solve(implicit.cg(steps, 0.0), DEFINITE, V)[1] for steps in (2, 3))
    assert second > third > 1e-6
    close(solve(implicit.cg(tolerance=1.01 * third), DEFINITE, V)[1], third)


def test_the_neumann_series_by_hand():
    matrix = np.eye(SIZE) - 0.05 * DEFINITE
    expected = 0.05 * (np.eye(SIZE) + matrix + matrix @ matrix) @ V
    close(solve(implicit.neumann(3, 0.05), DEFINITE, V)[0], expected)
    close(solve(implicit.neumann(1, 0.05), DEFINITE, V)[0], 0.05 * V)


def test_the_residual_of_the_identity_by_hand():
    v = np.array([3.0, 4.0, 0, 0, 0, 0])
    u, residual = solve(SOLVERS["identity"], np.diag([1.0, 4, 1, 1, 1, 1]), v)
    np.testing.assert_array_equal(u, v)
    assert residual == pytest.approx(12 / 5)


@pytest.mark.parametrize(
    ("name", "diagonal"),
    [
        ("cg", [1.0, -1, 1, -1, 1, -1]),  # no curvature along the first direction
        ("exact", [1.0, 0, 1, 1, 1, 1]),
        ("neumann", [1e200, 1, 1, 1, 1, 1]),
    ],
)
def test_a_solver_that_breaks_down_returns_zero_with_a_residual_of_one(name, diagonal):
    u, residual = solve(SOLVERS[name], np.diag(diagonal), np.ones(SIZE))
    np.testing.assert_array_equal(u, 0.0)
    assert residual == 1.0


def test_cg_solves_for_a_vector_whose_square_overflows():
    matrix, v = (jnp.asarray(x, jnp.float32) for x in (DEFINITE, V))
    expected, _ = implicit.cg()(matrix.__matmul__, None, v)
    found, residual = implicit.cg()(matrix.__matmul__, None, v * 1e25)
    close(found / 1e25, expected, 1e-4)
    assert residual < 1e-4


def test_cg_on_an_indefinite_matrix_is_finite_and_tells_its_residual():
    eigenvalues = np.linalg.eigvalsh(INDEFINITE)
    assert eigenvalues.min() < -0.1
    assert eigenvalues.max() > 0.1
    u, residual = solve(implicit.cg(max_steps=3), INDEFINITE, V)
    assert np.isfinite(u).all()
    assert residual > 0.1


@pytest.mark.parametrize("name", SOLVERS)
def test_a_zero_cotangent_gives_zero_and_no_residual(name):
    for matrix in (DEFINITE, np.zeros((SIZE, SIZE))):
        u, residual = solve(SOLVERS[name], matrix, np.zeros(SIZE))
        np.testing.assert_array_equal(u, 0.0)
        assert residual == 0.0


@pytest.mark.parametrize("name", SOLVERS)
def test_a_cotangent_that_is_not_a_number_stays_visible(name):
    u, residual = solve(SOLVERS[name], DEFINITE, np.array([1.0, np.nan, 0, 0, 0, 0]))
    assert np.isnan(u).any()
    assert np.isnan(residual)


def test_a_residual_of_zero_has_no_derivative_that_is_not_a_number():
    slope = jax.grad(lambda v: SOLVERS["identity"](lambda u: u, None, v).residual)(np.ones(2))
    np.testing.assert_array_equal(slope, 0.0)


# Fixed points: the soft Bellman operator of a model with two states and two actions.

TEMPERATURE, DISCOUNT = 0.01, 0.9
TRUE_TRANSITION = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.99, 0.01], [0.99, 0.01]]])  # [a, s, s']
TRUE_REWARD = np.array([[-0.45, -0.1], [0.5, 0.5]])  # [s, a]
MODEL = {
    "logits": np.array([[[0.5, -0.5], [-1.0, 1.0]], [[1.0, 0.0], [0.2, -0.3]]]),
    "reward": np.array([[0.1, -0.2], [0.3, 0.4]]),
}
Q = np.array([[2.077372070752, 1.777372070752], [2.52247979436, 2.420876635979]])


def bellman(transition, reward, q, discount=DISCOUNT):
    value = TEMPERATURE * jax.nn.logsumexp(q / TEMPERATURE, axis=-1)
    return reward + discount * jnp.einsum("ast,t->sa", transition, value)


def operator(model, q, discount=DISCOUNT):
    return bellman(jax.nn.softmax(model["logits"]), model["reward"], q, discount)


def returns(q):
    policy = jax.nn.softmax(q / TEMPERATURE)
    transition = jnp.einsum("ast,sa->st", TRUE_TRANSITION, policy)
    reward = (policy * TRUE_REWARD).sum(axis=1)
    return jnp.linalg.solve(jnp.eye(2) - DISCOUNT * transition, reward).mean()


def bellman_error(q):
    return jnp.square(bellman(TRUE_TRANSITION, TRUE_REWARD, q) - q).mean()


OUTER = {"returns": returns, "bellman error": bellman_error}


def solve_model(model):
    return implicit.fixed_point(lambda q: operator(model, q), jnp.zeros((2, 2)), 1e-14)


@functools.cache
def tabular(outer):
    """Q, the cotangent, and the hypergradients by every inverse."""

    @jax.jit
    def evaluate(model):
        q = solve_model(model).value
        v = jax.grad(OUTER[outer])(q)
        gradients = {
            name: implicit.through_fixed_point(operator, model, q, v, inverse)
            for name, inverse in SOLVERS.items()
        }
        return q, v, gradients

    return evaluate(MODEL)


@pytest.mark.parametrize(
    # reward: [s, a]; logits: [a, s] of s' = 0, those of s' = 1 are the negative
    ("outer", "inverse", "reward", "logits"),
    [
        (
            "returns",
            "exact",
            [[-0.02784974692606819, -3.947e-12], [0.05547808470848963, -0.0276283377774157]],
            [[0.0021935076010757, -0.0023334163847031], [3.109e-13, 0.0026009828981298]],
        ),
        (
            "returns",
            "identity",
            [[3.9413e-12, -3.9446e-12], [0.027629414826, -0.027629414826]],
            [[-3.104e-13, -0.0011620972424357], [3.107e-13, 0.0026010842934927]],
        ),
        (
            "bellman error",
            "exact",
            [[0.2807090980682635, 0.001865617041001], [-0.0957460824338813, 0.0236174382757862]],
            [[-0.0221092687821696, 0.004027094278692], [-0.000146940120174, -0.0022233893891065]],
        ),
    ],
)
def test_tabular_gradients_equal_the_reference_values(outer, inverse, reward, logits):
    q, _, gradients = tabular(outer)
    close(q, Q, 1e-11)
    found = gradients[inverse]
    close(found.gradient["reward"], reward, 1e-11)
    close(found.adjoint, reward, 1e-11)
    close(found.gradient["logits"], np.stack([logits, np.negative(logits)], axis=-1), 1e-11)


@pytest.mark.parametrize("outer", OUTER)
def test_the_adjoint_is_that_of_a_dense_solve(outer):
    q, v, gradients = tabular(outer)
    # dB(s, a) / dQ(t, b) = discount p(t | s, a) pi(b | t), by hand
    policy = np.exp((q - q.max(axis=1, keepdims=True)) / TEMPERATURE)
    policy /= policy.sum(axis=1, keepdims=True)
    transition = np.exp(MODEL["logits"]) / np.exp(MODEL["logits"]).sum(axis=-1, keepdims=True)
    jacobian = DISCOUNT * np.einsum("ast,tb->satb", transition, policy).reshape(4, 4)
    expected = np.linalg.solve(np.eye(4) - jacobian.T, np.ravel(v))
    close(gradients["exact"].adjoint, expected)
    close(gradients["cg"].adjoint, expected, 1e-10)


@pytest.mark.parametrize("outer", OUTER)
def test_the_gradient_is_that_of_the_unrolled_iteration_and_of_differences(outer):
    flat, unravel = ravel_pytree(MODEL)
    offsets = 1e-6 * np.concatenate([np.eye(12), -np.eye(12)])

    def unrolled(flat):
        step = lambda q, _: (operator(unravel(flat), q), None)  # noqa: E731
        return OUTER[outer](jax.lax.scan(step, jnp.zeros((2, 2)), length=400)[0])

    @jax.jit
    def references(flat):
        return jax.grad(unrolled)(flat), jax.vmap(unrolled)(flat[None] + offsets)

    gradient, values = references(flat)
    found = tabular(outer)[2]["exact"].gradient
    close(found, gradient)
    close(found, (values[:12] - values[12:]) / 2e-6, 1e-7)


def test_the_neumann_series_converges_at_the_rate_of_the_contraction():
    _, v, gradients = tabular("bellman error")
    error = np.abs(gradients["neumann"].adjoint - gradients["exact"].adjoint).sum()
    assert error < DISCOUNT**20 * np.abs(v).sum() / (1 - DISCOUNT)
    assert error > DISCOUNT**20 * np.abs(v).sum() / 100  # 0.9 is its largest eigenvalue


def test_the_identity_is_exact_only_without_a_discount():
    @jax.jit
    def gap(discount):
        found = [
            implicit.through_fixed_point(
                lambda model, q: operator(model, q, discount),
                MODEL,
                jnp.asarray(Q),
                jax.grad(bellman_error)(Q),
                SOLVERS[name],
            ).gradient
            for name in ("exact", "identity")
        ]
        return jnp.abs(ravel_pytree(found[0])[0] - ravel_pytree(found[1])[0]).max()

    assert gap(1e-9) < 1e-9
    assert gap(DISCOUNT) > 0.1


@pytest.mark.parametrize(
    ("initial", "factor", "limits", "expected"),
    [
        # change = value = 2^-n: 1/16 is the first below 0.1 / 16 + 0.1
        (1.0, 0.5, {"tolerance": 0.1}, (1 / 16, 1 / 16, 4)),
        (10.0, 1.05, {"tolerance": 0.1}, (10.5, 0.5, 1)),  # 0.5 < 0.1 * 10.5 + 0.1
        (1.0, 0.5, {"max_steps": 3}, (1 / 8, 1 / 8, 3)),
        (1.0, 0.5, {"max_steps": 0}, (1.0, np.inf, 0)),
        (1.0, 1e200, {}, (np.inf, np.inf, 2)),
        (np.nan, 0.5, {}, (np.nan, np.inf, 0)),
    ],
)
def test_when_the_iteration_stops(initial, factor, limits, expected):
    found = implicit.fixed_point(
        lambda x: {"a": factor * x["a"]}, {"a": np.full(2, initial)}, **limits
    )
    value, residual, steps = expected
    np.testing.assert_allclose(found.value["a"], value, rtol=1e-15)
    np.testing.assert_allclose(found.residual, residual, rtol=1e-15)
    assert found.steps == steps


def test_a_callers_rule_has_the_right_first_and_second_derivative():
    # x = theta x / 2 + 1, so x = 2 / (2 - theta)
    def affine(theta, x):
        return 0.5 * theta * x + 1.0

    @jax.custom_vjp
    def solution(theta):
        return implicit.fixed_point(lambda x: affine(theta, x), jnp.ones(())).value

    def forward(theta):
        x = solution(theta)
        return x, (theta, x)

    def backward(saved, v):
        return (implicit.through_fixed_point(affine, *saved, v, SOLVERS["cg"]).gradient,)

    solution.defvjp(forward, backward)

    def slope(theta):
        value, slope = jax.value_and_grad(solution)(theta)
        return slope, value

    theta = np.linspace(-1.0, 1.0, 5)
    (first, value), second = jax.jit(jax.vmap(jax.value_and_grad(slope, has_aux=True)))(theta)
    close(value, 2 / (2 - theta), 1e-9)
    close(first, 2 / (2 - theta) ** 2, 1e-9)
    close(second, 4 / (2 - theta) ** 3, 1e-8)


# Optimality: one linear critic Q(s, a) = w_a s and a model of three parameters, by hand.

STATE, ACTION = np.array([1.0, -2.0]), np.array([0, 1])
NEXT, REWARD = np.array([0.5, -1.5]), np.array([1.0, 0.5])
W, TARGET, THETA = np.array([0.5, -0.3]), np.array([0.4, -0.1]), np.array([0.8, 0.2, 0.7])
OPTIMUM = np.array([1.1549952996765, -0.46259391723165144])
SLOPE = np.array([-0.893334642881048, 0.2512719501844771])  # of the true loss at w
MODEL_SLOPE = np.array([-0.6549952996765, 0.6503756689266058])


def td_target(next_state, reward):
    return reward + 0.9 * 0.5 * jax.nn.logsumexp(next_state[:, None] * TARGET[None] / 0.5, axis=1)


def imagined_target(theta):
    return td_target(theta[0] * STATE + theta[1] * ACTION, jnp.full(2, theta[2]))


def model_loss(theta, w, state=STATE):
    return jnp.square(w[ACTION] * state - imagined_target(theta)).mean()


def true_loss(w, reward=REWARD):
    return jnp.square(w[ACTION] * STATE - td_target(NEXT, reward)).mean()


def blocked_loss(theta, w):
    return jnp.square(w[ACTION] * STATE - jax.lax.stop_gradient(imagined_target(theta))).mean()


def white_loss(theta, w):
    return model_loss(theta, w, state=np.sqrt([2.0, 2.0]))


true_slope = jax.jit(jax.grad(true_loss))
model_slope = jax.jit(jax.grad(model_loss, argnums=1))


@functools.partial(jax.jit, static_argnames=("name", "loss"))
def optimal(name, w, v, theta=THETA, loss=model_loss):
    return implicit.through_optimality(loss, theta, w, v, SOLVERS[name])


def test_losses_and_slopes_of_the_linear_critic_equal_the_reference_values():
    close(model_loss(THETA, W), 0.2673829851406203)
    close([true_loss(W), true_loss(OPTIMUM)], [0.4069155912043936, 0.048313293548812176])
    close([true_slope(W), model_slope(THETA, W)], [SLOPE, MODEL_SLOPE])
    close(model_slope(THETA, OPTIMUM), np.zeros(2))
    close(implicit.surrogate(model_loss, THETA, W, SLOPE), -(MODEL_SLOPE @ SLOPE))


@pytest.mark.parametrize(
    ("name", "w", "expected"),
    [
        ("identity", W, (-0.1979577800403139, 0.0004938749433903711, -1.3958785432500023)),
        ("exact", W, (-0.19721696762522833, 0.00012346873584759277, -1.0189706179732867)),
        ("cg", W, (-0.19721696762522833, 0.00012346873584759277, -1.0189706179732867)),
        (
            "exact",
            OPTIMUM,
            (-0.05215886908825318, -0.00019610956013588546, -0.03878748383348363),
        ),
        (
            "identity",
            OPTIMUM,
            (-0.050982211727437866, -0.0007844382405435418, 0.5598680942797094),
        ),
    ],
)
def test_hypergradients_of_the_linear_critic_equal_the_reference_values(name, w, expected):
    v = true_slope(w)
    found = optimal(name, w, v)
    close(found.gradient, expected)
    rough = name == "identity"
    close(found.adjoint, v if rough else v / np.array([1.0, 4.0]))  # H = diag(1, 4)
    close(found.residual, 3 * abs(v[1]) / np.linalg.norm(v) if rough else 0.0)


def test_at_the_optimum_the_exact_gradient_is_that_of_differences():
    at_optimum = jax.jit(lambda theta: true_loss(imagined_target(theta) / STATE))
    offsets = 1e-6 * np.eye(3)
    expected = [(at_optimum(THETA + h) - at_optimum(THETA - h)) / 2e-6 for h in offsets]
    close(optimal("exact", OPTIMUM, true_slope(OPTIMUM)).gradient, expected, 1e-9)


def test_with_white_features_the_identity_gives_twice_the_exact_gradient():
    exact, rough = (optimal(n, W, SLOPE, loss=white_loss).gradient for n in ("exact", "identity"))
    assert np.abs(exact).max() > 0.1
    close(rough, 2 * exact)


def test_with_a_perfect_model_the_gradient_is_that_of_its_own_residual():
    theta, reward = np.array([0.5, -0.5, 0.7]), np.array([0.7, 0.7])
    c = model_slope(theta, W)
    close(c, true_slope(W, reward))
    jacobian = jax.jacobian(model_slope)(theta, W)
    gradient = optimal("identity", W, c, theta).gradient
    close(gradient, -jacobian.T @ c)
    assert np.abs(gradient).max() > 0.1
    best = td_target(NEXT, reward) / STATE
    close(optimal("identity", best, true_slope(best, reward), theta).gradient, np.zeros(3))


def test_nothing_is_left_where_the_gradient_through_the_target_is_blocked():
    found = optimal("identity", W, SLOPE, loss=blocked_loss)
    np.testing.assert_array_equal(found.gradient, 0.0)


def test_three_problems_at_once_are_three_problems():
    def evaluate(scale):
        model = jax.tree.map(lambda leaf: scale * leaf, MODEL)
        q = solve_model(model)
        value, v = jax.value_and_grad(bellman_error)(q.value)
        w = scale * W
        through = [
            (
                implicit.through_fixed_point(operator, model, q.value, v, inverse),
                implicit.through_optimality(model_loss, THETA, w, jax.grad(true_loss)(w), inverse),
            )
            for inverse in SOLVERS.values()
        ]
        return q, value, through

    scales = np.array([0.1, 1.0, 3.0])
    together = jax.jit(jax.vmap(evaluate))(scales)
    assert len(set(together[0].steps.tolist())) > 1  # every problem stops at its own step
    alone = [jax.jit(evaluate)(scale) for scale in scales]
    close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone), 1e-10)


# A small multilayer perceptron as critic, a linear model.

BATCH = RNG.normal(size=(16, 4))
LINEAR = {"matrix": RNG.normal(size=(4, 4)), "reward": RNG.normal(size=(4,))}


def q_values(critic, x):
    for layer in critic[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ critic[-1]["w"] + critic[-1]["b"][None]


def critic_loss(critic, target, next_observation, reward):
    value = jax.nn.logsumexp(q_values(target, next_observation), axis=1)
    return jnp.square(q_values(critic, BATCH)[:, 0] - reward - 0.9 * value).mean()


def make_levels(width=8):
    sizes = itertools.pairwise((4, width, width, 2))
    critic = [{"w": 0.5 * RNG.normal(size=shape), "b": np.zeros(shape[1])} for shape in sizes]
    target = jax.tree.map(lambda leaf: 0.9 * leaf, critic)

    def inner(model, critic):
        return critic_loss(critic, target, BATCH @ model["matrix"], BATCH @ model["reward"])

    def outer(critic):
        return critic_loss(critic, target, 0.5 * BATCH, BATCH[:, 1])

    return inner, outer, critic


def test_the_gradient_is_that_of_the_surrogate_of_an_explicit_rule_and_of_an_unrolled_step():
    inner, outer, critic = make_levels()
    rate = 1e-6

    @jax.custom_vjp
    def trained(model):
        return critic

    def backward(model, v):
        _, pull = jax.vjp(lambda model: jax.grad(inner, argnums=1)(model, critic), model)
        return (jax.tree.map(jnp.negative, pull(v)[0]),)

    trained.defvjp(lambda model: (critic, model), backward)

    def unrolled(model):
        slope = jax.grad(inner, argnums=1)(model, critic)
        return outer(jax.tree.map(lambda w, g: w - rate * g, critic, slope)) / rate

    @jax.jit
    def evaluate(model):
        v = jax.grad(outer)(critic)
        gradients = (
            implicit.through_optimality(inner, model, critic, v, SOLVERS["identity"]).gradient,
            jax.grad(lambda model: implicit.surrogate(inner, model, critic, v))(model),
            jax.grad(lambda model: outer(trained(model)))(model),
            jax.grad(unrolled)(model),
        )
        return [ravel_pytree(gradient)[0] for gradient in gradients]

    found, surrogate, explicit, limit = map(np.asarray, evaluate(LINEAR))
    assert np.abs(explicit).max() > 0.1
    close(found, explicit)
    close(surrogate, explicit)
    lengths = np.linalg.norm(found), np.linalg.norm(limit)
    assert lengths[1] / lengths[0] == pytest.approx(1.0, abs=1e-4)
    assert found @ limit / (lengths[0] * lengths[1]) > 1 - 1e-6


def test_inner_and_direction_are_constants_to_the_surrogate():
    def loss(theta, w):
        return theta * w**2

    # -2 theta w u, at theta = w = u = 3
    gradient = jax.grad(lambda theta: implicit.surrogate(loss, theta, theta, theta))(3.0)
    assert gradient == pytest.approx(-18.0)


def test_cg_does_not_need_the_memory_of_the_hessian():
    inner, outer, critic = make_levels(width=48)
    size = sum(leaf.size for leaf in jax.tree.leaves(critic))
    program = jax.jit(
        lambda model, critic: implicit.through_optimality(
            inner, model, critic, jax.grad(outer)(critic), SOLVERS["cg"]
        )
    ).lower(LINEAR, critic)
    memory = program.compile().memory_analysis().temp_size_in_bytes
    assert memory < 8 * size**2 / 20


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_single_precision_stays_single(name, x64):
    with jax.enable_x64(x64):
        found = jax.eval_shape(
            lambda model, q: (
                implicit.through_fixed_point(operator, model, q, q, SOLVERS[name]),
                implicit.fixed_point(lambda q: operator(model, q), q, 1e-5),
            ),
            *jax.tree.map(np.float32, (MODEL, Q)),
        )
    *dtypes, steps = [leaf.dtype for leaf in jax.tree.leaves(found)]
    assert steps == np.int32
    assert set(dtypes) == {np.dtype(np.float32)}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(found))
