"""The record of a comparison, as frozen data with one JSON form, from which all tables and the HTML file are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from cdm_nnunet.comparison.statistics import ALPHA, CONFIDENCE, Interval, Method
from cdm_nnunet.counting import counted
from cdm_nnunet.documents import STRICT, html_table, plain
from cdm_nnunet.evaluation.roi_record import Count, Finite, NonNegative
from cdm_nnunet.prediction_record import Made

FORMAT_VERSION: Literal[2] = 2
Level = Literal["score", "pooled", "roi"]
LEVELS: tuple[Level, ...] = ("score", "pooled", "roi")
GOAL_FAMILY = "goal"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Quantity:
    """An error of each patient under each model.

    Attributes:
        level: ``score`` of a patient, ``pooled`` over the targets or OARs of a patient, or of one ``roi``.
        name: Unique among the quantities of its level, such as ``PTV_7000 D95%``.
        unit: Unit of the errors.
        n_terms: Number of absolute errors that each patient's error is the mean of, over all cases of the patient;
            patients without one are left out.
        errors: By model, the mean absolute error of each patient, in the order of ``n_terms``.
        signed: By model, the mean of predicted - reference of each patient; None if the error has no sign.
        missing: Cases without a term, with the reason.
    """

    level: Level
    name: str
    unit: str
    n_terms: Mapping[str, int]
    errors: Mapping[str, tuple[float, ...]]
    signed: Mapping[str, tuple[float, ...]] | None
    missing: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSummary:
    """The errors of a model.

    Attributes:
        mean: Mean absolute error over all terms.
        median: Median over patients of their mean absolute errors.
        bias: Mean of predicted - reference; None if the error has no sign.
    """

    mean: NonNegative
    median: NonNegative
    bias: Finite | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Paired:
    """A candidate against the baseline; differences are candidate minus baseline, so negative is better.

    Attributes:
        n: Number of patients.
        n_better: Patients whose error is smaller than with the baseline.
        n_equal: Patients whose error is the same.
        n_worse: Patients whose error is larger.
        mean_difference: Mean over all terms of the difference of absolute errors.
        interval: Its 95 % interval; None if there are too few patients.
        median_difference: Median over patients.
        relative_percent: Change of the mean error in percent of the baseline's; None if that is zero.
        relative_interval: Its 95 % interval.
        p: Sign-flip test that the mean difference is zero.
        p_holm: The same after Holm's correction in the family.
        method: How the p-value was computed.
        effect: Matched-pairs rank-biserial correlation; None if no patient differs.
        notes: Limitations of these numbers.
    """

    n: int
    n_better: int
    n_equal: int
    n_worse: int
    mean_difference: float
    interval: Interval | None
    median_difference: float
    relative_percent: float | None
    relative_interval: Interval | None
    p: float
    p_holm: float
    method: Method
    effect: float | None
    notes: tuple[str, ...]

    @property
    def is_significant(self) -> bool:
        """Whether the test rejects at ``ALPHA`` after correction."""
        return self.p_holm < ALPHA


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuantityResult:
    """A quantity, the result of each model, and each candidate (all models but the first) against the baseline."""

    quantity: Quantity
    models: Mapping[str, ModelSummary]
    paired: Mapping[str, Paired]

    def as_written(self) -> QuantityEntry:
        """The entry of the record."""
        quantity, signed = self.quantity, self.quantity.signed
        return QuantityEntry(
            level=quantity.level,
            name=quantity.name,
            unit=quantity.unit,
            n=len(quantity.n_terms),
            missing=quantity.missing,
            models=self.models,
            paired=self.paired,
            patients={
                patient: PatientErrors(
                    n_terms=n,
                    errors={model: errors[i] for model, errors in quantity.errors.items()},
                    signed=None if signed is None else {model: own[i] for model, own in signed.items()},
                )
                for i, (patient, n) in enumerate(quantity.n_terms.items())
            },
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientErrors:
    """The errors of a patient.

    Attributes:
        n_terms: Number of absolute errors that the patient's error is the mean of.
        errors: By model, the mean absolute error.
        signed: By model, the mean of predicted - reference; None if the error has no sign.
    """

    n_terms: Count
    errors: Mapping[str, NonNegative]
    signed: Mapping[str, Finite] | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuantityEntry:
    """A quantity in the record.

    Attributes:
        level: ``score`` of a patient, ``pooled`` over the targets or OARs of a patient, or of one ``roi``.
        name: Unique among the quantities of its level.
        unit: Unit of the errors.
        n: Number of patients.
        missing: Cases without a term, with the reason.
        models: The result of each model.
        paired: Each candidate against the baseline.
        patients: The errors of each patient.
    """

    level: Level
    name: str
    unit: str
    n: Count
    missing: Mapping[str, str]
    models: Mapping[str, ModelSummary]
    paired: Mapping[str, Paired]
    patients: Mapping[str, PatientErrors]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Flips:
    """Cases in which a candidate and the baseline differ on a goal.

    Attributes:
        n_gained: Cases where only the candidate is right.
        n_lost: Cases where only the baseline is right.
        p: Sign-flip test of gained minus lost over the patients; with one case per patient, McNemar's exact test.
        p_holm: The same after Holm's correction in the family.
    """

    n_gained: int
    n_lost: int
    p: float
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the test rejects at ``ALPHA`` after correction."""
        return self.p_holm < ALPHA


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GoalComparison:
    """A goal, and in how many cases each model predicts correctly whether it is met.

    Attributes:
        name: ROI, metric and limit.
        n: Number of cases in which the goal was judged for all models.
        n_patients: Number of patients of these cases.
        n_met: Cases whose reference meets it, acceptable variation included.
        n_right: By model, cases for which the prediction meets it exactly where the reference does.
        paired: By candidate.
    """

    name: str
    n: int
    n_patients: int
    n_met: int
    n_right: Mapping[str, int]
    paired: Mapping[str, Flips]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Comparison:
    """Evaluated models side by side; the first is the baseline.

    Attributes:
        dataset: Name of the data set.
        template: Name of the template.
        template_definition: The template as JSON.
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        models: Source of each model by name, the baseline first.
        cases: The patient of each compared case.
        dropped: By model, cases that were left out because another model lacks them.
        quantities: All quantities, by level.
        goals: The goals with a limit.
        families: Number of tests of each Holm family: the levels, and the goals.
        seed: Seed of the random sign flips.
        n_flips: Their number.
        software: Versions.
        origins: By model, the origin of its predictions, from its evaluation; None if that does not say.
        left_out: By model, cases that its evaluation could not score, with the reason.
    """

    dataset: str
    template: str
    template_definition: Mapping[str, Any]
    dose_region: str | None
    models: Mapping[str, str]
    cases: Mapping[str, str]
    dropped: Mapping[str, list[str]]
    quantities: tuple[QuantityResult, ...]
    goals: tuple[GoalComparison, ...]
    families: Mapping[str, int]
    seed: int
    n_flips: int
    software: Mapping[str, str]
    origins: Mapping[str, Made | None] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The models, and the number of patients."""
        return f"<Comparison of {', '.join(self.models)}: {counted(self.n_patients, 'patient')} of {self.dataset}>"

    def _repr_html_(self) -> str:
        """The scores as tables, for a notebook."""
        from cdm_nnunet.comparison.sentences import score_table

        return "".join(html_table(repr(self).strip("<>"), score_table(self, name)) for name in self.candidates)

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return len(set(self.cases.values()))

    @property
    def baseline(self) -> str:
        """Name of the first model."""
        return next(iter(self.models))

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the other models."""
        return tuple(self.models)[1:]

    def at(self, level: Level) -> tuple[QuantityResult, ...]:
        """The quantities of a level."""
        return tuple(result for result in self.quantities if result.quantity.level == level)

    def to_json(self) -> dict[str, Any]:
        """The content of ``comparison.json``."""
        file = ComparisonFile(
            format_version=FORMAT_VERSION,
            software=self.software,
            dataset=self.dataset,
            template=self.template,
            template_definition=self.template_definition,
            dose_region=self.dose_region,
            n_cases=len(self.cases),
            n_patients=self.n_patients,
            cases=self.cases,
            dropped=self.dropped,
            left_out=self.left_out,
            baseline=self.baseline,
            models=self.models,
            origins=self.origins,
            statistics=Statistics(n_flips=self.n_flips, seed=self.seed, families=self.families),
            quantities=tuple(result.as_written() for result in self.quantities),
            goals=self.goals,
        )
        content: dict[str, Any] = plain(file)
        return content


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Statistics:
    """How the numbers were computed (``docs/comparison.md``).

    Attributes:
        difference: Definition of a difference.
        unit: Unit of resampling.
        interval: How intervals were computed.
        confidence_percent: Nominal coverage of the intervals, percent.
        n_flips: Number of random sign flips, used if there are too many patients to count all.
        seed: Their seed.
        test: The test of quantities.
        effect: The effect size.
        goal_test: The test of goals.
        correction: Correction for multiple tests.
        families: Number of tests of each family.
        alpha: Level at which a corrected test rejects.
    """

    difference: str = "absolute error of the model minus that of the baseline"
    unit: str = "patient"
    interval: str = "Student's t over patients, jackknife, corrected for skewness (Hall 1992)"
    confidence_percent: int = round(100 * CONFIDENCE)
    n_flips: Count
    seed: Count
    test: str = "sign flips of patients, two-sided, of the mean difference"
    effect: str = "matched-pairs rank-biserial correlation"
    goal_test: str = "sign flips of patients, two-sided (McNemar's exact test for one case a patient)"
    correction: str = "Holm in each family"
    families: Mapping[str, Count]
    alpha: float = ALPHA


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComparisonFile:
    """The content of ``comparison.json``.

    Attributes:
        format_version: Version of this format.
        software: Versions of the software that wrote it.
        dataset: Name of the data set.
        template: Name of the clinical template.
        template_definition: The whole template.
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        n_cases: Number of cases that were compared.
        n_patients: Number of their patients.
        cases: The patient of each case.
        dropped: By model, cases that were left out because another model lacks them.
        left_out: By model, cases that its evaluation could not score, with the reason.
        baseline: The model that the others are compared with.
        models: Source of each model.
        origins: By model, the origin of its predictions; None if its evaluation does not say.
        statistics: How the numbers were computed.
        quantities: All quantities, by level.
        goals: The goals with a limit.
    """

    format_version: Literal[2]
    software: Mapping[str, str]
    dataset: str
    template: str
    template_definition: Mapping[str, Any]
    dose_region: str | None
    n_cases: Count
    n_patients: Count
    cases: Mapping[str, str]
    dropped: Mapping[str, list[str]]
    left_out: Mapping[str, Mapping[str, str]]
    baseline: str
    models: Mapping[str, str]
    origins: Mapping[str, Made | None]
    statistics: Statistics
    quantities: tuple[QuantityEntry, ...]
    goals: tuple[GoalComparison, ...]
