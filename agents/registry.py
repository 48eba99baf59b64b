"""From a resolved configuration to the agent it names."""

from collections.abc import Callable

from ml_collections import ConfigDict

from agents import mbpo, sac
from agents.base import Agent
from agents.recipes import RECIPES
from envs.spec import EnvSpec

AGENTS: dict[str, Callable[[ConfigDict, EnvSpec], Agent]] = {
    "mbpo": mbpo.make_agent,
    "sac": sac.make_agent,
}


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent of the recipe `config.algo`."""
    return AGENTS[RECIPES[config.algo].agent](config, spec)
