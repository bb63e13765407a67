"""How far an ROI on a dose grid can be trusted; ``docs/conventions.md``, "ROIs on the dose grid"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import Metric, evaluate_all
from cdm_nnunet.evaluation.rois import Box

NEAR_FRACTION = 0.1
NEAR_VOXELS = 9


@dataclass(frozen=True, eq=False)
class Surface:
    """The voxels of an ROI that have a face to the outside.

    Attributes:
        dose_gy: Their doses, shape (m,), Gy.
        step_gy: How much the dose changes over half a voxel along its gradient there, shape (m,), Gy.
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
        box: Where the box lies in the dose.

    Returns:
        None where no voxel of the ROI has a neighbour outside: the ROI is the whole grid.
    """
    inner = np.pad(mask, 1)  # a voxel at the border of the grid is no surface there: nobody knows what lies beyond
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


def mask_error(
    metric: Metric,
    value: float,
    surface: Surface | None,
    roi_dose_gy: NDArray[np.floating],
    *,
    voxel_volume_cc: float,
    prescription_gy: float | None = None,
) -> float | None:
    """What half a voxel of the ROI's surface is worth in a metric (``docs/conventions.md``, "Mask error").

    Args:
        metric: The metric.
        value: Its value in the dose.
        surface: The ROI's surface in the dose; None where it has none.
        roi_dose_gy: Doses of all its voxels, shape (n,), Gy.
        voxel_volume_cc: Volume of a voxel in cc.
        prescription_gy: Prescription of the ROI in Gy.

    Returns:
        The error in the metric's unit; 0 for an ROI without a surface; None for gEUD.
    """
    if surface is None:
        return 0.0
    if metric.kind == "mean":
        share = 0.5 * surface.dose_gy.size / roi_dose_gy.size
        return float(share * abs(surface.dose_gy.mean() - roi_dose_gy.mean(dtype=np.float64)))
    if metric.is_volume:
        threshold_gy = metric.threshold_gy(prescription_gy)
        step_gy = surface.step_at(threshold_gy)
        n_near = 0.5 * np.count_nonzero(np.abs(roi_dose_gy - threshold_gy) <= step_gy)
        return float(n_near * voxel_volume_cc if metric.unit == "cc" else 100.0 * n_near / roi_dose_gy.size)
    if metric.kind == "homogeneity":  # (near-maximum - near-minimum) / median
        doses_gy = evaluate_all(metric.order_statistics, roi_dose_gy, voxel_volume_cc=voxel_volume_cc)
        high, low, median = (surface.step_at(dose_gy) for dose_gy in doses_gy)
        return float((high + low + abs(value) * median) / doses_gy[2])
    return surface.step_at(value) if metric.order_statistics else None
