"""Returns of hand-computed trajectories under every propagation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from planners import trajectories
from planners.trajectories import trajectory_sampling

ONES = jnp.ones((1, 2, 1))  # one candidate: the action 1, twice
START = jnp.ones(1)
every_propagation = pytest.mark.parametrize("propagation", list(trajectories.PROPAGATIONS))


def linear(params, key, observation, action):
    """Two members: s + a and 2 s + a; the reward is the next state."""
    predicted = params[:, None, None] * observation + action
    return predicted, predicted[..., 0]


def returns(
    actions=ONES, *, params=(1.0, 2.0), model_fn=linear, reward_fn=None, draws=1, **options
):
    params = jnp.array(params)
    evaluate = trajectory_sampling(num_members=params.size, **options)

    @jax.jit
    def call(key):
        return evaluate(params, key, START, actions, model_fn, reward_fn)

    keys = jax.random.split(jax.random.key(0), draws)
    return call(keys[0]) if draws == 1 else jax.vmap(call)(keys)[:, 0]


@pytest.mark.parametrize(
    ("propagation", "particles", "expected"),
    [
        # member 0: 1 -> 2 -> 3, return 5; member 1: 1 -> 3 -> 7, return 10
        ("tsinf", 2, 7.5),
        ("tsinf", 4, 7.5),
        ("tsinf", 3, (5 + 10 + 5) / 3),  # a row of padding does not count
        ("tsinf", 1, 5.0),
        ("per_member", 1, 7.5),
        ("per_member", 3, 7.5),
        # 1 -> mean of 2 and 3 -> mean of 3.5 and 6
        ("expectation", 1, 2.5 + 4.75),
    ],
)
def test_hand_computed_returns(propagation, particles, expected):
    result = returns(propagation=propagation, num_particles=particles)
    np.testing.assert_allclose(result, [expected], rtol=1e-6)


def test_ts1_takes_a_member_anew_at_every_step():
    # after one step the two particles are at 2 and 3; they stay with their members
    # (2 + 1, 2 * 3 + 1) or change them (2 * 2 + 1, 3 + 1)
    results = returns(propagation="ts1", num_particles=2, draws=200)
    stay = np.isclose(results, (2 + 3 + 3 + 7) / 2)
    change = np.isclose(results, (2 + 3 + 5 + 4) / 2)
    assert (stay | change).all()
    assert abs(stay.mean() - 0.5) < 4 * np.sqrt(0.25 / 200)


def test_a_single_particle_mixes_members_too():
    # 1 -> 2 or 3; 2 -> 3 or 5; 3 -> 4 or 7
    results = returns(propagation="ts1", draws=200)
    for value in (2 + 3, 2 + 5, 3 + 4, 3 + 7):
        share = np.isclose(results, value).mean()
        expected = {5: 1, 7: 2, 10: 1}[value] / 4
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 200)


def dealt(key, num_candidates, num_particles, num_members):
    """Numbers of the particles that come to each member's places, and where they come back to."""
    candidate = trajectories.divided(num_candidates, num_particles, num_members)
    number = jnp.arange(candidate.size).reshape(-1, num_members).T
    there, back = trajectories.deal(key, num_particles, *candidate.shape)
    moved = trajectories.reorder(number, there)
    np.testing.assert_array_equal(trajectories.reorder(moved, back), number)
    return np.asarray(moved)


def test_a_hundred_rows_give_each_of_five_members_twenty():
    first, second = (dealt(jax.random.key(key), 5, 20, 5) for key in (0, 1))
    for numbers in (first, second):
        assert numbers.shape == (5, 20)
        assert sorted(np.ravel(numbers)) == list(range(100))
        for row in numbers // 20:  # each candidate has 4 particles at each member
            np.testing.assert_array_equal(np.bincount(row), 4)
    assert (first != second).any()


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2, 1, 3), (3, 5, 4), (1, 2, 5)])
def test_every_particle_is_equally_often_at_every_member(sizes):
    draws, num_members = 600, sizes[2]
    at = []
    for key in jax.random.split(jax.random.key(0), draws):
        numbers = dealt(key, *sizes)
        order = np.argsort(numbers, axis=None)
        at.append(order // numbers.shape[1])
    chance = 1 / num_members
    for places in np.transpose(at)[: sizes[0] * sizes[1]]:  # without padding
        share = np.bincount(places, minlength=num_members) / draws
        assert np.abs(share - chance).max() < 4.5 * np.sqrt(chance * (1 - chance) / draws)


def test_particles_keep_their_places():
    # each of three members adds its own number to what it is given
    def model_fn(params, key, observation, action):
        del key
        return observation + params[:, None, None], action[..., 0]

    model = trajectories.PROPAGATIONS["ts1"].through(model_fn, 2)
    observation = 100.0 * jnp.arange(12.0).reshape(3, 4, 1)
    numbers = jnp.array([1.0, 2.0, 3.0])
    moved, reward = model(numbers, jax.random.key(0), observation, 2 * observation)
    np.testing.assert_array_equal(reward, 2 * observation[..., 0])
    added = moved - observation
    assert sorted(np.ravel(added)) == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    assert (added[:, :, 0] != numbers[:, None]).any()


def test_equal_candidates_have_equal_returns_where_members_divide_particles():
    equal = {"actions": jnp.ones((5, 6, 1)), "params": (1.0, 2.0, 3.0), "propagation": "ts1"}
    found = returns(**equal, num_particles=6)
    np.testing.assert_allclose(found, jnp.broadcast_to(found[0], 5), rtol=1e-6)
    assert np.std(returns(**equal, num_particles=4)) > 0.1


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_a_particle_costs_one_forward_pass_per_step(propagation):
    shapes = []

    def model_fn(params, key, observation, action):
        shapes.append((observation.shape, action.shape))
        return linear(params, key, observation, action)

    returns(jnp.ones((7, 2, 1)), propagation=propagation, num_particles=3, model_fn=model_fn)
    assert set(shapes) == {((2, 11, 1), (2, 11, 1))}  # 21 rows and one of padding


@every_propagation
def test_blocks_do_not_change_what_a_candidate_is_worth(monkeypatch, propagation):
    actions = jnp.linspace(-1, 1, 14).reshape(7, 2, 1)
    same = {"params": (2.0, 2.0, 2.0), "propagation": propagation, "num_particles": 4}
    states = [2 + actions[:, 0], 2 * (2 + actions[:, 0]) + actions[:, 1]]
    monkeypatch.setattr(trajectories, "CPU_BLOCK_ROWS", 10)
    assert trajectories.blocks(7 * 4) == 3  # of 3 candidates each, two of them padding
    np.testing.assert_allclose(returns(actions, **same), (states[0] + states[1])[:, 0], rtol=1e-6)


def test_a_large_population_is_cut_into_equal_blocks():
    blocks = trajectories.blocks(1000 * 30)
    assert trajectories.in_blocks(jnp.zeros((1000, 15, 1)), blocks).shape == (4, 250, 15, 1)


def count(params, key, observation, action):
    """Counts steps from 1; state and reward are the count, and beyond 3 nothing is finite."""
    count = observation + 1
    return jnp.where(observation > 3, jnp.nan, count), count[..., 0]


def from_three(observation, action, next_observation):
    return next_observation[..., 0] >= 3


@every_propagation
def test_the_reward_of_the_terminating_step_counts_and_nothing_after_it(propagation):
    options = {"model_fn": count, "propagation": propagation, "num_particles": 2}
    ended = returns(jnp.ones((2, 5, 1)), termination=from_three, **options)
    np.testing.assert_allclose(ended, [2 + 3, 2 + 3])  # from 1; later states are not numbers


def test_without_a_termination_function_nothing_ends():
    options = {"model_fn": count, "propagation": "per_member"}
    np.testing.assert_allclose(returns(jnp.ones((1, 3, 1)), **options), [2 + 3 + 4])
    np.testing.assert_allclose(returns(jnp.ones((1, 4, 1)), **options), [-np.inf])


def test_termination_is_told_the_action_and_both_states():
    def rule(observation, action, next_observation):
        return (observation[..., 0] == 2) & (action[..., 0] == 1) & (next_observation[..., 0] == 3)

    options = {"model_fn": count, "propagation": "per_member", "termination": rule}
    actions = jnp.stack([jnp.ones((3, 1)), jnp.zeros((3, 1))])
    np.testing.assert_allclose(returns(actions, **options), [2 + 3, 2 + 3 + 4])


@every_propagation
def test_states_and_rewards_that_are_not_finite_make_a_candidate_worthless(propagation):
    def breaks(params, key, observation, action):
        """Adds the parameters to state and reward where the action is positive."""
        state, reward = params
        positive = action[..., 0] > 0
        added = jnp.where(positive, state, 0.0)[..., None]
        return observation + added, jnp.where(positive, reward, 1.0)

    actions = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])[..., None]
    evaluate = jax.jit(
        lambda params: trajectory_sampling(propagation=propagation, num_members=2, num_particles=3)(
            params, jax.random.key(0), START, actions, breaks, None
        )
    )
    np.testing.assert_array_equal(evaluate((0.0, 5.0)), [2.0, 6.0, 6.0])
    for params in [(jnp.nan, 1.0), (jnp.inf, 1.0), (0.0, jnp.nan), (0.0, jnp.inf)]:
        np.testing.assert_array_equal(evaluate(params), [2.0, -np.inf, -np.inf])


def test_one_bad_particle_of_many_makes_its_candidate_worthless():
    def one_member_fails(params, key, observation, action):
        predicted = jnp.where((params > 1)[:, None, None] & (action > 0), jnp.nan, observation)
        return predicted, jnp.ones(observation.shape[:-1])

    actions = jnp.array([[[1.0]], [[-1.0]]])
    result = returns(
        actions,
        model_fn=one_member_fails,
        propagation="tsinf",
        num_particles=4,
        params=(1, 1, 1, 2),
    )
    np.testing.assert_array_equal(result, [-np.inf, 1.0])


@every_propagation
def test_a_given_reward_function_replaces_the_models(propagation):
    def reward_fn(observation, action, next_observation):
        return (100 * next_observation + 10 * observation + action)[..., 0]

    # the same model twice: 1 -> 2 -> 3 with actions 1
    result = returns(params=(1.0, 1.0), propagation=propagation, reward_fn=reward_fn)
    np.testing.assert_allclose(result, [(200 + 10 + 1) + (300 + 20 + 1)], rtol=1e-6)


def test_sampled_predictions_are_averaged_over_particles():
    def noisy(params, key, observation, action):
        return observation, jax.random.normal(key, observation.shape[:-1]) + action[..., 0]

    result = returns(jnp.ones((50, 4, 1)), model_fn=noisy, propagation="ts1", num_particles=100)
    # a return is 4 + N(0, 4), the mean of a hundred of them has a standard deviation of 0.2
    assert abs(float(result.mean()) - 4.0) < 4 * 0.2 / np.sqrt(50)
    assert abs(float(result.std()) / 0.2 - 1.0) < 4 / np.sqrt(2 * 50)


def test_vmap_over_environments_and_models_equals_a_loop():
    def noisy(params, key, observation, action):
        predicted = params[:, None, None] * observation + action
        return predicted, predicted[..., 0] + jax.random.normal(key, observation.shape[:-1])

    evaluate = trajectory_sampling(propagation="ts1", num_members=2, num_particles=3)
    actions = jnp.linspace(-1, 1, 12).reshape(4, 3, 1)

    def call(params, key, observation):
        return evaluate(params, key, observation, actions, noisy, None)

    args = (
        jnp.array([[1.0, 2.0], [0.5, -1.0]]),
        jax.random.split(jax.random.key(1)),
        jnp.array([[1.0], [-2.0]]),
    )
    together, single = jax.jit(jax.vmap(call))(*args), jax.jit(call)
    for index in range(2):
        alone = single(*(x[index] for x in args))
        np.testing.assert_allclose(together[index], alone, rtol=1e-5)


def test_an_unknown_propagation_names_those_there_are():
    with pytest.raises(UserError, match="ts1, tsinf, expectation, per_member"):
        trajectory_sampling(propagation="ts2", num_members=1)
