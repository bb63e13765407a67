"""Contours of one ROI as stored in the file, sorted by whether they enclose an area."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdm_nnunet.dicom.ct import CT_CLASS
from cdm_nnunet.dicom.files import code_of, items_of, named, number_of, raw_numbers, text_of
from cdm_nnunet.errors import InputError
from cdm_nnunet.ranges import CONTOUR_REACH_MM

EXCLUSIVE = "CLOSEDPLANAR_XOR"
INTERPOLATED = "INTERPOLATED_PLANAR"  # drawn by software between others; closed too
_CLOSED = ("CLOSED_PLANAR", EXCLUSIVE, INTERPOLATED)
_KINDS = (*_CLOSED, "POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_SAME_MM = 0.01
_MOST_WINDINGS = 4


@dataclass(frozen=True, eq=False)
class DrawnContours:
    """What was drawn of an ROI.

    Attributes:
        closed: Contours that enclose an area, each of shape (points, 3), LPS mm.
        exclusive: Which of them are combined by exclusive or, by their place.
        unusable: Contours that enclose nothing, as text, with their number.
        image_uids: SOPInstanceUIDs of the CT images that they were drawn on, and of images of other kinds.
        remarks: How some of them were taken, as text.
    """

    closed: tuple[NDArray[np.float64], ...] = ()
    exclusive: frozenset[int] = frozenset()
    unusable: dict[str, int] = field(default_factory=dict)
    image_uids: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    remarks: tuple[str, ...] = ()


def drawn_contours(items: Sequence[Dataset], where: str) -> DrawnContours:
    """Sort the items of a ContourSequence.

    Args:
        items: The contours.
        where: File and ROI, for messages.

    Raises:
        InputError: If the coordinates or the type of a contour are damaged.
    """
    closed: list[NDArray[np.float64]] = []
    exclusive: set[int] = set()
    unusable: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    images: list[Dataset] = []
    for item in items:
        images += items_of(item, "ContourImageSequence", where)
        kind = code_of(item, "ContourGeometricType", where, "")
        points = _distinct(_points(item, where))
        if not kind and not points.size:
            continue  # (an item that was never filled)
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
        images_of(images, where),
        tuple(f"{count} {what}" for what, count in remarks.items()),
    )


def images_of(items: Sequence[Dataset], where: object) -> tuple[frozenset[str], frozenset[str]]:
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
    if stated not in (len(points), len(points) - is_closed):  # (a first point that is repeated may not be counted)
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
    """Without points that repeat the one before, and without the first one at the end."""
    distinct = points[np.concatenate([[True], (np.diff(points, axis=0) != 0).any(1)])[: len(points)]]
    is_closed = len(distinct) > 1 and bool((distinct[0] == distinct[-1]).all())
    return np.asarray(distinct[:-1] if is_closed else distinct)


def _once(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """One winding of a contour that runs around several times through the same points."""
    for windings in range(2, _MOST_WINDINGS + 1):
        period, rest = divmod(len(points), windings)
        if rest == 0 and period >= 3 and np.abs(points[period:] - points[:-period]).max() <= _SAME_MM:
            return _once(points[:period])
    return points


def _why_unusable(kind: str, points: NDArray[np.float64]) -> str:
    if kind not in _CLOSED:
        return f"{kind} contours"
    if len(points) < 3:
        return "contours of one or two points"
    centred = points - points.mean(0)
    along = np.linalg.svd(centred, full_matrices=False)[2][0]
    width_mm = float(np.linalg.norm(centred - np.outer(centred @ along, along), axis=1).max())
    return "contours without area" if width_mm <= _SAME_MM else ""
