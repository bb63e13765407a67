"""Interfaces between metric formulas and the rest of a case; the evaluation implements them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Surface(Protocol):
    """The surface of an ROI, for mask errors."""

    @property
    def dose_gy(self) -> NDArray[np.floating]:
        """Doses of its voxels, shape (m,), Gy."""
        ...

    def step_at(self, dose_gy: float) -> float:
        """Change of the dose over half a voxel, in parts of the surface with about the given dose, Gy."""
        ...


class WholeDose(Protocol):
    """A dose around a target, for metrics of the plan."""

    @property
    def dose_gy(self) -> NDArray[np.floating]:
        """The dose, shape (Z, Y, X), Gy."""
        ...

    @property
    def target(self) -> NDArray[np.bool_]:
        """Mask of the target and of those that its prescription isodose also covers, same shape."""
        ...

    @property
    def prescription_gy(self) -> float:
        """Prescription of the target in Gy; ValueError without one."""
        ...

    def highest_beyond_gy(self, distance_mm: float) -> float:
        """The highest dose at least this far from all targets; NaN if there is no such voxel."""
        ...
