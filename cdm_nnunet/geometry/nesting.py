"""Combination of the contours of a plane: holes, islands, partial overlaps and repeats.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.scanlines import Edges, Points, Section, inside_length_mm, shared_length_mm

Relation = Literal["apart", "nested", "overlap", "repeat"]
APART = 0.02  # contours that share less than this part of the smaller one are separate
OUTSIDE = 0.02  # a nested contour may extend beyond the outer one by this part of its area, ...
CROSSING = 0.1  # ... and by this part of the area between the two
REPEAT_MM = 0.1  # outlines this close on average are the same
SHELL_MM = 1.0  # nested contours closer than this are reported
_LINES = 96  # for each stretch of two contours
_OUTLINE_POINTS = 200
_OUTLINE_PARTS = 8  # stretches checked at a time, until the outline is clearly far
_SURELY = 1 + 1e-6  # larger than the rounding of sums in another order
_NEGLIGIBLE_MM2 = 1.0
_FAR_APART: tuple[Relation, float] = ("apart", np.inf)


class _Outline:
    """A contour, and what every comparison with another one needs.

    Attributes:
        points: Shape (points, 2).
        edges: Between them.
        box: Lowest and highest corner.
        length_mm: Of the outline.
    """

    def __init__(self, points: Points) -> None:
        self.points, self.edges = points, Edges.of([points])
        self.box = points.min(0), points.max(0)
        self.length_mm = float(np.linalg.norm(np.diff(points, axis=0, append=points[:1]), axis=1).sum())


def section_of(contours: Sequence[Points], *, exclusive: bool = False) -> Section:
    """Combine the contours of a plane.

    Args:
        contours: Closed contours, each of shape (points, 2), in any order.
        exclusive: Combine all of them by exclusive or (``CLOSEDPLANAR_XOR``), whatever their positions.

    Raises:
        InputError: If partly overlapping contours leave it ambiguous whether another one is a hole.
    """
    ordered = [_Outline(contour) for contour in sorted(contours, key=_box_area_mm2, reverse=True)]
    if exclusive:
        twice = sum(_relation(a, b)[0] == "repeat" for a, b in itertools.combinations(ordered, 2))
        return Section(tuple((contour.points,) for contour in ordered), repeats=twice)
    boxes = np.array([contour.box for contour in ordered]).reshape(-1, 2, 2)
    kept: list[_Outline] = []
    places: list[int] = []  # indices of the kept ones among the ordered
    relations: dict[tuple[int, int], Relation] = {}
    repeats = shells = refilled = fitting = 0
    for place, contour in enumerate(ordered):
        meeting, around = _boxes_met(boxes[places], boxes[place])
        found = {k: _relation(kept[k], contour) for k in np.flatnonzero(meeting).tolist()}
        if any(relation == "repeat" for relation, _ in found.values()):
            repeats += 1
            continue
        holed = [kept[k].points for k in np.flatnonzero(around).tolist() if found.get(k, _FAR_APART)[0] == "apart"]
        from_hole_mm = min((_from_hole_mm(other, contour.points) for other in holed), default=np.inf)
        if from_hole_mm <= REPEAT_MM:
            refilled += 1
            continue
        fitting += from_hole_mm < SHELL_MM
        shells += any(relation == "nested" and apart_mm < SHELL_MM for relation, apart_mm in found.values())
        relations |= {(k, len(kept)): relation for k, (relation, _) in found.items()}
        kept.append(contour)
        places.append(place)
    groups = _groups(len(kept), relations)
    drawn_points = [contour.points for contour in kept]
    _refuse_open_questions(drawn_points, groups, relations)
    drawn = tuple(tuple(drawn_points[k] for k in group) for group in groups)
    return Section(drawn, repeats, shells, refilled, fitting)


def _boxes_met(boxes: NDArray[np.float64], own: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether boxes, (n, 2, 2) as lowest and highest corner, overlap another one, and whether they contain it."""
    low, high = boxes[:, 0], boxes[:, 1]
    meeting = (np.minimum(high, own[1]) > np.maximum(low, own[0])).all(1)
    return meeting, ((own[0] > low) & (own[1] < high)).all(1)


def _groups(count: int, relations: dict[tuple[int, int], Relation]) -> list[list[int]]:
    """Groups of partly overlapping contours, directly or through others."""
    group = list(range(count))
    for (a, b), relation in relations.items():
        if relation == "overlap" and group[a] != group[b]:
            group = [group[a] if own == group[b] else own for own in group]
    return [[k for k in range(count) if group[k] == name] for name in dict.fromkeys(group)]


def _refuse_open_questions(
    contours: Sequence[Points], groups: Sequence[Sequence[int]], relations: dict[tuple[int, int], Relation]
) -> None:
    """Refuse a contour inside two contours of a group, or inside one of its own group: it may be a hole or not."""
    for group in groups:
        for k in range(len(contours)) if len(group) > 1 else ():
            around = sum(relations.get((other, k)) == "nested" for other in group)
            if around > (0 if k in group else 1) and _area_mm2(contours[k]) > _NEGLIGIBLE_MM2:
                raise InputError(
                    f"{len(group)} contours overlap each other in part, and one more lies within two of them, or within"
                    " one and across another: it is unclear whether it is a hole; correct the contours"
                )


def _relation(outer: _Outline, inner: _Outline) -> tuple[Relation, float]:
    """Relation of two contours, and the mean distance of their outlines, mm.

    Args:
        outer: The contour with the larger box.
        inner: The other one.
    """
    (low_a, high_a), (low_b, high_b) = outer.box, inner.box
    if not (np.minimum(high_a, high_b) > np.maximum(low_a, low_b)).all():
        return _FAR_APART
    edges = np.unique([low_a[1], low_b[1], high_a[1], high_b[1]])
    fractions = (np.arange(_LINES) + 0.5) / _LINES
    lines_mm = (edges[:-1, None] + np.diff(edges)[:, None] * fractions).ravel()
    weights_mm = np.repeat(np.diff(edges) / _LINES, _LINES)
    crossed = [contour.edges.ordered_crossings(lines_mm) for contour in (outer, inner)]
    larger, smaller = (inside_length_mm(*crossing, weights_mm) for crossing in crossed)
    shared = shared_length_mm(crossed, weights_mm)
    larger, smaller = max(larger, smaller), min(larger, smaller)
    outside, between = max(smaller - shared, 0.0), max(larger - shared, 0.0)
    if shared <= APART * smaller:
        return "apart", np.inf
    apart_mm = 2 * (outside + between) / (outer.length_mm + inner.length_mm)
    if apart_mm <= REPEAT_MM:
        return "repeat", apart_mm
    nested = outside <= OUTSIDE * smaller and outside <= CROSSING * between
    return "nested" if nested else "overlap", apart_mm


def _from_hole_mm(outer: Points, inner: Points) -> float:
    """Mean distance of a contour's outline from that of another one, whose box contains its box.

    If the two share no area, the inner one lies in a hole of the outer one, as in a keyhole. Beyond the reported
    distance, it is infinite.
    """
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(inner, axis=0, append=inner[:1]), axis=1))])
    at = (np.arange(_OUTLINE_POINTS) + 0.5) / _OUTLINE_POINTS * along[-1]
    closed = np.concatenate([inner, inner[:1]])
    u, v = (np.interp(at, along, closed[:, axis])[:, None] for axis in (0, 1))  # (points, 1)
    (start_u, start_v), (edge_u, edge_v) = outer.T, (np.roll(outer, -1, axis=0) - outer).T
    square = np.maximum(edge_u**2 + edge_v**2, np.finfo(float).tiny)
    away_mm = np.zeros(_OUTLINE_POINTS)
    for first in range(_OUTLINE_PARTS):
        own = slice(first, None, _OUTLINE_PARTS)
        from_u, from_v = u[own] - start_u, v[own] - start_v  # (points, edges)
        part = np.clip((from_u * edge_u + from_v * edge_v) / square, 0.0, 1.0)
        away_mm[own] = np.sqrt(((from_u - part * edge_u) ** 2 + (from_v - part * edge_v) ** 2).min(1))
        if away_mm.sum() > _SURELY * SHELL_MM * _OUTLINE_POINTS:
            return np.inf
    return float(away_mm.mean())


def _box_area_mm2(contour: Points) -> float:
    return float(np.prod(np.ptp(contour, axis=0)))


def _area_mm2(contour: Points) -> float:
    low, high = float(contour[:, 1].min()), float(contour[:, 1].max())
    lines_mm = low + (np.arange(_LINES) + 0.5) * (high - low) / _LINES
    return inside_length_mm(*Edges.of([contour]).ordered_crossings(lines_mm), np.full(_LINES, (high - low) / _LINES))
