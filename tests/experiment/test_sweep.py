import dataclasses

import pytest

from experiment import sweep
from experiment.sweep_plan import Trial
from experiment.sweep_progress import DONE, FAILED, Status


@pytest.fixture
def failed(tmp_path):
    trial = Trial("sac", range(1), tmp_path / "sac" / "seed_0", 300, ("--config.algo=sac",))
    return Status(trial, FAILED, attempts=1, step=100, problem="exit status 2")


def test_the_summary_has_the_end_of_the_log_of_a_trial_that_failed(failed, tmp_path):
    failed.trial.folder.mkdir(parents=True)
    log = failed.trial.folder / "log.txt"
    log.write_text("first\n" + "line\n" * 11 + "last\n")
    assert sweep.summary([failed], tmp_path) == (
        "sac/seed_0 failed at step 100 (exit status 2, 1 attempt):\n"
        f"  {failed.trial.command}\n"
        f"  the end of {log}:\n" + "    | line\n" * 11 + "    | last\n\n"
        "0 of 1 trials are done."
    )


def test_the_summary_of_a_trial_that_never_started_names_no_log(failed, tmp_path):
    done = Status(failed.trial, DONE)
    waiting = dataclasses.replace(failed, attempts=0, step=0, problem="in use")
    assert sweep.summary([done, waiting], tmp_path) == (
        f"sac/seed_0 failed at step 0 (in use, 0 attempts):\n  {failed.trial.command}\n\n"
        f"1 of 2 trials are done.\nCompare them with\n  python report.py {tmp_path}"
    )
