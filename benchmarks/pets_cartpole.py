"""How many episodes PETS needs to hold the continuous cart-pole.

    python benchmarks/pets_cartpole.py --out=results/pets/cartpole.csv

Every seed starts with 200 uniformly random steps; then episodes of the training itself are counted,
until one lasts for all 200 steps. The table has a row per episode and is written as they end; seeds
that are in it already are not run again.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

import envs  # noqa: E402
from agents.registry import make_agent  # noqa: E402
from benchmarks.running import write_table  # noqa: E402
from configs import pets  # noqa: E402
from experiment import command_line, configuration, runtime, seeds  # noqa: E402
from experiment.environments import HostEnvironments  # noqa: E402
from experiment.stopwatch import Stopwatch  # noqa: E402

HELD = 200  # the longest episode, and its return


class Episode(NamedTuple):
    """One episode of the training."""

    seed: int
    episode: int  # from 1, of those that began after the random steps
    total: float  # its return
    env_steps: int  # at its end, those before it included
    seconds: float  # since the seed was started


def main(argv: list[str]) -> None:
    """Runs the seeds that are missing and prints what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=20, help="episodes per seed")
    options = parser.parse_args(argv)
    runtime.configure(1)
    table = read(options.out)
    for seed in sorted(set(range(options.seeds)) - set(finished(table, options.most))):
        rows = table[table["seed"] != seed].to_numpy().tolist()
        for episode in train(seed, options.most):
            rows.append(list(episode))
            table = pd.DataFrame(rows, columns=Episode._fields).astype(
                {"seed": int, "episode": int, "env_steps": int}
            )
            write_table(table, options.out)
            print(*episode, flush=True)
    for seed, episodes in table.groupby("seed"):
        held = episodes.loc[episodes["total"] >= HELD, "episode"]
        print(f"seed {seed}: {f'episode {held.iloc[0]}' if len(held) else 'never'}")


def train(seed: int, most: int) -> Iterator[Episode]:
    """Yields the episodes of a seed until the pole is held, at most so many."""
    config = configuration.resolve(pets.get_config())
    configuration.validate(config)
    agent = seeds.lift(make_agent(config, envs.spec(config.env)), 1)
    environments = HostEnvironments(config, agent, [seed], Stopwatch())
    start, count, step, began_at_random = time.monotonic(), 0, 0, False
    state = environments.begin(agent.init([seed]))
    while count < most:
        if step < config.initial_steps:
            state, _, _ = environments.explore(state, 1)
        else:
            if (step - config.initial_steps) % agent.refresh_every == 0:
                for stage in agent.refresh:
                    state, _ = stage.run(state)
            state, _, _ = environments.learn(state, 1)
        step += 1
        (ended,) = environments.training_episodes()
        if step <= config.initial_steps:
            began_at_random = not ended
            continue
        if not ended:
            continue
        if began_at_random:
            began_at_random = False
            continue
        count += 1
        total = ended["train/return"]
        yield Episode(seed, count, total, step, round(time.monotonic() - start, 1))
        if total >= HELD:
            break
    environments.close()


def read(path: Path) -> pd.DataFrame:
    """Returns the table, without rows if there is none."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=Episode._fields)


def finished(table: pd.DataFrame, most: int) -> list[int]:
    """Returns the seeds that held the pole or had all their episodes."""
    best = table.groupby("seed").agg({"total": "max", "episode": "max"})
    return best.index[(best["total"] >= HELD) | (best["episode"] >= most)].tolist()


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
