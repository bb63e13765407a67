"""The slices on which an ROI could be drawn, and the resulting gaps between its planes.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.geometry.planes import PLANE_TOLERANCE_MM, clusters, heights_mm, is_flat
from cdm_nnunet.geometry.roi_contours import RoiContours

GAP_FACTOR = 1.9  # a step this many times the usual one is a gap
WIDEST_MM = 10.0  # slices farther apart are never neighbours
_REGULAR = 0.1  # steps that differ by less than this fraction are equal
_SHORT_RHYTHM = 3.0  # slices: two equal steps of up to this many show a rhythm, larger ones need three


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices along the normal of contours.

    Attributes:
        positions_mm: Their positions, ascending, shape (n,).
        rhythm: Usual step between contours of the structure set, in slices.
    """

    positions_mm: NDArray[np.float64]
    rhythm: float = 1.0

    def in_slices(self, planes_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Steps between neighbouring planes, in units of the slice distance there; shape (n - 1,)."""
        if planes_mm.size < 2 or self.positions_mm.size < 2:
            return np.ones(max(planes_mm.size - 1, 0))
        steps_mm = np.diff(self.positions_mm)
        # (beyond the outermost slices, their distance is continued)
        low = np.searchsorted(self.positions_mm, planes_mm[:-1] + PLANE_TOLERANCE_MM, side="right") - 1
        high = np.searchsorted(self.positions_mm, planes_mm[1:] - PLANE_TOLERANCE_MM, side="left")
        last = steps_mm.size - 1
        widest_mm = [
            steps_mm[min(max(a, 0), last) : max(min(b, last + 1), min(max(a, 0), last) + 1)].max()
            for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
        return np.asarray(np.diff(planes_mm) / np.array(widest_mm))

    def distance_mm(self, plane_mm: float) -> float:
        """Distance of the slices at a plane, the smaller one if it changes there; NaN if unknown."""
        steps_mm = np.diff(self.positions_mm)
        if steps_mm.size == 0:
            return float("nan")
        at = np.searchsorted(self.positions_mm, [plane_mm - PLANE_TOLERANCE_MM, plane_mm + PLANE_TOLERANCE_MM]) - 1
        return float(steps_mm[np.clip(at, 0, steps_mm.size - 1)].min())


def ct_slices(positions_mm: NDArray[np.float64], rois: Sequence[RoiContours], axes: NDArray[np.float64]) -> Slices:
    """All slices of a CT.

    Args:
        positions_mm: Their positions along the third axis, ascending.
        rois: The ROIs drawn on them.
        axes: The axes of the CT.
    """
    return Slices(positions_mm, _rhythm(rois, axes, positions_mm))


def drawn_slices(rois: Sequence[RoiContours], axes: NDArray[np.float64]) -> Slices:
    """Slices derived from the ROIs: all planes with contours, and those in between.

    Args:
        rois: ROIs of the structure set.
        axes: A frame; only ROIs whose contours are flat in it count.
    """
    heights = [heights_mm(roi, axes) for roi in rois if is_flat(roi, axes)]
    positions_mm = filled(clusters(np.concatenate(heights or [np.empty(0)]))[0])
    return Slices(positions_mm, _rhythm(rois, axes, positions_mm))


def filled(planes_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Planes with contours, and planes at the usual distance in stretches without contours.

    A step is such a stretch if it is over 1.9 times both its neighbours; or over 1.9 times the median step, and not one
    of several equal steps that follow each other: those are a change of the slice distance.

    Example:
        >>> filled(np.array([0.0, 2, 4, 8, 10, 15, 20])).tolist()
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0]
    """
    steps_mm = np.diff(planes_mm)
    near_mm = steps_mm[steps_mm <= WIDEST_MM]
    if near_mm.size == 0:
        return planes_mm
    padded = np.concatenate([[0.0], steps_mm, [0.0]])
    before, after = padded[:-2], padded[2:]
    is_run = (np.abs(before - steps_mm) <= _REGULAR * steps_mm) | (np.abs(after - steps_mm) <= _REGULAR * steps_mm)
    usual_mm = np.full(steps_mm.size, float(np.median(near_mm)))
    lone = (steps_mm > GAP_FACTOR * np.maximum(before, after)) & (steps_mm.size > 1)
    usual_mm[lone] = np.minimum(usual_mm, np.maximum(before, after))[lone]
    is_empty = lone | ((steps_mm > GAP_FACTOR * usual_mm) & ~is_run) | (steps_mm > WIDEST_MM)
    parts = [planes_mm[:1]]
    for k, step_mm in enumerate(steps_mm.tolist()):
        n = max(1, round(step_mm / float(usual_mm[k]))) if is_empty[k] else 1
        parts.append(planes_mm[k] + step_mm * np.arange(1, n + 1) / n)
    return np.concatenate(parts)


def gaps(planes_mm: NDArray[np.float64], slices: Slices) -> NDArray[np.bool_]:
    """Steps between neighbouring planes across which an ROI does not continue.

    A step is a gap if it is over 1.9 times the usual one: that of most of the ROI's own steps, in slices and in mm;
    otherwise that of the structure set, in slices. Steps of over 19 mm are always gaps.

    Args:
        planes_mm: Planes of the ROI's contours, ascending, shape (n,).
        slices: The slices that it could be drawn on.

    Returns:
        Shape (n - 1,).

    Example:
        >>> gaps(np.array([0.0, 2, 4, 8, 10]), Slices(np.arange(-20.0, 21, 2))).tolist()
        [False, False, True, False]
        >>> gaps(np.array([0.0, 4, 8, 12]), Slices(np.arange(-20.0, 21, 2))).tolist()
        [False, False, False]
    """
    steps_mm, steps = np.diff(planes_mm), slices.in_slices(planes_mm)
    is_enough = steps.size > 2 or (steps.size == 2 and float(np.median(steps)) <= _SHORT_RHYTHM)
    own, own_mm = (_usual(values) if is_enough else 0.0 for values in (steps, steps_mm))
    usual_mm = np.maximum(max(1.0, own or slices.rhythm) * steps_mm / steps, own_mm)
    return np.asarray(steps_mm > GAP_FACTOR * np.minimum(usual_mm, WIDEST_MM))


def _usual(steps: NDArray[np.float64]) -> float:
    """The step that at least half of them equal; 0 if there is none."""
    median = float(np.median(steps))
    regular = np.abs(steps - median) <= _REGULAR * median
    return median if 2 * np.count_nonzero(regular) >= steps.size else 0.0


def _rhythm(rois: Sequence[RoiContours], axes: NDArray[np.float64], positions_mm: NDArray[np.float64]) -> float:
    slices = Slices(positions_mm)
    steps = [
        slices.in_slices(clusters(heights_mm(roi, axes))[0]) for roi in rois if roi.contours and is_flat(roi, axes)
    ]
    every = np.concatenate(steps or [np.empty(0)])
    return float(np.median(every)) if every.size else 1.0
