"""From a resolved configuration to the agent it names."""

from collections.abc import Callable

from ml_collections import ConfigDict

from agents import dhmbpo, dyna, mbpo, mpc, sac
from agents.base import Agent
from envs.spec import EnvSpec

AGENTS: dict[str, Callable[[ConfigDict, EnvSpec], Agent]] = {
    "sac": sac.make_agent,
    "mbpo": mbpo.make_agent,
    "dhmbpo": dhmbpo.make_agent,
    "dyna": dyna.make_agent,
    "mpc": mpc.make_agent,
}


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent `config.agent`."""
    return AGENTS[config.agent](config, spec)
