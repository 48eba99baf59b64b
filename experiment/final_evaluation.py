"""The policy of a checkpoint on fresh episodes: returns, and whether their ends are predicted."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.prediction_error import Confusion, confusion
from analysis.rendering import markdown_table
from analysis.statistics import FEWEST_FOR_INTERVAL, t_interval
from envs.spec import EnvSpec
from experiment.actors import TEST
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.restore import Restored
from experiment.trajectories import collect
from replay import Transition


def play(restored: Restored, episodes: int) -> list[list[Transition]]:
    """Plays greedy episodes that were used neither to train nor to choose a checkpoint.

    Returns:
      By seed and episode, transitions [T, ...].
    """
    return collect(
        restored.config.env,
        restored.seeds,
        episodes,
        restored.greedy(episodes),
        stream=TEST,
        position=restored.env_step,
    )


def episode_table(seeds: list[int], episodes: list[list[Transition]]) -> pd.DataFrame:
    """Returns a row per episode: seed, episode, return, length, terminated (else truncated)."""
    rows = [
        {
            "seed": seed,
            "episode": n,
            "return": float(episode.reward.sum(dtype=np.float64)),
            "length": len(episode.reward),
            "terminated": bool(episode.terminated[-1]),
        }
        for seed, row in zip(seeds, episodes, strict=True)
        for n, episode in enumerate(row)
    ]
    return pd.DataFrame(rows)


def compare_terminations(spec: EnvSpec, episodes: list[list[Transition]]) -> Confusion:
    """Counts the real steps that end according to the termination function and the simulator."""
    every = [episode for row in episodes for episode in row]
    real = np.concatenate([episode.terminated for episode in every]) > 0
    predicted = np.concatenate(
        [np.asarray(spec.termination(e.observation, e.action, e.next_observation)) for e in every]
    )
    return confusion(predicted[None], real)


def describe(
    restored: Restored, checkpoint: str, table: pd.DataFrame, terminations: Confusion
) -> str:
    """Returns the finding and the table of seeds, as Markdown."""
    rows = []
    for seed, group in table.groupby("seed"):
        returns = group["return"].to_numpy()
        mean = f"{returns.mean():.1f}"
        if len(returns) >= FEWEST_FOR_INTERVAL:
            mean += f" ± {t_interval(returns):.1f}"
        extremes = f"{returns.min():.1f} to {returns.max():.1f}"
        share = f"{group['terminated'].mean():.0%}"
        rows.append([str(seed), mean, extremes, f"{group['length'].mean():.0f}", share])
    header = ["seed", "return", "range", "steps", "ended by termination"]
    episodes = len(table) // len(restored.seeds)
    return "\n\n".join(
        [
            f"# {restored.config.algo} on {restored.config.env}: checkpoint *{checkpoint}*",
            _returns_in_words(restored, checkpoint, table, episodes),
            markdown_table(header, rows),
            f"Mean over {episodes} greedy episodes per seed with its 95 % Student-t interval over "
            "episodes; their resets were used neither in training nor to choose the checkpoint.",
            _terminations_in_words(terminations, table["length"].sum()),
        ]
    )


def write(folder: Path, checkpoint: str, table: pd.DataFrame, text: str) -> Path:
    """Writes `<checkpoint>.csv` and `.md` into a folder, created if need be; returns the latter.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(folder, "The evaluation"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / f"{checkpoint}.csv", table.to_csv(index=False))
        write_text_atomically(folder / f"{checkpoint}.md", text + "\n")
    return folder / f"{checkpoint}.md"


def _returns_in_words(
    restored: Restored, checkpoint: str, table: pd.DataFrame, episodes: int
) -> str:
    means = table.groupby("seed")["return"].mean().to_numpy()
    chosen = ", the step with the highest mean return while training" * (checkpoint == "best")
    after = f"After {restored.env_step:,} environment steps{chosen}, the greedy policy"
    if len(means) == 1:
        return (
            f"{after} reaches a return of **{means[0]:.1f}** on {episodes} new episodes. One seed "
            "says nothing about the spread between seeds."
        )
    over = f"on {episodes} new episodes of each of {len(means)} seeds"
    if len(means) < FEWEST_FOR_INTERVAL:
        return (
            f"{after} reaches a return of **{means.mean():.1f}** {over}, which lie between "
            f"{means.min():.1f} and {means.max():.1f} and are too few for an interval."
        )
    return (
        f"{after} reaches a return of **{means.mean():.1f} ± {t_interval(means):.1f}** {over} "
        "(95 % Student-t interval over seeds)."
    )


def _terminations_in_words(found: Confusion, steps: int) -> str:
    ended = found.true_positives + found.false_negatives
    over = f"{steps:,} steps, of which {ended:,.0f} ended the episode"
    judged = (
        f"The termination function **disagrees** with the simulator: of {over}, it misses "
        f"{found.false_negatives:,.0f} and ends {found.false_positives:,.0f} that go on. Model "
        "rollouts end at the wrong steps; correct the function where the environment is registered."
    )
    if not found.false_negatives and not found.false_positives:
        judged = f"The termination function agrees with the simulator on all {over}."
    return (
        f"{judged} This is about the function on real states; how well a model's predictions "
        "terminate is measured by `diagnose.py`."
    )
