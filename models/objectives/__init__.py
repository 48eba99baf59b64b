"""Training losses for the dynamics model; `config.model.objective` names one."""

from collections.abc import Callable

from ml_collections import ConfigDict

from models.objectives import mle, model_advantage, mse, omd, vagram, vep
from models.objectives.base import Context, LossOutput, ModelObjective, Parts, SamplePolicy

OBJECTIVES: dict[str, Callable[[ConfigDict, Parts], ModelObjective]] = {
    "mle": mle.make,
    "mse": mse.make,
    "ma_l1": model_advantage.ma_l1,
    "vaml": model_advantage.vaml,
    "vep": vep.make,
    "vagram": vagram.make,
    "omd": omd.make,
}
"""Name -> `(config, parts) -> ModelObjective`."""

__all__ = ["OBJECTIVES", "Context", "LossOutput", "ModelObjective", "Parts", "SamplePolicy"]
