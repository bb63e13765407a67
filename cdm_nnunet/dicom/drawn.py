"""Contours of one ROI as stored in the file, sorted by whether they enclose an area."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.ct import CT_CLASS
from cdm_nnunet.dicom.files import code_of, items_of, named, number_of, raw_numbers, text_of
from cdm_nnunet.dicom.plain import stored_form
from cdm_nnunet.errors import InputError
from cdm_nnunet.ranges import CONTOUR_REACH_MM

EXCLUSIVE = "CLOSEDPLANAR_XOR"
INTERPOLATED = "INTERPOLATED_PLANAR"  # interpolated by software; closed too
_CLOSED = ("CLOSED_PLANAR", EXCLUSIVE, INTERPOLATED)
_KINDS = (*_CLOSED, "POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_SAME_MM = 0.01
_SURE_MM = 10 * _SAME_MM  # minimum height of a triangle that is not a line
_MOST_WINDINGS = 4
_IMAGES = "ContourImageSequence"
Uids = tuple[frozenset[str], frozenset[str]]  # SOPInstanceUIDs of CT images, and of images of other kinds


@dataclass(frozen=True, eq=False)
class DrawnContours:
    """Contours of an ROI.

    Attributes:
        closed: Contours that enclose an area, each of shape (points, 3), LPS mm.
        exclusive: Indices of those that are combined by exclusive or.
        unusable: Contours that enclose no area, as text, with their number.
        image_uids: SOPInstanceUIDs of the CT images that they were drawn on, and of images of other kinds.
        remarks: How some of them were interpreted, as text.
    """

    closed: tuple[NDArray[np.float64], ...] = ()
    exclusive: frozenset[int] = frozenset()
    unusable: dict[str, int] = field(default_factory=dict)
    image_uids: Uids = (frozenset(), frozenset())
    remarks: tuple[str, ...] = ()


class ImageLists:
    """Images that contours refer to; a repeated list is parsed once, because ROIs share their slices."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Uids] = {}
        self._met: set[Hashable] = set()
        self._new: list[tuple[Hashable | None, Sequence[Dataset]]] = []

    def add(self, contour: Dataset, where: object) -> None:
        """Add the images of a contour.

        Raises:
            InputError: If their list is damaged.
        """
        form = stored_form(contour, _IMAGES)
        if form is None or (form not in self._known and form not in self._met):
            self._new.append((form, items_of(contour, _IMAGES, where)))
        if form is not None:
            self._met.add(form)

    def pop(self, where: object) -> Uids:
        """Images of the contours since the last call.

        Raises:
            InputError: If a UID is damaged.
        """
        others = []
        for form, items in self._new:
            uids = images_of(items, where)
            if form is None:
                others.append(uids)
            else:
                self._known[form] = uids
        found = _united([*others, *(self._known[form] for form in self._met)])
        self._met, self._new = set(), []
        return found


def _united(uids: Iterable[Uids]) -> Uids:
    ct, others = zip((frozenset(), frozenset()), *uids, strict=True)
    return frozenset().union(*ct), frozenset().union(*others)


def drawn_contours(items: Sequence[Dataset], where: str, lists: ImageLists) -> DrawnContours:
    """Sort the items of a ContourSequence.

    Args:
        items: The contours.
        where: File and ROI, for messages.
        lists: Lists of images, shared by the ROIs of a file.

    Raises:
        InputError: If the coordinates or the type of a contour are damaged.
    """
    closed: list[NDArray[np.float64]] = []
    exclusive: set[int] = set()
    unusable: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    for item in items:
        lists.add(item, where)
        kind = code_of(item, "ContourGeometricType", where, "")
        points = _distinct(_points(item, where))
        if not kind and not points.size:
            continue  # (an empty item)
        if kind not in _KINDS:
            raise InputError(
                f"{where}: a contour has the type {kind!r} ({named('ContourGeometricType')}), which is not in the "
                "standard; the file is damaged, export the structure set again"
            )
        once = _once(points)
        label = _why_unusable(kind, once)
        if label:
            unusable[label] += 1
            continue
        if kind == EXCLUSIVE:
            exclusive.add(len(closed))
        if kind == INTERPOLATED:
            remarks[f"{INTERPOLATED} contours taken as closed contours"] += 1
        if len(once) < len(points):
            remarks["contours traced several times, counted once"] += 1
        closed.append(once)
    return DrawnContours(
        tuple(closed),
        frozenset(exclusive),
        dict(unusable),
        lists.pop(where),
        tuple(counted(count, what.replace("contours", "contour", 1), what) for what, count in remarks.items()),
    )


def images_of(items: Sequence[Dataset], where: object) -> Uids:
    """SOPInstanceUIDs of the CT images that items refer to, and of images of other kinds."""
    uids: tuple[set[str], set[str]] = (set(), set())
    for item in items:
        kind = text_of(item, "ReferencedSOPClassUID", where, "")
        is_ct = kind in ("", CT_CLASS) or kind.startswith(f"{CT_CLASS}.")
        uids[0 if is_ct else 1].add(text_of(item, "ReferencedSOPInstanceUID", where, ""))
    return frozenset(uids[0] - {""}), frozenset(uids[1] - {""})


def _points(item: Dataset, where: str) -> NDArray[np.float64]:
    coordinates = raw_numbers(item, "ContourData", where)
    if coordinates.size % 3:
        raise InputError(f"{where}: {named('ContourData')} has {coordinates.size} numbers, not three per point")
    points = coordinates.reshape(-1, 3)
    stated = number_of(item, "NumberOfContourPoints", where, len(points))
    is_closed = len(points) > 1 and bool((points[0] == points[-1]).all())
    if stated not in (len(points), len(points) - is_closed):  # (a repeated first point may or may not be counted)
        raise InputError(
            f"{where}: {named('NumberOfContourPoints')} is {stated:g}, but there are {len(points)}; were points lost? "
            "Export the structure set again"
        )
    if len(points) and float(np.ptp(points, axis=0).max()) > CONTOUR_REACH_MM:
        far = points[int(np.argmax(np.abs(points - np.median(points, axis=0)).max(axis=1)))]
        raise InputError(
            f"{where}: a contour has a point at ({', '.join(f'{mm:g}' for mm in far)}) mm, far from its others; the "
            "contour is damaged, export it again"
        )
    return points


def _distinct(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove points equal to the previous one, and a repetition of the first point at the end."""
    distinct = points[np.concatenate([[True], (np.diff(points, axis=0) != 0).any(1)])[: len(points)]]
    is_closed = len(distinct) > 1 and bool((distinct[0] == distinct[-1]).all())
    return np.asarray(distinct[:-1] if is_closed else distinct)


def _once(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reduce a contour that traces the same points several times to one winding."""
    for windings in range(2, _MOST_WINDINGS + 1):
        period, rest = divmod(len(points), windings)
        if rest or period < 3 or max(map(abs, (points[period] - points[0]).tolist())) > _SAME_MM:
            continue
        if np.abs(points[period:] - points[:-period]).max() <= _SAME_MM:
            return _once(points[:period])
    return points


def _why_unusable(kind: str, points: NDArray[np.float64]) -> str:
    if kind not in _CLOSED:
        return f"{kind} contours"
    if len(points) < 3:
        return "contours of one or two points"
    if _spans_a_triangle(points):
        return ""
    centred = points - points.mean(0)
    along = np.linalg.svd(centred, full_matrices=False)[2][0]
    width_mm = float(np.linalg.norm(centred - np.outer(centred @ along, along), axis=1).max())
    return "contours without area" if width_mm <= _SAME_MM else ""


def _spans_a_triangle(points: NDArray[np.float64]) -> bool:
    """Whether three of the points span a triangle, so that the contour encloses an area; true for most contours."""
    third = len(points) // 3
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[[0, third, 2 * third]].tolist()
    (ux, uy, uz), (vx, vy, vz) = (bx - ax, by - ay, bz - az), (cx - ax, cy - ay, cz - az)
    double_area = math.hypot(uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
    longest = max(math.hypot(ux, uy, uz), math.hypot(vx, vy, vz), math.hypot(vx - ux, vy - uy, vz - uz))
    # (if a line passes all corners within a distance, the height is at most twice that distance)
    return double_area > _SURE_MM * longest
