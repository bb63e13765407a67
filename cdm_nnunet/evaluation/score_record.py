"""The results of an evaluation over all cases, as frozen data; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.documents import STRICT, plain
from cdm_nnunet.dvh import MetricUnit, Verdict
from cdm_nnunet.evaluation.gamma import Normalisation
from cdm_nnunet.evaluation.roi_record import Certainty, Count, Finite, NonNegative, Percent, Positive

CHALLENGES_KEY = "challenges"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Difference:
    """Mean of predicted minus reference over terms.

    Attributes:
        mean_absolute: Mean of the absolute differences; None without a term.
        mean_signed: Mean of the differences; None without a term.
        n: Number of terms.
    """

    mean_absolute: NonNegative | None
    mean_signed: Finite | None
    n: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricDifference:
    """Mean of predicted minus reference of a metric.

    Attributes:
        unit: Unit of the metric.
        mean_absolute: Mean of the absolute differences, in ``unit``.
        mean_signed: Mean of the differences, in ``unit``.
        n: Number of terms.
    """

    unit: MetricUnit
    mean_absolute: NonNegative | None
    mean_signed: Finite | None
    n: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KindParts:
    """The parts of the score of a kind of ROI; differences in Gy and in %.

    Attributes:
        pooled: All metrics in Gy and in %, each with equal weight.
        dose_gy: The metrics in Gy.
        volume_percent: The metrics in %.
        by_metric: By metric key, including metrics in cc and without unit.
        by_roi: By ROI, over its metrics in Gy and in %.
    """

    pooled: Difference
    dose_gy: Difference
    volume_percent: Difference
    by_metric: Mapping[str, MetricDifference]
    by_roi: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Parts:
    """The parts of the two scores.

    Attributes:
        target: Parts of the PTV score.
        oar: Parts of the OAR score.
    """

    target: KindParts
    oar: KindParts


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mean:
    """A mean over the cases, or ROIs, that have the value.

    Attributes:
        mean: The mean; None without a term.
        n: Number of terms.
    """

    mean: Finite | None
    n: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BandScore:
    """The dose error between two isodoses of the reference.

    Attributes:
        from_percent: Lower isodose, percent of the case's dose scale.
        to_percent: Upper isodose; None for the highest band.
        mae_gy: Mean over cases of the mean absolute error, Gy; None without a case.
        n: Number of cases.
    """

    from_percent: NonNegative
    to_percent: NonNegative | None
    mae_gy: NonNegative | None
    n: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GammaScore:
    """A gamma pass rate over cases.

    Attributes:
        dose_percent: Dose criterion, percent.
        distance_mm: Distance criterion, mm.
        local: Whether the dose criterion is a percentage of the dose in the voxel.
        threshold_percent: Lowest dose of the voxels that are judged, percent of the normalisation dose.
        normalisation: The dose of 100 %.
        mean_percent: Mean pass rate, percent; None without a case.
        n: Number of cases.
    """

    dose_percent: Positive
    distance_mm: Positive
    local: bool
    threshold_percent: Positive
    normalisation: Normalisation
    mean_percent: Percent | None
    n: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DoseScores:
    """Differences of the doses independent of ROIs, over cases.

    Attributes:
        body_mae_gy: Mean absolute difference in the body where the reference is at least 5 Gy, Gy.
        bands: Dose error by isodose band of the reference.
        isodose_dice: Dice of the isodose volumes by level, percent of the case's dose scale.
        gamma: Gamma pass rates, if requested.
    """

    body_mae_gy: Mean
    bands: tuple[BandScore, ...]
    isodose_dice: Mapping[str, Mean]
    gamma: tuple[GammaScore, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GoalCounts:
    """The verdicts on a goal over cases.

    Attributes:
        n: Number of cases in which the goal was judged.
        not_evaluable: Cases in which it could not be judged; they are not counted elsewhere.
        agree: Cases in which both doses get the same verdict.
        reference_fails: Cases in which the reference misses the goal.
        reference: Cases by verdict on the reference.
        predicted: Cases by verdict on the prediction.
        certainty: Cases by the verdict that holds over the whole interval, or ``uncertain``; None without intervals.
    """

    n: Count
    not_evaluable: Count
    agree: Count
    reference_fails: Count
    reference: Mapping[Verdict, Count]
    predicted: Mapping[Verdict, Count]
    certainty: Mapping[Certainty, Count] | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Share:
    """Share of intervals that contain their reference.

    Attributes:
        observed_percent: Percentage of the intervals that contain it; None without an interval.
        n: Number of intervals.
    """

    observed_percent: Percent | None
    n: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Coverage:
    """Observed coverage of the intervals.

    Attributes:
        nominal_percent: Nominal coverage of the intervals, percent.
        observed_percent: Percentage of all intervals that contain their reference; None without an interval.
        n: Number of intervals.
        by_metric: Observed coverage by ``ROI METRIC``.
    """

    nominal_percent: Percent
    observed_percent: Percent | None
    n: Count
    by_metric: Mapping[str, Share]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Scores:
    """Results pooled over cases.

    Attributes:
        dose_mae_gy: Mean over cases of the dose error in the dose region, Gy.
        challenges: The scores of each public challenge; None for other data.
        ptv_score: Mean |difference| of the metrics of targets; None without a term.
        oar_score: Mean |difference| of the metrics of organs at risk; None without a term.
        parts: The parts of the two scores.
        dose: Comparison of the doses without regard to ROIs; None if no case has it.
        dvh_distance_gy: Distance between the two DVH curves by ROI, Gy.
        indices: Plan indices by name, predicted minus reference.
        goals: Counts of verdicts by ``ROI METRIC``.
        coverage: Observed coverage of the intervals; None without intervals.
    """

    dose_mae_gy: NonNegative
    challenges: Mapping[str, Mapping[str, Finite | None] | None]
    ptv_score: NonNegative | None
    oar_score: NonNegative | None
    parts: Parts
    dose: DoseScores | None
    dvh_distance_gy: Mapping[str, Mean]
    indices: Mapping[str, Difference]
    goals: Mapping[str, GoalCounts]
    coverage: Coverage | None

    def to_json(self) -> dict[str, Any]:
        """The JSON of the record, in which each challenge has its own key."""
        return with_challenge_keys(plain(self))


def with_challenge_keys(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a case or of the scores, with a key for each challenge in place of ``challenges``."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        found |= {c.name: value.get(c.name) for c in CHALLENGES} if key == CHALLENGES_KEY else {key: value}
    return found


def without_challenge_keys(entry: Mapping[str, Any], *, known_only: bool = False) -> dict[str, Any]:
    """The inverse of :func:`with_challenge_keys`.

    Args:
        entry: The JSON of a case or of the scores.
        known_only: Whether challenges that the data do not belong to are left out.
    """
    names = [challenge.name for challenge in CHALLENGES if challenge.name in entry]
    own = {name: entry[name] for name in names if not known_only or entry[name] is not None}
    return {**{key: value for key, value in entry.items() if key not in names}, CHALLENGES_KEY: own}
