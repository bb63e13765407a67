"""Exact DVH metrics of voxel doses (NumPy, float64): the reference for every other implementation."""

from __future__ import annotations

from collections.abc import Iterable

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
            prescription, gEUD meets a negative dose, HI a median dose that is not above zero, the ROI is smaller than
            the x of D<x>cc (:meth:`Metric.why_undefined` tells before), or a metric needs the whole dose.

    Example:
        >>> dose_gy = np.arange(101.0)
        >>> [evaluate(Metric.parse(key), dose_gy, voxel_volume_cc=0.01) for key in ("D95%", "Dmean", "V80Gy")]
        [5.0, 50.0, 20.792079207920793]
    """
    (value,) = evaluate_all((metric,), roi_dose_gy, voxel_volume_cc=voxel_volume_cc, prescription_gy=prescription_gy)
    return value


def evaluate_all(
    metrics: Iterable[Metric],
    roi_dose_gy: NDArray[np.floating],
    *,
    voxel_volume_cc: float,
    prescription_gy: float | None = None,
) -> tuple[float, ...]:
    """Values of many DVH metrics of one region of interest, whose doses are sorted once.

    Args, errors and conventions are those of :func:`evaluate`.

    Returns:
        One value a metric, in their order.

    Example:
        >>> metrics = [Metric.parse(key) for key in ("D98%", "D2%", "HI")]
        >>> evaluate_all(metrics, np.arange(101.0), voxel_volume_cc=0.01)
        (2.0, 98.0, 1.92)
    """
    ascending_gy = np.sort(checked_doses(roi_dose_gy))
    metrics = tuple(metrics)
    refuse_of_plan(metrics)
    return tuple(_value(metric, ascending_gy, voxel_volume_cc, prescription_gy) for metric in metrics)


def _value(
    metric: Metric, ascending_gy: NDArray[np.floating], voxel_volume_cc: float, prescription_gy: float | None
) -> float:
    if metric.kind == "mean":
        return float(ascending_gy.mean(dtype=np.float64))
    if metric.is_volume:
        threshold_gy = ascending_gy.dtype.type(metric.threshold_gy(prescription_gy))
        n_below = int(np.searchsorted(ascending_gy, threshold_gy, side="left"))
        n = n_below if metric.is_cold else ascending_gy.size - n_below
        return n * voxel_volume_cc if metric.unit == "cc" else 100.0 * n / ascending_gy.size
    if metric.kind == "volume":
        return ascending_gy.size * voxel_volume_cc
    if metric.kind == "geud" and metric.value is not None:
        return _geud_gy(ascending_gy.astype(np.float64), metric.value)
    if metric.kind == "homogeneity":
        near_maximum_gy, near_minimum_gy, median_gy = (
            _value(part, ascending_gy, voxel_volume_cc, None) for part in metric.order_statistics
        )
        if not median_gy > 0:
            raise InputError(f"HI divides by D50%, which is {median_gy:g} Gy")
        return (near_maximum_gy - near_minimum_gy) / median_gy
    rank = metric.rank(ascending_gy.size, voxel_volume_cc)
    below = int(rank)
    low_gy, high_gy = (float(ascending_gy[min(k, ascending_gy.size - 1)]) for k in (below, below + 1))
    # (from the nearer neighbour, as NumPy does, so that rank 4 - 1e-16 is not beyond the neighbour)
    fraction = rank - below
    step_gy = high_gy - low_gy
    return low_gy + step_gy * fraction if fraction < 0.5 else high_gy - step_gy * (1.0 - fraction)


def refuse_of_plan(metrics: Iterable[Metric]) -> None:
    """Check that metrics can be had from the doses of an ROI alone.

    Raises:
        InputError: If one needs the whole dose.
    """
    for metric in metrics:
        if metric.of_plan:
            raise InputError(
                f"{metric} needs the whole dose, not only that in the ROI; 'cdm-nnunet evaluate' gives it as a goal of "
                "the template, and cdm_nnunet.dvh.indices has the functions"
            )


def checked_doses(roi_dose_gy: NDArray[np.floating]) -> NDArray[np.floating]:
    """The doses as they came, after a check that they can carry a DVH.

    Raises:
        InputError: If they are not a non-empty one-dimensional array of finite floating-point numbers, or masked.
    """
    if np.ma.isMaskedArray(roi_dose_gy):
        raise InputError("the voxel doses are a masked array; give those of the ROI alone (.compressed())")
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
