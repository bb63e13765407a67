"""Exact DVH metrics of voxel doses (NumPy, float64): the reference for every other implementation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh.metrics import Metric
from cdm_nnunet.errors import InputError


def evaluate(
    metric: Metric,
    roi_dose_gy: NDArray[np.floating],
    *,
    voxel_volume_cc: float,
    prescription_gy: float | None = None,
) -> float:
    """Value of a DVH metric of one region of interest.

    Definitions: ``docs/conventions.md``, "DVH metrics". A threshold is compared in the type of the doses, so that a
    float32 dose of exactly 95 % of the prescription counts.

    Args:
        metric: The metric.
        roi_dose_gy: Doses of the ROI's voxels in Gy, shape (n_voxels,), in any order.
        voxel_volume_cc: Volume of a voxel in cc.
        prescription_gy: Prescription of the ROI in Gy; needed for V<x>%.

    Returns:
        The value in the metric's unit: Gy, percent of the ROI's volume, cc, or a plain number (HI).

    Raises:
        InputError: If the ROI is empty (an absent ROI has no metrics; leave it out), a dose is not finite, V<x>% has no
            prescription, gEUD meets a negative dose, or HI a median dose that is not above zero.

    Example:
        >>> dose_gy = np.arange(101.0)
        >>> [evaluate(Metric.parse(key), dose_gy, voxel_volume_cc=0.01) for key in ("D95%", "Dmean", "V80Gy")]
        [5.0, 50.0, 20.792079207920793]
    """
    dose_gy = checked_doses(roi_dose_gy)
    if metric.kind == "mean":
        return float(dose_gy.mean(dtype=np.float64))
    if metric.is_volume:
        threshold_gy = dose_gy.dtype.type(metric.threshold_gy(prescription_gy))
        n_reached = int(np.count_nonzero(dose_gy >= threshold_gy))
        return n_reached * voxel_volume_cc if metric.unit == "cc" else 100.0 * n_reached / dose_gy.size
    if metric.kind == "geud" and metric.value is not None:
        return _geud_gy(dose_gy.astype(np.float64), metric.value)
    if metric.kind == "homogeneity":
        near_maximum_gy, near_minimum_gy, median_gy = (
            evaluate(part, dose_gy, voxel_volume_cc=voxel_volume_cc) for part in metric.order_statistics
        )
        if not median_gy > 0:
            raise InputError(f"HI divides by D50%, which is {median_gy:g} Gy")
        return (near_maximum_gy - near_minimum_gy) / median_gy
    p = metric.rank_fraction(dose_gy.size, voxel_volume_cc)
    return float(np.quantile(dose_gy.astype(np.float64), p))


def checked_doses(roi_dose_gy: NDArray[np.floating]) -> NDArray[np.floating]:
    """The doses as they came, after a check that they can carry a DVH.

    Raises:
        InputError: If they are not a non-empty one-dimensional array of finite floating-point numbers.
    """
    dose_gy = np.asarray(roi_dose_gy)
    if dose_gy.ndim != 1 or dose_gy.dtype.kind != "f":
        raise InputError(f"expected voxel doses as floats of shape (n,), not {dose_gy.dtype} of shape {dose_gy.shape}")
    if dose_gy.size == 0:
        raise InputError("the ROI is empty: it has no DVH metrics and must be left out, not counted as zero")
    if not np.isfinite(dose_gy).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(dose_gy))} of {dose_gy.size} voxel doses are not finite")
    return dose_gy


def _geud_gy(dose_gy: NDArray[np.float64], a: float) -> float:
    """((1/n) sum d^a)^(1/a); scaled by the largest term, so that no power overflows."""
    if dose_gy.min() < 0:
        raise InputError(f"gEUD is not defined for negative doses, and the lowest is {dose_gy.min():g} Gy")
    scale_gy = dose_gy.max() if a > 0 else dose_gy.min()
    if scale_gy == 0:
        return 0.0
    return float(scale_gy * np.mean((dose_gy / scale_gy) ** a) ** (1 / a))
