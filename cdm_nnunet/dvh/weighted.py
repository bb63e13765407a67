"""DVH metrics of dose samples that stand for different volumes (NumPy, float64): for ROIs that are no set of voxels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh.metrics import Metric
from cdm_nnunet.dvh.values import checked_doses
from cdm_nnunet.errors import InputError


def evaluate_weighted(
    metrics: Iterable[Metric],
    roi_dose_gy: NDArray[np.floating],
    volumes_cc: NDArray[np.floating],
    *,
    prescription_gy: float | None = None,
) -> tuple[float, ...]:
    """Values of DVH metrics of one region of interest.

    Definitions: ``docs/conventions.md``, "DVH metrics", with volumes in place of voxel counts: the order statistic at p
    interpolates between the samples, of which the k-th lies where half of its own volume and all lower samples lie,
    scaled so that the lowest lies at 0 and the highest at 1. With equal volumes every metric equals that of
    :func:`cdm_nnunet.dvh.values.evaluate`.

    Args:
        metrics: The metrics.
        roi_dose_gy: Doses of the samples, Gy, shape (n,), in any order.
        volumes_cc: Volume that each stands for, cc, shape (n,), above zero.
        prescription_gy: Prescription of the ROI in Gy; needed for V<x>%.

    Returns:
        One value a metric, in their order.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.values.evaluate`, or if a volume is not above zero, or a metric counts
            voxels (``[openkbp]``).

    Example:
        >>> dose_gy, volumes_cc = np.array([30.0, 10.0, 20.0]), np.array([1.0, 2.0, 1.0])
        >>> evaluate_weighted([Metric.parse(key) for key in ("Dmean", "V20Gy", "V20Gy[cc]")], dose_gy, volumes_cc)
        (17.5, 50.0, 2.0)
    """
    dose_gy = checked_doses(roi_dose_gy).astype(np.float64)
    if volumes_cc.shape != dose_gy.shape or not (np.isfinite(volumes_cc) & (volumes_cc > 0)).all():
        raise InputError(f"expected {dose_gy.size} sample volumes above zero, one for each dose")
    order = np.argsort(dose_gy)
    dose_gy, each_cc = dose_gy[order], volumes_cc[order].astype(np.float64)
    return tuple(_value(metric, dose_gy, each_cc, prescription_gy) for metric in metrics)


def _value(
    metric: Metric, dose_gy: NDArray[np.float64], volumes_cc: NDArray[np.float64], prescription_gy: float | None
) -> float:
    total_cc = float(volumes_cc.sum())
    if metric.kind == "mean":
        return float(dose_gy @ volumes_cc) / total_cc
    if metric.is_volume:
        reached_cc = float(volumes_cc[dose_gy >= metric.threshold_gy(prescription_gy)].sum())
        return reached_cc if metric.unit == "cc" else 100.0 * reached_cc / total_cc
    if metric.kind == "geud" and metric.value is not None:
        return _geud_gy(dose_gy, volumes_cc / total_cc, metric.value)
    if metric.kind == "homogeneity":
        near_maximum_gy, near_minimum_gy, median_gy = (
            _value(part, dose_gy, volumes_cc, None) for part in metric.order_statistics
        )
        if not median_gy > 0:
            raise InputError(f"HI divides by D50%, which is {median_gy:g} Gy")
        return (near_maximum_gy - near_minimum_gy) / median_gy
    if metric.cc_rounding != "fractional":
        raise InputError(f"{metric} counts voxels, and there are none: use it without '[{metric.cc_rounding}]'")
    p = metric.rank_fraction(dose_gy.size, total_cc / dose_gy.size)
    middle_cc = np.cumsum(volumes_cc) - volumes_cc / 2
    if dose_gy.size == 1:
        return float(dose_gy[0])
    return float(np.interp(p, (middle_cc - middle_cc[0]) / (middle_cc[-1] - middle_cc[0]), dose_gy))


def _geud_gy(dose_gy: NDArray[np.float64], shares: NDArray[np.float64], a: float) -> float:
    """(sum share d^a)^(1/a); scaled by the largest term, so that no power overflows."""
    if dose_gy[0] < 0:
        raise InputError(f"gEUD is not defined for negative doses, and the lowest is {dose_gy[0]:g} Gy")
    scale_gy = dose_gy[-1] if a > 0 else dose_gy[0]
    if scale_gy == 0:
        return 0.0
    return float(scale_gy * (shares @ (dose_gy / scale_gy) ** a) ** (1 / a))
