"""Environments: their registry, and what algorithms may know about them."""

from envs import cartpole, cs285
from envs.registry import make, register, spec
from envs.spec import EnvSpec

__all__ = ["EnvSpec", "cartpole", "cs285", "make", "register", "spec"]
