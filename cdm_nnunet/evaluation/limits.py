"""Mask error: the accuracy of an ROI on a dose grid; ``docs/conventions.md``, "ROIs on the dose grid"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import Metric
from cdm_nnunet.dvh.values import VoxelDoses
from cdm_nnunet.evaluation.rois import Box

NEAR_FRACTION = 0.1
NEAR_VOXELS = 9


@dataclass(frozen=True, eq=False)
class Surface:
    """The voxels of an ROI with a face to the outside.

    Attributes:
        dose_gy: Their doses, shape (m,), Gy.
        step_gy: Change of the dose over half a voxel along its gradient, shape (m,), Gy.
    """

    dose_gy: NDArray[np.float64]
    step_gy: NDArray[np.float64]

    def step_at(self, dose_gy: float) -> float:
        """Median half-voxel step of the surface voxels whose doses are closest to a dose: a tenth, at least nine."""
        n = min(self.dose_gy.size, max(NEAR_VOXELS, round(NEAR_FRACTION * self.dose_gy.size)))
        near = np.argpartition(np.abs(self.dose_gy - dose_gy), n - 1)[:n]
        return float(np.median(self.step_gy[near]))


def roi_surface(dose_gy: NDArray[np.floating], mask: NDArray[np.bool_], box: Box) -> Surface | None:
    """The surface of an ROI in a dose.

    Args:
        dose_gy: The whole dose, shape (Z, Y, X), Gy.
        mask: The ROI within its box.
        box: The box in the dose.

    Returns:
        None if no voxel of the ROI has a neighbour outside: the ROI is the whole grid.
    """
    inner = np.pad(mask, 1)  # the border of the grid does not count as surface: what lies beyond is unknown
    for axis, (side, n) in enumerate(zip(box, dose_gy.shape, strict=True)):
        planes: list[slice | int] = [slice(None)] * 3
        for plane, at_border in ((0, side.start == 0), (-1, side.stop == n)):
            planes[axis] = plane
            inner[tuple(planes)] = at_border
    core = (slice(1, -1),) * 3
    surface = mask.copy()
    around = np.ones_like(mask)
    for axis, shift in itertools.product(range(3), (slice(None, -2), slice(2, None))):
        around &= inner[(*core[:axis], shift, *core[axis + 1 :])]
    surface &= ~around
    place = np.nonzero(surface)
    if not place[0].size:
        return None
    place = tuple(at + side.start for at, side in zip(place, box, strict=True))
    squared = np.zeros(place[0].size)
    for axis, n in enumerate(dose_gy.shape):
        if n == 1:
            continue
        low, high = (np.clip(place[axis] + step, 0, n - 1) for step in (-1, 1))
        ends = [dose_gy[(*place[:axis], at, *place[axis + 1 :])].astype(np.float64) for at in (low, high)]
        squared += ((ends[1] - ends[0]) / (high - low)) ** 2
    return Surface(dose_gy[place].astype(np.float64), 0.5 * np.sqrt(squared))


def mask_error(metric: Metric, value: float, surface: Surface | None, doses: VoxelDoses) -> float | None:
    """Change of a metric for half a voxel at the ROI's surface (``docs/conventions.md``, "Mask error").

    Args:
        metric: The metric.
        value: Its value in the dose.
        surface: The ROI's surface in the dose; None if it has none.
        doses: Doses of all its voxels.

    Returns:
        The error in the metric's unit; 0 for an ROI without a surface; None if the kind of metric has none.
    """
    if surface is None:
        return 0.0
    return None if metric.row.mask_error is None else metric.row.mask_error(metric, value, surface, doses)
