"""Runs the trials of a sweep on Ray, as many at once as the cluster has room for."""

import shlex
import textwrap
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiment import sweep_cluster, sweep_progress
from experiment.sweep_plan import Trial
from experiment.sweep_progress import DONE, FAILED, Status
from experiment.sweep_table import SweepTable
from experiment.sweep_trial import LOG_FILE

_REFRESH_SECONDS = 1.0
_LOG_LINES = 12  # of a failed trial, shown at the end


def look_up(trials: Sequence[Trial]) -> list[Status]:
    """Returns how far each trial came in earlier calls."""
    statuses = [Status(trial) for trial in trials]
    for status in statuses:
        status.read()
        if sweep_progress.is_finished(status.trial):
            status.state = DONE
    return statuses


def run(
    statuses: Sequence[Status], address: str | None, cpus: int | None, gpus: float, retries: int
) -> None:
    """Runs the trials that are not done, all at once as far as there is room for them.

    Args:
      statuses: of all trials of the sweep, from `look_up`; brought up to date until each trial is
        done or has failed. A failing one does not stop the others.
      address: of the Ray cluster; None: one of our own, which ends with this call.
      cpus: CPU cores per trial; None: see `sweep_cluster.share`.
      gpus: GPUs per trial.
      retries: how often a trial is started again after its worker or train.py was killed.

    Raises:
      UserError: there is no cluster, or no machine in it has what a trial needs.
      KeyboardInterrupt: after all trials were ended and their processes are gone.
    """
    left = [status for status in statuses if status.state != DONE]
    if not left:
        return
    # One seed of every point before the second of any: all points can be compared early.
    order = sorted((status.trial for status in left), key=lambda trial: trial.seeds[0])
    with sweep_cluster.connection(address):
        most_seeds = max(len(trial.seeds) for trial in order)
        share = sweep_cluster.share(sweep_cluster.machines(), cpus, gpus, most_seeds)
        sweep = uuid.uuid4().hex
        running = sweep_cluster.submit(order, share, retries, sweep)
        try:
            _watch(statuses, running, sweep)
        except BaseException:
            sweep_cluster.stop(running)
            raise


def _watch(statuses: Sequence[Status], running: dict[Any, Trial], sweep: str) -> None:
    """Shows the trials until none is left in `running`."""
    by_name = {status.trial.name: status for status in statuses}
    with SweepTable(statuses) as table:
        while running:
            ended = sweep_cluster.wait(running, _REFRESH_SECONDS)
            for trial in running.values():
                by_name[trial.name].read(sweep)
            for reference in ended:
                status = by_name[running.pop(reference).name]
                status.problem = sweep_cluster.problem(reference)
                status.state = FAILED if status.problem else DONE
            table.refresh()


def summary(statuses: Sequence[Status], out: Path) -> str:
    """Returns what became of the trials, with the end of the log of each that failed."""
    failed = [status for status in statuses if status.state == FAILED]
    lines = [_failure(status) for status in failed]
    lines.append(f"{len(statuses) - len(failed)} of {len(statuses)} trials are done.")
    if len(failed) < len(statuses):
        lines.append(f"Compare them with\n  {shlex.join(['python', 'report.py', str(out)])}")
    return "\n".join(lines)


def _failure(status: Status) -> str:
    trial = status.trial
    tries = f"{status.attempts} attempt" + ("s" if status.attempts != 1 else "")
    text = (
        f"{trial.name} failed at step {status.step} ({status.problem}, {tries}):\n"
        f"  {trial.command}\n"
    )
    if log := "\n".join(sweep_progress.last_lines(trial, _LOG_LINES)):
        text += f"  the end of {trial.folder / LOG_FILE}:\n{textwrap.indent(log, '    | ')}\n"
    return text
