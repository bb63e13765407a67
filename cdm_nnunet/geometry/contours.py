"""An ROI as a stack of slabs, one for each plane of contours.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.nesting import SHELL_MM, section_of
from cdm_nnunet.geometry.planes import axes_of, clusters
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.scanlines import Points, Section
from cdm_nnunet.geometry.slices import WIDEST_MM, Slices, filled, gaps


@dataclass(frozen=True, eq=False)
class ContourStack:
    """An ROI in a frame whose third axis is normal to the contours.

    Attributes:
        name: Name of the ROI.
        axes: Unit vectors u, v, w in the patient, one per row, shape (3, 3).
        planes_mm: w of the planes, ascending, shape (n,).
        low_mm: Start of each plane's slab, shape (n,).
        high_mm: End of each slab, shape (n,).
        joined: Whether the ROI continues from each plane to the next, shape (n - 1,); not across a gap.
        sections: Cross-section of each plane.
        end_caps: Its end caps.
        notes: Decisions, for the record.
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
        """Whether plane k exists and the ROI continues from it to the next."""
        return 0 <= k < self.joined.size and bool(self.joined[k])


def stack_of(
    roi: RoiContours,
    slices: Slices | None = None,
    *,
    end_caps: EndCaps = DEFAULT_END_CAPS,
    axes: NDArray[np.float64] | None = None,
) -> ContourStack:
    """Build the slabs of an ROI.

    Args:
        roi: The ROI.
        slices: The slices that it could be drawn on; by default derived from its own planes.
        end_caps: ``none``: the ROI ends at its outermost planes. ``half-slab``: it continues for half a slice distance.
            With ``rounded`` before it, a tapering end is closed along its shape, which slabs can't show
            (:func:`cdm_nnunet.geometry.interpolation.layers`); ``rounded`` alone ends a flat one at its plane.
        axes: Frame in which the contours are flat; default :func:`cdm_nnunet.geometry.planes.axes_of`.

    Raises:
        InputError: If the ROI has no volume, is drawn in a single plane and no slice distance is known, or its
            contours overlap so that holes are ambiguous.
    """
    if end_caps not in get_args(EndCaps):
        raise InputError(f"unknown end caps '{end_caps}'; known are {', '.join(get_args(EndCaps))}")
    roi.refuse_without_volume()
    axes = axes_of(roi) if axes is None else axes
    local = [contour @ axes.T for contour in roi.contours]
    planes_mm, member = clusters(np.array([contour[:, 2].mean() for contour in local]))
    of_plane: list[list[int]] = [[] for _ in planes_mm]
    for k, plane in enumerate(member.tolist()):
        of_plane[plane].append(k)
    sections = tuple(
        _section(roi, [local[k][:, :2] for k in numbers], [k in roi.exclusive for k in numbers], plane_mm)
        for numbers, plane_mm in zip(of_plane, planes_mm.tolist(), strict=True)
    )
    slices = Slices(filled(planes_mm)) if slices is None else slices
    apart = gaps(planes_mm, slices)
    notes = [roi.note] if roi.note else []
    notes += [
        f"ROI '{roi.name}' has a gap from {planes_mm[k]:g} to {planes_mm[k + 1]:g} mm" for k in np.flatnonzero(apart)
    ]
    notes += _notes(roi, sections)
    low_mm, high_mm = _slab_ends(roi.name, planes_mm, apart, slices, end_caps, notes)
    return ContourStack(roi.name, axes, planes_mm, low_mm, high_mm, ~apart, sections, end_caps, tuple(notes))


def _section(roi: RoiContours, contours: list[Points], exclusive: list[bool], plane_mm: float) -> Section:
    """The cross-section of a plane.

    The standard allows one kind of contour in an ROI; if two are mixed, they must agree.
    """
    try:
        section = section_of(contours, exclusive=all(exclusive))
    except InputError as error:
        raise InputError(f"ROI '{roi.name}', plane at {plane_mm:g} mm: {error}") from None
    if any(exclusive) and not all(exclusive) and (section.united or section.repeats):
        raise InputError(
            f"ROI '{roi.name}', plane at {plane_mm:g} mm: contours of the types CLOSED_PLANAR and CLOSEDPLANAR_XOR "
            "overlap; how they combine is not defined: export the ROI with one type"
        )
    return section


def _notes(roi: RoiContours, sections: tuple[Section, ...]) -> list[str]:
    """Decisions about the contours of one plane."""
    repeated = (
        "that repeat others cancel them (CLOSEDPLANAR_XOR)" if roi.exclusive else "that repeat others were left out"
    )
    counts = {
        "that overlap others in part were united": sum(section.united for section in sections),
        repeated: sum(section.repeats for section in sections),
        f"lie within others at under {SHELL_MM:g} mm; what counts is the shell between them": sum(
            section.shells for section in sections
        ),
        "that repeat the outline of a hole in others were left out; the hole stays open": sum(
            section.refilled for section in sections
        ),
        f"fill holes in others to within {SHELL_MM:g} mm; they count as islands": sum(
            section.fitting for section in sections
        ),
    }
    return [f"ROI '{roi.name}': contours {what}: {count}" for what, count in counts.items() if count]


def _slab_ends(
    name: str,
    planes_mm: NDArray[np.float64],
    apart: NDArray[np.bool_],
    slices: Slices,
    end_caps: EndCaps,
    notes: list[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slabs meet half-way between neighbouring planes; an end is at a plane, or half a slice distance beyond it."""
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
        thickness_mm = slices.distance_mm(float(planes_mm[k])) * slices.rhythm
        if not thickness_mm <= WIDEST_MM:
            raise InputError(f"ROI '{name}' is drawn in a single plane, and the slice distance is unknown")
        low_mm[k] -= thickness_mm / 2
        high_mm[k] += thickness_mm / 2
        notes.append(
            f"ROI '{name}' is drawn in a single plane at {planes_mm[k]:g} mm; taken as a slab of {thickness_mm:g} mm"
        )
    return low_mm, high_mm
