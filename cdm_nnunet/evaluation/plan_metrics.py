"""Metrics of a target that need the whole dose: conformity, gradient, dose beyond a distance.

Definitions: ``docs/conventions.md``, "Plan indices".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.dvh import KINDS, Metric
from cdm_nnunet.evaluation.doses import finite_or_none
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.roi_record import IndexResult

PRESCRIPTION_TOLERANCE_GY = 0.01


class PlanTarget:
    """A target, and the targets that its prescription isodose also covers.

    Args:
        pair: The doses and ROI masks of the case.
        source: Its name in the data set.
        prescription_gy: Its prescription in Gy; None if it has none.
    """

    def __init__(self, pair: DosePair, source: str, prescription_gy: float | None) -> None:
        self._pair, self._source, self._prescription_gy = pair, source, prescription_gy

    @cached_property
    def joined(self) -> tuple[str, ...]:
        """The contoured targets with at least its prescription, itself first."""
        least_gy = np.inf if self._prescription_gy is None else self._prescription_gy - PRESCRIPTION_TOLERANCE_GY
        levels = self._pair.prescriptions_gy.items()
        others = [name for name, gy in levels if gy >= least_gy and name != self._source]
        return self._source, *(name for name in others if self._pair.roi_mask(name).any())

    def value(self, metric: Metric, dose_gy: NDArray[np.floating]) -> float | None:
        """A metric of the plan in a dose, in the metric's unit.

        Returns:
            None if it is not defined: no voxel reaches the prescription, or none lies beyond the distance.

        Raises:
            ValueError: If it is not a metric of the plan, or a needed prescription is missing.
        """
        if metric.row.plan_formula is None:
            raise ValueError(f"{metric} is not a metric of the plan")
        return finite_or_none(metric.row.plan_formula(metric, DoseAroundTarget(self, dose_gy)))

    def indices(self) -> dict[str, IndexResult]:
        """The plan indices in both doses; empty without a prescription."""
        if self._prescription_gy is None:
            return {}
        doses = (self._pair.reference_dose_gy, self._pair.predicted_dose_gy)
        wanted = [Metric(name) for name, kind in KINDS.items() if kind.of_plan and kind.needs_prescription]
        found = {metric.kind: [self.value(metric, dose_gy) for dose_gy in doses] for metric in wanted}
        return {kind: IndexResult(reference=values[0], predicted=values[1]) for kind, values in found.items()}

    @property
    def prescription_gy(self) -> float:
        """Its prescription in Gy.

        Raises:
            ValueError: If it has none.
        """
        if self._prescription_gy is None:
            raise ValueError(f"the target '{self._source}' has no prescription")
        return self._prescription_gy

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Mask of the joined targets."""
        return self._union(self.joined)

    def highest_beyond_gy(self, dose_gy: NDArray[np.floating], distance_mm: float) -> float | None:
        """As :func:`highest_dose_beyond`, from all targets, within the patient."""
        return highest_dose_beyond(dose_gy, self._all, distance_mm, self._pair.spacing_mm, self._body)

    @cached_property
    def _all(self) -> NDArray[np.bool_]:
        return self._union((self._source, *self._pair.prescriptions_gy))

    @cached_property
    def _body(self) -> NDArray[np.bool_] | None:
        external = next((roi.name for roi in self._pair.catalogue.rois if roi.kind == "external"), None)
        mask = None if external is None else self._pair.roi_mask(external)
        return mask if mask is not None and mask.any() else None

    def _union(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        mask = np.zeros(self._pair.reference_dose_gy.shape, bool)
        for name in names:
            mask |= self._pair.roi_mask(name)
        return mask


@dataclass(frozen=True, eq=False)
class DoseAroundTarget:
    """A dose around a target, for metrics of the plan (:class:`cdm_nnunet.dvh.protocols.WholeDose`)."""

    around: PlanTarget
    dose_gy: NDArray[np.floating]

    @property
    def target(self) -> NDArray[np.bool_]:
        """Mask of the target and of those that its prescription isodose also covers, shape of the dose."""
        return self.around.mask

    @property
    def prescription_gy(self) -> float:
        """Prescription of the target in Gy."""
        return self.around.prescription_gy

    def highest_beyond_gy(self, distance_mm: float) -> float:
        """The highest dose at least this far from all targets; NaN if there is no such voxel."""
        found_gy = self.around.highest_beyond_gy(self.dose_gy, distance_mm)
        return math.nan if found_gy is None else found_gy


def highest_dose_beyond(
    dose_gy: NDArray[np.floating],
    targets: NDArray[np.bool_],
    distance_mm: float,
    spacing_mm: tuple[float, float, float],
    within: NDArray[np.bool_] | None = None,
) -> float | None:
    """The highest dose at least a distance away from targets: D2cm with 20 mm.

    The distance of a voxel is that of its centre to the nearest centre of a voxel of the targets, so that it is
    uncertain by half a voxel.

    Args:
        dose_gy: Dose in Gy, shape (Z, Y, X).
        targets: Mask of all targets, same shape.
        distance_mm: The distance in mm.
        spacing_mm: Voxel size (z, y, x) in mm.
        within: Mask of counted doses, same shape: the patient; None for everywhere.

    Returns:
        The dose in Gy; None if no voxel is that far.

    Example:
        >>> import numpy as np
        >>> dose_gy = np.array([70.0, 50.0, 30.0, 20.0]).reshape(1, 1, 4)
        >>> highest_dose_beyond(dose_gy, dose_gy > 60, 20.0, (10.0, 10.0, 10.0))
        30.0

    References:
        RTOG 0813 and 0915 protocols.
    """
    distances_mm = ndimage.distance_transform_edt(~targets, sampling=spacing_mm)
    beyond = distances_mm >= distance_mm * (1 - 1e-6)
    found = dose_gy[beyond if within is None else beyond & within]
    return float(found.max()) if found.size else None
