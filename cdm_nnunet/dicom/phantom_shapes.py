"""Solids with closed-form volumes and DVHs: their cross-sections are the contours of DICOM phantoms.

A solid gives its axial cross-sections exactly, whether it contains a point, and the part of its volume below a plane.
The last gives every D- and V-metric of a linear dose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]
_CHORD_MM = 0.005  # maximum distance of a polygon's sides from the circle that it approximates


class Solid(Protocol):
    """A solid around a centre (x, y, z), LPS mm."""

    @property
    def volume_cc(self) -> float:
        """Volume in cc."""

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest z."""

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """Contours of the cross-section at z, each of shape (points, 2); holes are contours too."""

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points of shape (..., 3) lie in the solid."""

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """Part of the volume whose coordinate (0 x, 1 y, 2 z) is below ``at_mm``, from 0 to 1."""


@dataclass(frozen=True)
class Box:
    """A cuboid of given size (x, y, z)."""

    centre_mm: Point
    size_mm: Point

    @property
    def volume_cc(self) -> float:
        """Volume in cc."""
        return math.prod(self.size_mm) / 1000

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest z."""
        return self.centre_mm[2] - self.size_mm[2] / 2, self.centre_mm[2] + self.size_mm[2] / 2

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """One rectangle."""
        if not _between(z_mm, self.extent_z_mm):
            return []
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2
        return [corners * self.size_mm[:2] + self.centre_mm[:2]]

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie in the box."""
        return np.asarray((np.abs(points_mm - self.centre_mm) <= np.array(self.size_mm) / 2).all(-1))

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """Linear in the coordinate."""
        return float(np.clip((at_mm - self.centre_mm[axis]) / self.size_mm[axis] + 0.5, 0, 1))


@dataclass(frozen=True)
class Sphere:
    """A ball, or with ``hole_mm`` a spherical shell: its middle slices are nested contours."""

    centre_mm: Point
    radius_mm: float
    hole_mm: float = 0.0

    @property
    def volume_cc(self) -> float:
        """Volume in cc."""
        return 4 / 3 * math.pi * (self.radius_mm**3 - self.hole_mm**3) / 1000

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest z."""
        return self.centre_mm[2] - self.radius_mm, self.centre_mm[2] + self.radius_mm

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """A disk, or a ring."""
        height = z_mm - self.centre_mm[2]
        squares = [radius**2 - height**2 for radius in (self.radius_mm, self.hole_mm)]
        return [circle(self.centre_mm[:2], math.sqrt(square)) for square in squares if square > 0]

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie in the ball and not in the hole."""
        distance = np.linalg.norm(points_mm - self.centre_mm, axis=-1)
        return np.asarray((distance <= self.radius_mm) & (distance >= self.hole_mm))

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """The volumes of two spherical caps."""
        height = at_mm - self.centre_mm[axis]

        def cap(radius: float) -> float:
            t = min(max(height, -radius), radius)
            return math.pi * (radius**2 * t - t**3 / 3 + 2 / 3 * radius**3)

        return (cap(self.radius_mm) - cap(self.hole_mm)) / (1000 * self.volume_cc)


@dataclass(frozen=True)
class Cylinder:
    """A cylinder about the long axis, or a frustum or cone with another ``top_radius_mm``."""

    centre_mm: Point
    radius_mm: float
    height_mm: float
    top_radius_mm: float | None = None

    @property
    def volume_cc(self) -> float:
        """Volume in cc."""
        low, high = self._radii()
        return math.pi * self.height_mm * (low**2 + low * high + high**2) / 3000

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest z."""
        return self.centre_mm[2] - self.height_mm / 2, self.centre_mm[2] + self.height_mm / 2

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """One disk."""
        if not _between(z_mm, self.extent_z_mm):
            return []
        radius = float(self._radius(np.array(z_mm)))
        return [circle(self.centre_mm[:2], radius)] if radius > 0 else []

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie in the solid."""
        z_mm = points_mm[..., 2]
        distance = np.linalg.norm(points_mm[..., :2] - self.centre_mm[:2], axis=-1)
        low, high = self.extent_z_mm
        return np.asarray((z_mm >= low) & (z_mm <= high) & (distance <= self._radius(z_mm)))

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """A frustum along z; across, the segment of a disk (for a cylinder only)."""
        low, high = self._radii()
        if axis == 2:
            share = min(max((at_mm - self.extent_z_mm[0]) / self.height_mm, 0.0), 1.0)
            end = low + (high - low) * share
            return share * (low**2 + low * end + end**2) / (low**2 + low * high + high**2)
        if low != high:
            raise ValueError("across a cone there is no closed form")
        return disk_fraction((at_mm - self.centre_mm[axis]) / low)

    def _radii(self) -> tuple[float, float]:
        return self.radius_mm, self.radius_mm if self.top_radius_mm is None else self.top_radius_mm

    def _radius(self, z_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self._radii()
        return np.asarray(low + (high - low) * (z_mm - self.extent_z_mm[0]) / self.height_mm)


@dataclass(frozen=True)
class Torus:
    """A torus about the long axis."""

    centre_mm: Point
    ring_mm: float
    tube_mm: float

    @property
    def volume_cc(self) -> float:
        """Volume in cc."""
        return 2 * math.pi**2 * self.ring_mm * self.tube_mm**2 / 1000

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest z."""
        return self.centre_mm[2] - self.tube_mm, self.centre_mm[2] + self.tube_mm

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """A ring."""
        square = self.tube_mm**2 - (z_mm - self.centre_mm[2]) ** 2
        if square <= 0:
            return []
        return [circle(self.centre_mm[:2], self.ring_mm + sign * math.sqrt(square)) for sign in (1, -1)]

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie in the tube."""
        local = points_mm - np.array(self.centre_mm)
        across = np.linalg.norm(local[..., :2], axis=-1) - self.ring_mm
        return np.asarray(np.hypot(across, local[..., 2]) <= self.tube_mm)

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """Along z the same as for the rotated disk."""
        if axis != 2:
            raise ValueError("across a torus there is no closed form")
        return disk_fraction((at_mm - self.centre_mm[2]) / self.tube_mm)


def disk_fraction(t: float) -> float:
    """Part of a disk of radius 1 that lies below ``t``.

    Example:
        >>> [disk_fraction(t) for t in (-1.0, 0.0, 1.0)]
        [0.0, 0.5, 1.0]
    """
    t = min(max(t, -1.0), 1.0)
    return 0.5 + (math.asin(t) + t * math.sqrt(1 - t * t)) / math.pi


def circle(centre_mm: tuple[float, ...], radius_mm: float) -> NDArray[np.float64]:
    """A polygon with the area of a circle, shape (points, 2)."""
    n = max(24, math.ceil(math.pi / math.acos(max(0.0, 1 - _CHORD_MM / max(radius_mm, 0.01)))))
    angles = 2 * math.pi * (np.arange(n) + 0.5) / n
    fair_mm = radius_mm * math.sqrt(2 * math.pi / n / math.sin(2 * math.pi / n))
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], -1) * fair_mm + np.array(centre_mm[:2]))


def _between(z_mm: float, extent_mm: tuple[float, float]) -> bool:
    return extent_mm[0] - 1e-9 <= z_mm <= extent_mm[1] + 1e-9
