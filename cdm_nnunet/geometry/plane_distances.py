"""What is known of a plane's cross-section on a raster of nodes, each computed once.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.distances import EIGHT, Distances, Raster, covered, peaks_mm, signed_distance
from cdm_nnunet.geometry.scanlines import Section

Numbers = NDArray[np.int32]  # (v, u): of the connected part that a node belongs to, 0 for none


class PlaneDistances:
    """Distances from the outline of a cross-section.

    Attributes:
        section: The cross-section.
        raster: The part of the whole raster that is looked at.
        distance_mm: Distances of its nodes, (v, u).
    """

    def __init__(self, section: Section, raster: Raster) -> None:
        self.section, self.raster = section, raster
        self.distance_mm = signed_distance(section, raster)

    def at(self, part: Raster) -> Distances:
        """Distances in a part of the raster."""
        return self.distance_mm[self.raster.place_of(part)]

    def peaks_mm(self, part: Raster, sign: float) -> Distances:
        """As :func:`cdm_nnunet.geometry.distances.peaks_mm` in a part of the raster; with sign -1, of the outside."""
        return (self._peaks_mm if sign > 0 else self._peaks_outside_mm)[self.raster.place_of(part)]

    def alone(self, other: PlaneDistances, part: Raster) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Connected parts of the cross-section that share no node with another one, and holes that share none."""
        beside = other.at(part) > 0
        place = self.raster.place_of(part)
        return _alone(*self._parts, place, beside), _alone(*self._parts_outside, place, ~beside)

    @functools.cached_property
    def area(self) -> float:
        """Area of the cross-section, in nodes; equal outlines have equal ones, to the last digit."""
        own = self.at(self.raster.around([self.section]))
        return float(covered(own, self.raster.step_mm).sum())

    @functools.cached_property
    def _peaks_mm(self) -> Distances:
        return peaks_mm(self.distance_mm, self.raster.step_mm)

    @functools.cached_property
    def _peaks_outside_mm(self) -> Distances:
        return peaks_mm(-self.distance_mm, self.raster.step_mm)

    @functools.cached_property
    def _parts(self) -> tuple[Numbers, int]:
        numbers, n = ndimage.label(self.distance_mm > 0, EIGHT)
        return numbers, n

    @functools.cached_property
    def _parts_outside(self) -> tuple[Numbers, int]:
        numbers, n = ndimage.label(self.distance_mm <= 0, EIGHT)
        return numbers, n


def _alone(numbers: Numbers, n: int, place: tuple[slice, slice], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Nodes of those of n parts that share no node with another cross-section, in a place around both."""
    numbers = numbers[place]
    shared = np.zeros(n + 1, bool)
    shared[0] = True
    shared[numbers[other]] = True
    return np.asarray(~shared[numbers]) if not shared.all() else np.zeros(numbers.shape, bool)
