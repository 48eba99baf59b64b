"""Environments: their registry, and what algorithms may know about them."""

from envs.registry import make, register, spec
from envs.spec import EnvSpec

__all__ = ["EnvSpec", "make", "register", "spec"]
