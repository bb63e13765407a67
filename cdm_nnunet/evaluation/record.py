"""The results of an evaluation, as frozen data with one JSON form, from which all tables and reports are made.

``docs/evaluation.md`` describes the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cdm_nnunet import __version__
from cdm_nnunet.challenges import Terms
from cdm_nnunet.counting import counted
from cdm_nnunet.documents import STRICT, plain
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.gamma import Normalisation
from cdm_nnunet.evaluation.rank_record import PlanRanks
from cdm_nnunet.evaluation.roi_record import Count, Finite, NonNegative, Percent, Positive, RoiResult
from cdm_nnunet.evaluation.score_record import Scores, with_challenge_keys
from cdm_nnunet.prediction_record import Made

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT_VERSION: Literal[3] = 3
RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Band:
    """The dose error between two isodoses of the reference.

    Attributes:
        from_percent: Lower isodose, percent of the case's dose scale.
        to_percent: Upper isodose; None for the highest band.
        n_voxels: Number of voxels.
        mae_gy: Mean absolute error, Gy; None without a voxel.
        mean_signed_gy: Mean of predicted minus reference, Gy; None without a voxel.
    """

    from_percent: NonNegative
    to_percent: NonNegative | None
    n_voxels: Count
    mae_gy: NonNegative | None
    mean_signed_gy: Finite | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GammaResult:
    """A gamma pass rate of a case.

    Attributes:
        dose_percent: Dose criterion, percent.
        distance_mm: Distance criterion, mm.
        local: Whether the dose criterion is a percentage of the dose in the voxel (local), not of the case's dose
            scale (global).
        threshold_percent: Lowest dose of the voxels that are judged, percent of the normalisation dose.
        normalisation: The dose of 100 %: the case's dose scale (``prescription``), or the ``maximum`` reference dose.
        n_voxels: Number of voxels that were judged.
        pass_percent: Percentage of them with gamma at most 1; None if there were none.
    """

    dose_percent: Positive
    distance_mm: Positive
    local: bool
    threshold_percent: Positive
    normalisation: Normalisation
    n_voxels: Count
    pass_percent: Percent | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DoseResult:
    """Differences of the two doses of a case, independent of ROIs.

    Attributes:
        scale_gy: Dose to which percentages refer: the case's highest prescription, else the highest reference dose, Gy.
        body_mae_gy: Mean absolute difference in the body where the reference is at least 5 Gy, Gy; None if it is
            nowhere.
        body_n_voxels: Number of these voxels.
        bands: Dose error by isodose band of the reference.
        isodose_dice: Dice of the isodose volumes by level in percent of the scale, as text; None if both are empty.
        gamma: Gamma pass rates, if requested.
    """

    scale_gy: NonNegative
    body_mae_gy: NonNegative | None
    body_n_voxels: Count
    bands: tuple[Band, ...]
    isodose_dice: Mapping[str, Annotated[float, Field(ge=0, le=1)] | None]
    gamma: tuple[GammaResult, ...] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CaseResult:
    """The result of one case.

    Attributes:
        case: Case name.
        patient: The patient as known from the conversion, else the case's name; a patient may have several cases.
        prescription_gy: Highest prescription of the plan, Gy; None if there is none.
        fractions: Number of fractions; None if unknown.
        notes: Limitations of the verdicts of the case, in sentences.
        dose_mae_gy: Mean absolute difference in the dose region, Gy (``docs/conventions.md``, "Dose region").
        dose: Comparison of the doses without regard to ROIs.
        challenges: Contribution of the case to the scores of each public challenge; None for other data.
        missing: ROIs of the template that are absent, with the reason; they enter no score.
        undefined: Metrics that are not defined for a present ROI, as ``ROI METRIC``, with the reason; they enter no
            score, and their goals are neither met nor missed.
        rois: ROIs of the template that are present, by the template's names.
    """

    case: Annotated[str, Field(exclude=True)] = ""
    patient: str = ""
    prescription_gy: Positive | None = None
    fractions: Annotated[int, Field(ge=1)] | None = None
    notes: tuple[str, ...] = ()
    dose_mae_gy: NonNegative
    dose: DoseResult | None = None
    challenges: Mapping[str, Terms] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    rois: Mapping[str, RoiResult]

    def __repr__(self) -> str:
        """Name, dose error and number of ROIs."""
        return f"<CaseResult {self.case}: dose MAE {self.dose_mae_gy:.3f} Gy, {counted(len(self.rois), 'ROI')}>"

    def to_json(self) -> dict[str, Any]:
        """The JSON of the record, in which each challenge has its own key."""
        return with_challenge_keys(plain(self))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TermCalibration:
    """The calibration of one metric of one ROI.

    Attributes:
        n: Number of calibration cases that have the metric.
        quantile: Half the width of the interval, in units of the spread; None if ``n`` is too small for the nominal
            coverage.
    """

    n: Count
    quantile: NonNegative | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """Calibration of the intervals.

    Attributes:
        nominal_percent: Nominal coverage: percentage of reference values that should lie in their intervals.
        n_cases: Number of calibration cases.
        dataset: Data set of the calibration cases.
        terms: By ``ROI METRIC``.
    """

    nominal_percent: Percent
    n_cases: Count
    dataset: str
    terms: Mapping[str, TermCalibration]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Software:
    """Versions.

    Attributes:
        cdm_nnunet: Version of this software.
    """

    cdm_nnunet: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResultFile:
    """The content of ``result.json``.

    Attributes:
        format_version: Version of this format.
        software: The software that wrote it, with its version.
        dataset: Name of the data set.
        template: Name of the clinical template.
        template_definition: The whole template (``docs/templates.md``).
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        n_cases: Number of cases that were evaluated.
        n_dataset_cases: Number of cases of the data set, evaluated or not.
        n_members: Number of ensemble members whose spread was taken; 0 without an ensemble.
        model: The model that made the predictions, from their records; None if they don't say. For averaged doses it
            has the single key ``mean_of``: the models whose doses were averaged.
        notes: Unknown facts about the predictions, in sentences.
        left_out: Cases with a prediction that could not be scored, with the reason; they enter no mean.
        plan_ranks: Ranks of the cases among the plans of the data set; None unless requested.
        calibration: Calibration of the intervals; None without intervals.
        scores: Results pooled over cases.
        cases: Results by case name.
    """

    format_version: Literal[3]
    software: Software
    dataset: str
    template: str
    template_definition: Mapping[str, Any]
    dose_region: str | None
    n_cases: Count
    n_dataset_cases: Count
    n_members: Count
    model: Made | None = None
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    plan_ranks: PlanRanks | None = None
    calibration: Calibration | None
    scores: Scores
    cases: Mapping[str, CaseResult]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The result of evaluating a set of predictions.

    Attributes:
        dataset: Name of the data set.
        template: The clinical template.
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        n_dataset_cases: Number of cases of the data set, evaluated or not.
        cases: The evaluated cases, in order of names.
        scores: As :func:`cdm_nnunet.evaluation.pooling.pooled_scores` gives them.
        n_members: Number of ensemble members whose spread was taken; 0 without an ensemble.
        calibration: Calibration of the intervals; None without intervals.
        software_version: Version of this software that made it.
        model: The model that made the predictions, from their records; None if unknown.
        notes: Unknown facts about the predictions, in sentences.
        left_out: Cases with a prediction that could not be scored, with the reason; they enter no mean.
        plan_ranks: Ranks of the cases among the plans of the data set; None unless requested.
    """

    dataset: str
    template: Template
    dose_region: str | None
    n_dataset_cases: int
    cases: tuple[CaseResult, ...]
    scores: Scores
    n_members: int = 0
    calibration: Calibration | None = None
    software_version: str = __version__
    model: Made | None = None
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    plan_ranks: PlanRanks | None = None

    def __repr__(self) -> str:
        """Data set and scores: a record of hundreds of cases is too long to read."""
        named = (("PTV score", self.scores.ptv_score, ""), ("OAR score", self.scores.oar_score, ""))
        scores = [("dose MAE", self.scores.dose_mae_gy, " Gy"), *named]
        told = ", ".join(f"{name} {value:.3f}{unit}" for name, value, unit in scores if value is not None)
        return f"<Evaluation of {self.dataset}: {len(self.cases)} of {counted(self.n_dataset_cases, 'case')}, {told}>"

    def _repr_html_(self) -> str:
        """The scores as a table, for a notebook."""
        from cdm_nnunet.evaluation.tables import evaluation_html

        return evaluation_html(self)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each case, ROI and metric, with the columns of ``metrics.csv``; None for empty cells."""
        from cdm_nnunet.evaluation.tables import metric_rows

        return metric_rows(self)

    def to_frame(self) -> DataFrame:
        """The :meth:`rows` as a data frame of pandas.

        Raises:
            InputError: If pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise InputError("pandas is missing: pip install 'cdm_nnunet[notebook]'; or take rows()") from None
        return DataFrame(self.rows())

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        file = ResultFile(
            format_version=FORMAT_VERSION,
            software=Software(cdm_nnunet=self.software_version),
            dataset=self.dataset,
            template=self.template.name,
            template_definition=self.template.to_json(),
            dose_region=self.dose_region,
            n_cases=len(self.cases),
            n_dataset_cases=self.n_dataset_cases,
            n_members=self.n_members,
            model=self.model,
            notes=self.notes,
            left_out=self.left_out,
            plan_ranks=self.plan_ranks,
            calibration=self.calibration,
            scores=self.scores,
            cases={case.case: case for case in self.cases},
        )
        content: dict[str, Any] = plain(file)
        content["scores"] = with_challenge_keys(content["scores"])
        content["cases"] = {name: with_challenge_keys(entry) for name, entry in content["cases"].items()}
        return content
