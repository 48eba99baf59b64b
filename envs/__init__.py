"""Environments: their registry, and what algorithms may know about them."""

from envs import cartpole, cs285
from envs.functional import FunctionalEnv
from envs.registry import functional, make, register, spec
from envs.spec import EnvSpec

__all__ = [
    "EnvSpec",
    "FunctionalEnv",
    "cartpole",
    "cs285",
    "functional",
    "make",
    "register",
    "spec",
]
