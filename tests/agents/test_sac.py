"""Soft actor-critic against values computed by hand, with networks reduced to their biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from agents import sac
from agents.registry import make_agent
from replay import Transition, buffer
from tests.integration import tiny

DISCOUNT = 0.9


def config(**changes):
    fixed = {
        "sac__learn_temperature": False,
        "sac__initial_temperature": 0.0,
        "sac__hidden_width": 2,
        "sac__hidden_depth": 1,
        "discount": DISCOUNT,
    }
    return tiny.config("sac", "InvertedPendulum-v5", **(fixed | changes))


def learner_and_state(**changes):
    """Returns SAC for one observation and one action, and its state from key 0."""
    learner = sac.make_sac(config(**changes), tiny.spec(1, 1))
    return learner._replace(update=jax.jit(learner.update)), learner.init(jax.random.key(0))


def constant_policy(state, mean, log_std):
    """Returns the state with a policy that does not look at the observation."""
    policy = jax.tree.map(jnp.zeros_like, state.policy)
    policy["params"]["layer_1"]["bias"] = jnp.array([mean, log_std])
    return state.replace(policy=policy)


def constant_critics(critics, values):
    """Returns critics that are constant, the c-th `values[c]`."""
    critics = jax.tree.map(jnp.zeros_like, critics)
    critics["params"]["layer_1"]["bias"] = jnp.array(values)[:, None]
    return critics


def linear_critics(critics, slope):
    """Returns critics that are all `slope * action`: slope (relu(a) - relu(-a))."""
    critics = jax.tree.map(jnp.zeros_like, critics)
    params = critics["params"]
    params["layer_0"]["kernel"] = params["layer_0"]["kernel"].at[:, 1].set(jnp.array([1.0, -1.0]))
    params["layer_1"]["kernel"] = (
        params["layer_1"]["kernel"].at[:].set(slope * jnp.array([[1.0], [-1.0]]))
    )
    return critics


def batch(n=16, reward=1.0, terminated=0.0, truncated=0.0):
    """Returns n equal transitions; a flag may also be given per row."""

    def rows(value):
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n,))

    zeros = jnp.zeros((n, 1))
    return Transition(zeros, zeros, rows(reward), zeros, rows(terminated), rows(truncated))


def log_prob_of_gaussian_policy(epsilon, mean, std):
    z = mean + std * epsilon
    log_derivative = 2 * (np.log(2) - z - np.logaddexp(0, -2 * z))
    return -0.5 * epsilon**2 - np.log(std) - 0.5 * np.log(2 * np.pi) - log_derivative


def expectation(function):
    """Returns E[function(epsilon)] for a standard normal epsilon, by quadrature."""

    def integrand(epsilon):
        return function(epsilon) * np.exp(-0.5 * epsilon**2) / np.sqrt(2 * np.pi)

    return integrate.quad(integrand, -10, 10)[0]


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (0.0, 0.0, 1.0 + DISCOUNT * 3.0),
        (0.0, 1.0, 1.0 + DISCOUNT * 3.0),
        (1.0, 0.0, 1.0),
        (1.0, 1.0, 1.0),
    ],
)
def test_only_termination_cuts_the_target_and_it_takes_the_smaller_critic(
    terminated, truncated, expected
):
    learner, state = learner_and_state()
    state = state.replace(target_critics=constant_critics(state.critics, [3.0, 5.0]))
    data = batch(terminated=terminated, truncated=truncated)
    _, metrics = learner.update(state, data, jax.random.key(1))
    np.testing.assert_allclose(metrics["critic/target"], expected, rtol=1e-6)


def test_every_row_has_its_own_target():
    learner, state = learner_and_state()
    state = state.replace(
        critics=constant_critics(state.critics, [0.0, 1.0]),
        target_critics=constant_critics(state.critics, [4.0, 2.0]),
    )
    data = batch(n=4, reward=[1.0, 2.0, 3.0, 4.0], terminated=[1, 0, 1, 0], truncated=[0, 1, 1, 0])
    targets = np.array([1.0, 2.0 + 0.9 * 2.0, 3.0, 4.0 + 0.9 * 2.0])
    _, metrics = learner.update(state, data, jax.random.key(1))
    expected = 0.5 * (targets**2).mean() + 0.5 * ((targets - 1.0) ** 2).mean()
    np.testing.assert_allclose(metrics["critic/target"], targets.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["critic/loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["critic/q"], 0.5, rtol=1e-6)


def test_the_target_is_the_minimum_over_all_critics():
    learner, state = learner_and_state(sac__num_critics=4)
    state = state.replace(target_critics=constant_critics(state.critics, [3.0, 5.0, 1.5, 2.0]))
    _, metrics = learner.update(state, batch(), jax.random.key(1))
    np.testing.assert_allclose(metrics["critic/target"], 1.0 + DISCOUNT * 1.5, rtol=1e-6)


def test_the_target_contains_the_entropy_of_the_next_action():
    mean, std, temperature = 0.4, 0.7, 0.5
    learner, state = learner_and_state(sac__initial_temperature=temperature)
    state = constant_policy(state, mean, np.log(std))
    state = state.replace(target_critics=constant_critics(state.critics, [3.0, 5.0]))
    entropy = -expectation(lambda e: log_prob_of_gaussian_policy(e, mean, std))
    _, metrics = learner.update(state, batch(n=20_000), jax.random.key(1))
    expected = 1.0 + DISCOUNT * (3.0 + temperature * entropy)
    # log-probabilities have a standard deviation below 1: the mean's standard error is < 0.0035
    np.testing.assert_allclose(metrics["critic/target"], expected, atol=0.015)
    np.testing.assert_allclose(metrics["policy/entropy"], entropy, atol=0.03)


def test_temperature_follows_adam_on_the_log_alpha_gradient():
    rate, target_entropy, beta1, beta2 = 0.01, -0.3, 0.9, 0.999
    learner, state = learner_and_state(
        sac__learn_temperature=True,
        sac__initial_temperature=0.2,
        sac__learning_rate=rate,
        sac__target_entropy=target_entropy,
    )
    log_temperature, first, second = np.log(0.2), 0.0, 0.0
    for t in range(1, 6):
        state, metrics = learner.update(state, batch(), jax.random.key(t))
        # loss = -log alpha (log pi + target entropy), hence
        gradient = float(metrics["policy/entropy"]) - target_entropy
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        step = first / (1 - beta1**t) / (np.sqrt(second / (1 - beta2**t)) + 1e-8)
        log_temperature -= rate * step
        np.testing.assert_allclose(state.log_temperature, log_temperature, atol=2e-6)
        np.testing.assert_allclose(
            metrics["policy/temperature"], np.exp(log_temperature), rtol=1e-5
        )


@pytest.mark.parametrize(("log_std", "rises"), [(-4.0, True), (-0.2, False)])
def test_temperature_rises_when_the_entropy_is_below_its_target(log_std, rises):
    learner, state = learner_and_state(
        sac__learn_temperature=True, sac__initial_temperature=0.2, sac__target_entropy=-1.0
    )
    state = constant_policy(state, 0.0, log_std)
    new, metrics = learner.update(state, batch(n=500), jax.random.key(1))
    assert (float(metrics["policy/entropy"]) < -1.0) == rises
    assert (float(new.log_temperature) > float(state.log_temperature)) == rises


def test_a_fixed_temperature_stays():
    learner, state = learner_and_state(sac__initial_temperature=0.3)
    for t in range(3):
        state, metrics = learner.update(state, batch(), jax.random.key(t))
    np.testing.assert_allclose(metrics["policy/temperature"], 0.3, rtol=1e-6)


def test_targets_are_polyak_averages_taken_every_few_updates():
    rate, every = 0.1, 3
    learner, state = learner_and_state(
        sac__target_update_rate=rate, sac__target_update_every=every, sac__learning_rate=0.05
    )
    target = jax.tree.map(np.asarray, state.target_critics)
    for update in range(1, 7):
        state, _ = learner.update(state, batch(), jax.random.key(update))
        if update % every == 0:
            target = jax.tree.map(
                lambda t, c: (1 - rate) * t + rate * np.asarray(c), target, state.critics
            )
        for actual, expected in zip(jax.tree.leaves(state.target_critics), jax.tree.leaves(target)):
            np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert int(state.updates) == 6
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (state.critics, target)))]
    assert max(moved) > 0.01


def test_the_policy_gradient_is_that_of_the_closed_form_loss():
    mean, std, temperature, slope = 0.4, 0.7, 0.3, 2.0
    learner, state = learner_and_state(
        sac__initial_temperature=temperature, sac__learning_rate=1e-7
    )
    state = constant_policy(state, mean, np.log(std))
    state = state.replace(critics=linear_critics(state.critics, slope))
    new, metrics = learner.update(state, batch(n=40_000, terminated=1.0), jax.random.key(1))

    def loss(mean, log_std):
        std = np.exp(log_std)
        return expectation(
            lambda e: (
                temperature * log_prob_of_gaussian_policy(e, mean, std)
                - slope * np.tanh(mean + std * e)
            )
        )

    h, log_std = 1e-4, np.log(std)
    gradient = [
        (loss(mean + h, log_std) - loss(mean - h, log_std)) / (2 * h),
        (loss(mean, log_std + h) - loss(mean, log_std - h)) / (2 * h),
    ]
    first_moment = new.optimizer[0][0].mu["params"]["layer_1"]["bias"] / 0.1  # after one step
    # 40,000 samples: standard errors are below 0.01
    np.testing.assert_allclose(metrics["policy/loss"], loss(mean, log_std), atol=0.03)
    np.testing.assert_allclose(first_moment, gradient, atol=0.03)
    assert gradient[0] < -0.5  # not a comparison of zeros


def test_critics_learn_from_their_own_loss_only():
    learner, state = learner_and_state()
    # The critics are exactly right, so that only the policy has something to learn.
    critics = linear_critics(state.critics, 2.0)
    state = state.replace(critics=critics)
    new, metrics = learner.update(state, batch(reward=0.0, terminated=1.0), jax.random.key(1))
    assert float(metrics["critic/loss"]) == 0.0
    for before, after in zip(jax.tree.leaves(critics), jax.tree.leaves(new.critics)):
        np.testing.assert_array_equal(before, after)
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.policy, new.policy)
    assert max(jax.tree.leaves(changes)) > 1e-5


def test_the_policy_learns_from_its_own_loss_only():
    learner, state = learner_and_state()
    # With constant critics and no temperature all actions are equally good.
    state = state.replace(critics=constant_critics(state.critics, [3.0, 4.0]))
    new, metrics = learner.update(state, batch(), jax.random.key(1))
    for before, after in zip(jax.tree.leaves(state.policy), jax.tree.leaves(new.policy)):
        np.testing.assert_array_equal(before, after)
    assert float(metrics["critic/loss"]) > 0.0
    rate = config().sac.learning_rate  # Adam's first step is the learning rate, against the sign
    np.testing.assert_allclose(
        new.critics["params"]["layer_1"]["bias"][:, 0], [3.0 - rate, 4.0 - rate], atol=1e-6
    )


# --- learning rates, clipping, and updates of critics alone --------------------------------------


def biases(state):
    return {
        "policy": state.policy["params"]["layer_1"]["bias"][0],
        "critics": state.critics["params"]["layer_1"]["bias"][0, 0],
        "temperature": state.log_temperature,
    }


LEARNED = {"sac__learn_temperature": True, "sac__initial_temperature": 0.2}


def test_policy_critics_and_temperature_have_learning_rates_of_their_own():
    rates = {"policy": 0.02, "critics": 0.003, "temperature": 0.05}
    learner, state = learner_and_state(
        **LEARNED,
        sac__learning_rate=0.7,
        sac__policy_learning_rate=rates["policy"],
        sac__critic_learning_rate=rates["critics"],
        sac__temperature_learning_rate=rates["temperature"],
        sac__target_entropy=-50.0,
    )
    state = constant_policy(state, 0.4, -1.0)
    state = state.replace(critics=linear_critics(state.critics, 2.0))
    new, _ = learner.update(state, batch(terminated=1.0), jax.random.key(1))
    # Adam's first step is the learning rate, against the sign of the gradient: towards the larger
    # Q, from Q = 0 to the reward 1, and to less entropy
    signs = {"policy": 1, "critics": 1, "temperature": -1}
    before, after = biases(state), biases(new)
    for name, rate in rates.items():
        np.testing.assert_allclose(
            after[name] - before[name], signs[name] * rate, rtol=1e-3, err_msg=name
        )


@pytest.mark.parametrize("name", ["policy", "critic", "temperature"])
def test_the_learning_rate_is_that_of_every_part_without_its_own(name):
    settings = config(sac__learning_rate=0.7, **{f"sac__{name}_learning_rate": 0.1})
    parts = ("policy", "critic", "temperature")
    rates = [getattr(settings.sac, f"{part}_learning_rate") for part in parts]
    assert rates == [0.1 if part == name else 0.7 for part in parts]


def gradients(state):
    """What Adam saw of (policy, critics, temperature) in its first step."""
    (*chains, temperature) = state.optimizer
    adams = [next(s for s in jax.tree.leaves(o, is_leaf=is_adam) if is_adam(s)) for o in chains]
    return [
        np.concatenate([np.ravel(m) for m in jax.tree.leaves(mu)]) / 0.1
        for mu in (adams[0].mu, adams[1].mu, temperature[0].mu)
    ]


def is_adam(node):
    return hasattr(node, "mu")


def test_gradients_of_policy_and_of_all_critics_are_shortened_to_their_global_norm():
    # constant critics 3 and 4 against a target of 1: their biases have the gradient (2, 3)
    def run(**changes):
        learner, state = learner_and_state(**LEARNED, sac__target_entropy=-50.0, **changes)
        state = constant_policy(state, 0.4, -1.0)
        critics = linear_critics(state.critics, 20.0)
        critics["params"]["layer_1"]["bias"] = jnp.array([[3.0], [4.0]])
        new, metrics = learner.update(
            state.replace(critics=critics), batch(terminated=1.0), jax.random.key(1)
        )
        return (*gradients(new), float(metrics["policy/entropy"]))

    policy, critics, temperature, entropy = run()
    assert np.linalg.norm(critics) == pytest.approx(np.sqrt(2.0**2 + 3.0**2), rel=1e-5)
    assert np.linalg.norm(policy) > 2.0
    short_policy, short_critics, same_temperature, _ = run(sac__max_grad_norm=2.0)
    np.testing.assert_allclose(
        np.sort(short_critics)[-2:], 2.0 * np.array([2.0, 3.0]) / np.sqrt(13.0), rtol=1e-5
    )
    assert np.linalg.norm(short_critics) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(
        short_policy, 2.0 * policy / np.linalg.norm(policy), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(same_temperature, temperature)  # a single number, never clipped
    np.testing.assert_allclose(temperature, entropy + 50.0, rtol=1e-5)
    _, long_enough, _, _ = run(sac__max_grad_norm=4.0)  # above sqrt(13)
    np.testing.assert_allclose(long_enough, critics)


def test_policy_and_temperature_move_only_in_every_third_update():
    learner, state = learner_and_state(**LEARNED, sac__policy_update_every=3)
    every, _ = learner_and_state(**LEARNED)
    state = state.replace(critics=linear_critics(state.critics, 2.0))
    for update in range(1, 8):
        data, key = batch(reward=float(update)), jax.random.key(update)
        new, metrics = learner.update(state, data, key)
        expected, expected_metrics = every.update(state, data, key)
        if update % 3:  # all of the update but the policy's part
            expected = expected.replace(
                policy=state.policy,
                log_temperature=state.log_temperature,
                optimizer=(state.optimizer[0], expected.optimizer[1], state.optimizer[2]),
            )
            expected_metrics["policy/temperature"] = jnp.exp(state.log_temperature)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
        moved = {name: bool(biases(new)[name] != old) for name, old in biases(state).items()}
        assert moved == {"critics": True, "policy": update % 3 == 0, "temperature": update % 3 == 0}
        state = new
    assert [int(o[0].count) for o in state.optimizer] == [2, 7, 2]


# --- weights -------------------------------------------------------------------------------------


def rows_with_rewards(rewards):
    """Returns terminal transitions of different states and actions."""
    n = len(rewards)
    position = jnp.linspace(-1.0, 1.0, n)[:, None]
    return batch(n, reward=rewards, terminated=1.0)._replace(
        observation=position, action=0.5 * position[::-1]
    )


def test_a_weighted_batch_has_the_critic_gradient_of_one_with_repeated_rows():
    learner, state = learner_and_state(sac__hidden_width=8)
    data = rows_with_rewards([1.0, -2.0, 5.0])
    repeats = np.array([1, 2, 3])
    repeated = jax.tree.map(lambda x: jnp.repeat(x, repeats, axis=0), data)
    weighted, loss = learner.update(state, data, jax.random.key(1), jnp.float32(repeats / 2))
    expected, expected_loss = learner.update(state, repeated, jax.random.key(1))
    plain, plain_loss = learner.update(state, data, jax.random.key(1))

    def gradient(new):  # after Adam's first step
        return np.concatenate([m.ravel() for m in jax.tree.leaves(new.optimizer[1][0].mu)]) / 0.1

    np.testing.assert_allclose(gradient(weighted), gradient(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss["critic/loss"], expected_loss["critic/loss"], rtol=1e-5)
    assert np.abs(gradient(weighted) - gradient(plain)).max() > 0.1
    assert abs(loss["critic/loss"] - plain_loss["critic/loss"]) > 0.1


def test_weights_of_one_are_no_weights_to_the_bit():
    learner, state = learner_and_state(
        sac__hidden_width=8, sac__learn_temperature=True, sac__initial_temperature=0.2
    )
    data, key = rows_with_rewards([1.0, -2.0, 5.0, 0.3]), jax.random.key(1)
    plain = learner.update(state, data, key)
    for weight in (1.0, jnp.ones(4)):
        for actual, expected in zip(
            jax.tree.leaves(learner.update(state, data, key, weight)), jax.tree.leaves(plain)
        ):
            np.testing.assert_array_equal(actual, expected)


def test_weights_do_not_touch_policy_temperature_and_targets():
    learner, state = learner_and_state(sac__learn_temperature=True, sac__initial_temperature=0.2)
    # The critics are exactly right, so that weights leave them as they are.
    state = state.replace(critics=linear_critics(state.critics, 2.0))
    data, key = batch(n=8, reward=0.0, terminated=1.0), jax.random.key(1)
    weight = jnp.float32([0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 9.0])
    weighted, plain = (learner.update(state, data, key, w) for w in (weight, jnp.ones(8)))
    assert float(plain[1]["critic/loss"]) == 0.0
    assert float(plain[1]["policy/loss"]) != 0.0
    for actual, expected in zip(jax.tree.leaves(weighted), jax.tree.leaves(plain)):
        np.testing.assert_array_equal(actual, expected)
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.policy, plain[0].policy)
    assert max(jax.tree.leaves(changes)) > 1e-5


@pytest.mark.parametrize(
    ("width", "depth", "critics", "layer_norm"),
    [(8, 2, 2, False), (5, 1, 3, False), (4, 3, 2, True)],
)
def test_sizes_of_the_networks(width, depth, critics, layer_norm):
    settings = config(
        sac__hidden_width=width,
        sac__hidden_depth=depth,
        sac__num_critics=critics,
        sac__layer_norm=layer_norm,
    )
    state = sac.make_sac(settings, tiny.spec(3, 2)).init(jax.random.key(0))

    def dense(inputs, outputs):
        hidden = [inputs] + [width] * depth
        weights = sum(a * b + b for a, b in zip(hidden, [*hidden[1:], outputs]))
        return weights

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    norms = 2 * width * depth if layer_norm else 0
    assert count(state.policy) == dense(3, 4)
    assert count(state.critics) == critics * (dense(5, 1) + norms)
    assert state.critics["params"]["layer_0"]["kernel"].shape == (critics, 5, width)
    assert count(state.target_critics) == count(state.critics)


def test_critics_start_different_and_equal_to_their_targets():
    _, state = learner_and_state()
    kernel = state.critics["params"]["layer_0"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    for critic, target in zip(*map(jax.tree.leaves, (state.critics, state.target_critics))):
        np.testing.assert_array_equal(critic, target)


def transition(reward):
    zero = jnp.zeros(())
    return Transition(jnp.array([reward]), jnp.array([0.1]), reward, jnp.ones(1), zero, zero)


def test_one_step_is_its_updates_in_sequence():
    settings = config(updates_per_step=3, sac__initial_temperature=0.1)
    spec = tiny.spec(1, 1)
    agent, learner = sac.make_agent(settings, spec), sac.make_sac(settings, spec)
    state = agent.init(jax.random.key(3))
    for t in range(20):
        state = agent.observe(state, transition(jnp.float32(t)))
    next_observation = jnp.array([0.7])
    stepped, action, metrics = jax.jit(agent.step)(
        state, transition(jnp.float32(20)), next_observation
    )

    replay = buffer.add(state.replay, transition(jnp.float32(20)))
    _, update_key, action_key = jax.random.split(state.key, 3)
    batch_keys, update_keys = jax.random.split(update_key, (2, 3))
    update = jax.jit(learner.update)
    learned, losses = state.sac, []
    for g in range(3):
        data = buffer.sample(replay, batch_keys[g], settings.sac.batch_size)
        learned, one = update(learned, data, update_keys[g])
        losses.append(float(one["critic/loss"]))
    for actual, expected in zip(jax.tree.leaves(stepped.sac), jax.tree.leaves(learned)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["critic/loss"], np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(
        action, learner.sample(learned.policy, next_observation, action_key), atol=1e-4
    )
    assert int(stepped.sac.updates) == 3
    assert int(stepped.env_steps) == 21


@pytest.mark.parametrize("algo", ["sac", "mbpo", "omd"])
def test_updates_at_every_third_step_alone_and_metrics_are_theirs(algo):
    """From the same state, the third step does what a step that always updates does."""
    spec = tiny.spec(1, 1)
    sizes = {"initial_steps": 16, "epoch_length": 99, "total_steps": 16 + 99}
    sizes |= {"model__num_members": 2, "model__num_elites": 1}
    always, third = (
        make_agent(tiny.config(algo, **sizes, update_every=every), spec) for every in (1, 3)
    )
    step = jax.jit(third.step)
    state = third.init(jax.random.key(3))
    for t in range(16):
        state = third.observe(state, transition(jnp.float32(t)))
    for stage in third.refresh:
        state, _ = jax.jit(stage.run)(state)
    sums = dict.fromkeys(("critic/loss", "policy/loss"), 0.0)
    for t in range(3):
        before = state
        state, _, metrics = step(before, transition(jnp.float32(t)), jnp.ones(1))
        sums = {name: total + metrics[name] for name, total in sums.items()}
        if t < 2:
            for old, new in zip(jax.tree.leaves(learned(before)), jax.tree.leaves(learned(state))):
                np.testing.assert_array_equal(old, new)
    expected, _, losses = jax.jit(always.step)(before, transition(jnp.float32(2)), jnp.ones(1))
    for actual, desired in zip(jax.tree.leaves(learned(state)), jax.tree.leaves(learned(expected))):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-6)
    for name, total in sums.items():
        np.testing.assert_allclose(total / 3, losses[name], rtol=1e-5)


def learned(state):
    """What an agent's gradient updates change."""
    return [getattr(state, name) for name in ("sac", "learner", "model") if hasattr(state, name)]


def test_greedy_exploration_acts_with_the_mean():
    agent = sac.make_agent(config(sac__explore_greedily=True), tiny.spec(1, 1))
    state = agent.init(jax.random.key(0))
    state = state.replace(sac=constant_policy(state.sac, 0.4, 0.0))
    # without a temperature and with constant critics the policy does not move
    critics = constant_critics(state.sac.critics, [1.0, 1.0])
    state = state.replace(sac=state.sac.replace(critics=critics))
    _, action, _ = jax.jit(agent.step)(state, transition(jnp.float32(1)), jnp.zeros(1))
    np.testing.assert_allclose(action, [np.tanh(0.4)], rtol=1e-6)


def test_steps_with_the_same_data_draw_new_numbers():
    agent = sac.make_agent(config(), tiny.spec(1, 1))
    state = agent.init(jax.random.key(0))
    first, action, _ = agent.step(state, transition(jnp.float32(1)), jnp.zeros(1))
    second, again, _ = agent.step(first, transition(jnp.float32(1)), jnp.zeros(1))
    assert not np.array_equal(action, again)
    keys = [jax.random.key_data(s.key).tolist() for s in (state, first, second)]
    assert len({tuple(key) for key in keys}) == 3


def test_exploration_is_uniform_over_the_box():
    agent = sac.make_agent(config(), tiny.spec(1, 2))
    state = agent.init(jax.random.key(0))
    _, actions = jax.lax.scan(
        lambda state, _: agent.explore(state, jnp.zeros(1)), state, length=4000
    )
    # 4000 draws: the standard errors of mean and mean square are 0.009 and 0.005
    np.testing.assert_allclose(actions.mean(axis=0), 0.0, atol=0.04)
    np.testing.assert_allclose(np.square(actions).mean(axis=0), 1 / 3, atol=0.02)
    assert np.abs(actions).max() <= 1.0
