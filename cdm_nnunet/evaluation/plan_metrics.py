"""Metrics of a target that need the whole dose: conformity, gradient, dose beyond a distance.

Definitions: ``docs/conventions.md``, "Plan indices".
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.dvh import (
    Metric,
    MetricKind,
    gradient_index,
    paddick_conformity,
    r50,
    rtog_conformity,
)
from cdm_nnunet.evaluation.doses import finite_or_none
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.roi_record import IndexResult

PLAN_INDICES: tuple[MetricKind, ...] = ("paddick_conformity", "rtog_conformity", "gradient_index", "r50")
PRESCRIPTION_TOLERANCE_GY = 0.01
_MM_PER_CM = 10.0


class PlanTarget:
    """A target with the targets that its prescription isodose covers too.

    Args:
        pair: The doses and ROI masks of the case.
        source: Its name in the data set.
        prescription_gy: Its prescription in Gy; None where it has none.
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
            None where it is not defined: no voxel reaches the prescription, or none lies beyond the distance.

        Raises:
            ValueError: If it is no metric of the plan, or needs a prescription that there is not.
        """
        if metric.kind == "dose_beyond" and metric.value is not None:
            distance_mm = _MM_PER_CM * metric.value
            spacing_mm = self._pair.spacing_mm
            return highest_dose_beyond(dose_gy, self._all, distance_mm, spacing_mm, self._body)
        return self._index(metric.kind, dose_gy)

    def indices(self) -> dict[str, IndexResult]:
        """The plan indices in both doses; none without a prescription."""
        if self._prescription_gy is None:
            return {}
        doses = (self._pair.reference_dose_gy, self._pair.predicted_dose_gy)
        return {kind: IndexResult(*(self._index(kind, dose_gy) for dose_gy in doses)) for kind in PLAN_INDICES}

    def _index(self, kind: MetricKind, dose_gy: NDArray[np.floating]) -> float | None:
        level_gy = self._prescription_gy
        if level_gy is None or kind not in PLAN_INDICES:
            raise ValueError(f"'{kind}' is no plan index, or the target '{self._source}' has no prescription")
        if kind == "gradient_index":
            return finite_or_none(gradient_index(dose_gy, level_gy))
        functions = {"paddick_conformity": paddick_conformity, "rtog_conformity": rtog_conformity, "r50": r50}
        return finite_or_none(functions[kind](dose_gy, self._mask, level_gy))

    @cached_property
    def _mask(self) -> NDArray[np.bool_]:
        return self._union(self.joined)

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


def highest_dose_beyond(
    dose_gy: NDArray[np.floating],
    targets: NDArray[np.bool_],
    distance_mm: float,
    spacing_mm: tuple[float, float, float],
    within: NDArray[np.bool_] | None = None,
) -> float | None:
    """The highest dose at a distance from targets or farther: D2cm with 20 mm.

    The distance of a voxel is that of its centre to the nearest centre of a voxel of the targets, so that it is
    uncertain by half a voxel.

    Args:
        dose_gy: Dose in Gy, shape (Z, Y, X).
        targets: Mask of all targets, same shape.
        distance_mm: The distance in mm.
        spacing_mm: Voxel size (z, y, x) in mm.
        within: Mask of where doses count, same shape: the patient; None for everywhere.

    Returns:
        The dose in Gy; None where no voxel is as far.

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
