"""Planning with learned models, and with models whose best plan is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import mpc
from errors import UserError
from experiment import configuration
from models import normalizer
from models.ensemble import Ensemble, Normalizers, Prediction
from replay import Transition, buffer
from tests.integration import tiny

WIDE = {"planner__num_candidates": 64, "planner__horizon": 3}
CEM = {
    "planner__name": "cem",
    "planner__warm_start": True,
    "planner__num_elites": 6,
    "planner__num_iterations": 8,
}


def reward(observation, action, next_observation):
    """Best where the next state is 0.5."""
    return -jnp.square(next_observation[..., 0] - 0.5)


def spec(termination=None):
    own = tiny.spec(observation_size=1, action_size=1)._replace(reward=reward)
    return own if termination is None else own._replace(termination=termination)


def config(algo="mpc", **changes):
    changes = WIDE | {"model__learn_reward": False, "replay_capacity": 100} | changes
    return tiny.config(algo, "InvertedPendulum-v5", **changes)


def moved_by_action(params, normalizers, observation, action):
    """Every member is sure that the state becomes state + action."""
    return Prediction(action, jnp.full(action.shape, -50.0))


@pytest.fixture
def known_model(monkeypatch):
    """The next state is the sum of state and action, whatever the parameters."""

    def make(config, own_spec, *options, **more):
        members = config.model.num_members
        return Ensemble(
            init=lambda key: {"unused": jnp.zeros(members)},
            predict=moved_by_action,
            targets=lambda transition: transition.next_observation - transition.observation,
            decode=lambda observation, action, target: (
                observation + target,
                reward(observation, action, observation + target),
            ),
            num_members=members,
            input_size=2,
            target_size=1,
        )

    monkeypatch.setattr(mpc, "make_ensemble", make)


def transition(observation, next_observation, terminated=0.0, truncated=0.0):
    return Transition(
        jnp.full(1, observation),
        jnp.zeros(1),
        jnp.zeros(()),
        jnp.full(1, next_observation),
        jnp.float32(terminated),
        jnp.float32(truncated),
    )


def data(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.mark.parametrize("place", [0.0, 0.9, -0.2])
def test_the_action_is_the_best_for_a_model_that_is_known(known_model, place):
    agent = mpc.make_agent(config(**CEM), spec())
    state = agent.init(jax.random.key(0))
    state, action, metrics = jax.jit(agent.step)(state, transition(0.3, place), jnp.full(1, place))
    np.testing.assert_allclose(action, [0.5 - place], atol=0.03)
    assert -0.01 < float(metrics["planner/value"]) <= 0.0
    assert {"planner/best_return", "planner/valid_fraction", "planner/std"} < set(metrics)
    assert int(state.env_steps) == int(state.replay.size) == 1
    np.testing.assert_allclose(state.replay.rows[0, :2], [0.3, 0.0], atol=1e-6)


def test_a_plan_is_carried_and_starts_anew_after_the_end_of_an_episode(known_model):
    own = config(**CEM)
    agent = mpc.make_agent(own, spec())
    planner = mpc.make_planner(own, spec())
    step = jax.jit(agent.step)
    first, _, _ = step(agent.init(jax.random.key(0)), transition(0.0, -3.0), jnp.full(1, -3.0))
    assert np.abs(np.asarray(first.plan) - np.asarray(planner.init())).max() > 0.5

    def following(start, terminated, truncated):
        return step(
            first.replace(plan=start),
            transition(0.0, 0.2, terminated, truncated),
            jnp.full(1, 0.2),
        )[0].plan

    carried = following(first.plan, 0.0, 0.0)
    fresh = following(planner.init(), 0.0, 0.0)
    assert (np.asarray(carried) != np.asarray(fresh)).any()
    np.testing.assert_array_equal(following(first.plan, 1.0, 0.0), fresh)
    np.testing.assert_array_equal(following(first.plan, 0.0, 1.0), fresh)


def test_episodes_of_an_evaluation_have_plans_and_keys_of_their_own(known_model):
    own = config(**CEM)
    agent = mpc.make_agent(own, spec())
    state = agent.init(jax.random.key(0))
    state, _, _ = agent.step(state, transition(0.0, -3.0), jnp.full(1, -3.0))
    policy = agent.policy(state)
    keys, plans = agent.begin(policy, 3)
    planner = mpc.make_planner(own, spec())
    np.testing.assert_array_equal(plans, np.broadcast_to(planner.init(), (3, 3, 1)))
    assert len({data(key).tobytes() for key in keys}) == 3
    act = jax.jit(agent.act)
    seen = jnp.float32([[0.0], [0.9], [0.0]])
    actions, memory = act(policy, (keys, plans), seen)
    np.testing.assert_allclose(actions, 0.5 - seen, atol=0.03)
    assert float(actions[0, 0]) != float(actions[2, 0])
    again, _ = act(policy, memory, seen)
    assert (np.asarray(again) != np.asarray(actions)).any()
    assert (data(memory[0]) != data(keys)).any(axis=1).all()
    np.testing.assert_array_equal(act(policy, (keys, plans), seen)[0], actions)


def test_episodes_planned_together_are_planned_as_one_after_the_other(known_model, monkeypatch):
    agent = mpc.make_agent(config(**CEM), spec())
    policy = agent.policy(agent.init(jax.random.key(0)))
    arguments = policy, agent.begin(policy, 3), jnp.float32([[0.0], [0.9], [0.3]])
    one_by_one, (_, plans) = jax.jit(agent.act)(*arguments)
    monkeypatch.setattr(mpc.jax, "default_backend", lambda: "gpu")
    together, (_, others) = jax.jit(lambda *args: agent.act(*args))(*arguments)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    np.testing.assert_allclose(others, plans, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_plans_and_fits(precision):
    agent = mpc.make_agent(config(precision=precision), spec())
    state = jax.eval_shape(agent.init, jax.random.key(0))
    policy = jax.eval_shape(agent.policy, state)
    memory = jax.eval_shape(lambda policy: agent.begin(policy, 2), policy)
    programs = {
        "step": jax.make_jaxpr(agent.step)(state, transition(0.0, 0.0), jnp.zeros(1)),
        "act": jax.make_jaxpr(agent.act)(policy, memory, jnp.zeros((2, 1))),
        "fit": jax.make_jaxpr(agent.refresh[0].run)(state),
    }
    rounded = {name for name, program in programs.items() if "bf16" in str(program)}
    assert rounded == (set(programs) if precision == "bfloat16" else set())


def test_no_plan_is_made_for_an_episode_that_is_over(known_model, monkeypatch):
    planned = []
    make_planner = mpc.make_planner

    def counting(*arguments):
        planner = make_planner(*arguments)

        def plan(params, key, state, observation, *functions):
            jax.debug.callback(lambda seen: planned.append(float(seen[0])), observation)
            return planner.plan(params, key, state, observation, *functions)

        return planner._replace(plan=plan)

    monkeypatch.setattr(mpc, "make_planner", counting)
    agent = mpc.make_agent(config(**CEM), spec())
    policy = agent.policy(agent.init(jax.random.key(0)))
    memory = agent.begin(policy, 3)
    actions, after = jax.jit(agent.act)(policy, memory, jnp.float32([[0.0], [np.nan], [0.3]]))
    jax.effects_barrier()
    assert sorted(planned) == pytest.approx([0.0, 0.3])
    np.testing.assert_allclose(actions[::2], [[0.5], [0.2]], atol=0.03)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(memory)):
        unchanged = [(data(a) == data(b)).all() for a, b in zip(new, old)]
        assert unchanged == [False, True, False]


def test_a_termination_cuts_the_imagined_return_unless_it_is_ignored(known_model):
    def far(observation, action, next_observation):
        return next_observation[..., 0] > 5.0

    def best_action(**changes):
        agent = mpc.make_agent(config(**CEM, **changes), spec(far))
        place = 4.7  # every step costs, so the best is to end the episode
        return float(
            agent.step(agent.init(jax.random.key(0)), transition(0.0, place), jnp.full(1, place))[
                1
            ][0]
        )

    assert best_action(planner__ignore_termination=False) > 0.2
    assert best_action(planner__ignore_termination=True) < -0.8


def line_data(agent, state, count):
    """Stores transitions whose state grows by twice the action."""
    observe = jax.jit(agent.observe)
    for row in np.random.default_rng(0).uniform(-1, 1, (count, 2)).astype(np.float32):
        item = transition(row[0], row[0] + 2 * row[1])._replace(action=row[1:])
        state = observe(state, item)
    return state


@pytest.mark.parametrize("algo", ["mpc", "pets"])
def test_a_refresh_fits_the_model_that_plans(algo):
    own = config(algo, model__learning_rate=0.02, model__max_gradient_steps=300, model__patience=99)
    agent = mpc.make_agent(own, spec())
    assert [stage.name for stage in agent.refresh] == ["model"]
    assert agent.refresh_every == own.model.train_every
    state = line_data(agent, agent.init(jax.random.key(0)), 60)
    before = agent.policy(state)
    state, metrics = jax.jit(agent.refresh[0].run)(state)
    after = agent.policy(state)
    assert float(metrics["model/holdout_mse"]) < 0.05
    assert int(metrics["model/fit_steps"]) > 100
    ensemble = agent.internals.ensemble
    seen, action = jnp.full((2, 1, 1), 0.2), jnp.full((2, 1, 1), -0.4)
    elites = jax.tree.map(lambda leaf: leaf[after.elites], after.params)
    prediction = ensemble.predict(elites, after.normalizers, seen, action)
    np.testing.assert_allclose(prediction.mean, -0.8, atol=0.3)
    assert (data(before.key) != data(after.key)).any()


def test_the_deterministic_model_predicts_its_mean_the_probabilistic_one_samples():
    def predict(params, normalizers, observation, action):
        return Prediction(jnp.ones((2, 50, 1)), jnp.full((2, 50, 1), np.log(4.0)))

    ensemble = Ensemble(None, predict, None, lambda o, a, t: (o + t, t[..., 0]), 2, 2, 1)
    normalizers = Normalizers(normalizer.identity(2), normalizer.identity(1))
    arguments = ((), normalizers), jax.random.key(0), jnp.zeros((2, 50, 1)), jnp.zeros((2, 50, 1))
    mean, _ = mpc.make_model_fn(ensemble, deterministic=True)(*arguments)
    np.testing.assert_array_equal(mean, 1.0)
    sampled, rewards = mpc.make_model_fn(ensemble, deterministic=False)(*arguments)
    assert 1.6 < float(sampled.std()) < 2.4
    np.testing.assert_array_equal(sampled[..., 0], rewards)
    assert config("mpc").rollout.deterministic
    assert not config("pets").rollout.deterministic


def test_noise_is_in_the_fitted_data_alone():
    agent = mpc.make_agent(config(model__sl_noise=0.01), spec())
    state = line_data(agent, agent.init(jax.random.key(0)), 30)
    after, _ = jax.jit(agent.refresh[0].run)(state)
    np.testing.assert_array_equal(after.replay.rows, state.replay.rows)
    noisy, clean = (
        buffer.contents(replay)[0] for replay in (after.training_data.replay, state.replay)
    )
    assert (noisy.observation[:30] != clean.observation[:30]).all()
    assert int(after.training_data.env_steps) == 30
    inputs = np.concatenate([noisy.observation[:30], noisy.action[:30]], axis=1)
    fitted = after.model.normalizers.inputs
    np.testing.assert_allclose(fitted.mean, inputs.mean(axis=0), rtol=1e-4)
    assert fitted.mean[0] != pytest.approx(float(clean.observation[:30].mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("random_shooting", {}),
        ("cem", {"num_elites": 6, "num_iterations": 5, "warm_start": True}),
        ("icem", {"num_elites": 6, "num_iterations": 5}),
        ("mppi", {"num_iterations": 5, "gamma": 50.0}),
    ],
)
def test_every_planner_finds_the_best_action_of_a_known_model(known_model, name, fields):
    changes = {f"planner__{field}": value for field, value in fields.items()}
    own = config(planner__name=name, planner__num_candidates=256, **changes)
    configuration.validate(own)
    agent = mpc.make_agent(own, spec())
    _, action, _ = agent.step(agent.init(jax.random.key(0)), transition(0.3, 0.0), jnp.full(1, 0.0))
    np.testing.assert_allclose(action, [0.5], atol=0.2)


def test_a_reward_that_is_learned_decides_the_plan():
    own = config(
        model__learn_reward=True,
        model__learning_rate=0.01,
        model__max_gradient_steps=2000,
        model__patience=99,
        model__hidden_width=32,
        planner__horizon=1,
    )
    agent = mpc.make_agent(own, spec()._replace(reward=None))
    state, observe = agent.init(jax.random.key(0)), jax.jit(agent.observe)
    for action in np.random.default_rng(0).uniform(-1, 1, 60).astype(np.float32):
        item = transition(0.1, 0.1)._replace(
            action=action[None], reward=-4 * jnp.square(action + 0.2)
        )
        state = observe(state, item)
    state, _ = jax.jit(agent.refresh[0].run)(state)
    _, action, _ = agent.step(state, transition(0.1, 0.1), jnp.full(1, 0.1))
    np.testing.assert_allclose(action, [-0.2], atol=0.2)


def test_a_model_that_overflows_everywhere_is_counted_and_does_not_end_the_run(known_model):
    agent = mpc.make_agent(config(**CEM), spec())
    state = agent.init(jax.random.key(0))
    _, action, metrics = agent.step(state, transition(0.0, jnp.inf), jnp.full(1, jnp.inf))
    assert float(metrics["planner/failed"]) == 1.0
    assert all(np.isfinite(value) for value in metrics.values())
    assert np.isfinite(action).all()
    _, _, metrics = agent.step(state, transition(0.0, 0.1), jnp.full(1, 0.1))
    assert float(metrics["planner/failed"]) == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planner__name": "cme"}, "planner.name=cme is unknown. Did you mean cem?"),
        ({"planner__propagation": "ts2"}, "planner.propagation=ts2 is unknown"),
        ({"planner__name": "cem", "planner__sampler": "gauss"}, "planner.sampler=gauss"),
        ({"planner__horizon": 0}, "planner.horizon=0 is too small"),
        ({"planner__num_particles": 0}, "planner.num_particles=0 is too small"),
        (
            {"planner__name": "cem", "planner__num_elites": 65},
            "planner.num_elites=65 is more than planner.num_candidates=64",
        ),
        ({"planner__name": "cem", "planner__smoothing": 0.0}, "planner.smoothing=0.0 is not in"),
        ({"planner__name": "icem", "planner__decay": 0.5}, "planner.decay=0.5"),
        ({"model__keep": "last", "model__max_gradient_steps": 0}, "has no rule when to stop"),
        ({"model__keep": "all"}, "model.keep=all is unknown"),
        ({"model__normalize_targets": False}, "needs the statistics of the targets"),
        ({"model__objective": "vaml"}, "model.objective=vaml needs a policy"),
        ({"model__sl_noise": -0.1}, "model.sl_noise=-0.1 has to be zero or positive"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError) as caught:
        configuration.validate(config(**changes))
    assert message in str(caught.value)


def test_fields_of_other_planners_are_not_looked_at():
    configuration.validate(config(planner__num_elites=0, planner__gamma=-1.0))
    configuration.validate(tiny.config("sac", planner__name="cem", planner__horizon=0))


def test_discrete_actions_and_unknown_rewards_are_refused():
    with pytest.raises(UserError, match="discrete actions"):
        configuration.validate(tiny.config("pets", "CartPole-v1"))
    with pytest.raises(UserError, match="needs a known reward function"):
        configuration.validate(tiny.config("mpc", "Hopper-v5", model__learn_reward=False))


def test_an_agent_without_defaults_names_what_it_lacks():
    with pytest.raises(UserError, match=r"planner\.horizon is not set"):
        configuration.validate(tiny.config("mbpo", agent="mpc"))


def test_members_draw_their_noise_independently_and_alike_on_every_backend(monkeypatch):
    shape = (3, 4_000, 2)
    drawn = np.asarray(mpc.noise_by_member(jax.random.key(0), shape))
    assert (np.abs(drawn.mean(axis=1)) < 4.0 / np.sqrt(4_000)).all()
    np.testing.assert_allclose(drawn.std(axis=1), 1.0, rtol=4.0 / np.sqrt(8_000))
    columns = np.swapaxes(drawn, 0, 1).reshape(4_000, 6)
    correlation = np.corrcoef(columns, rowvar=False) - np.eye(6)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(4_000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(mpc.noise_by_member(jax.random.key(0), shape), drawn)
