"""Training losses for the dynamics model; `config.model.objective` names one."""

from models.objectives import mle
from models.objectives.base import Context, ModelObjective

OBJECTIVES = {"mle": mle.make}
"""Name -> `(config, ensemble) -> ModelObjective`."""

__all__ = ["OBJECTIVES", "Context", "ModelObjective"]
