"""From the cross-section of one plane to that of the next.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.distances import EIGHT, Distances, half_width_mm, peaks_mm

_NEWTON_STEPS = 8
_SAME_AREA = 1e-3  # of the area
_OUTLINE = 0.5 + 1e-6  # nodes at which a square is covered in part


class Blend:
    """Transition to the next plane: linear in distances, shifted to be linear in area, plus a bulge.

    Each part connected across the two planes has one shift; it is smaller where distances differ by less than a node,
    so that a common outline is unchanged. Without it a curved solid loses volume, and a thin oblique one loses more.
    Towards a rounded end, the half-width is prescribed instead.
    """

    def __init__(
        self,
        low: Distances,
        high: Distances,
        step_mm: float,
        bulge: float,
        width_mm: Callable[[float], float] | None,
    ) -> None:
        self.low, self.high, self.step_mm, self.bulge, self.width_mm = low, high, step_mm, bulge, width_mm
        both, self.n = ndimage.label((low > 0) | (high > 0), EIGHT)
        least, most = np.minimum(low, high), np.maximum(low, high)
        moved = np.minimum((most - least) / step_mm, 1.0)
        self.moved_mm = step_mm * moved
        self.part = np.zeros(both.shape, np.int64)
        if self.n > 1:
            nearest = ndimage.distance_transform_edt(both == 0, return_distances=False, return_indices=True)
            self.part = both[nearest[0], nearest[1]].astype(np.int64) - 1
        # All steps together shift a node by so much; what stays beyond is covered as a whole or not at all.
        reach_mm = step_mm * (_OUTLINE + _NEWTON_STEPS * moved)
        self.near = np.flatnonzero((most > -reach_mm) & (least < reach_mm))
        self.whole = np.bincount(self.part[least >= reach_mm], minlength=max(self.n, 1)).astype(np.float64)
        self.near_part, self.near_moved = self.part.ravel()[self.near], moved.ravel()[self.near]
        self.areas = self._area(self._shares(low)), self._area(self._shares(high))

    def at(self, t: float) -> Distances:
        """Distances at a fraction t of the way."""
        level = (1 - t) * self.low
        level += t * self.high
        if self.width_mm is not None and self.n == 1:
            inside = (self.low > 0) | (self.high > 0)
            level += self.width_mm(t) - half_width_mm(peaks_mm(level, self.step_mm), inside)
        elif self.n:
            shift = self._shift(self._shares(level), t)
            if shift.any():
                level -= self.moved_mm * (shift[self.part] if self.n > 1 else shift[0])
        return level

    def _shares(self, level: Distances) -> Distances:
        """What is covered of the squares of nodes near the outline, flat: below 0 nothing, above 1 all."""
        shares = level.ravel()[self.near]
        shares /= self.step_mm
        shares += 0.5
        return shares

    def _shift(self, shares: Distances, t: float) -> NDArray[np.float64]:
        """By how many steps each part is to be shifted for its area."""
        wanted = (1 - t) * self.areas[0] + t * self.areas[1]
        if self.n == 1:
            wanted = wanted + 4 * t * (1 - t) * self.bulge
        total = np.zeros(self.n)
        for _ in range(_NEWTON_STEPS):
            excess = self._area(shares) - wanted
            if (np.abs(excess) <= _SAME_AREA * wanted).all():
                break
            movable = self._sum(self.near_moved * ((shares > 0) & (shares < 1)))
            shift = np.maximum(np.minimum(excess / np.maximum(movable, 1.0), 1.0), -1.0)
            shares -= self.near_moved * (shift[self.near_part] if self.n > 1 else shift[0])
            total += shift
        return total

    def _area(self, shares: Distances) -> NDArray[np.float64]:
        """Area of each part, in nodes."""
        return self.whole + self._sum(np.minimum(np.maximum(shares, 0.0), 1.0))

    def _sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.n <= 1:
            return np.array([float(values.sum())])
        return np.bincount(self.near_part, values, self.n).astype(np.float64)
