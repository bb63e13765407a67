"""Scan lines through the contours of a plane: exact spans inside, and from them the exact coverage of pixels.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

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

    @property
    def box_mm(self) -> tuple[Points, Points]:
        """Lowest and highest (u, v)."""
        points = np.concatenate([contour for group in self.groups for contour in group])
        return points.min(0), points.max(0)

    @property
    def united(self) -> int:
        """Number of contours that overlap another one in part."""
        return sum(len(group) for group in self.groups if len(group) > 1)

    def spans(self, lines_mm: NDArray[np.float64]) -> Spans:
        """Cut by lines; a contour that touches a line with a corner or lies on it counts as slightly above.

        Args:
            lines_mm: v of the lines in mm, ascending, shape (n_lines,).
        """
        lines, positions = [], []
        for group in self.groups:
            line, u_mm = united_crossings(group, lines_mm) if len(group) > 1 else crossings(group[0], lines_mm)
            lines.append(line)
            positions.append(u_mm)
        line, u_mm = np.concatenate(lines), np.concatenate(positions)
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


def crossings(contour: Points, lines_mm: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lines and u of all crossings of one contour, unsorted."""
    u_mm, v_mm = contour[:, 0], contour[:, 1]
    end_u_mm, end_v_mm = (np.concatenate([values[1:], values[:1]]) for values in (u_mm, v_mm))
    after = np.searchsorted(lines_mm, v_mm, side="left")
    end_after = np.concatenate([after[1:], after[:1]])
    first = np.minimum(after, end_after)
    count = np.maximum(after, end_after) - first
    edge = np.repeat(np.arange(len(contour)), count)
    line = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # (horizontal edges cross no line)
        slope = (end_u_mm - u_mm) / (end_v_mm - v_mm)
    return line, u_mm[edge] + (lines_mm[line] - v_mm[edge]) * slope[edge]


def ordered_crossings(contour: Points, lines_mm: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Crossings of one contour, by line and along it."""
    line, u_mm = crossings(contour, lines_mm)
    order = np.lexsort((u_mm, line))
    return line[order], u_mm[order]


def united_crossings(
    group: Sequence[Points], lines_mm: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Crossings of the union of several contours, by line and along it."""
    return united([ordered_crossings(contour, lines_mm) for contour in group])


def united(
    crossed: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Crossings of the union of several contours, from their sorted crossings."""
    line = np.concatenate([lines for lines, _ in crossed])
    u_mm = np.concatenate([positions for _, positions in crossed])
    # +1 where a contour enters its own inside and -1 where it leaves it
    sign = np.concatenate([1 - 2 * (np.arange(lines.size) % 2) for lines, _ in crossed])
    order = np.lexsort((-sign, u_mm, line))
    line, u_mm, sign = line[order], u_mm[order], sign[order]
    depth = np.cumsum(sign)  # (it returns to 0 at the end of each line)
    border = (depth == 0) | ((depth == 1) & (sign == 1))
    return line[border], u_mm[border]


def inside_length_mm(line: NDArray[np.int64], u_mm: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Length of the spans between sorted crossings, weighted by line; with line distances as weights, an area."""
    return float(((u_mm[1::2] - u_mm[::2]) * weights[line[::2]]).sum())
