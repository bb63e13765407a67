"""The interface between planning and dose calculation: input and output of a dose engine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.planning.anatomy import Anatomy
from cdm_nnunet.planning.protocol import Beams

_PYDANTIC = ((2, 12),)  # series tested with pyRadPlan 0.5; 2.14 breaks it


@dataclass(frozen=True, eq=False)
class Influence:
    """The dose of every bixel.

    Attributes:
        matrix: Dose at each node by unit fluence of each bixel, CSR, float32, shape (nodes, bixels), not negative.
        grid: The dose grid.
        nodes: Voxel of the dose grid for each row, in the order of memory, shape (nodes,).

    Raises:
        ValueError: If the parts do not fit together.
    """

    matrix: Any
    grid: Grid
    nodes: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.matrix.shape[0] != self.nodes.size:
            raise ValueError(f"{self.matrix.shape[0]} rows for {self.nodes.size} nodes")
        if self.matrix.dtype != np.float32 or not sparse.issparse(self.matrix) or self.matrix.format != "csr":
            raise ValueError("a dose-influence matrix is CSR of float32")


class Engine(Protocol):
    """A dose engine."""

    @property
    def version(self) -> str:
        """Name and version: doses of the same version are the same."""

    def influence(self, anatomy: Anatomy, beams: Beams) -> Influence:
        """The dose of every bixel that can reach a target.

        Raises:
            InputError: If the dose can't be calculated.
        """


def default_engine() -> Engine:
    """The engine of the extra ``planning``.

    Raises:
        InputError: If the extra is not installed, or has the wrong version of pydantic.
    """
    if importlib.util.find_spec("pyRadPlan") is None:
        raise InputError(
            "doses are calculated with pyRadPlan, which is not installed; run, preferably in a separate environment: "
            'pip install "cdm_nnunet[planning]" (docs/planning.md)'
        )
    series = tuple(int(part) for part in importlib.metadata.version("pydantic").split(".")[:2])
    if series not in _PYDANTIC:
        raise InputError(
            f"pyRadPlan breaks with pydantic {series[0]}.{series[1]}; run: pip install "
            '"cdm_nnunet[planning]", or plan in a separate environment (docs/planning.md)'
        )
    from cdm_nnunet.planning.pyradplan_engine import PyRadPlanEngine

    return PyRadPlanEngine()
