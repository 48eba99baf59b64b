"""Training losses for the dynamics model; `config.model.objective` names one."""

from models.objectives import mle
from models.objectives.base import Context, ModelObjective, Parts, SamplePolicy

OBJECTIVES = {"mle": mle.make}
"""Name -> `(config, parts) -> ModelObjective`."""

__all__ = ["OBJECTIVES", "Context", "ModelObjective", "Parts", "SamplePolicy"]
