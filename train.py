"""Trains an agent and writes everything about the run into its run folder.

Usage:
    python train.py --config=configs/mbpo.py                    main job, minutes on a laptop
    python train.py --config=configs/mbpo.py:Hopper-v5          another environment
    python train.py --config.algo=mbpo --config.num_seeds=5     default configuration, any recipe
    python train.py ... --workdir=runs/mine                     again with the same folder: resumes
"""

import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from experiment import command_line, configuration

_DEFAULT_CONFIG = Path(__file__).parent / "configs" / "default.py"

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder, resumed if it exists. Default: runs/<algo>-<env>-<time>."
)


def main(argv: Sequence[str]) -> None:
    """Runs the configuration that the flags describe."""
    del argv  # the program's name

    # JAX is imported from here on, so that a misspelt flag is reported without waiting for it.
    from experiment import runtime

    runtime.configure(flags.FLAGS.config.num_seeds)
    config = configuration.resolve(flags.FLAGS.config)
    if config.env_on_device:
        runtime.expect_long_programs(config.num_seeds)
    configuration.validate(config)
    workdir = Path(_WORKDIR.value or _default_workdir(config))
    command = shlex.join(["python", _relative(sys.argv[0]), *sys.argv[1:]])

    from experiment import loop

    try:
        loop.train_and_evaluate(config, workdir, command)
    except KeyboardInterrupt:
        print(_interrupted(config, workdir, command), file=sys.stderr)
        raise SystemExit(command_line.INTERRUPTED) from None


def _relative(program: str) -> str:
    """Returns the path of a program as one types it in the current folder."""
    path = Path(program).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else program


def _default_workdir(config: ConfigDict) -> str:
    env = re.sub(r"[^\w.-]", "_", config.env)
    return f"runs/{config.algo}-{env}-{time.strftime('%Y%m%d-%H%M%S')}"


def _interrupted(config: ConfigDict, workdir: Path, command: str) -> str:
    if not config.checkpoint.every_epochs:
        return "Interrupted. Nothing to resume from: checkpoints are off."
    if not _WORKDIR.value:
        command = f"{command} --workdir={shlex.quote(str(workdir))}"
    return f"Interrupted. Continue from the last checkpoint with\n  {command}"


if __name__ == "__main__":
    with command_line.user_errors():
        command_line.define_config(sys.argv, _DEFAULT_CONFIG)
        flags.declare_key_flag("config")  # listed by --help
        app.run(main, flags_parser=command_line.parse_flags)
