"""Model rollouts: their length, their rows, and who predicts them."""

import collections
import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import mbpo as mbpo_agent
from configs import mbpo
from experiment.configuration import resolve
from models import rollout
from models.fit import make_fit
from models.rollout import RolloutFilter, keep_all, make_rollout, make_simulator, rollout_length
from replay import WeightedTransition, buffer, example_transition
from tests.integration import tiny
from tests.models.toy import (
    grid_of_states,
    noisy_policy,
    replay_of,
    still_policy,
    toy_config,
    toy_model,
    toy_parts,
    toy_policy,
    toy_spec,
)

HOPPER = (20_000, 150_000, 1, 15)
ANT = (20_000, 100_000, 1, 25)


# --- the length ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "thousands", "expected"),
    [
        (HOPPER, (1, 20, 29, 30, 39, 125, 150, 200), (1, 1, 1, 2, 3, 12, 15, 15)),
        (ANT, (20, 24, 60, 100), (1, 2, 13, 25)),
    ],
)
def test_the_length_follows_the_published_examples(schedule, thousands, expected):
    assert [int(rollout_length(schedule, 1_000 * t)) for t in thousands] == list(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (-5_000, 1),
        (0, 1),
        (19_999, 1),
        (20_000, 1),
        (20_001, 1),
        (84_999, 7),  # half way is 1 + 14 / 2
        (85_000, 8),
        (85_001, 8),
        (149_999, 14),
        (150_000, 15),
        (150_001, 15),
    ],
)
def test_the_length_around_the_corners_of_the_schedule(step, expected):
    assert int(rollout_length(HOPPER, step)) == expected


@pytest.mark.parametrize("schedule", [HOPPER, ANT, (19_000, 299_000, 1, 25), (0, 80_000, 1, 26)])
def test_the_compiled_length_is_exact_arithmetic_at_every_refresh(schedule):
    from_step, to_step, from_length, to_length = schedule
    steps = np.arange(0, 320_001, 250)
    covered = np.clip(steps, from_step, to_step) - from_step
    expected = [
        from_length + int(Fraction(int(c), to_step - from_step) * (to_length - from_length))
        for c in covered
    ]
    lengths = jax.jit(lambda step: rollout_length(schedule, step))(jnp.asarray(steps))
    np.testing.assert_array_equal(lengths, expected)


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("starts", "num_elites", "expected"),
    [(100_000, 5, 2_000), (100, 5, 100), (4_096, 2, 2_048), (3_000, 3, 1_500), (5 * 8_191, 5, 5)],
)
def test_a_cpu_block_is_the_largest_divisor_that_fits(starts, num_elites, expected):
    rows = rollout.block_rows(starts, num_elites)
    assert starts % rows == 0
    assert rows % num_elites == 0
    assert rows == expected


def test_accelerators_simulate_all_branches_together(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert rollout.block_rows(100_000, 5) == 100_000


# --- refreshes of the toy world ------------------------------------------------------------------


@functools.cache
def generator(spec, policy, rollout_filter=None, block=None, **config):
    """The compiled `generate` of the toy world, in blocks of at most `block` rows if given."""
    config = toy_config(**config)
    parts = toy_parts(config, spec, policy)
    if rollout_filter is None:
        rollout_filter = keep_all(config, parts)
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(rollout, "CPU_BLOCK_ROWS", block)
        return jax.jit(make_rollout(config, parts, rollout_filter, config.rollout.starts))


NEVER_ENDS = toy_spec()
EXAMPLE = WeightedTransition(example_transition(2, 1), jnp.zeros(()))


def generate_weighted(
    model,
    replay,
    *,
    length,
    key=0,
    capacity=400,
    spec=NEVER_ENDS,
    policy=toy_policy,
    rollout_filter=None,
    **config,
):
    """One refresh; returns the weighted model transitions, oldest first, and the metrics."""
    run = generator(spec, policy, rollout_filter, **config)
    model_replay = buffer.init(capacity, EXAMPLE)
    arguments = (model, (), (), replay, model_replay, jnp.int32(length), jax.random.key(key))
    model_replay, metrics = run(*arguments)
    assert int(model_replay.size) < capacity  # nothing was overwritten, slots are in order of time
    items, _ = buffer.contents(model_replay)
    size = int(model_replay.size)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], items), metrics


def generate(model, replay, **settings):
    """One refresh that counts every transition once."""
    items, metrics = generate_weighted(model, replay, **settings)
    np.testing.assert_array_equal(items.weight, np.ones(len(items.weight)))
    return items.transition, metrics


def simulate(starts, delta, length, ends, keeps=lambda s: np.ones(len(s), bool)):
    """The toy world in numpy: the rows [N, 8] a refresh must write, in order."""
    rows, state = [], np.asarray(starts, np.float64)
    for _ in range(length):
        action = 0.25 * state[:, 1:]
        following = np.stack([state[:, 0] + delta + action[:, 0], 0.5 * state[:, 1]], axis=1)
        ended = ends(following)
        kept = keeps(state)
        flags = np.stack([ended, np.zeros(len(state))], axis=1)
        row = np.concatenate([state, action, state[:, :1], following, flags], axis=1)
        rows.append(row[kept])
        state = following[kept & ~ended]
    return np.concatenate(rows)


def as_rows(items):
    return np.concatenate([leaf.reshape(len(items.reward), -1) for leaf in items], axis=1)


# --- what is written -----------------------------------------------------------------------------

ENDS_AT_ONE = toy_spec(threshold=1.0)


def test_branches_follow_the_model_and_nothing_follows_a_terminal_row():
    items, metrics = generate(
        toy_model([0.2] * 3, [2, 0]), replay_of(grid_of_states()), length=5, spec=ENDS_AT_ONE
    )
    starts = items.observation[:12]
    assert {tuple(s) for s in starts} <= {tuple(s) for s in np.float32(grid_of_states())}
    expected = simulate(starts, 0.2, 5, ends=lambda n: n[:, 0] > 1.0)
    ended = int(expected[:, -2].sum())
    assert 3 < ended < 12  # some branches end, some live on
    assert len(expected) < 60
    np.testing.assert_allclose(as_rows(items), expected, atol=1e-5)
    assert int(metrics["rollout/transitions"]) == len(expected)
    np.testing.assert_allclose(metrics["rollout/kept_fraction"], len(expected) / 60, rtol=1e-6)
    np.testing.assert_allclose(metrics["rollout/terminated_fraction"], ended / 12, rtol=1e-6)


def test_no_state_after_the_end_is_the_start_of_a_row():
    items, _ = generate(
        toy_model([0.3] * 3, [0, 1]), replay_of(grid_of_states()), length=8, spec=ENDS_AT_ONE
    )
    assert items.terminated.sum() > 3
    assert (items.observation[:, 0] <= 1.0).all()
    np.testing.assert_array_equal(items.terminated, items.next_observation[:, 0] > 1.0)
    np.testing.assert_array_equal(items.truncated, np.zeros(len(items.truncated)))


def first_coordinate_below_half(state, simulate, observation, steps_left, key):
    weight = (observation[..., 0] < 0.5).astype(jnp.float32)
    return simulate(observation, key), weight


def test_a_filter_ends_branches_and_drops_what_it_rejects():
    picky = RolloutFilter(lambda key: (), None, first_coordinate_below_half)
    items, metrics = generate(
        toy_model([-0.2] * 3, [0, 1]),
        replay_of(grid_of_states()),
        length=5,
        rollout_filter=picky,
        starts=12,
    )
    everything, _ = generate(toy_model([-0.2] * 3, [0, 1]), replay_of(grid_of_states()), length=1)
    starts = everything.observation  # of the same key, before the filter
    expected = simulate(
        starts, -0.2, 5, ends=lambda n: np.zeros(len(n), bool), keeps=lambda s: s[:, 0] < 0.5
    )
    assert 12 < len(expected) < 60
    # without the rule "a branch ends", states that fall below one half again would come back
    assert (starts[:, 0] > 0.5).any()
    np.testing.assert_allclose(as_rows(items), expected, atol=1e-5)
    assert float(metrics["rollout/terminated_fraction"]) == 0.0


def weighed_by_the_state_and_the_steps_left(state, simulate, observation, steps_left, key):
    weight = 2.0 + observation[..., 0] + 10.0 * steps_left
    return simulate(observation, key), weight


def test_a_filter_is_told_the_steps_left_and_its_weights_are_stored_with_the_transitions():
    weighing = RolloutFilter(lambda key: (), None, weighed_by_the_state_and_the_steps_left)
    items, _ = generate_weighted(
        toy_model([0.0] * 3, [0, 1]),
        replay_of(grid_of_states()),
        length=3,
        rollout_filter=weighing,
    )
    steps_left = np.repeat([3.0, 2.0, 1.0], 12)
    expected = 2.0 + items.transition.observation[:, 0] + 10.0 * steps_left
    np.testing.assert_allclose(items.weight, expected, rtol=1e-6)


def another_first_step(state, simulate, observation, steps_left, key):
    transition = simulate(observation + 100.0, key)
    return transition, jnp.ones(transition.reward.shape)


def test_a_filter_chooses_the_transition_from_which_the_branch_goes_on():
    jumping = RolloutFilter(lambda key: (), None, another_first_step)
    items, _ = generate(
        toy_model([0.0] * 3, [0, 1]),
        replay_of(np.zeros((4, 2))),
        length=3,
        rollout_filter=jumping,
        policy=still_policy,
    )
    # s' = (s_0 + 100, (s_1 + 100) / 2) each time
    np.testing.assert_allclose(
        items.next_observation.reshape(3, 12, 2)[:, 0], [[100, 50], [200, 75], [300, 87.5]]
    )


def test_predictions_that_are_not_finite_end_a_branch_unseen():
    items, metrics = generate(
        toy_model([1.0, np.inf, np.nan], [0, 1]), replay_of(grid_of_states()), length=1
    )
    assert len(items.reward) == 6  # the share of the finite elite
    assert np.isfinite(as_rows(items)).all()
    np.testing.assert_allclose(metrics["rollout/kept_fraction"], 0.5)


# --- who predicts --------------------------------------------------------------------------------


def test_only_elites_predict():
    items, _ = generate(
        toy_model([np.nan, 2.0, np.nan, 2.0, np.nan], [3, 1]),
        replay_of(np.zeros((4, 2))),
        length=3,
        num_members=5,
    )
    np.testing.assert_array_equal(
        items.next_observation[:, 0] - items.observation[:, 0], [2.0] * 36
    )


def assignment(items, rows_per_step):
    """Which member predicted each row [steps, rows]: members are told apart by their change."""
    change = np.rint(items.next_observation[:, 0] - items.observation[:, 0])
    return change.reshape(-1, rows_per_step)


def test_every_elite_predicts_an_equal_share_of_the_rows_in_every_step():
    items, _ = generate(
        toy_model(range(1, 8), [6, 0, 2, 3, 5]),
        replay_of(np.stack([np.zeros(5000), np.linspace(1.0, 2.0, 5000)], axis=1)),
        length=4,
        starts=100,
        num_members=7,
        num_elites=5,
        capacity=500,
        policy=still_policy,
    )
    chosen = assignment(items, 100)
    assert chosen.shape == (4, 100)
    for step in chosen:
        members, counts = np.unique(step, return_counts=True)
        np.testing.assert_array_equal(members, [1, 3, 4, 6, 7])  # the elites' changes
        np.testing.assert_array_equal(counts, [20] * 5)
    # and by a random permutation: a branch meets the same member twice in a row one time in five
    before, after = (x.reshape(4, 100, 2) for x in (items.observation, items.next_observation))
    same = 0
    for step in range(3):
        member = {tuple(row): m for row, m in zip(after[step], chosen[step], strict=True)}
        rows = zip(before[step + 1], chosen[step + 1], strict=True)
        same += sum(member[tuple(row)] == m for row, m in rows)
    assert abs(same / 300 - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 300)


def test_a_simulated_row_is_the_step_of_its_own_state_whoever_predicts_it():
    config, spec = toy_config(num_members=5, num_elites=3), toy_spec(threshold=1.0)
    simulator = make_simulator(config, toy_parts(config, spec, toy_policy))
    model = toy_model([10.0, 20.0, 30.0, 40.0, 50.0], [4, 0, 2])
    state = np.random.default_rng(0).normal(size=(18, 2)).astype(np.float32)
    state[:, 0] -= 30.0  # for the elites to reach the threshold never, every other time, and always
    run = jax.jit(lambda state, key: simulator(model, ())(state, key))
    dealt = set()
    for seed in range(8):
        transition = jax.tree.map(np.asarray, run(state, jax.random.key(seed)))
        action = 0.25 * state[:, 1:]
        np.testing.assert_array_equal(transition.observation, state)
        np.testing.assert_allclose(transition.action, action, rtol=1e-6)
        np.testing.assert_allclose(transition.reward, state[:, 0], rtol=1e-6)
        np.testing.assert_allclose(transition.next_observation[:, 1], 0.5 * state[:, 1], atol=1e-6)
        delta = transition.next_observation[:, 0] - state[:, 0] - action[:, 0]
        np.testing.assert_allclose(delta, np.rint(delta), atol=1e-4)
        members, counts = np.unique(np.rint(delta), return_counts=True)
        np.testing.assert_array_equal(members, [10.0, 30.0, 50.0])
        np.testing.assert_array_equal(counts, [6, 6, 6])
        ends = transition.next_observation[:, 0] > 1.0
        assert 0 < ends.sum() < 18
        np.testing.assert_array_equal(transition.terminated, ends)
        np.testing.assert_array_equal(transition.truncated, np.zeros(18))
        dealt.add(tuple(np.rint(delta)))
    assert len(dealt) == 8


def test_blocks_have_their_own_starts_and_assignments():
    items, metrics = generate(
        toy_model([1.0, 2.0, 3.0], [0, 2]),
        replay_of(np.stack([np.zeros(64), np.arange(64)], axis=1)),
        length=2,
        starts=64,
        policy=still_policy,
        block=16,
    )
    assert int(metrics["rollout/transitions"]) == 128
    chosen = assignment(items, 16).reshape(4, 2, 16)  # block, step, row
    np.testing.assert_array_equal((chosen == 3.0).sum(axis=2), np.full((4, 2), 8))
    starts = items.observation[:, 1].reshape(4, 2, 16)[:, 0]
    assert len({tuple(block) for block in starts}) == 4
    # inside a block every branch goes on from where it was, with members dealt out anew
    following = np.asarray(items.next_observation).reshape(4, 2, 16, 2)[:, 0]
    going_on = np.asarray(items.observation).reshape(4, 2, 16, 2)[:, 1]
    np.testing.assert_array_equal(going_on, following)
    assert len({tuple(step) for step in chosen.reshape(8, 16)}) == 8


def test_actions_are_drawn_anew_in_every_step_and_block():
    items, _ = generate(
        toy_model([0.0] * 3, [0, 1]),
        replay_of(np.zeros((2, 2))),
        length=3,
        starts=64,
        policy=noisy_policy,
        block=16,
    )
    assert len(np.unique(items.action)) == 4 * 3 * 16


def test_start_states_are_drawn_uniformly_from_the_real_replay():
    items, _ = generate(
        toy_model([0.0] * 3, [0, 1]),
        replay_of(np.stack([np.arange(4), np.zeros(4)], axis=1)),
        length=1,
        starts=2_000,
        capacity=2_001,
    )
    counts = np.bincount(items.observation[:, 0].astype(int))
    assert len(counts) == 4
    assert np.square(counts - 500).sum() / 500 < 16.27  # 99.9 % quantile, 3 degrees of freedom


# --- a store of states ---------------------------------------------------------------------------


@functools.cache
def state_generator(draw=rollout.real_states, block=None):
    """The compiled `generate` that keeps the states of 12 branches, ending at one."""
    config = toy_config(starts=12)
    parts = toy_parts(config, ENDS_AT_ONE, toy_policy)
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(rollout, "CPU_BLOCK_ROWS", block)
        filters = keep_all(config, parts)
        return jax.jit(make_rollout(config, parts, filters, 12, rollout.STATES, draw))


def reached(ring, length=5, key=0, **settings):
    """The ring after branches from the grid of states."""
    arguments = toy_model([0.2] * 3, [2, 0]), (), (), replay_of(grid_of_states()), ring
    return state_generator(**settings)(*arguments, jnp.int32(length), jax.random.key(key))


def ring_of_states(capacity):
    return buffer.init(capacity, jnp.zeros(2))


def test_the_ring_has_exactly_the_states_that_were_reached_alive():
    ring, metrics = reached(ring_of_states(100))
    size = int(ring.size)
    states = np.asarray(ring.rows)[:size]
    starts = states[:12]
    assert {tuple(s) for s in starts} <= {tuple(s) for s in np.float32(grid_of_states())}
    rows = simulate(starts, 0.2, 5, ends=lambda n: n[:, 0] > 1.0)
    went_on = rows[rows[:, 6] == 0.0]  # a row is (state, action, reward, next state, flags)
    expected = np.concatenate([starts, went_on[:, 4:6]])
    assert 3 < len(rows) - len(went_on) < 12  # some branches have ended, and added nothing then
    assert size == len(expected) < 12 + 60
    np.testing.assert_allclose(states, expected, atol=1e-5)
    assert int(metrics["rollout/transitions"]) == len(rows)


def test_the_newest_states_overwrite_the_oldest():
    large, _ = reached(ring_of_states(100))
    size = int(large.size)
    assert size > 30
    small, _ = reached(ring_of_states(30))
    assert int(small.size) == 30
    kept = buffer.gather(small, jnp.arange(30))
    np.testing.assert_array_equal(kept, buffer.gather(large, jnp.arange(30)))
    more, _ = reached(large, key=1)
    np.testing.assert_array_equal(more.rows[:size], large.rows[:size])


def test_a_state_that_is_not_finite_is_not_stored():
    broken = toy_model([0.2, np.nan, np.inf], [0, 1])
    arguments = broken, (), (), replay_of(-np.ones((4, 2))), ring_of_states(100)
    ring, _ = state_generator()(*arguments, jnp.int32(1), jax.random.key(0))
    assert int(ring.size) == 12 + 6
    assert np.isfinite(ring.rows).all()


def test_start_states_of_branches_are_those_that_are_drawn():
    def draw(replay, key, n):
        return jnp.tile(jnp.array([[-3.0, 0.5]]), (n, 1))

    ring, _ = reached(ring_of_states(100), length=0, draw=draw, block=4)
    np.testing.assert_array_equal(ring.rows[:12], [[-3.0, 0.5]] * 12)
    assert int(ring.size) == 12


# --- randomness ----------------------------------------------------------------------------------


def test_two_refreshes_from_the_same_start_differ():
    arguments = toy_model([0.0] * 3, [0, 1], log_variance=0.0), replay_of([[0.5, 0.5]])
    first, again, other = (
        generate(*arguments, length=2, key=key, deterministic=False)[0] for key in (1, 1, 2)
    )
    np.testing.assert_array_equal(as_rows(first), as_rows(again))
    assert not np.isin(first.next_observation, other.next_observation).any()


def test_sampling_adds_the_predicted_variance_to_every_target():
    log_variance = -1.3
    items, _ = generate(
        toy_model([0.7] * 3, [0, 1], log_variance=log_variance),
        replay_of([[0.5, 0.0]]),
        length=1,
        starts=20_000,
        capacity=20_001,
        deterministic=False,
        policy=still_policy,
    )
    targets = np.concatenate([items.next_observation, items.reward[:, None]], axis=1)
    std = np.exp(0.5 * log_variance)
    # standard errors: std / sqrt(n) of a mean, var sqrt(2 / n) of a variance, 1 / sqrt(n)
    assert (np.abs(targets.mean(axis=0) - [1.2, 0.0, 0.5]) < 4.0 * std / np.sqrt(20_000)).all()
    np.testing.assert_allclose(targets.var(axis=0), std**2, rtol=4.0 * np.sqrt(2.0 / 20_000))
    correlation = np.corrcoef(targets, rowvar=False) - np.eye(3)
    assert np.abs(correlation).max() < 4.0 / np.sqrt(20_000)


def test_the_replay_of_another_seed_does_not_touch_the_rollouts():
    run = generator(NEVER_ENDS, noisy_policy, None, deterministic=False)
    model = toy_model([0.1, 0.2, 0.3], [0, 1], log_variance=0.0)
    empty = buffer.init(60, EXAMPLE)

    def together(*replays):
        replay = jax.tree.map(lambda *leaves: jnp.stack(leaves), *replays)
        axes = (None, None, None, 0, None, None, 0)
        keys = jax.random.split(jax.random.key(0), 2)
        return jax.vmap(run, axes)(model, (), (), replay, empty, jnp.int32(4), keys)[0]

    grid = grid_of_states()
    first, second = (together(replay_of(grid), replay_of(f * grid)) for f in (1.0, -3.0))
    np.testing.assert_array_equal(first.rows[0], second.rows[0])
    assert not np.array_equal(first.rows[1], second.rows[1])
    assert not np.array_equal(first.rows[0], first.rows[1])


# --- the model replay of the agent ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "preset", "learned_steps", "expected"),
    [
        ("Hopper-v5", "original", 20_000, 400_000),  # length 1, four refreshes
        ("Hopper-v5", "original", 124_000, 4_800_000),  # length 12
        ("Hopper-v5", "mbrl_lib", 124_000, 4_800_000),
        ("HumanoidTruncated-v5", "mbrl_lib", 299_000, 50_000_000),  # length 25, twenty refreshes
        ("HumanoidTruncated-v5", "original", 300_000, 12_500_000),  # length 25, five refreshes
    ],
)
def test_the_agents_model_replay_has_room_for_the_longest_rollouts(
    env, preset, learned_steps, expected
):
    config = mbpo.get_config(env)
    config.preset = preset
    config.total_steps = 5_000 + learned_steps
    config.replay_capacity = 10
    agent = mbpo_agent.make_agent(resolve(config), toy_spec())
    state = jax.eval_shape(agent.init, jax.random.key(0))
    assert state.model_replay.rows.shape == (expected, 2 + 1 + 1 + 2 + 1 + 1 + 1)


def fit_nothing(*arguments):
    """The agent's fit without the fitting, which takes long to compile and is tested elsewhere."""
    return make_fit(*arguments)._replace(fit=lambda state, *_: (state, {}))


@functools.cache
def small_agent():
    """Lengths 1 to 3 over 80 learned steps, 4 branches a refresh, 2 refreshes retained."""
    config = mbpo.get_config("Hopper-v5")
    config.update_from_flattened_dict(
        {
            "total_steps": 110,
            "initial_steps": 10,
            "updates_per_step": 1,
            "replay_capacity": 20,
            "sac.batch_size": 256,
            "sac.hidden_width": 4,
            "model.num_members": 3,
            "model.num_elites": 2,
            "model.hidden_width": 4,
            "model.hidden_depth": 1,
            "model.weight_decay": (0.0,),
            "model.train_every": 10,
            "rollout.starts": 4,
            "rollout.schedule": (20, 100, 1, 3),
            "rollout.retain_steps": 20,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mbpo_agent, "make_fit", fit_nothing)
        agent = mbpo_agent.make_agent(resolve(config), toy_spec())
    state = jax.jit(agent.init)(jax.random.key(0))
    real = replay_of(grid_of_states()[:20])
    return state.replace(replay=real), tiny.refresh(agent), jax.jit(agent.step)


@pytest.mark.parametrize(
    ("learned_steps", "length"), [(0, 1), (20, 1), (59, 1), (60, 2), (99, 2), (100, 3)]
)
def test_a_refresh_of_the_agent_adds_branches_of_the_scheduled_length(learned_steps, length):
    state, refresh, _ = small_agent()
    assert state.model_replay.capacity == 3 * 4 * 2
    state, metrics = refresh(state.replace(env_steps=jnp.int32(10 + learned_steps)))
    assert int(metrics["rollout/length"]) == length
    assert int(state.model_replay.size) == 4 * length
    state, _ = refresh(state)
    assert int(state.model_replay.size) == 8 * length


def test_the_window_keeps_two_refreshes_and_never_takes_dropped_rows_back():
    # Against a queue that is reallocated when the length grows, as in the original code: rows that
    # had left it are still in our ring but stay out of use. 4 starts, 2 refreshes retained.
    state, refresh, _ = small_agent()
    queue = collections.deque()
    for learned_steps, length in ((0, 1), (10, 1), (20, 1), (50, 1), (60, 2), (70, 2), (100, 3)):
        state, _ = refresh(state.replace(env_steps=jnp.int32(10 + learned_steps)))
        queue = collections.deque(queue, maxlen=2 * 4 * length)
        queue.extend([learned_steps] * 4 * length)
        assert int(state.window) == len(queue)
    assert len(queue) == 24


@pytest.mark.parametrize("window", [1, 8, 16, 23, 24])
def test_the_agent_learns_from_exactly_the_window(window):
    # The loss is NaN if and only if a row marked by NaN is among the 244 drawn of at most 24.
    state, _, step = small_agent()
    for marked_age in {window - 1, min(window, 23)}:
        rows = jnp.zeros((24, 9)).at[:, 8].set(1.0)  # transitions of zeros, of weight 1
        rows = rows.at[23 - marked_age].set(jnp.nan)  # the last row is the newest
        model_replay = state.model_replay.replace(rows=rows, size=jnp.int32(24))
        marked = state.replace(model_replay=model_replay, window=jnp.int32(window))
        _, _, metrics = step(marked, example_transition(2, 1), jnp.zeros(2))
        assert bool(jnp.isnan(metrics["critic/loss"])) == (marked_age < window)


@pytest.mark.parametrize("function", ["model", "rollouts", "step"])
def test_the_agents_state_keeps_its_types_so_that_programs_are_compiled_once(function):
    config = toy_config(total_steps=110, replay_capacity=10, updates_per_step=1)
    agent = mbpo_agent.make_agent(config, toy_spec())
    state = jax.eval_shape(agent.init, jax.random.key(0))
    stages = dict(agent.refresh)
    assert set(stages) == {"model", "rollouts"}
    if function in stages:
        after, _ = jax.eval_shape(stages[function], state)
    else:
        after, _, _ = jax.eval_shape(agent.step, state, example_transition(2, 1), jnp.zeros(2))

    def types(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path): (leaf.shape, leaf.dtype, leaf.weak_type)
            for path, leaf in leaves
        }

    assert types(after) == types(state)
