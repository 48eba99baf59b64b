"""A run folder back to the agent that is in it, without changing anything there."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

import envs
from agents.base import Agent
from agents.registry import make_agent
from configs import default
from envs.spec import EnvSpec
from errors import UserError
from experiment import configuration, run_folder, seeds
from experiment.checkpoint import Checkpointer
from experiment.evaluation import Act, remembering


class Restored(NamedTuple):
    """An agent as a checkpoint has it. S is the number of its seeds."""

    config: ConfigDict  # resolved
    spec: EnvSpec
    seeds: list[int]
    agent: Agent  # for one seed, not compiled
    env_step: int  # environment steps per seed before the checkpoint
    state: Any  # agent state with a leading axis S; None for the checkpoint "best"
    policy: Any  # what `agent.begin` and `agent.act` need, with a leading axis S

    def greedy(self, episodes: int) -> Act:
        """Returns the greedy policy of all seeds, compiled, for that many episodes of each."""
        memory = jax.vmap(lambda policy: self.agent.begin(policy, episodes))(self.policy)
        return remembering(jax.jit(jax.vmap(self.agent.act)), self.policy, memory)


def restore(workdir: Path, checkpoint: str = "latest") -> Restored:
    """Reads a checkpoint of a finished, stopped or running run.

    Args:
      workdir: run folder.
      checkpoint: "latest", or "best": the policy with the highest mean evaluation return.

    Raises:
      UserError: there is none, it is damaged, or another version of the code wrote it.
    """
    config = stored_config(workdir)
    spec = envs.spec(config.env)
    agent = make_agent(config, spec)
    shape = seeds.lift(agent, config.num_seeds).state_shape
    checkpointer = Checkpointer(Path(workdir) / "checkpoints")
    if checkpoint == "best":
        found = checkpointer.restore_best(agent.policy(shape))
        parts = found and (found[1]["env_step"], None, found[0])
    else:
        latest = checkpointer.restore(shape)
        parts = latest and (latest[0], latest[1], agent.policy(latest[1]))
    if parts is None:
        raise UserError(_no_checkpoint(workdir, config))
    numbers = [config.seed + k for k in range(config.num_seeds)]
    return Restored(config, spec, numbers, agent, *parts)


def stored_config(workdir: Path) -> ConfigDict:
    """Returns the resolved configuration of a run folder.

    Fields that did not exist yet when the run was started have their present defaults.

    Raises:
      UserError: `workdir` is not a run folder, or it has fields that this version does not know.
    """
    description = run_folder.read_config(workdir)
    stored = run_folder.flatten(description["config"])
    known = set(run_folder.flatten(default.get_config().to_dict()))
    if unknown := sorted(set(stored) - known):
        writer = run_folder.another_version(description["environment"])
        raise UserError(
            f"{workdir} was written by {writer}: this one has no field config.{unknown[0]}. "
            "Check that version out to work with the run."
        )
    return configuration.complete(stored)


def seed_slice(tree: Any, k: int) -> Any:
    """Returns what belongs to the k-th seed of a tree with a leading seed axis."""
    return jax.tree.map(lambda leaf: leaf[k], tree)


def _no_checkpoint(workdir: Path, config: ConfigDict) -> str:
    if not config.checkpoint.every_epochs:
        return f"{workdir} has no checkpoint: it was trained with config.checkpoint.every_epochs=0."
    return (
        f"{workdir} has no checkpoint. A run writes its first one {config.initial_steps:,} steps "
        "after its start; copies of run folders may have been made without the folder checkpoints."
    )
