"""DVH metrics directly from contours: samples inside the contours, each with its volume.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.values import SampleDoses, defined_values
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contours import ContourStack, stack_of
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.grid import Volume
from cdm_nnunet.geometry.interpolation import Layer, layers
from cdm_nnunet.geometry.planes import axes_of
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.slices import drawn_slices

SAMPLES = 400_000  # about this many in an ROI, ...
STEP_RANGE_MM = (0.1, 1.5)  # ... as long as their distance stays in this range
_LOST_MM3 = 0.01
_LINES_AT_ONCE = 2048  # whose rows of a dose are kept in memory
# Fractional parts of multiples of these irrational numbers spread evenly (Weyl sequences).
_WEYL = (0.6180339887498949, 0.7548776662466927)


@dataclass(frozen=True, eq=False)
class RoiSamples:
    """Points inside an ROI, on lines along the first axis of its contours' frame.

    Attributes:
        axes: That frame, shape (3, 3).
        u_mm: Where the points lie along it, line after line, shape (n,).
        volumes_cc: Volume of each point, shape (n,).
        counts: Number of points of each line, shape (lines,).
        lines_mm: Where the lines lie along the other two axes, shape (2, lines).
    """

    axes: NDArray[np.float64]
    u_mm: NDArray[np.float64]
    volumes_cc: NDArray[np.float64]
    counts: NDArray[np.int64]
    lines_mm: NDArray[np.float64]

    @functools.cached_property
    def points_mm(self) -> NDArray[np.float64]:
        """The points in the patient, shape (n, 3)."""
        return np.stack([self.u_mm, *np.repeat(self.lines_mm, self.counts, axis=1)], axis=-1) @ self.axes

    @property
    def volume_cc(self) -> float:
        """Volume of the ROI."""
        return float(self.volumes_cc.sum())


@dataclass(frozen=True)
class RoiDvh:
    """DVH metrics of one ROI.

    Attributes:
        name: ROI name as in the file.
        volume_cc: Volume inside the contours.
        lost_cc: Part of it outside the dose grid; the metrics are for the rest.
        values: Values by metric key, in Gy, %, cc or as a plain number.
        undefined: Metrics that do not apply, with the reason.
        notes: Decisions, for the record.
    """

    name: str
    volume_cc: float
    lost_cc: float
    values: dict[str, float]
    undefined: dict[str, str]
    notes: tuple[str, ...]


def contour_dvh(
    roi: RoiContours,
    rois: Sequence[RoiContours],
    dose: Volume,
    metrics: Sequence[Metric],
    *,
    prescription_gy: float | None = None,
    end_caps: EndCaps = DEFAULT_END_CAPS,
) -> RoiDvh:
    """DVH metrics of an ROI.

    Args:
        roi: The ROI.
        rois: ROIs of its structure set; their planes show the slice distance.
        dose: The dose in Gy, in the same frame of reference.
        metrics: The metrics to compute.
        prescription_gy: Prescription of the ROI, for V<x>%.
        end_caps: As in :func:`cdm_nnunet.geometry.contours.stack_of`.

    Raises:
        InputError: If the ROI has no volume or lies entirely outside the dose grid, or a
            metric needs a prescription that is not given.
    """
    axes = axes_of(roi)
    stack = stack_of(roi, drawn_slices(rois, axes), end_caps=end_caps, axes=axes)
    samples = sample(stack)
    dose_gy = at_samples(dose, samples)
    inside = ~np.isnan(dose_gy)
    lost_cc = float(samples.volumes_cc[~inside].sum())
    if not inside.any():
        raise InputError(f"ROI '{roi.name}' lies entirely outside the dose grid")
    notes = list(stack.notes)
    if lost_cc * 1000 > _LOST_MM3:
        share = 100 * lost_cc / samples.volume_cc
        notes.append(
            f"ROI '{roi.name}': {lost_cc:.3g} cc ({share:.3g} %) lie outside the dose grid; the metrics are those of "
            "the rest"
        )
    volumes_cc = samples.volumes_cc[inside]
    values, reasons = defined_values(metrics, SampleDoses.of(dose_gy[inside], volumes_cc, prescription_gy))
    undefined = {str(metric): reason for metric, reason in reasons.items()}
    notes += [f"ROI '{roi.name}': {key} is not defined: {reason}" for key, reason in undefined.items()]
    return RoiDvh(
        roi.name,
        samples.volume_cc,
        lost_cc,
        {str(metric): value for metric, value in values.items()},
        undefined,
        tuple(notes),
    )


def sample(stack: ContourStack) -> RoiSamples:
    """Points distributed evenly inside an ROI.

    The ROI is cut into layers, each layer into lines, and each span of a line inside the ROI into pieces of equal
    length. Lines and points lie at quasi-random positions within their share, so that no direction of the dose
    gradient is preferred.

    Raises:
        InputError: If the ROI encloses no volume.
    """
    step_mm = sampling_mm(stack)
    made = [_in_layer(k, layer, step_mm) for k, layer in enumerate(layers(stack, step_mm, step_mm))]
    if not any(u_mm.size for u_mm, *_ in made):
        raise InputError(f"ROI '{stack.name}' encloses no volume")
    u_mm, volumes_cc, counts, lines_mm = (np.concatenate(values, axis=-1) for values in zip(*made, strict=True))
    return RoiSamples(stack.axes, u_mm, volumes_cc, counts, lines_mm)


def _in_layer(k: int, layer: Layer, step_mm: float) -> tuple[NDArray[Any], ...]:
    """Points in layer k, as the last four attributes of :class:`RoiSamples`."""
    low, high = layer.cut.box_mm
    n_lines = max(1, int(np.ceil((high[1] - low[1]) / step_mm)))
    pitch_mm, layer_mm = float(high[1] - low[1]) / n_lines, layer.high_mm - layer.low_mm
    number = np.arange(n_lines, dtype=np.float64)
    lines_mm = low[1] + (number + _spread(k, number)) * pitch_mm
    heights_mm = layer.low_mm + _spread(number, k) * layer_mm
    found = layer.cut.spans(lines_mm)
    length_mm = found.end_mm - found.start_mm
    counts = np.maximum(np.ceil(length_mm / step_mm), 1).astype(np.int64)
    pieces_mm = length_mm / counts
    volumes_cc = pieces_mm * (pitch_mm * layer_mm / 1000)
    keep = volumes_cc > 0
    line, counts = found.line[keep], counts[keep]
    of_spans = np.stack(
        [found.start_mm[keep], pieces_mm[keep], volumes_cc[keep], 31.0 * line, np.cumsum(counts) - counts]
    )
    start_mm, piece_mm, volume_cc, salt, before = np.repeat(of_spans, counts, axis=1)
    piece = np.arange(piece_mm.size) - before
    u_mm = start_mm + (piece + _spread(piece + salt, k)) * piece_mm
    return u_mm, volume_cc, counts, np.stack([lines_mm[line], heights_mm[line]])


def at_samples(volume: Volume, samples: RoiSamples) -> NDArray[np.float64]:
    """Values at samples, as :func:`interpolate`; on lines along a grid's rows, each line in y and z at once."""
    grid, identity = volume.grid, np.eye(3)
    if not (np.array_equal(samples.axes, identity) and np.array_equal(grid.axes, identity)):
        return interpolate(volume, samples.points_mm)
    x, y, z = (
        grid.axis_index(axis, mm - grid.origin_xyz_mm[axis])
        for axis, mm in enumerate((samples.u_mm, *samples.lines_mm))
    )
    ends = np.cumsum(samples.counts)
    values = np.empty(x.size)
    for first in range(0, ends.size, _LINES_AT_ONCE):
        lines = slice(first, first + _LINES_AT_ONCE)
        own = slice(int(ends[first] - samples.counts[first]), int(ends[lines][-1]))
        values[own] = _along_rows(volume.values, x[own], samples.counts[lines], (y[lines], z[lines]))
    return values


def _along_rows(
    values: NDArray[Any], x: NDArray[np.float64], counts: NDArray[np.int64], across: tuple[NDArray[np.float64], ...]
) -> NDArray[np.float64]:
    """Values of an array (z, y, x) at fractional indices x on lines at fractional indices (y, z), NaN where one is."""
    (y0, y1, from_y), (z0, z1, from_z) = (
        _neighbours(index, n) for index, n in zip(across, values.shape[1::-1], strict=True)
    )
    x0, x1, from_x = _neighbours(x, values.shape[2])
    first = int(x0.min())
    part = values[:, :, first : int(x1.max()) + 1]
    near, far = (_between(part[z, y0].astype(np.float64), part[z, y1], from_y[:, None]) for z in (z0, z1))
    rows = _between(near, far, from_z[:, None])
    at = np.repeat(np.arange(counts.size) * rows.shape[1] - first, counts)
    return _between(rows.take(at + x0), rows.take(at + x1), from_x)


def _neighbours(index: NDArray[np.float64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Voxels of n before and after fractional indices, and how far from the one before; NaN where it is not known."""
    before = np.nan_to_num(index).astype(np.int64)
    return before, np.minimum(before + 1, n - 1), index - before


def _between(low: NDArray[np.float64], high: NDArray[Any], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at a part of the way, those of the ends where these are equal."""
    return np.asarray(low + part * (high - low))


def interpolate(volume: Volume, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at points in the patient, trilinear, NaN outside the box of the voxel centres; shape (n,)."""
    index = volume.grid.index(points_mm)
    known = ~np.isnan(index).any(-1)
    values = np.full(known.shape, np.nan)
    values[known] = ndimage.map_coordinates(
        volume.values.astype(np.float64), index[known][:, ::-1].T, order=1, mode="nearest"
    )
    return values


def sampling_mm(stack: ContourStack) -> float:
    """Distance of the samples of an ROI, from the volume of coarse lines."""
    volume_mm3 = 0.0
    for section, low_mm, high_mm in zip(stack.sections, stack.low_mm, stack.high_mm, strict=True):
        low, high = section.box_mm
        pitch_mm = float(high[1] - low[1]) / 64
        found = section.spans(low[1] + (np.arange(64) + 0.5) * pitch_mm)
        volume_mm3 += float((found.end_mm - found.start_mm).sum()) * pitch_mm * float(high_mm - low_mm)
    return float(np.clip((volume_mm3 / SAMPLES) ** (1 / 3), *STEP_RANGE_MM))


def _spread(first: NDArray[np.float64] | int, second: NDArray[np.float64] | int) -> NDArray[np.float64]:
    """Quasi-random numbers from 0 to 1, evenly distributed in either argument."""
    numbers = np.asarray(0.5 + first * _WEYL[0] + second * _WEYL[1])
    return np.asarray(numbers - np.floor(numbers))
