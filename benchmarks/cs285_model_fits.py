"""Fits of the homework's dynamics model alone, without planning: CS285, homework 4, question 1.

    python benchmarks/cs285_model_fits.py --out=runs/cs285_study/model_fits

Collects uniformly random steps, fits three networks for a given number of gradient steps, and
predicts open loop; fits that are in --out already are skipped. `fits.csv` has a row per fit,
`losses.csv` the loss of every gradient step, `predictions.csv` one predicted trajectory per fit of
the first environment beside the real one.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import envs  # noqa: E402
from agents import mpc  # noqa: E402
from agents.base import Agent  # noqa: E402
from analysis.cs285_study_report import (  # noqa: E402
    FITS_FILE,
    LOSSES_FILE,
    PREDICTIONS_FILE,
)
from benchmarks.running import write_table  # noqa: E402
from configs import cs285_mpc  # noqa: E402
from experiment import command_line, configuration  # noqa: E402
from experiment.actors import DIAGNOSIS, Actors, episode_seed  # noqa: E402
from replay import Transition, buffer  # noqa: E402

LEARNED = 0.2  # the homework's bound on the loss of question 1
HORIZON, SEQUENCES = 10, 100  # of open-loop predictions


class Fit(NamedTuple):
    """One fit of the homework."""

    env: str
    rows: int  # environment steps of a uniformly random policy
    depth: int  # hidden layers
    width: int
    steps: int  # gradient steps
    noise: float  # `model.sl_noise`

    @property
    def name(self) -> str:
        """What the tables call it."""
        noise = ", noise" if self.noise else ""
        network = f"{self.depth} x {self.width}"
        return f"{self.env.split('-')[0]}, {network}, {self.steps} steps{noise}"


SIZES = [
    ("cheetah-cs285-v0", 20_000, 1, 32, 500),
    ("cheetah-cs285-v0", 20_000, 2, 250, 5),
    ("cheetah-cs285-v0", 20_000, 2, 250, 500),
    ("cheetah-cs285-v0", 5_000, 2, 250, 1500),
    ("reacher-cs285-v0", 5_000, 2, 250, 1000),
    ("obstacles-cs285-v0", 5_000, 2, 250, 20),
]
FITS = [Fit(*size, noise) for size in SIZES for noise in (0.01, 0.0)]


def main(argv: list[str]) -> None:
    """Does all fits and writes the three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    for fit in FITS:
        if fit.name in finished(options.out):
            continue
        agent, state, curve = run(fit, options.seed)
        losses = [(fit.name, step, loss) for step, loss in enumerate(curve, start=1)]
        error, predictions = (np.nan, np.nan), []
        if fit.env == FITS[0].env:
            true, predicted = open_loop(agent, state, fit.env, options.seed)
            errors = np.square(predicted - true).mean(axis=(1, 2))
            error = errors.mean(), np.median(errors)
            predictions = [
                (fit.name, step, dimension, *pair)
                for step, pairs in enumerate(np.stack([true[0], predicted[0]], axis=-1))
                for dimension, pair in enumerate(pairs)
            ]
        below = np.flatnonzero(curve < LEARNED)
        first = below[0] + 1 if len(below) else np.nan
        row = (fit.name, *fit, curve[0], curve[-1], curve.mean(), first, *error)
        append(options.out / LOSSES_FILE, losses, ["fit", "step", "loss"])
        columns = ["fit", "step", "dimension", "true", "predicted"]
        append(options.out / PREDICTIONS_FILE, predictions, columns)
        found = ["first_loss", "last_loss", "mean_loss", "first_learned", "mpe", "median_mpe"]
        append(options.out / FITS_FILE, [row], ["fit", *Fit._fields, *found])  # last: it is done
        print(f"{fit.name}: loss {curve[0]:.3f} to {curve[-1]:.4f}", flush=True)


def finished(folder: Path) -> set[str]:
    """Returns the names of the fits in a folder."""
    path = folder / FITS_FILE
    return set(pd.read_csv(path)["fit"]) if path.exists() else set()


def run(fit: Fit, seed: int) -> tuple[Agent, mpc.MPCState, np.ndarray]:
    """Returns the agent, its state after the fit, and the loss of every gradient step."""
    config = cs285_mpc.get_config(fit.env)
    config.initial_steps = config.replay_capacity = fit.rows
    config.model.hidden_depth, config.model.hidden_width = fit.depth, fit.width
    config.model.max_gradient_steps = 1  # per call: each tells its loss
    config.model.sl_noise = fit.noise
    config.model.holdout_max = 1  # rows that every call scores; nothing depends on them
    agent = mpc.make_agent(configuration.resolve(config), envs.spec(fit.env))
    data = random_steps(fit.env, fit.rows, seed)
    state = agent.init(jax.random.key(seed))
    replay = buffer.add_masked(state.replay, data, jnp.ones(fit.rows, bool))
    state = state.replace(replay=replay, env_steps=jnp.asarray(fit.rows))
    step = jax.jit(agent.refresh[0].run, donate_argnums=0)
    losses = []
    for _ in range(fit.steps):
        state, metrics = step(state)
        losses.append(metrics["model/train_mse"])
    return agent, state, np.asarray(jax.device_get(losses))


@functools.cache  # fits differ in the model
def random_steps(env: str, steps: int, seed: int) -> Transition:
    """Returns transitions [steps, ...] of uniformly random actions."""
    actors, rng = Actors(env, [seed]), np.random.default_rng(seed)
    shape = (steps, 1, envs.spec(env).action_size)
    actions = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    taken = [actors.step(action) for action in actions]
    actors.close()
    return Transition(*(np.concatenate(field) for field in zip(*taken, strict=True)))


def open_loop(
    agent: Agent, state: mpc.MPCState, env: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what happened and what member 0 predicts, [SEQUENCES, HORIZON, O] each.

    As in the homework, the first of the states is the known one after the reset.
    """
    sequences = [sequence(env, episode_seed(seed, DIAGNOSIS, k)) for k in range(SEQUENCES)]
    true, actions = (np.stack(part) for part in zip(*sequences, strict=True))
    ensemble = agent.internals.ensemble
    assert ensemble is not None
    member = jax.tree.map(lambda leaf: leaf[:1], state.model.params)

    def step(observation: Any, action: Any) -> tuple[Any, Any]:
        target = ensemble.predict(member, state.model.normalizers, observation, action).mean
        after, _ = ensemble.decode(observation, action, target)
        return after, observation

    by_time = actions.swapaxes(0, 1)[:, None]  # [HORIZON, 1 member, SEQUENCES, A]
    _, predicted = jax.lax.scan(step, jnp.asarray(true[:, 0])[None], by_time)
    return true, np.asarray(predicted[:, 0]).swapaxes(0, 1)


def sequence(env_id: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the states before each of `HORIZON` random actions, and the actions."""
    # not of the seed itself, from which the environment draws its start
    env, rng = envs.make(env_id), np.random.default_rng([seed, 1])
    observation, _ = env.reset(seed=seed)
    actions = rng.uniform(-1.0, 1.0, (HORIZON, envs.spec(env_id).action_size)).astype(np.float32)
    visited = []
    for action in actions:
        visited.append(observation)
        observation = env.step(action)[0]
    env.close()
    return np.stack(visited), actions


def append(path: Path, rows: list[tuple], columns: list[str]) -> None:
    """Adds rows to a table; those of a fit that was interrupted before its end are replaced."""
    if not rows:
        return
    table = pd.DataFrame(rows, columns=columns)
    if path.exists():
        known = pd.read_csv(path, float_precision="round_trip")
        table = pd.concat([known[~known["fit"].isin(table["fit"])], table])
    write_table(table, path)


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
