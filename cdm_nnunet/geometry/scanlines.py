"""Scan lines through the contours of a plane: exact spans inside, and from them the exact coverage of pixels.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (points, 2): u, v in mm


@dataclass(frozen=True, eq=False)
class Spans:
    """Parts of lines v = constant inside a cross-section, sorted by line.

    Attributes:
        line: Index of the line, shape (n,).
        start_mm: Start of the span, u in mm, shape (n,).
        end_mm: End of the span, shape (n,).
    """

    line: NDArray[np.int64]
    start_mm: NDArray[np.float64]
    end_mm: NDArray[np.float64]


class Cut(Protocol):
    """A cross-section that can be cut by lines."""

    @property
    def box_mm(self) -> tuple[Points, Points]:
        """Lowest and highest (u, v)."""

    def spans(self, lines_mm: NDArray[np.float64]) -> Spans:
        """Parts of the lines v = constant inside; the lines ascend."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of closed contours.

    Attributes:
        u_mm: u of the point that each begins with, shape (n,).
        v_mm: Its v.
        end: Number of the edge whose first point it ends with.
        slope: Change of u by v; not finite for level ones.
    """

    u_mm: NDArray[np.float64]
    v_mm: NDArray[np.float64]
    end: NDArray[np.int64]
    slope: NDArray[np.float64]

    @classmethod
    def of(cls, contours: Sequence[Points]) -> Edges:
        """Those of contours, one after the other."""
        u_mm, v_mm = np.concatenate([np.empty((0, 2)), *contours]).T.copy()
        after = np.cumsum([0, *map(len, contours)])
        end = np.arange(1, u_mm.size + 1)
        end[after[1:] - 1] = after[:-1]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope = (u_mm[end] - u_mm) / (v_mm[end] - v_mm)
        return cls(u_mm, v_mm, end, slope)

    def crossings(self, lines_mm: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Lines and u of all crossings, unsorted."""
        after = np.searchsorted(lines_mm, self.v_mm, side="left")
        end_after = after[self.end]
        first = np.minimum(after, end_after)
        count = np.maximum(after, end_after) - first
        edge = np.repeat(np.arange(count.size), count)
        line = np.arange(edge.size) + (first - (np.cumsum(count) - count))[edge]
        return line, self.u_mm[edge] + (lines_mm[line] - self.v_mm[edge]) * self.slope[edge]

    def ordered_crossings(self, lines_mm: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Crossings by line and along it."""
        line, u_mm = self.crossings(lines_mm)
        order = np.lexsort((u_mm, line))
        return line[order], u_mm[order]


@dataclass(frozen=True, eq=False)
class Section:
    """The cross-section of an ROI in one plane.

    Attributes:
        groups: The contours; those of one group overlap and are united, and a point inside an odd number of groups is
            in the ROI.
        repeats: Number of contours that were drawn twice.
        shells: Number of contours inside another one at less than a millimetre.
        refilled: Number of excluded contours that repeat the outline of a hole in another one.
        fitting: Number of included contours that fill such a hole to within a millimetre.
    """

    groups: tuple[tuple[Points, ...], ...]
    repeats: int = 0
    shells: int = 0
    refilled: int = 0
    fitting: int = 0

    @functools.cached_property
    def box_mm(self) -> tuple[Points, Points]:
        """Lowest and highest (u, v)."""
        points = np.concatenate([contour for group in self.groups for contour in group])
        return points.min(0), points.max(0)

    @functools.cached_property
    def _lone(self) -> Edges:
        """Edges of the contours that are groups of their own."""
        return Edges.of([group[0] for group in self.groups if len(group) == 1])

    @property
    def united(self) -> int:
        """Number of contours that overlap another one in part."""
        return sum(len(group) for group in self.groups if len(group) > 1)

    def spans(self, lines_mm: NDArray[np.float64]) -> Spans:
        """Cut by lines; a contour that touches a line with a corner or lies on it counts as slightly above.

        Args:
            lines_mm: v of the lines in mm, ascending, shape (n_lines,).
        """
        crossed = [self._lone.crossings(lines_mm)]
        crossed += [united_crossings(group, lines_mm) for group in self.groups if len(group) > 1]
        line, u_mm = (np.concatenate(values) for values in zip(*crossed, strict=True))
        order = np.lexsort((u_mm, line))
        line, u_mm = line[order], u_mm[order]
        return Spans(line[::2], u_mm[::2], u_mm[1::2])


def coverage(
    cut: Cut, first_mm: tuple[float, float], step_mm: tuple[float, float], shape: tuple[int, int], n_lines: int
) -> NDArray[np.float64]:
    """Part of each pixel inside: exact along u, with ``n_lines`` lines per pixel along v.

    Args:
        cut: The cross-section.
        first_mm: Outer corner (u, v) of the first pixel.
        step_mm: Pixel size (u, v).
        shape: Number of pixels (v, u).
        n_lines: Lines in a row of pixels.

    Returns:
        Shape (v, u), from 0 to 1.
    """
    rows, columns = shape
    lines_mm = first_mm[1] + (np.arange(rows * n_lines, dtype=np.float64) + 0.5) * (step_mm[1] / n_lines)
    found = cut.spans(lines_mm)
    # A crossing at u covers the part of its pixel beyond it, and all pixels after: the sum over a row of differences.
    row = np.concatenate([found.line, found.line]) // n_lines
    sign = np.repeat((1.0, -1.0), found.line.size) / n_lines
    u = np.clip((np.concatenate([found.start_mm, found.end_mm]) - first_mm[0]) / step_mm[0], 0.0, columns)
    column = u.astype(np.int64)
    beyond = u - column
    width = columns + 2
    at = row * width + column
    differences = np.bincount(at, sign * (1.0 - beyond), rows * width) + np.bincount(
        at + 1, sign * beyond, rows * width
    )
    covered: NDArray[np.float64] = np.cumsum(differences.reshape(rows, width), axis=1)[:, :columns]
    return covered


def united_crossings(
    group: Sequence[Points], lines_mm: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Crossings of the union of several contours, by line and along it."""
    return united([Edges.of([contour]).ordered_crossings(lines_mm) for contour in group])


def united(
    crossed: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Crossings of the union of several contours, from their sorted crossings."""
    line, u_mm, sign = _together(crossed)
    order = np.lexsort((-sign, u_mm, line))
    line, u_mm, sign = line[order], u_mm[order], sign[order]
    depth = np.cumsum(sign)  # (it returns to 0 at the end of each line)
    border = (depth == 0) | ((depth == 1) & (sign == 1))
    return line[border], u_mm[border]


def inside_length_mm(line: NDArray[np.int64], u_mm: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Length of the spans between sorted crossings, weighted by line; with line distances as weights, an area."""
    return float(((u_mm[1::2] - u_mm[::2]) * weights[line[::2]]).sum())


def shared_length_mm(
    crossed: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], weights: NDArray[np.float64]
) -> float:
    """Length of what lies inside two contours, from the crossings of each in order, each times its line's weight."""
    ends = [lines[[0, -1]] for lines, _ in crossed if lines.size]
    if len(ends) < len(crossed):
        return 0.0
    low, high = np.max(ends, axis=0)[0], np.min(ends, axis=0)[1]
    common = [slice(*np.searchsorted(lines, (low, high + 1)).tolist()) for lines, _ in crossed]
    line, u_mm, sign = _together([(lines[k], u_mm[k]) for k, (lines, u_mm) in zip(common, crossed, strict=True)])
    order = np.lexsort((u_mm, line))
    line, u_mm = line[order], u_mm[order]
    inside_both = np.cumsum(sign[order])[:-1] == len(crossed)
    return float((np.diff(u_mm) * weights[line[:-1]])[inside_both].sum())


def _together(
    crossed: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Lines and u of the crossings of several contours; +1 where one enters its own inside, -1 where it leaves it."""
    line, u_mm = (np.concatenate(values) for values in zip(*crossed, strict=True))
    return line, u_mm, np.concatenate([1 - 2 * (np.arange(lines.size) % 2) for lines, _ in crossed])
