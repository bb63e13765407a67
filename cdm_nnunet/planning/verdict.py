"""Planned doses in comparison with the doses of the source data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cdm_nnunet.dataset import CaseRecord
from cdm_nnunet.documents import parse_json, typed
from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.planning.anatomy import Anatomy
from cdm_nnunet.planning.optimiser import Floats

PLAN = "plan"  # key of a case's source: the planner's record, JSON in text
METRICS: Mapping[str, tuple[str, ...]] = {"target": ("D95%", "D1%"), "oar": ("Dmean",)}  # by kind of ROI
_Values = dict[str, list[float | None]]


def planned_values(anatomy: Anatomy, planned_gy: Floats, source_gy: Floats | None) -> _Values:
    """Metrics of both doses as ``ROI METRIC``: of the planned and of the source's dose; None if there is none."""
    voxel_cc = float(np.prod(anatomy.grid.spacing_zyx_mm)) / 1000
    found: _Values = {}
    for roi in anatomy.catalogue.rois:
        mask = anatomy.mask(roi.name)
        for key in METRICS.get(roi.kind, ()) if mask.any() else ():
            doses = (planned_gy[mask], None if source_gy is None else source_gy[mask])
            found[f"{roi.name} {key}"] = [
                None if gy is None else round(evaluate(Metric.parse(key), gy, voxel_volume_cc=voxel_cc), 3)
                for gy in doses
            ]
    return found


@dataclass(frozen=True)
class VerdictRow:
    """A metric over all patients.

    Attributes:
        name: ``ROI METRIC``.
        n: Number of patients with the ROI.
        planned_gy: Mean of the planned doses, Gy.
        source_gy: Mean of the source's doses of the same patients, Gy; None if a patient has none.
    """

    name: str
    n: int
    planned_gy: float
    source_gy: float | None


def verdict_of(records: Iterable[CaseRecord]) -> tuple[VerdictRow, ...]:
    """The mean of every metric over the cases of a planned data set."""
    values: dict[str, list[list[float | None]]] = {}
    for record in records:
        of_case = typed(_told(record).get("values_gy", {}), _Values, "the plan of a case")
        for name, pair in of_case.items():
            values.setdefault(name, []).append(pair)
    return tuple(_row(name, pairs) for name, pairs in values.items())


def _row(name: str, pairs: list[list[float | None]]) -> VerdictRow:
    planned, source = ([value for value in side if value is not None] for side in zip(*pairs, strict=True))
    mean = float(np.mean(source)) if len(source) == len(pairs) else None
    return VerdictRow(name, len(pairs), float(np.mean(planned)), mean)


def cpu_seconds_of(records: Iterable[CaseRecord]) -> float:
    """Mean processor time per patient, s; 0 if no record has it."""
    told = [_told(record).get("cpu_seconds") for record in records]
    seconds = [sum(one.values()) for one in told if isinstance(one, dict)]
    return float(np.mean(seconds)) if seconds else 0.0


def _told(record: CaseRecord) -> dict[str, object]:
    """The planner's entry in a case's record."""
    return parse_json(record.source.get(PLAN, "{}"), dict[str, object], "the plan of a case")
