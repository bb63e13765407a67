"""Interfaces through which metric formulas see the rest of a case; the evaluation implements them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Surface(Protocol):
    """The surface of an ROI, as mask errors see it."""

    @property
    def dose_gy(self) -> NDArray[np.floating]:
        """Doses of the voxels there, shape (m,), Gy."""
        ...

    def step_at(self, dose_gy: float) -> float:
        """How much the dose changes over half a voxel where the surface has about a dose, Gy."""
        ...


class WholeDose(Protocol):
    """A dose around a target, as metrics of the plan see it."""

    @property
    def dose_gy(self) -> NDArray[np.floating]:
        """The dose, shape (Z, Y, X), Gy."""
        ...

    @property
    def target(self) -> NDArray[np.bool_]:
        """Mask of the target with those that its prescription isodose covers too, same shape."""
        ...

    @property
    def prescription_gy(self) -> float:
        """Prescription of the target in Gy; ValueError where it has none."""
        ...

    def highest_beyond_gy(self, distance_mm: float) -> float:
        """The highest dose at a distance from all targets or farther; NaN if nothing is as far."""
        ...
