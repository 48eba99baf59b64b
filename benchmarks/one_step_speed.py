"""How fast one-step agents run here: OMD and its baselines, environment and updates included.

    python benchmarks/one_step_speed.py
    python benchmarks/one_step_speed.py --seconds=60 --only=cartpole

CartPole with ten seeds in one program, HalfCheetah with two; environment steps per second of all
seeds together, without compilation and evaluation, the best of several periods in one process. The
machine's own matmul rate, measured before and after in a process of its own, and plain SAC on
HalfCheetah with one update per step are beside them, as rates of different hours do not compare.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis.rendering import markdown_table  # noqa: E402
from benchmarks import throughput  # noqa: E402

CASES = {
    **{f"cartpole {algo}": (algo, "omd_cartpole", 10) for algo in ("omd", "mle", "vep")},
    **{f"halfcheetah {algo}": (algo, "default", 2) for algo in ("omd", "mle", "sac")},
}
"""Name -> algorithm, configuration, seeds."""

PERIOD = {"omd_cartpole": 1000, "default": 100}  # environment steps per seed between clock readings


def main(argv: list[str]) -> None:
    """Measures one case, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="per case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # measured in this process
    options = parser.parse_args(argv)
    if options.case == "matmul":
        print(throughput.matmul())
    elif options.case:
        print(*measure(*CASES[options.case], options.seconds))
    else:
        before = in_own_process("matmul", options.seconds)[0]
        results = {
            name: in_own_process(name, options.seconds) for name in CASES if options.only in name
        }
        after = in_own_process("matmul", options.seconds)[0]
        print(f"matmul of 2048 x 2048: {max(before, after):.0f} GFLOP/s")
        rows = [[name, f"{steps:,.0f}", f"{mib:.0f}"] for name, (steps, mib) in results.items()]
        print(markdown_table(["case", "environment steps per second", "memory, MiB"], rows))


def in_own_process(case: str, seconds: float) -> list[float]:
    """Runs this file for one case, so that no case inherits threads or memory of another."""
    command = [sys.executable, __file__, f"--case={case}", f"--seconds={seconds}"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [float(number) for number in printed.strip().splitlines()[-1].split()]


def measure(algo: str, name: str, num_seeds: int, seconds: float) -> tuple[float, float]:
    """Returns environment steps per second of all seeds, and the size of their state in MiB."""
    import importlib

    import jax

    from experiment import configuration, runtime
    from experiment.loop import Run

    config = importlib.import_module(f"configs.{name}").get_config()
    config.algo = algo
    config.num_seeds, config.updates_per_step = num_seeds, 1
    config.initial_steps, config.total_steps, config.replay_capacity = 1_000, 10**7, 200_000
    config.epoch_length = 10**7
    config.omd.diagnose_every = 0
    config.checkpoint.every_epochs = 0
    config.logging.tensorboard = False
    runtime.configure(num_seeds)
    config = configuration.resolve(config)
    if config.env_on_device:
        runtime.expect_long_programs(num_seeds)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder))
        while run.env_step < config.initial_steps + PERIOD[name]:  # the last part compiles
            run.advance()
        best, end = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            start, first = time.perf_counter(), run.env_step
            while run.env_step < first + PERIOD[name]:
                run.advance()
            best = max(best, (run.env_step - first) / (time.perf_counter() - start))
        size = sum(array.nbytes for array in jax.live_arrays())
    return num_seeds * best, size / 2**20


if __name__ == "__main__":
    main(sys.argv[1:])
