"""The planes of the contours of an ROI.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.roi_contours import RoiContours

PLANE_TOLERANCE_MM = 0.1  # contours this close together lie in one plane
FLATNESS_MM = 0.1  # maximum distance of a contour's points from its plane
_KNOWN: WeakKeyDictionary[RoiContours, dict[bytes, tuple[list[float], list[float]]]] = WeakKeyDictionary()


def axes_of(roi: RoiContours) -> NDArray[np.float64]:
    """Frame of an ROI's contours: the patient's axes for axial contours, else u, v in the planes and w normal to them.

    Returns:
        Unit vectors u, v, w, one per row, shape (3, 3).

    Raises:
        InputError: If the ROI has no closed contour or the contours do not lie in parallel planes.
    """
    roi.refuse_without_volume()
    if is_flat(roi, np.eye(3)):
        return np.eye(3)
    normals = np.stack([np.cross(c - c[0], np.roll(c, -1, axis=0) - c[0]).sum(0) for c in roi.contours])
    w = normals[int(np.argmax(np.linalg.norm(normals, axis=1)))]
    length = float(np.linalg.norm(w))
    if length > 0:
        w = w / length * (-1.0 if w[np.argmax(np.abs(w))] < 0 else 1.0)
        u = np.cross(np.eye(3)[1] if abs(w[1]) < 0.9 else np.eye(3)[2], w)
        u /= np.linalg.norm(u)
        axes = np.stack([u, np.cross(w, u), w])
        if is_flat(roi, axes):
            return axes
    raise InputError(f"the contours of ROI '{roi.name}' do not lie in parallel planes; export it with axial contours")


def is_flat(roi: RoiContours, axes: NDArray[np.float64]) -> bool:
    """Whether each contour lies in a plane of constant w of a frame, to 0.1 mm."""
    return all(spread_mm <= FLATNESS_MM for spread_mm in _along(roi, axes)[1])


def heights_mm(roi: RoiContours, axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height w of each contour in a frame, shape (contours,)."""
    return np.array(_along(roi, axes)[0])


def _along(roi: RoiContours, axes: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Height w of each contour, and the spread of its points along w; cached, because every ROI needs those of all."""
    known, key = _KNOWN.setdefault(roi, {}), axes[2].tobytes()
    if key not in known:
        heights = [contour @ axes[2] for contour in roi.contours]
        known[key] = [float(w_mm.mean()) for w_mm in heights], [float(np.ptp(w_mm)) for w_mm in heights]
    return known[key]


def clusters(heights_mm: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct planes, ascending, and for each height the index of its plane.

    Example:
        >>> planes_mm, plane = clusters(np.array([3.0, 0.0, 0.02]))
        >>> planes_mm.round(3).tolist(), plane.tolist()
        ([0.01, 3.0], [1, 0, 0])
    """
    if heights_mm.size == 0:
        return heights_mm, np.empty(0, np.int64)
    order = np.argsort(heights_mm)
    ranked = heights_mm[order]
    plane = np.concatenate([[0], np.cumsum(np.diff(ranked) > PLANE_TOLERANCE_MM)]).astype(np.int64)
    member = np.empty_like(plane)
    member[order] = plane
    sums, counts = np.bincount(plane, ranked), np.bincount(plane)
    return np.asarray(sums / counts), member
