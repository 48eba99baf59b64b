"""The one driver: environments, agent, evaluation, metrics and checkpoints of a run."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import envs
from agents.base import Metrics
from agents.registry import make_agent
from analysis import run_report
from errors import UserError
from experiment import memory, precision, run_folder, seeds
from experiment.checkpoint import Checkpointer
from experiment.environments import Environments, HostEnvironments
from experiment.interrupt import Interrupt
from experiment.metrics import MetricsWriter, first_non_finite
from experiment.on_device import DeviceEnvironments
from experiment.progress import Progress
from experiment.seed_tables import Row
from experiment.stopwatch import Stopwatch
from experiment.throttle import Throttle


def train_and_evaluate(config: ConfigDict, workdir: Path, command: str = "") -> None:
    """Trains the agent of a resolved, valid configuration, or continues the run found in `workdir`.

    Args:
      config: what `configuration.resolve` returned.
      workdir: run folder; see `docs/architecture.md` for what is written there.
      command: the command line, recorded in `config.json` and quoted in the report.

    Raises:
      UserError: the folder holds another run, memory or disk do not suffice, or the environment or
        the training produced a number that is not finite. The last checkpoint is intact.
    """
    config, precision_note = precision.settle(config, workdir)
    environment = {**run_folder.describe_environment(), "command": command}
    if precision_note:
        print(f"Precision {precision_note}.")
        environment["precision"] = precision_note
    run_folder.open_run(workdir, config.to_dict(), environment)
    try:
        with Interrupt() as interrupt:
            Run(config, workdir).train(interrupt)
        run_report.write_report(workdir, command)
        print(f"Report: {workdir / 'report.md'}")
    finally:
        run_folder.close_run(workdir)


class Collected(NamedTuple):
    """Metrics of the epoch under way, still on the device."""

    metrics: Metrics  # [S], summed over environment steps
    steps: int  # how many; 1 for a refresh
    refreshed_at: int | None = None  # `env_step` if they are those of a refresh


class Run:
    """A training run: what persists between environment steps outside the agent's state."""

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        self._config, self._workdir = config, workdir
        self._seeds = [config.seed + k for k in range(config.num_seeds)]
        agent = make_agent(config, envs.spec(config.env))
        self._agent = seeds.lift(agent, config.num_seeds)
        print(f"Run folder: {workdir}")
        print(memory.check(self._agent.state_shape, config.num_seeds), flush=True)
        self._watch = Stopwatch()
        kind = DeviceEnvironments if config.env_on_device else HostEnvironments
        self._environments: Environments = kind(config, self._agent, self._seeds, self._watch)
        self._checkpointer = Checkpointer(workdir / "checkpoints")
        self._metrics = MetricsWriter(
            workdir,
            self._seeds,
            tensorboard=config.logging.tensorboard,
            wandb=config.logging.wandb,
            wandb_project=config.logging.wandb_project,
            config=config.to_dict(),
        )
        self._draw_curve = Throttle(lambda: run_report.draw_curve(workdir))
        self._collected: list[Collected] = []
        self.env_step = 0  # environment steps per seed so far
        self._evaluations = 0
        self._best_return = -np.inf
        self._wall_clock = 0.0  # seconds of training up to the last checkpoint
        self._state = self._start()

    def train(self, interrupt: Interrupt) -> None:
        """Runs to `total_steps`, with an evaluation and a checkpoint at the end of every epoch.

        Raises:
          KeyboardInterrupt: between two calls of `advance`, if `interrupt` was requested.
        """
        config = self._config
        self._lap_start = time.perf_counter()
        description = f"{config.algo} on {config.env}"
        with Progress(config.total_steps, self.env_step, description) as progress:
            while self.env_step < config.total_steps:
                interrupt.check()
                self.advance()
                progress.advance(self.env_step)
                learned = self.env_step - config.initial_steps
                last = self.env_step == config.total_steps
                if learned == 0 and not (config.eval_untrained or last):
                    self._forget_exploration(progress)
                elif learned >= 0 and (learned % config.epoch_length == 0 or last):
                    self._end_epoch(progress, last)
        self._metrics.close()
        self._environments.close()

    def advance(self) -> None:
        """Does some environment steps per seed and everything the agent learns from them."""
        self._stop_if_an_action_is_not_finite()
        config, refresh_every = self._config, self._agent.refresh_every
        left = config.total_steps - self.env_step
        learned = self.env_step - config.initial_steps
        if learned < 0:
            run, at_most = self._environments.explore, min(left, -learned)
        else:
            if refresh_every and learned % refresh_every == 0:
                self._refresh()
            periods = [period for period in (config.epoch_length, refresh_every) if period]
            run = self._environments.learn
            at_most = min(left, *(period - learned % period for period in periods))
        self._state, metrics, steps = run(self._state, at_most)
        self._collected.append(Collected(metrics, steps))
        self.env_step += steps

    def _refresh(self) -> None:
        collected: Metrics = {}
        for stage in self._agent.refresh:
            with self._watch(stage.name):
                self._state, metrics = stage.run(self._state)
                collected |= jax.block_until_ready(metrics)
        self._collected.append(Collected(collected, 1, refreshed_at=self.env_step + 1))

    def _forget_exploration(self, progress: Progress) -> None:
        """Keeps its episodes and times out of the first epoch."""
        self._environments.training_episodes()
        self._watch.lap()
        progress.learning_begins()

    def _end_epoch(self, progress: Progress, last: bool) -> None:
        policy = self._agent.policy(self._state)
        with self._watch("evaluation"):
            evaluation = self._environments.evaluate(policy, self.env_step)
        lap = self._watch.lap()
        now = time.perf_counter()
        self._wall_clock += now - self._lap_start
        self._lap_start = now
        means, refreshes = self._take_metrics()
        trained = self._environments.training_episodes()
        rows = [
            {
                "wall_clock": self._wall_clock,
                "eval/return": float(evaluation.returns[k].mean()),
                "eval/return_std": float(evaluation.returns[k].std()),
                "eval/length": float(evaluation.lengths[k].mean()),
                **trained[k],
                **means[k],
                **{f"time/{stage}": seconds for stage, seconds in lap.items()},
            }
            for k in range(len(self._seeds))
        ]
        self._metrics.write_refreshes(refreshes)
        self._metrics.write(self.env_step, rows)
        self._stop_if_not_finite(rows)
        self._evaluations += 1
        with self._watch("checkpoint"):
            self._save(float(evaluation.returns.mean()), policy, last)
        self._draw_curve()  # at the very end the report draws it in any case
        # in some seeds no training episode may have ended
        common = [name for name in rows[0] if all(name in row for row in rows)]
        mean_row = {name: float(np.mean([row[name] for row in rows])) for name in common}
        spread = float(evaluation.returns.mean(axis=1).std()) if len(rows) > 1 else None
        epoch = -(-(self.env_step - self._config.initial_steps) // self._config.epoch_length)
        progress.epoch(epoch, self.env_step, mean_row, lap, spread)

    def _take_metrics(self) -> tuple[list[Row], list[list[Row]]]:
        """Returns the agent's metrics of the epoch and forgets them.

        Returns:
          By seed, their means over the epoch, and the rows of its refreshes with their `env_step`.
        """
        values: dict[str, list[np.ndarray]] = defaultdict(list)
        counts: dict[str, int] = defaultdict(int)
        refreshes: list[list[Row]] = [[] for _ in self._seeds]
        for metrics, steps, refreshed_at in jax.device_get(self._collected):
            for name, value in metrics.items():
                values[name].append(value)
                counts[name] += steps
            if refreshed_at is not None:
                for rows, row in zip(refreshes, self._by_seed(metrics), strict=True):
                    rows.append({"env_step": refreshed_at, **row})
        self._collected = []
        means = {name: np.sum(stack, axis=0) / counts[name] for name, stack in values.items()}
        return self._by_seed(means), refreshes

    def _by_seed(self, metrics: dict[str, np.ndarray]) -> list[Row]:
        count = len(self._seeds)
        return [{name: float(value[k]) for name, value in metrics.items()} for k in range(count)]

    def _stop_if_not_finite(self, rows: list[dict[str, float]]) -> None:
        if broken := first_non_finite(rows):
            raise UserError(
                f"{broken[1]} of seed {self._seeds[broken[0]]} is not finite at step "
                f"{self.env_step}: the training diverged. The last checkpoint before that is in "
                f"{self._workdir / 'checkpoints'}. Lower --config.sac.learning_rate, "
                "--config.model.learning_rate or (for flow/ metrics) --config.flow.learning_rate, "
                "and train in a new --workdir."
            )

    def _stop_if_an_action_is_not_finite(self) -> None:
        action = np.asarray(self._environments.action)
        if np.isfinite(action).all():
            return
        means, _ = self._take_metrics()
        rows = zip(means, action.sum(axis=1).tolist(), strict=True)
        self._stop_if_not_finite([{**row, "policy/action": total} for row, total in rows])

    def _save(self, mean_return: float, policy: Any, last: bool) -> None:
        every = self._config.checkpoint.every_epochs
        if not every:
            return
        if mean_return > self._best_return:
            self._best_return = mean_return
            self._checkpointer.save_best(policy, {"env_step": self.env_step, "return": mean_return})
        if last or self._evaluations % every == 0:
            driver = {
                "evaluations": self._evaluations,
                "wall_clock": self._wall_clock,
                "best_return": self._best_return,
                **self._environments.log(),
            }
            self._checkpointer.save(self.env_step, self._state, driver)

    def _start(self) -> Any:
        """Returns the agent state to start from: a checkpoint's, if there is any."""
        found = self._checkpointer.restore(self._agent.state_shape)
        if found is None:
            self._metrics.truncate(-1)
            return self._environments.begin(self._agent.init(self._seeds))
        self.env_step, state, driver = found
        self._evaluations, self._wall_clock = driver["evaluations"], driver["wall_clock"]
        self._best_return = driver["best_return"]
        self._environments.restore(driver)
        self._metrics.truncate(self.env_step)
        print(f"Resuming at step {self.env_step} of {self._config.total_steps}.", flush=True)
        return state
