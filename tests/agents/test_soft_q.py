"""Soft Q-learning against NumPy in float64, and its policy against the softmax it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from agents import soft_q
from envs import terminations
from envs.spec import EnvSpec
from models import normalizer
from models.ensemble import Normalizers
from replay import Transition
from tests.integration import tiny

OBSERVATIONS, ACTIONS, ROWS = 2, 3, 8
DISCOUNT, RATE, TAU = 0.9, 3e-4, 0.01
Q = np.array([[0.3, -0.1, 0.1], [0.1, 0.3, 0.1]])  # means over the critics: 0.2, 0.1, 0.1
POLICY = softmax(Q.mean(axis=0) / 0.1)


def learner_and_state(observations=OBSERVATIONS, actions=ACTIONS, **changes):
    values = {"discount": DISCOUNT, "sac__hidden_width": 5, "soft_q__temperature": 0.1}
    config = tiny.config("omd", "CartPole-v1", **values | changes)
    bounds = (0.0,) * actions, (1.0,) * actions
    spec = EnvSpec("Toy-v0", observations, actions, *bounds, terminations.never, None, True)
    learner = soft_q.make_learner(config, spec)
    return learner._replace(update=jax.jit(learner.update)), learner.init(jax.random.key(0))


def random_like(tree, seed):
    """Parameters whose biases are not zero either."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), tree)


def random_state(state):
    targets = random_like(state.target_critics, 2)
    return state.replace(critics=random_like(state.critics, 1), target_critics=targets)


def constant_critics(critics, values):
    """Critics whose outputs are `values` [C, A] everywhere."""
    critics = jax.tree.map(jnp.zeros_like, critics)
    critics["params"]["layer_2"]["bias"] = jnp.float32(values)
    return critics


def constant_state(**changes):
    learner, state = learner_and_state(**changes)
    return learner, state.replace(critics=constant_critics(state.critics, Q))


def batch(seed=0, action=None, **fields):
    rng = np.random.default_rng(seed)
    action = rng.integers(ACTIONS, size=ROWS) if action is None else action
    values = {
        "observation": rng.normal(size=(ROWS, OBSERVATIONS)),
        "action": np.eye(ACTIONS)[action],
        "reward": rng.normal(size=ROWS),
        "next_observation": rng.normal(size=(ROWS, OBSERVATIONS)),
        "terminated": np.tile([0.0, 0.0, 1.0, 1.0], 2),
        "truncated": np.tile([0.0, 1.0, 0.0, 1.0], 2),
    }
    return Transition(**{name: jnp.float32(value) for name, value in (values | fields).items()})


# --- the same in NumPy ---------------------------------------------------------------------------


def double(tree):
    return jax.tree.map(lambda leaf: np.array(leaf, np.float64), tree)


def numpy_q(critics, observation):
    """Q [C, B, A]."""
    layers = double(critics)["params"]
    x = np.asarray(observation, np.float64)
    for index in range(3):
        layer = layers[f"layer_{index}"]
        x = x @ layer["kernel"] + layer["bias"][:, None]
        x = np.maximum(x, 0.0) if index < 2 else x
    return x


def numpy_value(critics, observation, temperature):
    q = numpy_q(critics, observation).min(axis=0)
    if temperature == 0:
        return q.max(axis=-1)
    return temperature * logsumexp(q / temperature, axis=-1)


def numpy_target(target_critics, data, temperature=0.1):
    value = numpy_value(target_critics, data.next_observation, temperature)
    return np.float64(data.reward) + DISCOUNT * (1.0 - np.float64(data.terminated)) * value


def numpy_loss(critics, data, target):
    q = (numpy_q(critics, data.observation) * np.float64(data.action)).sum(axis=-1)  # [C, B]
    return 0.5 * np.square(q - target).mean(axis=1).sum(), q.mean()


def numpy_gradient(critics, data, target, h=1e-6):
    """Central differences; exactly 0 where the loss does not depend on a parameter."""
    critics = double(critics)

    def slope(leaf, index):
        value, losses = leaf[index], []
        for step in (h, -h):
            leaf[index] = value + step
            losses.append(numpy_loss(critics, data, target)[0])
        leaf[index] = value
        return (losses[0] - losses[1]) / (2 * h)

    def of_leaf(leaf):
        slopes = [slope(leaf, index) for index in np.ndindex(leaf.shape)]
        return np.reshape(slopes, leaf.shape)

    return jax.tree.map(of_leaf, critics)


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "num_critics"), [(0.5, 2), (0.01, 2), (0.0, 2), (0.5, 1), (0.5, 3)]
)
def test_the_loss_of_a_batch_is_numpys(temperature, num_critics):
    learner, state = learner_and_state(
        soft_q__temperature=temperature, sac__num_critics=num_critics
    )
    state, data = random_state(state), batch()
    _, metrics = learner.update(state, data, jax.random.key(1))
    target = numpy_target(state.target_critics, data, temperature)
    loss, q = numpy_loss(state.critics, data, target)
    np.testing.assert_allclose(metrics["critic/target"], target.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/q"], q, rtol=1e-5)


def test_the_minimum_of_the_critics_is_that_of_every_action():
    learner, state = learner_and_state()
    # minima 0, 0, 0.1: their soft maximum is not that of either critic
    critics = constant_critics(state.critics, [[0.0, 0.4, 0.1], [0.4, 0.0, 0.1]])
    value = learner.parts(None).value(state, critics, jnp.zeros((4, OBSERVATIONS)), None)
    np.testing.assert_allclose(value, 0.1 * np.log(np.e + 2.0), rtol=1e-6)


def test_only_a_termination_ends_the_sum_of_rewards():
    learner, state = learner_and_state(soft_q__temperature=0.0)
    state = state.replace(target_critics=constant_critics(state.critics, 100.0 + Q))
    for terminated, truncated, expected in (
        (0.0, 0.0, 1.0 + DISCOUNT * 100.1),
        (0.0, 1.0, 1.0 + DISCOUNT * 100.1),
        (1.0, 0.0, 1.0),
        (1.0, 1.0, 1.0),
    ):
        ends = {"terminated": terminated, "truncated": truncated}
        data = batch(reward=np.ones(ROWS), **{k: np.full(ROWS, v) for k, v in ends.items()})
        _, metrics = learner.update(state, data, jax.random.key(1))
        np.testing.assert_allclose(metrics["critic/target"], expected, rtol=1e-6)


def test_the_first_step_of_adam_follows_the_signs_of_numpys_gradient():
    learner, state = learner_and_state()
    state, data = random_state(state), batch(action=np.arange(ROWS) % 2)  # never the third action
    state.critics["params"]["layer_1"]["bias"] = (
        state.critics["params"]["layer_1"]["bias"].at[:, 0].set(-100.0)  # a unit that is off
    )
    new, _ = learner.update(state, data, jax.random.key(1))
    target = numpy_target(state.target_critics, data)
    gradient = numpy_gradient(state.critics, data, target)
    counts = {"moved": 0, "still": 0}
    for slope, before, after in zip(*map(jax.tree.leaves, (gradient, state.critics, new.critics))):
        change = np.float64(after) - np.float64(before)
        large = np.abs(slope) > 1e-4
        np.testing.assert_allclose(change[large], -RATE * np.sign(slope[large]), atol=1e-6)
        np.testing.assert_array_equal(change[slope == 0], 0.0)
        counts["moved"] += large.sum()
        counts["still"] += (slope == 0).sum()
        assert (large | (slope == 0)).mean() > 0.9
    assert counts["moved"] > 60
    assert counts["still"] > 30


def test_adam_remembers_the_updates_before():
    learner, state = learner_and_state(sac__target_update_rate=1e-9)  # the target stands still
    bias, moments = np.array(Q), np.zeros((2, *Q.shape))
    state = state.replace(
        critics=constant_critics(state.critics, Q),
        target_critics=constant_critics(state.critics, Q),
    )
    data = batch(action=np.array([0, 0, 0, 1, 1, 1, 2, 2]), terminated=np.ones(ROWS))
    # with zero weights the biases of the head alone learn
    frequency = np.array([3, 3, 2]) / ROWS
    mean_reward = np.array(jnp.float32(data.reward) @ data.action) / ROWS
    for update in range(1, 4):
        state, _ = learner.update(state, data, jax.random.key(update))
        gradient = frequency * bias - mean_reward
        moments[0] = 0.9 * moments[0] + 0.1 * gradient
        moments[1] = 0.999 * moments[1] + 0.001 * np.square(gradient)
        mean, square = moments[0] / (1 - 0.9**update), moments[1] / (1 - 0.999**update)
        bias = bias - RATE * mean / (np.sqrt(square) + 1e-8)
        found = state.critics["params"]["layer_2"]["bias"]
        np.testing.assert_allclose(found, bias, atol=2e-7)
    assert int(state.updates) == 3


def test_the_gradient_is_shortened_to_its_global_norm():
    norms = {}
    for limit in (0.0, 0.01):
        learner, state = learner_and_state(sac__max_grad_norm=limit)
        new, _ = learner.update(random_state(state), batch(), jax.random.key(1))
        (adam,) = (s for s in jax.tree.leaves(new.optimizer, is_leaf=is_adam) if is_adam(s))
        squares = [np.square(np.float64(mean)).sum() for mean in jax.tree.leaves(adam.mu)]
        norms[limit] = np.sqrt(sum(squares)) / 0.1  # after the first step
    assert norms[0.0] > 0.1
    assert norms[0.01] == pytest.approx(0.01, rel=1e-4)


def is_adam(node):
    return hasattr(node, "mu")


def test_the_targets_follow_after_every_update_or_every_other():
    for every in (1, 2):
        learner, state = learner_and_state(
            sac__target_update_every=every, sac__target_update_rate=TAU
        )
        state = random_state(state)
        for update in range(1, 4):
            new, _ = learner.update(state, batch(update), jax.random.key(update))
            rate = TAU if update % every == 0 else 0.0
            for before, critic, after in zip(
                *map(jax.tree.leaves, (state.target_critics, new.critics, new.target_critics))
            ):
                expected = rate * np.float64(critic) + (1 - rate) * np.float64(before)
                np.testing.assert_allclose(after, expected, atol=1e-6)
            state = new


def test_the_gradient_of_the_value_reaches_the_observation():
    learner, state = learner_and_state()
    critics = random_like(state.critics, 1)
    observation = batch().observation

    def total(observation):
        return learner.parts(None).value(state, critics, observation, None).sum()

    found, h = jax.grad(total)(observation), 1e-6
    for axis, offset in enumerate(h * np.eye(OBSERVATIONS)):
        above, below = (
            numpy_value(critics, np.float64(observation) + s * offset, 0.1) for s in (1, -1)
        )
        np.testing.assert_allclose(found[:, axis], (above - below) / (2 * h), atol=1e-4)
    assert np.abs(found).max() > 0.1


def test_untrained_values_are_small_different_and_equal_to_their_targets():
    _, state = learner_and_state(sac__hidden_width=32)
    observation = np.random.default_rng(0).normal(size=(100, OBSERVATIONS))
    q = numpy_q(state.critics, observation)
    # two layers of gain sqrt(2) keep the squares, the head multiplies by 0.01
    assert 0.001 < q.std() < 0.05
    assert np.abs(q[0] - q[1]).max() > 0.001
    np.testing.assert_array_equal(numpy_q(state.target_critics, observation), q)


def test_the_context_shows_critics_and_targets():
    learner, state = learner_and_state()
    state = random_state(state)
    normalizers = Normalizers(normalizer.identity(5), normalizer.identity(3))
    context = learner.context(state, normalizers)
    observation, action = batch().observation, batch().action
    parts = learner.parts(None)
    for shown, own in (
        (context.policy, state.critics),
        (context.critics, state.critics),
        (context.target_critics, state.target_critics),
    ):
        q = (numpy_q(own, observation) * np.float64(action)).sum(axis=-1)
        np.testing.assert_allclose(parts.q_values(shown, observation, action), q, rtol=1e-4)
    assert context.log_temperature == pytest.approx(np.log(0.1))
    assert context.normalizers is normalizers


# --- acting --------------------------------------------------------------------------------------

DRAWS = 20_000


def frequencies(actions):
    """Of the choices; every action has to be one of them."""
    actions = np.asarray(actions)
    np.testing.assert_array_equal(np.sort(actions, axis=-1)[:, -2:], [[0.0, 1.0]] * len(actions))
    return actions.mean(axis=0)


def assert_frequencies(actions, expected):
    error = 4 * np.sqrt(np.multiply(expected, 1 - np.asarray(expected)) / len(actions))
    assert (np.abs(frequencies(actions) - expected) <= error).all()


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), DRAWS)


def test_actions_are_drawn_from_the_softmax_of_the_mean_of_the_critics():
    learner, state = constant_state()
    sample = learner.parts(None).sample_and_log_prob
    draw = jax.jit(jax.vmap(lambda key: sample(state.critics, jnp.zeros(OBSERVATIONS), key)))
    actions, log_prob = draw(keys())
    assert_frequencies(actions, POLICY)
    np.testing.assert_allclose(log_prob, np.log(np.asarray(actions) @ POLICY), rtol=1e-5)
    assert POLICY[0] > 0.5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_share_of_the_actions_is_uniform_while_training(share):
    learner, state = constant_state(soft_q__exploration=share)
    behave = jax.jit(jax.vmap(lambda key: learner.behave(state, jnp.zeros(OBSERVATIONS), key)))
    assert_frequencies(behave(keys()), (1 - share) * POLICY + share / ACTIONS)


def test_exploration_is_uniform():
    learner, _ = learner_and_state()
    assert_frequencies(jax.jit(jax.vmap(learner.explore))(keys()), np.full(ACTIONS, 1 / ACTIONS))


def test_without_a_temperature_the_policy_is_the_best_action():
    learner, state = constant_state(soft_q__temperature=0.0, soft_q__exploration=0.3)
    observation, parts = jnp.zeros(OBSERVATIONS), learner.parts(None)
    action, log_prob = parts.sample_and_log_prob(state.critics, observation, jax.random.key(0))
    np.testing.assert_array_equal(action, [1, 0, 0])
    assert log_prob == 0.0
    behave = jax.jit(jax.vmap(lambda key: learner.behave(state, observation, key)))
    assert_frequencies(behave(keys()), np.array([0.8, 0.1, 0.1]))
    np.testing.assert_array_equal(
        learner.act(state.critics, batch().observation), [[1, 0, 0]] * ROWS
    )


def observations(seed=0, rows=DRAWS):
    return jnp.float32(np.random.default_rng(seed).normal(size=(rows, OBSERVATIONS)))


def test_evaluation_samples_the_softmax_over_states_and_repeats_itself_in_each():
    learner, state = constant_state()
    act = jax.jit(learner.act)
    seen = observations()
    actions = act(state.critics, seen)
    assert_frequencies(actions, POLICY)
    np.testing.assert_array_equal(act(state.critics, seen[::-1]), actions[::-1])  # no place counts


@pytest.mark.parametrize(
    "pairs",
    [
        lambda seen: (seen, np.nextafter(seen, np.float32(np.inf))),
        lambda seen: (seen, seen * np.float32([1.0, -1.0])),
        lambda seen: (seen, seen[:, ::-1]),
        # grids of numbers that end in many zero bits
        lambda seen: (grid(), grid() + np.float32([3.0, -1.0])),
        lambda seen: (grid(), grid() + np.float32([0.0, 1.0])),
    ],
)
def test_evaluation_is_independent_in_neighbouring_states(pairs):
    learner, state = constant_state()
    first, second = (jnp.asarray(seen) for seen in pairs(np.asarray(observations())))
    act = jax.jit(learner.act)
    same = (act(state.critics, first) * act(state.critics, second)).sum(axis=-1)
    agreement = np.square(POLICY).sum()
    error = 4 * np.sqrt(agreement * (1 - agreement) / len(same))
    assert abs(float(same.mean()) - agreement) < error


def grid():
    axis = np.arange(64, 128, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def test_evaluation_can_be_greedy():
    learner, state = constant_state(soft_q__evaluate_greedily=True)
    np.testing.assert_array_equal(
        learner.act(state.critics, batch().observation), [[1, 0, 0]] * ROWS
    )
    greedy = learner.parts(None).greedy_policy(state.critics, batch().observation)
    np.testing.assert_array_equal(greedy, [[1, 0, 0]] * ROWS)
