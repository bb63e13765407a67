"""DVH metrics of dose samples that stand for different volumes (NumPy, float64): for ROIs that are no set of voxels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh.metrics import SAME_VOLUME, Metric
from cdm_nnunet.dvh.values import checked_doses, refuse_of_plan
from cdm_nnunet.errors import InputError

_ROUNDING = 1e-9  # of a volume that is a sum of many


def evaluate_weighted(
    metrics: Iterable[Metric],
    roi_dose_gy: NDArray[np.floating],
    volumes_cc: NDArray[np.floating],
    *,
    prescription_gy: float | None = None,
) -> tuple[float, ...]:
    """Values of DVH metrics of one region of interest.

    Definitions: ``docs/conventions.md``, "DVH metrics", with volumes in place of voxel counts. With equal volumes every
    metric equals that of :func:`cdm_nnunet.dvh.values.evaluate`.

    Args:
        metrics: The metrics.
        roi_dose_gy: Doses of the samples, Gy, shape (n,), in any order.
        volumes_cc: Volume that each stands for, cc, shape (n,), above zero.
        prescription_gy: Prescription of the ROI in Gy; needed for V<x>%.

    Returns:
        One value a metric, in their order.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.values.evaluate`, or if a volume is not above zero, or a metric counts as
            OpenKBP does (``[openkbp]``).

    Example:
        >>> dose_gy, volumes_cc = np.array([30.0, 10.0, 20.0]), np.array([1.0, 2.0, 1.0])
        >>> evaluate_weighted([Metric.parse(key) for key in ("Dmean", "V20Gy", "V20Gy[cc]")], dose_gy, volumes_cc)
        (17.5, 50.0, 2.0)
    """
    dose_gy = checked_doses(roi_dose_gy).astype(np.float64)
    if volumes_cc.shape != dose_gy.shape or not (np.isfinite(volumes_cc) & (volumes_cc > 0)).all():
        raise InputError(f"expected {dose_gy.size} sample volumes above zero, one for each dose")
    metrics = tuple(metrics)
    refuse_of_plan(metrics)
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
        below = dose_gy < metric.threshold_gy(prescription_gy)
        part_cc = float(volumes_cc[below if metric.is_cold else ~below].sum())
        return part_cc if metric.unit == "cc" else 100.0 * part_cc / total_cc
    if metric.kind == "volume":
        return total_cc
    if metric.kind == "geud" and metric.value is not None:
        return _geud_gy(dose_gy, volumes_cc / total_cc, metric.value)
    if metric.kind == "homogeneity":
        near_maximum_gy, near_minimum_gy, median_gy = (
            _value(part, dose_gy, volumes_cc, None) for part in metric.order_statistics
        )
        if not median_gy > 0:
            raise InputError(f"HI divides by D50%, which is {median_gy:g} Gy")
        return (near_maximum_gy - near_minimum_gy) / median_gy
    if metric.counting != "exact":
        raise InputError(f"{metric} counts voxels, and there are none: use it without '[{metric.counting}]'")
    return _order_statistic_gy(metric, dose_gy, volumes_cc, total_cc)


def _order_statistic_gy(
    metric: Metric, dose_gy: NDArray[np.float64], volumes_cc: NDArray[np.float64], total_cc: float
) -> float:
    """The highest dose that a volume of at least x reaches; for the cold end, the lowest that as much stays within."""
    if reason := metric.why_undefined(total_cc):
        raise InputError(f"{metric} is not defined: {reason}")
    if metric.kind in ("min", "max") or metric.value is None:
        return float(dose_gy[0 if metric.kind == "min" else -1])
    in_percent = metric.kind.endswith("at_percent")
    wanted_cc = metric.value * (total_cc / 100 * (1 - _ROUNDING) if in_percent else 1 - SAME_VOLUME)
    from_its_end = slice(None) if metric.is_cold else slice(None, None, -1)
    gathered_cc = np.cumsum(volumes_cc[from_its_end])
    place = int(np.searchsorted(gathered_cc, wanted_cc, side="left"))
    return float(dose_gy[from_its_end][min(place, dose_gy.size - 1)])


def _geud_gy(dose_gy: NDArray[np.float64], shares: NDArray[np.float64], a: float) -> float:
    """(sum share d^a)^(1/a); scaled by the largest term, so that no power overflows."""
    if dose_gy[0] < 0:
        raise InputError(f"gEUD is not defined for negative doses, and the lowest is {dose_gy[0]:g} Gy")
    scale_gy = dose_gy[-1] if a > 0 else dose_gy[0]
    if scale_gy == 0:
        return 0.0
    return float(scale_gy * (shares @ (dose_gy / scale_gy) ** a) ** (1 / a))
