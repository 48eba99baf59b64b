"""What every planner promises, whatever its algorithm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planners import PLANNERS, search_space, trajectory_sampling
from tests.planners.toy import CS285, PETS, SPACE, Recorder, returns_of, run

SMALL = {"num_candidates": 64, "num_elites": 8, "num_iterations": 2}
KINDS = {
    "random_shooting": ("random_shooting", {"num_candidates": 64}),
    "cem_cs285": ("cem", CS285 | SMALL),
    "cem_pets": ("cem", PETS | SMALL),
    "icem": ("icem", SMALL),
    "mppi": ("mppi", {"num_candidates": 64, "num_iterations": 2}),
}
every_planner = pytest.mark.parametrize("kind", list(KINDS))

LOW, HIGH = np.float32([-1.0, -0.5]), np.float32([0.5, 1.0])
BOX = search_space(horizon=3, action_size=2, low=LOW, high=HIGH)
GOAL = jnp.array([0.6, -0.3])
START = jnp.array([1.2, -0.6])  # 6 and 3 full steps away from the goal
SAMPLING = trajectory_sampling(propagation="per_member", num_members=2)
EVERYTHING, NOTHING = 9.0, -9.0


def make(kind, evaluate, space):
    name, options = KINDS[kind]
    return PLANNERS[name](evaluate, space, **options)


def point_mass(limit, key, observation, action):
    """Moves by a tenth of the action; NaN where its first component exceeds `limit` [members]."""
    broken = (action[..., :1] > limit[:, None, None]).any(-1, keepdims=True)
    position = jnp.where(broken, jnp.nan, observation + 0.1 * action)
    return position, -jnp.linalg.norm(position - GOAL[None, None], axis=-1)


class Compiled:
    """A planner in a model of two point masses, compiled once for all tests of its kind."""

    def __init__(self, kind):
        self.traces, self.recorder = 0, Recorder(SAMPLING)
        self.planner = make(kind, self.recorder, BOX)

        def model_fn(*args):
            self.traces += 1
            return point_mass(*args)

        self.compiled = jax.jit(
            lambda limit, *args: self.planner.plan(limit, *args, model_fn, None)
        )

    def plan(self, key=0, limit=EVERYTHING, state=None, observation=START):
        state = self.planner.init() if state is None else state
        self.recorder.candidates.clear()
        output = self.compiled(jnp.full(2, limit), jax.random.key(key), state, observation)
        jax.effects_barrier()
        return output


compiled = functools.cache(Compiled)


@every_planner
def test_bounds_always_hold(kind):
    it = compiled(kind)
    far = jnp.array([50.0, -50.0])  # so that the corner of the bounds is best
    output = it.plan(observation=far)
    for actions in [*it.recorder.candidates, output.plan[None], output.action[None, None]]:
        assert (np.asarray(actions) >= LOW).all()
        assert (np.asarray(actions) <= HIGH).all()
    middle = (LOW + HIGH) / 2
    assert (output.plan[:, 0].mean() < middle[0]) & (output.plan[:, 1].mean() > middle[1])


@every_planner
def test_a_candidate_with_nan_never_wins(kind):
    west = START - jnp.array([3.0, 0.0])  # the goal is where nothing can be predicted
    output = compiled(kind).plan(limit=-0.2, observation=west)
    assert (output.plan[:, 0] <= -0.2).all()
    assert np.isfinite(output.value)
    assert 0 < output.metrics["planner/valid_fraction"] <= 1


@every_planner
def test_if_every_candidate_is_nan_the_action_is_finite_and_within_the_bounds(kind):
    it = compiled(kind)
    output = it.plan(limit=NOTHING)
    assert output.value == -jnp.inf
    assert output.metrics["planner/valid_fraction"] == 0
    for after in (output, it.plan(state=output.state)):  # the state it leaves is usable
        assert np.isfinite(after.plan).all()
        plan = np.asarray(after.plan)
        assert (plan >= LOW).all() & (plan <= HIGH).all()


@every_planner
def test_with_a_perfect_model_a_point_mass_reaches_its_goal(kind):
    state, observation, values = None, START, []
    for step in range(15):
        output = compiled(kind).plan(step, state=state, observation=observation)
        state, observation = output.state, observation + 0.1 * output.action
        values.append(float(output.value))
    assert np.linalg.norm(START - GOAL) > 0.6
    assert np.linalg.norm(observation - GOAL) < 0.1
    assert values[-1] > values[0]


@every_planner
def test_a_plan_is_traced_once_and_depends_on_the_key_alone(kind):
    it = compiled(kind)
    first = it.plan(0)
    count = it.traces
    other = it.plan(1, state=first.state, observation=GOAL)
    it.plan(2, state=other.state, observation=GOAL)
    assert it.traces == count
    repeated = it.plan(0)
    jax.tree.map(np.testing.assert_array_equal, repeated, first)
    assert (it.plan(1).plan != first.plan).any()


@every_planner
def test_vmap_over_seeds_and_environments_equals_a_loop(kind):
    it, planner = compiled(kind), make(kind, SAMPLING, BOX)
    limit = jnp.array([[9.0, 9.0], [9.0, 0.2], [0.0, 9.0]])  # a model for each
    keys = jax.random.split(jax.random.key(5), 3)
    observation = jnp.array([[1.0, 0.0], [0.5, -1.0], [-1.0, 0.3]])

    @jax.jit
    @jax.vmap
    def together(limit, key, observation):
        return planner.plan(limit, key, planner.init(), observation, point_mass, None)

    outputs = together(limit, keys, observation)
    for index in range(3):
        alone = it.compiled(limit[index], keys[index], planner.init(), observation[index])
        jax.tree.map(
            lambda one, many: np.testing.assert_allclose(many[index], one, atol=1e-5),  # noqa: B023
            alone,
            outputs,
        )
    assert len(np.unique(outputs.action, axis=0)) == 3


def test_random_shooting_executes_the_first_action_of_the_best_sequence():
    recorder = Recorder()
    output = run(make("random_shooting", recorder, SPACE))
    (candidates,) = recorder.candidates
    best = returns_of(candidates).argmax()
    np.testing.assert_array_equal(output.plan, candidates[best])
    np.testing.assert_array_equal(output.action, candidates[best, 0])
    assert output.value == pytest.approx(returns_of(candidates)[best], rel=1e-5)


def test_random_shooting_is_uniform_between_the_bounds():
    recorder = Recorder(lambda params, key, observation, actions, *_: actions.sum((1, 2)))
    space = search_space(horizon=1, action_size=2, low=[-2, 1], high=[1, 5])
    run(PLANNERS["random_shooting"](recorder, space, num_candidates=40_000))
    samples = np.sort(recorder.candidates[0][:, 0], axis=0)
    uniform = np.linspace([-2, 1], [1, 5], 40_000)
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) of the range is the 0.1 % level
    assert (np.abs(samples - uniform).max(0) < 1.95 / 200 * np.array([3, 4])).all()


# Of key 0, so that a change of what is drawn is noticed.
GOLDEN = {
    "random_shooting": [-0.94295, 0.75722],
    "cem_cs285": [-0.86755, 0.69046],
    "cem_pets": [-0.80536, 0.55887],
    "icem": [-0.97256, 0.67698],
    "mppi": [-0.30041, 0.28924],
}


@every_planner
def test_a_known_key_gives_the_known_action(kind):
    np.testing.assert_allclose(compiled(kind).plan(0).action, GOLDEN[kind], atol=1e-4)
