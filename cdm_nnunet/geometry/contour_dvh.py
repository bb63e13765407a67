"""DVH metrics directly from contours: samples inside the contours, each with its volume.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.values import SampleDoses, defined_values
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contours import ContourStack, stack_of
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.grid import Volume
from cdm_nnunet.geometry.interpolation import layers
from cdm_nnunet.geometry.planes import axes_of
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.slices import drawn_slices

SAMPLES = 400_000  # about this many in an ROI, ...
STEP_RANGE_MM = (0.1, 1.5)  # ... as long as their distance stays in this range
_LOST_MM3 = 0.01
# Fractional parts of multiples of these irrational numbers spread evenly (Weyl sequences).
_WEYL = (0.6180339887498949, 0.7548776662466927)


@dataclass(frozen=True, eq=False)
class RoiSamples:
    """Points inside an ROI.

    Attributes:
        points_mm: In the patient, shape (n, 3).
        volumes_cc: Volume of each point, shape (n,).
    """

    points_mm: NDArray[np.float64]
    volumes_cc: NDArray[np.float64]

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
    dose_gy = interpolate(dose, samples.points_mm)
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
    step_mm = _step_mm(stack)
    points, volumes = [], []
    for k, layer in enumerate(layers(stack, step_mm, step_mm)):
        low, high = layer.cut.box_mm
        n_lines = max(1, int(np.ceil((high[1] - low[1]) / step_mm)))
        pitch_mm, layer_mm = float(high[1] - low[1]) / n_lines, layer.high_mm - layer.low_mm
        number = np.arange(n_lines, dtype=np.float64)
        lines_mm = low[1] + (number + _spread(k, number)) * pitch_mm
        heights_mm = layer.low_mm + _spread(number, k) * layer_mm
        found = layer.cut.spans(lines_mm)
        length_mm = found.end_mm - found.start_mm
        count = np.maximum(np.ceil(length_mm / step_mm), 1).astype(np.int64)
        which = np.repeat(np.arange(count.size), count)
        piece = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count)
        piece_mm = length_mm[which] / count[which]
        u_mm = found.start_mm[which] + (piece + _spread(piece + 31.0 * found.line[which], k)) * piece_mm
        points.append(np.column_stack([u_mm, lines_mm[found.line[which]], heights_mm[found.line[which]]]))
        volumes.append(piece_mm * (pitch_mm * layer_mm / 1000))
    points_mm, volumes_cc = np.concatenate(points or [np.empty((0, 3))]), np.concatenate(volumes or [np.empty(0)])
    keep = volumes_cc > 0
    if not keep.any():
        raise InputError(f"ROI '{stack.name}' encloses no volume")
    return RoiSamples(points_mm[keep] @ stack.axes, volumes_cc[keep])


def interpolate(volume: Volume, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at points in the patient, trilinear, NaN outside the box of the voxel centres; shape (n,)."""
    index = volume.grid.index(points_mm)
    known = ~np.isnan(index).any(-1)
    values = np.full(known.shape, np.nan)
    values[known] = ndimage.map_coordinates(
        volume.values.astype(np.float64), index[known][:, ::-1].T, order=1, mode="nearest"
    )
    return values


def _step_mm(stack: ContourStack) -> float:
    """Distance of the samples, from the volume of coarse lines."""
    volume_mm3 = 0.0
    for section, low_mm, high_mm in zip(stack.sections, stack.low_mm, stack.high_mm, strict=True):
        low, high = section.box_mm
        pitch_mm = float(high[1] - low[1]) / 64
        found = section.spans(low[1] + (np.arange(64) + 0.5) * pitch_mm)
        volume_mm3 += float((found.end_mm - found.start_mm).sum()) * pitch_mm * float(high_mm - low_mm)
    return float(np.clip((volume_mm3 / SAMPLES) ** (1 / 3), *STEP_RANGE_MM))


def _spread(first: NDArray[np.float64] | int, second: NDArray[np.float64] | int) -> NDArray[np.float64]:
    """Quasi-random numbers from 0 to 1, evenly distributed in either argument."""
    return np.asarray((0.5 + first * _WEYL[0] + second * _WEYL[1]) % 1.0)
