"""Exact DVH metrics (NumPy, float64) of voxels and of weighted samples: the reference for other implementations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh.grammar import MetricUnit
from cdm_nnunet.dvh.metric import EXACT, SAME_VOLUME, Metric, RoiDoses, UndefinedMetricError
from cdm_nnunet.errors import InputError

_ROUNDING = 1e-9  # of a volume that is a sum of many samples


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
            prescription, gEUD has a negative dose, or a metric needs the whole dose.
        UndefinedMetricError: If the median dose for HI is not above zero, or the ROI is smaller than the x of D<x>cc
            (see :meth:`Metric.why_undefined`).

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
        One value per metric, in their order.

    Example:
        >>> metrics = [Metric.parse(key) for key in ("D98%", "D2%", "HI")]
        >>> evaluate_all(metrics, np.arange(101.0), voxel_volume_cc=0.01)
        (2.0, 98.0, 1.92)
    """
    return _values(metrics, VoxelDoses.of(roi_dose_gy, voxel_volume_cc, prescription_gy))


def evaluate_weighted(
    metrics: Iterable[Metric],
    roi_dose_gy: NDArray[np.floating],
    volumes_cc: NDArray[np.floating],
    *,
    prescription_gy: float | None = None,
) -> tuple[float, ...]:
    """Values of DVH metrics of one region of interest, from dose samples with different volumes.

    Definitions: ``docs/conventions.md``, "DVH metrics", with volumes instead of voxel counts. With equal volumes every
    metric equals that of :func:`evaluate`.

    Args:
        metrics: The metrics.
        roi_dose_gy: Doses of the samples, Gy, shape (n,), in any order.
        volumes_cc: Volume of each sample, cc, shape (n,), above zero.
        prescription_gy: Prescription of the ROI in Gy; needed for V<x>%.

    Returns:
        One value per metric, in their order.

    Raises:
        InputError: As :func:`evaluate`, or if a volume is not above zero, or a metric has the rounding of a challenge
            (``[NAME]``).

    Example:
        >>> dose_gy, volumes_cc = np.array([30.0, 10.0, 20.0]), np.array([1.0, 2.0, 1.0])
        >>> evaluate_weighted([Metric.parse(key) for key in ("Dmean", "V20Gy", "V20Gy[cc]")], dose_gy, volumes_cc)
        (17.5, 50.0, 2.0)
    """
    return _values(metrics, SampleDoses.of(roi_dose_gy, volumes_cc, prescription_gy))


def defined_values(metrics: Iterable[Metric], doses: RoiDoses) -> tuple[dict[Metric, float], dict[Metric, str]]:
    """Values of metrics of one ROI; some may be undefined, for example for a small ROI or one without dose.

    Args:
        metrics: The metrics.
        doses: The doses of the ROI.

    Returns:
        The values of the defined metrics, and for each other metric the reason.

    Raises:
        InputError: As :func:`evaluate`, for all other reasons.

    Example:
        >>> metrics = [Metric.parse(key) for key in ("Dmean", "HI")]
        >>> values, reasons = defined_values(metrics, VoxelDoses.of(np.zeros(9), 0.01))
        >>> list(values.values()), list(reasons.values())
        ([0.0], ['HI divides by D50%, which is 0 Gy'])
    """
    values: dict[Metric, float] = {}
    reasons: dict[Metric, str] = {}
    for metric in metrics:
        try:
            (values[metric],) = _values([metric], doses)
        except UndefinedMetricError as error:
            reasons[metric] = error.reason
    return values, reasons


def _values(metrics: Iterable[Metric], doses: RoiDoses) -> tuple[float, ...]:
    metrics = tuple(metrics)
    refuse_of_plan(metrics)
    return tuple(metric.row.formula(metric, doses) for metric in metrics if metric.row.formula is not None)


@dataclass(frozen=True, eq=False)
class VoxelDoses:
    """Doses of voxels of equal volume; amounts are numbers of voxels (:class:`cdm_nnunet.dvh.metric.RoiDoses`).

    Attributes:
        ascending_gy: The doses in ascending order, shape (n,), Gy.
        voxel_volume_cc: Volume of a voxel in cc.
        prescription_gy: Prescription of the ROI in Gy.
    """

    ascending_gy: NDArray[np.floating]
    voxel_volume_cc: float
    prescription_gy: float | None = None

    @classmethod
    def of(
        cls, roi_dose_gy: NDArray[np.floating], voxel_volume_cc: float, prescription_gy: float | None = None
    ) -> VoxelDoses:
        """The doses of voxels in any order, checked.

        Raises:
            InputError: As :func:`checked_doses`.
        """
        return cls(np.sort(checked_doses(roi_dose_gy)), voxel_volume_cc, prescription_gy)

    @property
    def volume_cc(self) -> float:
        """Volume of the ROI."""
        return self.ascending_gy.size * self.voxel_volume_cc

    def mean_gy(self) -> float:
        """Mean dose."""
        return float(self.ascending_gy.mean(dtype=np.float64))

    def power_mean_gy(self, a: float) -> float:
        """The mean ((1/n) sum d^a)^(1/a)."""
        return _power_mean_gy(self.ascending_gy.astype(np.float64), a, lambda powers: float(np.mean(powers)))

    def order_statistic_gy(self, metric: Metric) -> float:
        """The dose at the metric's rank, interpolated linearly."""
        rank = metric.rank(self.ascending_gy.size, self.voxel_volume_cc)
        below = int(rank)
        last = self.ascending_gy.size - 1
        low_gy, high_gy = (float(self.ascending_gy[min(k, last)]) for k in (below, below + 1))
        # (from the nearer neighbour, as NumPy does, so that rank 4 - 1e-16 is not beyond the neighbour)
        fraction = rank - below
        step_gy = high_gy - low_gy
        return low_gy + step_gy * fraction if fraction < 0.5 else high_gy - step_gy * (1.0 - fraction)

    def reaching(self, dose_gy: float) -> int:
        """Number of voxels that receive at least a dose."""
        return self.ascending_gy.size - self.below(dose_gy)

    def below(self, dose_gy: float) -> int:
        """Number of voxels that receive less than a dose."""
        return int(np.searchsorted(self.ascending_gy, self.ascending_gy.dtype.type(dose_gy), side="left"))

    def near(self, dose_gy: float, step_gy: float) -> int:
        """Number of voxels whose dose is within a step of a dose."""
        return int(np.count_nonzero(np.abs(self.ascending_gy - dose_gy) <= step_gy))

    def in_unit(self, amount: float, unit: MetricUnit) -> float:
        """Voxels in cc, or in percent of the ROI."""
        return amount * self.voxel_volume_cc if unit == "cc" else 100.0 * amount / self.ascending_gy.size


@dataclass(frozen=True, eq=False)
class SampleDoses:
    """Doses of samples that stand for different volumes; amounts are in cc (:class:`cdm_nnunet.dvh.metric.RoiDoses`).

    Attributes:
        ascending_gy: The doses in ascending order, shape (n,), Gy.
        volumes_cc: Volume that each stands for, shape (n,), cc.
        prescription_gy: Prescription of the ROI in Gy.
    """

    ascending_gy: NDArray[np.float64]
    volumes_cc: NDArray[np.float64]
    prescription_gy: float | None = None

    @classmethod
    def of(
        cls,
        roi_dose_gy: NDArray[np.floating],
        volumes_cc: NDArray[np.floating],
        prescription_gy: float | None = None,
    ) -> SampleDoses:
        """The doses of samples in any order, checked.

        Raises:
            InputError: As :func:`checked_doses`, or if there is not one volume above zero for each dose.
        """
        dose_gy = checked_doses(roi_dose_gy).astype(np.float64)
        if volumes_cc.shape != dose_gy.shape or not (np.isfinite(volumes_cc) & (volumes_cc > 0)).all():
            raise InputError(f"expected {dose_gy.size} sample volumes above zero, one for each dose")
        order = np.argsort(dose_gy)
        return cls(dose_gy[order], volumes_cc[order].astype(np.float64), prescription_gy)

    @cached_property
    def volume_cc(self) -> float:
        """Volume of the ROI."""
        return float(self.volumes_cc.sum())

    def mean_gy(self) -> float:
        """Mean dose, weighted by volume."""
        return float(self.ascending_gy @ self.volumes_cc) / self.volume_cc

    def power_mean_gy(self, a: float) -> float:
        """The mean (sum share d^a)^(1/a)."""
        shares = self.volumes_cc / self.volume_cc
        return _power_mean_gy(self.ascending_gy, a, lambda powers: float(shares @ powers))

    def order_statistic_gy(self, metric: Metric) -> float:
        """The highest dose that at least x receives; from the cold end, the lowest that at least x does not exceed."""
        if metric.counting != EXACT:
            raise InputError(f"{metric} counts voxels, and there are none: use it without '[{metric.counting}]'")
        if reason := metric.why_undefined(self.volume_cc):
            raise UndefinedMetricError(metric, reason)
        from_its_end = slice(None) if metric.is_cold else slice(None, None, -1)
        gathered_cc = np.cumsum(self.volumes_cc[from_its_end])
        place = int(np.searchsorted(gathered_cc, self._wanted_cc(metric), side="left"))
        return float(self.ascending_gy[from_its_end][min(place, self.ascending_gy.size - 1)])

    def _wanted_cc(self, metric: Metric) -> float:
        """Volume from the metric's end on; 0 for Dmin and Dmax, the first sample."""
        if metric.value is None:
            return 0.0
        in_percent = metric.row.number is not None and metric.row.number.unit == "%"
        return metric.value * (self.volume_cc / 100 * (1 - _ROUNDING) if in_percent else 1 - SAME_VOLUME)

    def reaching(self, dose_gy: float) -> float:
        """Volume that receives at least a dose."""
        return float(self.volumes_cc[~(self.ascending_gy < dose_gy)].sum())

    def below(self, dose_gy: float) -> float:
        """Volume that receives less than a dose."""
        return float(self.volumes_cc[self.ascending_gy < dose_gy].sum())

    def near(self, dose_gy: float, step_gy: float) -> float:
        """Volume whose dose is within a step of a dose."""
        return float(self.volumes_cc[np.abs(self.ascending_gy - dose_gy) <= step_gy].sum())

    def in_unit(self, amount: float, unit: MetricUnit) -> float:
        """A volume in cc, or in percent of the ROI."""
        return amount if unit == "cc" else 100.0 * amount / self.volume_cc


def refuse_of_plan(metrics: Iterable[Metric]) -> None:
    """Check that metrics need only the doses of an ROI.

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
    """The doses, unchanged, after a check that a DVH can be made of them.

    Raises:
        InputError: If they are not a non-empty one-dimensional array of finite floating-point numbers, or masked.
    """
    if np.ma.isMaskedArray(roi_dose_gy):
        raise InputError("the voxel doses are a masked array; give only those of the ROI (.compressed())")
    dose_gy = np.asarray(roi_dose_gy)
    if dose_gy.ndim != 1 or dose_gy.dtype.kind != "f":
        raise InputError(f"expected voxel doses as floats of shape (n,), not {dose_gy.dtype} of shape {dose_gy.shape}")
    if dose_gy.size == 0:
        raise InputError("the ROI is empty: it has no DVH metrics and must be left out, not counted as zero")
    if not np.isfinite(dose_gy).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(dose_gy))} of {dose_gy.size} voxel doses are not finite")
    return dose_gy


def _power_mean_gy(ascending_gy: NDArray[np.float64], a: float, mean: Callable[[NDArray[np.float64]], float]) -> float:
    """Mean of d^a to the power 1/a; scaled by the largest term, so that no power overflows."""
    if ascending_gy[0] < 0:
        raise InputError(f"gEUD is not defined for negative doses, and the lowest is {ascending_gy[0]:g} Gy")
    scale_gy = ascending_gy[-1] if a > 0 else ascending_gy[0]
    if scale_gy == 0:
        return 0.0
    return float(scale_gy * mean((ascending_gy / scale_gy) ** a) ** (1 / a))
