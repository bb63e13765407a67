"""nnU-Net for radiotherapy dose prediction, trained on clinical DVH metrics.

Importing the package is light: torch and nnunetv2 are imported only by ``cdm_nnunet.losses``, ``cdm_nnunet.nnunet``,
``cdm_nnunet.prediction`` and ``cdm_nnunet.trainers``, and when ``cdm_nnunet.Model`` is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdm_nnunet.prediction.model import Model, Prediction

__all__ = ["Model", "Prediction", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("Model", "Prediction"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("cdm_nnunet.prediction.model"), name)
