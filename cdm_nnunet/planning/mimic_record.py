"""The record of a mimicked dose, ``CASE.mimic.json``, and its table: predicted, deliverable, reference, per goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic.dataclasses import dataclass

from cdm_nnunet import __version__
from cdm_nnunet.documents import STRICT
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.doses import dose_scale_gy
from cdm_nnunet.evaluation.gamma import GammaRule, gamma_passes
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.roi_record import Finite, NonNegative, Percent, RecordedVerdict
from cdm_nnunet.evaluation.scores import score_rois
from cdm_nnunet.files import csv_text
from cdm_nnunet.planning.optimiser import Floats

LABEL: Literal["NOT FOR TREATMENT"] = "NOT FOR TREATMENT"
RULE = GammaRule(3.0, 3.0)
COLUMNS = ("roi", "metric", "unit", "limit", "predicted", "deliverable", "reference")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Goal:
    """A metric of the template in the three doses.

    Attributes:
        roi: ROI of the template.
        metric: Key of the metric.
        unit: Gy, percent of the ROI's volume, cc, or empty for a ratio.
        limit: The template's limit as text; empty if it has none.
        predicted: Value of the predicted dose.
        deliverable: Value of the dose that can be delivered.
        reference: Value of the reference dose; None if there is none.
        verdicts: Verdicts on the predicted, deliverable and reference dose, by these names.
    """

    roi: str
    metric: str
    unit: str
    limit: str
    predicted: Finite
    deliverable: Finite
    reference: Finite | None
    verdicts: Mapping[str, RecordedVerdict]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MimicRecord:
    """The result for one predicted dose.

    Attributes:
        format_version: Version of this format.
        label: States that the dose is not for treatment.
        software_version: Version of this software.
        case: Name of the case.
        inputs_sha256: Digests of everything that the dose depends on, by name.
        protocol: Name of the protocol with the beams that deliver the dose.
        engine: Name and version of the dose calculation.
        goals: The metrics of the template.
        gamma_rule: Criterion of the pass rates, for voxels above 10 % of the highest prescription.
        gamma_percent: Voxels in which the deliverable dose agrees with the predicted one, percent.
        reference_gamma_percent: The same for the reference dose and the deliverable dose closest to it: the
            best that the beams can do; None without a reference.
        iterations: Steps of the optimiser, for the predicted and for the reference dose.
        cpu_seconds: Processor time by step.
        dose_sha256: Digest of the deliverable dose's file.
    """

    format_version: Literal[1] = 1
    label: Literal["NOT FOR TREATMENT"] = LABEL
    software_version: str = __version__
    case: str
    inputs_sha256: Mapping[str, str]
    protocol: str
    engine: str
    goals: tuple[Goal, ...]
    gamma_rule: str
    gamma_percent: Percent | None
    reference_gamma_percent: Percent | None
    iterations: tuple[int, ...]
    cpu_seconds: Mapping[str, NonNegative]
    dose_sha256: str


def goals_of(pair: DosePair, deliverable_gy: Floats, template: Template, *, has_reference: bool) -> tuple[Goal, ...]:
    """The metrics of a template in the three doses, by the evaluation's own code.

    Args:
        pair: Predicted and reference dose; without a reference the predicted one takes its place.
        deliverable_gy: The dose that can be delivered, shape (z, y, x), Gy.
        template: Template; its goals with the use ``evaluation`` select the metrics.
        has_reference: Whether there is a reference.

    Raises:
        InputError: If a present target lacks the prescription that a metric needs.
    """
    limits = {(goal.roi, str(goal.metric)): goal.limit_text for goal in template.goals}
    of_predicted = score_rois(pair, template).rois
    of_deliverable = score_rois(replace(pair, predicted_dose_gy=deliverable_gy), template).rois
    found = []
    for roi, result in of_predicted.items():
        judged = {goal.metric: goal for goal in result.goals}
        delivered = {goal.metric: goal for goal in of_deliverable[roi].goals}
        for key, metric in result.metrics.items():
            if key not in of_deliverable[roi].metrics:
                continue
            verdicts: dict[str, RecordedVerdict] = {}
            if key in judged and key in delivered:
                verdicts = {"predicted": judged[key].predicted, "deliverable": delivered[key].predicted}
                verdicts |= {"reference": judged[key].reference} if has_reference else {}
            found.append(
                Goal(
                    roi=roi,
                    metric=key,
                    unit=metric.unit,
                    limit=limits[roi, key],
                    predicted=metric.predicted,
                    deliverable=of_deliverable[roi].metrics[key].predicted,
                    reference=metric.reference if has_reference else None,
                    verdicts=verdicts,
                )
            )
    return tuple(found)


def gamma_percent(pair: DosePair, wanted_gy: Floats, deliverable_gy: Floats) -> float | None:
    """Voxels in which a deliverable dose agrees with a given one, percent; None if no voxel is judged."""
    scale_gy = dose_scale_gy(pair)
    passes = gamma_passes(wanted_gy, deliverable_gy, RULE, spacing_mm=pair.spacing_mm, scale_gy=scale_gy)
    return 100.0 * float(passes.mean()) if passes.size else None


def goals_csv(record: MimicRecord) -> str:
    """The table as CSV."""
    return csv_text(COLUMNS, ([getattr(goal, column) for column in COLUMNS] for goal in record.goals))
