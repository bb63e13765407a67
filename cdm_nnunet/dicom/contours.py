"""An ROI as a stack of slabs, one for each plane of contours.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dicom.grid import gaps
from cdm_nnunet.dicom.scanlines import Section, section_of
from cdm_nnunet.dicom.structures import RoiContours, StructureSet
from cdm_nnunet.errors import InputError

EndCaps = Literal["rounded", "rounded-half-slab", "none", "half-slab"]
PLANE_TOLERANCE_MM = 0.1  # contours this close together lie in one plane
FLATNESS_MM = 0.1  # how far a contour's points may leave its plane


@dataclass(frozen=True, eq=False)
class ContourStack:
    """An ROI in a frame whose third axis is normal to the contours.

    Attributes:
        name: Name of the ROI.
        axes: Unit vectors u, v, w in the patient, one a row, shape (3, 3).
        planes_mm: w of the planes, ascending, shape (n,).
        low_mm: Where each plane's slab begins, shape (n,).
        high_mm: Where it ends, shape (n,).
        joined: Whether the ROI goes on from each plane to the next, shape (n - 1,); not through a gap.
        sections: Cross-section of each plane.
        end_caps: How it ends.
        notes: What was decided, for the record.
    """

    name: str
    axes: NDArray[np.float64]
    planes_mm: NDArray[np.float64]
    low_mm: NDArray[np.float64]
    high_mm: NDArray[np.float64]
    joined: NDArray[np.bool_]
    sections: tuple[Section, ...]
    end_caps: EndCaps
    notes: tuple[str, ...]

    @property
    def box_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest (u, v) of all contours."""
        lows, highs = zip(*(section.box_mm for section in self.sections), strict=True)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def is_joined(self, k: int) -> bool:
        """Whether plane k is there and the ROI goes on from it to the next."""
        return 0 <= k < self.joined.size and bool(self.joined[k])


def axes_of(roi: RoiContours) -> NDArray[np.float64]:
    """Frame of an ROI's contours: the patient's axes for axial contours, else u, v in the planes and w normal to them.

    Returns:
        Unit vectors u, v, w, one a row, shape (3, 3).

    Raises:
        InputError: If the ROI has no closed contour or the contours do not lie in parallel planes.
    """
    roi.refuse_without_volume()
    if is_flat(roi, np.eye(3)):
        return np.eye(3)
    normals = np.stack([np.cross(c - c[0], np.roll(c, -1, axis=0) - c[0]).sum(0) for c in roi.contours])
    w = normals[int(np.argmax(np.linalg.norm(normals, axis=1)))]
    w = w / np.linalg.norm(w) * (-1.0 if w[np.argmax(np.abs(w))] < 0 else 1.0)
    u = np.cross(np.eye(3)[1] if abs(w[1]) < 0.9 else np.eye(3)[2], w)
    u /= np.linalg.norm(u)
    axes = np.stack([u, np.cross(w, u), w])
    if not is_flat(roi, axes):
        raise InputError(
            f"the contours of ROI '{roi.name}' do not lie in parallel planes; export it with axial contours"
        )
    return axes


def is_flat(roi: RoiContours, axes: NDArray[np.float64]) -> bool:
    """Whether each contour lies in a plane of constant w of a frame, to 0.1 mm."""
    return all(float(np.ptp(contour @ axes[2])) <= FLATNESS_MM for contour in roi.contours)


def drawn_planes_mm(structures: StructureSet, axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions of all planes on which anything in a structure set was drawn, ascending: the slices of its CT.

    Args:
        structures: The structure set.
        axes: A frame; only ROIs whose contours are flat in it count.
    """
    heights = [
        float((contour @ axes[2]).mean()) for roi in structures.rois if is_flat(roi, axes) for contour in roi.contours
    ]
    return _clusters(np.array(heights))[0]


def stack_of(
    roi: RoiContours,
    slices_mm: NDArray[np.float64],
    *,
    end_caps: EndCaps = "rounded",
    axes: NDArray[np.float64] | None = None,
    slices_are_complete: bool = False,
) -> ContourStack:
    """Build the slabs of an ROI.

    Args:
        roi: The ROI.
        slices_mm: Positions along w of the slices that could be drawn on, as far as known.
        end_caps: ``none``: the ROI ends at its outermost planes. ``half-slab``: it goes on for half a slice distance.
            With ``rounded`` before it, an end that tapers is closed as its shape leads, which slabs can't show
            (:func:`cdm_nnunet.dicom.interpolation.layers`); ``rounded`` alone ends a flat one at its plane.
        axes: Frame in which the contours are flat; default :func:`axes_of`.
        slices_are_complete: Whether ``slices_mm`` are all slices of the CT: then a wide step between neighbours
            among them is no gap.

    Raises:
        InputError: If the ROI has no volume, or is drawn in a single plane and no slice distance is known.
    """
    if end_caps not in get_args(EndCaps):
        raise InputError(f"unknown end caps '{end_caps}'; known are {', '.join(get_args(EndCaps))}")
    roi.refuse_without_volume()
    axes = axes_of(roi) if axes is None else axes
    local = [contour @ axes.T for contour in roi.contours]
    planes_mm, member = _clusters(np.array([contour[:, 2].mean() for contour in local]))
    sections = tuple(
        section_of([contour[:, :2] for contour, plane in zip(local, member, strict=True) if plane == k])
        for k in range(planes_mm.size)
    )
    apart = gaps(planes_mm)
    if slices_are_complete:
        between = [np.count_nonzero((slices_mm > a + 0.1) & (slices_mm < b - 0.1)) for a, b in _pairs(planes_mm)]
        apart &= np.array(between, np.int64) > 0
    notes = [roi.note] if roi.note else []
    notes += [
        f"ROI '{roi.name}' has a gap from {planes_mm[k]:g} to {planes_mm[k + 1]:g} mm" for k in np.flatnonzero(apart)
    ]
    united = sum(section.united for section in sections)
    if united:
        notes.append(f"ROI '{roi.name}': {united} contours that overlap others in part, or repeat them, were united")
    low_mm, high_mm = _slab_ends(roi.name, planes_mm, apart, slices_mm, end_caps, notes)
    return ContourStack(roi.name, axes, planes_mm, low_mm, high_mm, ~apart, sections, end_caps, tuple(notes))


def _slab_ends(
    name: str,
    planes_mm: NDArray[np.float64],
    apart: NDArray[np.bool_],
    slices_mm: NDArray[np.float64],
    end_caps: EndCaps,
    notes: list[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slabs meet half-way between neighbouring planes; an end is a plane, or lies half a slice distance beyond it."""
    middles_mm = (planes_mm[:-1] + planes_mm[1:]) / 2
    low_mm, high_mm = planes_mm.copy(), planes_mm.copy()
    low_mm[1:][~apart] = middles_mm[~apart]
    high_mm[:-1][~apart] = middles_mm[~apart]
    starts = np.concatenate([[True], apart])
    ends = np.concatenate([apart, [True]])
    if end_caps.endswith("half-slab"):
        for k in np.flatnonzero(starts & ~ends):
            low_mm[k] -= (planes_mm[k + 1] - planes_mm[k]) / 2
        for k in np.flatnonzero(ends & ~starts):
            high_mm[k] += (planes_mm[k] - planes_mm[k - 1]) / 2
    for k in np.flatnonzero(starts & ends):
        known_mm = np.concatenate([slices_mm, planes_mm])
        steps_mm = np.abs(known_mm - planes_mm[k])
        steps_mm = steps_mm[steps_mm > PLANE_TOLERANCE_MM]
        if steps_mm.size == 0:
            raise InputError(f"ROI '{name}' is drawn in a single plane, and the distance of the slices is not known")
        thickness_mm = float(steps_mm.min())
        low_mm[k] -= thickness_mm / 2
        high_mm[k] += thickness_mm / 2
        notes.append(
            f"ROI '{name}' is drawn in a single plane at {planes_mm[k]:g} mm; taken as a slab of {thickness_mm:g} mm"
        )
    return low_mm, high_mm


def _clusters(heights_mm: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct planes, ascending, and for each height the index of its plane."""
    if heights_mm.size == 0:
        return heights_mm, np.empty(0, np.int64)
    order = np.argsort(heights_mm)
    ranked = heights_mm[order]
    plane = np.concatenate([[0], np.cumsum(np.diff(ranked) > PLANE_TOLERANCE_MM)]).astype(np.int64)
    member = np.empty_like(plane)
    member[order] = plane
    sums, counts = np.bincount(plane, ranked), np.bincount(plane)
    return np.asarray(sums / counts), member


def _pairs(values: NDArray[np.float64]) -> Sequence[tuple[float, float]]:
    return list(zip(values[:-1].tolist(), values[1:].tolist(), strict=True))
