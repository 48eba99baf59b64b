import gymnasium
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.special import logsumexp

import diagnose
from agents.base import Agent, Internals
from analysis import (
    calibration,
    diagnosis_figure,
    diagnosis_report,
    diagnosis_table,
    diagnosis_text,
)
from envs import register, terminations
from errors import UserError
from experiment import diagnosis, loop
from experiment.restore import Restored
from tests.integration import tiny
from tests.models.toy import toy_config, toy_model, toy_parts, toy_spec

DRIFT, LENGTH, HORIZON, EPISODES = 0.5, 12, 5, 10
ERRORS = np.array([-0.125, 0.375])  # of the elites: predicted minus real drift
STD = 0.25  # that they predict
TEMPERATURE, ENTROPY, DISCOUNT, CRITIC = 0.5, 3.0, 0.9, 2.0


class Line(gymnasium.Env):
    """Moves as `toy_predict` with delta = DRIFT says, and terminates."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, length):
        self._length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._state, self._time = self.np_random.normal(size=2), 0
        return self._state.astype(np.float32), {}

    def step(self, action):
        reward, self._time = self._state[0], self._time + 1
        x, y = self._state
        self._state = np.array([x + DRIFT + action[0], 0.5 * y])
        return self._state.astype(np.float32), reward, self._time == self._length, False, {}


register("Line-v0", termination=terminations.never, make=lambda: Line(LENGTH))
register("Dot-v0", termination=terminations.never, make=lambda: Line(1))


def quarter(state, observation, key):
    """A quarter of the second coordinate, with a constant entropy."""
    return 0.25 * observation[..., 1:], jnp.full(observation.shape[:-1], -ENTROPY)


def linear_run(env="Line-v0"):
    """An agent whose model, policy and value are known, as if restored from a checkpoint."""
    config = toy_config(num_elites=2, deterministic=True, discount=DISCOUNT, env=env)
    spec = toy_spec()
    model = toy_model(DRIFT + ERRORS, elites=[0, 1], log_variance=2 * np.log(STD))
    internals = Internals(
        sample=quarter,
        value=lambda state, observation, key: CRITIC * observation[:, 0],
        temperature=lambda state: jnp.float32(TEMPERATURE),
        model=lambda state: model,
        ensemble=toy_parts(config, spec, None).ensemble,
    )
    agent = Agent(None, None, None, None, (), None, None, 0, internals=internals)
    return Restored(config, spec, [3], agent, 777, {"seed": jnp.zeros(1)}, None)


def real_episodes():
    """The same episodes, from the environment's own arithmetic: x and y [EPISODES, LENGTH + 1]."""
    played = diagnosis.collect(
        "Line-v0",
        [3],
        EPISODES,
        lambda o: 0.25 * o[..., 1:],
        stream=diagnosis.DIAGNOSIS,
        position=777,
    )
    x, y = np.stack([episode.observation[0] for episode in played[0]]).astype(float).T
    xs, ys = [x], [y]
    for _ in range(LENGTH):
        x, y = x + DRIFT + 0.25 * y, 0.5 * y
        xs.append(x)
        ys.append(y)
    return np.stack(xs, axis=1), np.stack(ys, axis=1)


@pytest.fixture(scope="module")
def linear():
    return diagnosis.diagnose(linear_run(), EPISODES, HORIZON)


def one(frame, quantity, at=None, dimension="all"):
    table = diagnosis_table.select(frame, quantity, dimension)
    return table.iloc[-1, 0] if at is None else table.loc[at].iloc[0]


def curve(frame, quantity, dimension="all"):
    return diagnosis_table.select(frame, quantity, dimension)[3].to_numpy()


def test_open_loop_error_and_spread_grow_with_the_error_of_the_drift(linear):
    x, y = real_episodes()
    std = x[:, :-1].std(), y[:, :-1].std()
    steps = np.arange(1, HORIZON + 1)
    error = steps * np.sqrt(np.square(ERRORS).mean()) / std[0]
    spread = steps * ERRORS.std() / std[0]
    np.testing.assert_allclose(curve(linear, "open_loop/error", "0"), error, rtol=1e-4)
    np.testing.assert_allclose(curve(linear, "open_loop/error", "1"), 0.0, atol=1e-5)
    np.testing.assert_allclose(curve(linear, "open_loop/error"), error / 2**0.5, rtol=1e-4)
    np.testing.assert_allclose(curve(linear, "open_loop/spread"), spread / 2**0.5, rtol=1e-4)
    moved = [np.square(y[:, k : LENGTH + 1] - y[:, : LENGTH + 1 - k]).mean() for k in steps]
    expected = np.sqrt(moved) / std[1]
    np.testing.assert_allclose(curve(linear, "open_loop/no_change", "1"), expected, rtol=1e-4)
    assert curve(linear, "open_loop/segments").tolist() == [
        EPISODES * (LENGTH + 1 - k) for k in steps
    ]
    rewards = x[:, :-1].std()  # the reward after k steps is off by k - 1 errors of the drift
    np.testing.assert_allclose(
        curve(linear, "open_loop/error", "reward"),
        (steps - 1) * np.sqrt(np.square(ERRORS).mean()) / rewards,
        rtol=1e-4,
        atol=1e-5,
    )


def test_likelihood_and_calibration_are_those_of_the_known_gaussians(linear):
    z2 = np.square(ERRORS / STD)
    log_density = scipy.stats.norm.logpdf(ERRORS, scale=STD) + 2 * scipy.stats.norm.logpdf(
        0, scale=STD
    )
    assert one(linear, "nll/elites") == pytest.approx(-log_density.mean() / 3, rel=1e-4)
    mixture = -(logsumexp(log_density) - np.log(2)) / 3
    assert one(linear, "nll/mixture") == pytest.approx(mixture, rel=1e-4)
    assert one(linear, "calibration/z2", dimension="0") == pytest.approx(z2.mean(), rel=1e-4)
    assert one(linear, "calibration/z2", dimension="reward") == pytest.approx(0, abs=1e-6)
    assert one(linear, "calibration/overconfidence") == pytest.approx(
        np.sqrt(z2.mean() / 3), rel=1e-4
    )
    # Two of three targets are predicted exactly; the elites' errors are 0.5 and 1.5 of their std.
    inside = scipy.stats.norm.ppf(0.5 + calibration.LEVELS / 2)
    expected = (2 + ((inside > 0.5) + 1.0 * (inside > 1.5)) / 2) / 3
    np.testing.assert_allclose(curve(linear, "calibration/coverage"), expected, rtol=1e-6)


def test_value_estimates_mix_model_steps_with_the_critic(linear):
    x, _ = real_episodes()
    bonus, discounts = TEMPERATURE * ENTROPY, DISCOUNT ** np.arange(LENGTH + 1)
    returns = np.stack(
        [(x[:, t:-1] + bonus) @ discounts[: LENGTH - t] for t in range(LENGTH)], axis=1
    ).ravel()
    assert one(linear, "value/return_mean") == pytest.approx(returns.mean(), rel=1e-5)
    assert one(linear, "value/positions") == len(returns)
    start, y = (axis[:, :-1].ravel() for axis in real_episodes())
    estimate, biases, position = np.zeros_like(start), [], start
    for depth in range(HORIZON + 1):
        whole = estimate + DISCOUNT**depth * CRITIC * position
        biases.append((whole - returns).mean())
        if depth == 2:
            expected = np.sqrt(np.square(whole - returns).mean())
            assert one(linear, "value/rmse", 2) == pytest.approx(expected, rel=1e-4)
            expected = np.corrcoef(whole, returns)[0, 1]
            assert one(linear, "value/correlation", 2) == pytest.approx(expected, rel=1e-4)
        estimate = estimate + DISCOUNT**depth * (position + bonus)
        position, y = position + DRIFT + ERRORS.mean() + 0.25 * y, 0.5 * y
    np.testing.assert_allclose(curve(linear, "value/bias"), biases, rtol=1e-3, atol=1e-4)


def test_return_gap_accumulates_the_mean_error_of_the_drift(linear):
    x, _ = real_episodes()
    steps = np.arange(1, LENGTH + 1)
    np.testing.assert_allclose(
        curve(linear, "return/environment"), x[:, :-1].cumsum(axis=1).mean(axis=0), rtol=1e-4
    )
    gap = ERRORS.mean() * steps * (steps - 1) / 2
    np.testing.assert_allclose(curve(linear, "return/gap"), gap, atol=1e-3)
    assert one(linear, "return/gap_half_width", LENGTH) < 1e-3  # the same from every start
    assert one(linear, "return/diverged") == 0
    assert one(linear, "return/rollouts") == EPISODES * 2


def test_terminations_that_the_function_never_sees_are_missed(linear):
    assert one(linear, "termination/one_step_false_negatives") == EPISODES
    assert one(linear, "termination/one_step_recall") == 0
    assert "termination/one_step_precision" not in linear.quantity.to_numpy()
    missed = one(linear, "termination/open_loop_false_negatives", HORIZON)
    assert missed == EPISODES * HORIZON  # the last HORIZON starts of every episode


def test_an_agent_without_a_visible_policy_is_refused():
    run = linear_run()
    agent = run.agent._replace(internals=Internals())
    with pytest.raises(UserError, match="mbpo cannot be diagnosed: it has no policy and value"):
        diagnosis.diagnose(run._replace(agent=agent), EPISODES, HORIZON)


def test_data_that_allow_no_statistics_still_give_a_report(tmp_path):
    frame = diagnosis.diagnose(linear_run("Dot-v0"), episodes=1, horizon=None)
    finding = diagnosis_text.paragraph(frame)
    diagnosis_report.write(frame, tmp_path)
    check_files(tmp_path, frame)
    assert finding.startswith("The episodes are too short and too few for open-loop errors.")
    assert "compared with the error: too few steps were played." in finding
    assert (
        "in the environment: a difference of +0, from too few episodes for an interval." in finding
    )
    assert one(frame, "value/positions") == 1
    assert one(frame, "return/gap", 1) == 0


def test_the_horizon_is_at_most_the_longest_episode(linear):
    with pytest.raises(
        UserError,
        match=r"--horizon 13 is too long: no episode took more than 12 steps\. .*--horizon 12 or",
    ):
        diagnosis.diagnose(linear_run(), EPISODES, LENGTH + 1)
    longest = diagnosis.diagnose(linear_run(), EPISODES, None)
    assert len(curve(longest, "open_loop/error")) == LENGTH < diagnosis.HORIZON
    np.testing.assert_allclose(
        curve(longest, "open_loop/error")[:HORIZON], curve(linear, "open_loop/error"), rtol=1e-5
    )


def test_the_horizon_is_one_of_which_enough_predictions_fit_into_memory(monkeypatch):
    # Two elites, ten segments and three numbers of 4 bytes: 240 bytes for the start and each step.
    monkeypatch.setattr(diagnosis, "LARGEST_ARRAY", 240 * 5)
    with pytest.raises(
        UserError, match=r"--horizon 5 is too long: 10 such .* MiB\. .*--horizon 4 or less"
    ):
        diagnosis.diagnose(linear_run(), EPISODES, 5)
    frame = diagnosis.diagnose(linear_run(), EPISODES, 4)
    assert curve(frame, "open_loop/segments").max() == 10


def test_one_step_ahead_disagreement_is_said_once():
    frame = diagnosis.diagnose(linear_run(), EPISODES, 1)
    quantities = set(frame.quantity)
    assert "disagreement/one_step_error" in quantities
    assert "disagreement/open_loop_error" not in quantities
    assert len(curve(frame, "open_loop/error")) == 1


def test_seeds_are_diagnosed_as_if_each_were_alone():
    run = linear_run()
    both = run._replace(seeds=[3, 8], state={"seed": jnp.zeros(2)})
    frame = diagnosis.diagnose(both, EPISODES, HORIZON)
    assert set(frame.seed) == {3, 8}
    alone = [
        diagnosis.diagnose(run._replace(seeds=[seed]), EPISODES, HORIZON) for seed in both.seeds
    ]
    pd.testing.assert_frame_equal(frame, pd.concat(alone, ignore_index=True))


@pytest.fixture(scope="module")
def mbpo_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mbpo")
    loop.train_and_evaluate(tiny.config(num_seeds=2, total_steps=164), workdir)
    return workdir


def diagnosed(workdir, *arguments):
    """Runs the command; returns its table."""
    diagnose.main(["--workdir", str(workdir), *map(str, arguments)])
    return diagnosis_table.read(workdir / "diagnosis" / "diagnosis.csv")


def check_files(folder, frame):
    text = (folder / "diagnosis.md").read_text()
    assert "![" in text
    assert "nan" not in text
    picture = matplotlib.image.imread(folder / "diagnosis.png")
    diagnosis_report.write(frame, folder / "again")
    again = matplotlib.image.imread(folder / "again" / "diagnosis.png")
    np.testing.assert_array_equal(picture, again)
    assert (folder / "again" / "diagnosis.md").read_text() == text
    return text


@pytest.mark.slow
def test_a_trained_run_is_diagnosed_by_one_command(mbpo_run, capsys):
    frame = diagnosed(mbpo_run, "--episodes", 4, "--horizon", 3)
    text = check_files(mbpo_run / "diagnosis", frame)
    finding, written = capsys.readouterr().out.strip().split("\n\n")
    assert finding.startswith("**The model is")
    assert finding in text
    assert written == f"Written to {mbpo_run / 'diagnosis' / 'diagnosis.md'}"
    assert [axes.has_data() for axes in diagnosis_figure.draw(frame).axes] == [True] * 8
    assert "mbpo on InvertedPendulum-v5 after 164 steps" in text
    assert frame.columns.tolist() == diagnosis_table.COLUMNS
    assert set(frame.seed) == {0, 1}
    parts = {quantity.partition("/")[0] for quantity in frame.quantity}
    assert parts == {
        "data",
        "open_loop",
        "nll",
        "calibration",
        "disagreement",
        "termination",
        "value",
        "return",
    }
    assert np.isfinite(frame.value).all()
    first = diagnosis_table.select(frame, "nll/elites")
    assert first.loc[1.0, 0] != first.loc[1.0, 1]
    pd.testing.assert_frame_equal(diagnosed(mbpo_run, "--episodes", 4, "--horizon", 3), frame)


@pytest.mark.slow
def test_a_model_free_run_has_its_critic_diagnosed_alone(tmp_path):
    loop.train_and_evaluate(tiny.config("sac", num_seeds=1, total_steps=164), tmp_path)
    frame = diagnosed(tmp_path, "--episodes", 4)
    text = check_files(tmp_path / "diagnosis", frame)
    assert "This algorithm has no dynamics model to diagnose. The critic **" in text
    assert set(frame.quantity.str.partition("/")[0]) == {"data", "value"}
    assert diagnosis_table.select(frame, "value/rmse").index.tolist() == [0.0]


@pytest.mark.slow
def test_the_finding_is_printed_even_if_it_cannot_be_written(mbpo_run, capsys):
    with pytest.raises(UserError, match="The diagnosis could not be written to /proc/nowhere"):
        diagnosed(mbpo_run, "--episodes", 2, "--out", "/proc/nowhere")
    assert capsys.readouterr().out.startswith("**The model is")


@pytest.mark.parametrize("flag", ["--episodes", "--horizon"])
def test_impossible_numbers_are_refused(tmp_path, flag):
    with pytest.raises(UserError, match=f"{flag} has to be at least 1, got 0"):
        diagnosed(tmp_path, flag, 0)
