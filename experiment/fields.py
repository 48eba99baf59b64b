"""Reading single fields of a configuration by their dotted names."""

import functools
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from agents.recipes import RECIPES


def get(config: ConfigDict, name: str) -> Any:
    """Returns the field with the dotted name `name`."""
    return functools.reduce(getattr, name.split("."), config)


def flag(config: ConfigDict, name: str) -> str:
    """Returns the field and its value as one types them."""
    return f"--config.{name}={get(config, name)}"


def uses(config: ConfigDict, name: str) -> bool:
    """Whether the field `name` matters to the algorithm; all do when the algorithm is unknown."""
    recipe = RECIPES.get(config.algo)
    if recipe is None:
        return True
    if name.startswith("flow."):
        return (config.rollout.filter or "").startswith("flow_")
    if name.startswith("model."):
        return recipe.objective is not None
    return recipe.filter is not None if name.startswith("rollout.") else True


def given(config: ConfigDict, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yields name and value of the fields that are set and matter to the algorithm."""
    for name in names:
        value = get(config, name)
        if value is not None and uses(config, name):
            yield name, value


def is_number(value: Any) -> bool:
    """Whether the value is a real number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
