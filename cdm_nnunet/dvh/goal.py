"""Parts of a clinical template: ROIs, and goals that a plan meets or misses."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from cdm_nnunet.documents import refuse
from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.regime import Regime
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.catalogue import RoiKind

Use = Literal["loss", "evaluation"]
Verdict = Literal["pass", "acceptable", "fail"]
Relation = Literal["<=", ">="]
LimitUnit = Literal["Gy", "%", "% of prescription", "cc", ""]
_LIMIT_UNITS = {"Gy": ("Gy", "% of prescription"), "%": ("%",), "cc": ("cc",), "": ("",)}  # by unit of the metric
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]


def _parse_metric(key: object) -> Metric:
    if isinstance(key, Metric):
        return key
    if not isinstance(key, str):
        raise ValueError(f"a metric is a text such as 'D95%', not {key!r}")
    return Metric.parse(key)


def _checked_pattern(pattern: str) -> str:
    counts = [int(most or least or 1) for least, most in _COUNTS.findall(pattern)]
    if math.prod(max(count, 1) for count in counts) > _MOST_REPEATS:
        raise ValueError(f"'{pattern}' repeats parts more than {_MOST_REPEATS:,} times; give smaller numbers in braces")
    try:
        re.compile(pattern)
        regex.compile(pattern, regex.IGNORECASE)
    except (re.error, regex.error) as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
    except (RecursionError, OverflowError):
        raise ValueError(f"'{pattern}' is too deeply nested or has too large numbers") from None
    return pattern


_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")
_MOST_REPEATS = 10_000  # counted repeats are expanded when an expression is compiled
_MATCH_SECONDS = 1.0
Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_checked_pattern)]
MetricField = Annotated[Metric, BeforeValidator(_parse_metric), PlainSerializer(str, return_type=str)]


class Frozen(BaseModel):
    """Part of a template: frozen, with strict types and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class TemplateRoi(Frozen):
    """An ROI of the template.

    Attributes:
        name: TG-263 name.
        kind: As in the ROI catalogue.
        aliases: Other names of the ROI in the data, compared without regard to case.
        regex: Regular expressions for names in the data, used if neither the ROI's name nor an alias is found. They
            must match the whole name, without regard to case.
        prescription_gy: Prescribed dose in Gy; ``"patient"`` if every patient has their own; None if it is not a
            target.
        colour: Colour in which it is drawn, ``#rrggbb``; None takes one of the palette.
    """

    name: Name
    kind: RoiKind
    aliases: tuple[Name, ...] = ()
    regex: Annotated[tuple[Pattern, ...], Field(exclude_if=operator.not_)] = ()
    prescription_gy: Positive | Literal["patient"] | None = None
    colour: Annotated[str | None, Field(pattern=r"^#[0-9A-Fa-f]{6}$", exclude_if=operator.not_)] = None

    @model_validator(mode="after")
    def _only_targets_are_prescribed(self) -> TemplateRoi:
        if self.prescription_gy is not None and self.kind != "target":
            message = f"ROI '{self.name}' has a prescription but is of kind '{self.kind}', not 'target'"
            refuse([(("prescription_gy",), message)])
        return self

    def matches(self, name: str) -> bool:
        """Whether one of the regular expressions matches a name.

        Raises:
            InputError: If one takes longer than a second, as some can with any name.
        """
        return any(self._fits(pattern, name) for pattern in self.regex)

    def _fits(self, pattern: str, name: str) -> bool:
        try:
            return regex.fullmatch(pattern, name, regex.IGNORECASE, timeout=_MATCH_SECONDS) is not None
        except TimeoutError:
            raise InputError(
                f"the expression '{pattern}' of ROI '{self.name}' takes too long to compare with the name '{name}'; "
                "write it without repeats inside repeats"
            ) from None


def judge(value: float, relation: Relation | None, limit: float, variation: float | None) -> Verdict:
    """The verdict on a value by a limit and a looser one (``docs/conventions.md``, "Verdicts").

    Example:
        >>> judge(46.0, "<=", 45.0, 48.0)
        'acceptable'
    """

    def holds(bound: float) -> bool:
        # in float32, the type of stored doses: a dose of 95 % of 63 Gy is stored a little below 59.85
        stored, wanted = np.float32(value), np.float32(bound)
        return bool(stored >= wanted if relation == ">=" else stored <= wanted)

    if holds(limit):
        return "pass"
    return "acceptable" if variation is not None and holds(variation) else "fail"


class Goal(Frozen):
    """A metric of an ROI, with or without a clinical limit.

    Attributes:
        roi: Name of an ROI of the template.
        metric: The DVH metric.
        relation: Whether the metric must be at most (``<=``) or at least (``>=``) the limit; None for a metric that is
            compared but has no limit.
        value: The limit, in ``unit``.
        unit: Gy or percent of the prescription for D-metrics and gEUD, percent of the ROI's volume for V-metrics, cc
            for V-metrics in cc, an empty text for HI.
        variation: A looser limit, in ``unit``; a value up to it is an acceptable variation.
        priority: 1 is the most important.
        weight: Weight of the metric in the loss.
        use: Where the metric counts; by default in loss and evaluation, or only in the evaluation if a loss can't train
            on it.
        regime: Courses of treatment that the limit holds for; overrides the template's.
        alpha_beta_gy: For a course with another fractionation, the limit of a D-metric in Gy is converted to the same
            biological effect with this alpha/beta, Gy (:func:`cdm_nnunet.dvh.regime.same_effect_dose_gy`).
        comment: Source of the limit, or the reason for it.
    """

    roi: Name
    metric: MetricField
    relation: Relation | None = None
    value: Finite | None = None
    unit: LimitUnit | None = None
    variation: Finite | None = None
    priority: Annotated[int, Field(ge=1)] = 1
    weight: Positive = 1.0
    use: Annotated[tuple[Use, ...], Field(min_length=1)] = ("loss", "evaluation")
    regime: Annotated[Regime | None, Field(exclude_if=operator.not_)] = None
    alpha_beta_gy: Annotated[Positive | None, Field(exclude_if=operator.not_)] = None
    comment: str = ""

    @model_validator(mode="after")
    def _limit_is_whole(self) -> Goal:
        label = f"goal {self.roi} {self.metric}"
        if "use" not in self.model_fields_set and not self.metric.in_loss:
            object.__setattr__(self, "use", ("evaluation",))  # (frozen; this default depends on another field)
        refuse(((key,), f"{label}: {message}") for key, message in self._faults())
        return self

    def _faults(self) -> Iterator[tuple[str, str]]:
        given = [part is not None for part in (self.relation, self.value, self.unit)]
        if any(given) != all(given):
            there = next(key for key in ("relation", "value", "unit") if getattr(self, key) is not None)
            yield there, "'relation', 'value' and 'unit' make a limit together; give all three or none"
        if len(set(self.use)) != len(self.use):
            yield "use", f"'use' names something twice: {', '.join(self.use)}"
        if "loss" in self.use and not self.metric.in_loss:
            yield "use", "a loss can't train on this metric; use it only in the evaluation"
        allowed = _LIMIT_UNITS[self.metric.unit]
        if self.unit is not None and self.unit not in allowed:
            units = " or ".join(f"'{unit}'" for unit in allowed)
            yield "unit", f"the limit's unit is '{self.unit}'; a limit of {self.metric} is in {units}"
        highest = 100.0 if self.unit == "%" else float("inf")
        for key, limit in (("value", self.value), ("variation", self.variation)):
            if limit is not None and not 0 <= limit <= highest:
                yield key, f"a limit of {limit:g} {self.unit} is out of range"
        if self.variation is not None:
            if self.value is None or self.relation is None:
                yield "variation", "'variation' loosens a limit, and the goal has none"
            elif (self.variation > self.value) != (self.relation == "<=") or self.variation == self.value:
                side = "above" if self.relation == "<=" else "below"
                yield "variation", f"variation {self.variation:g} must lie {side} the value {self.value:g}"

        for key in ("regime", "alpha_beta_gy"):
            if getattr(self, key) is not None and self.value is None:
                yield key, f"'{key}' is about a limit, and the goal has none"
        if self.alpha_beta_gy is not None and (self.unit != "Gy" or len(self.metric.order_statistics) != 1):
            yield (
                "alpha_beta_gy",
                "only limits in Gy of D-metrics, Dmin and Dmax can be converted to another fractionation",
            )

    @property
    def is_absolute(self) -> bool:
        """Whether the goal is a dose in Gy, which depends on the fractionation."""
        in_percent = self.unit == "% of prescription" or self.metric.needs_prescription
        return not in_percent and (self.metric.unit == "Gy" or self.metric.is_volume)

    @property
    def has_limit(self) -> bool:
        """Whether the goal can be met or missed."""
        return self.value is not None

    @property
    def limit_text(self) -> str:
        """The limit in readable form, with the acceptable variation; empty if the goal has none.

        Example:
            >>> Goal(roi="SpinalCord", metric="D0.1cc", relation="<=", value=45, unit="Gy", variation=48).limit_text
            '≤ 45 Gy (acceptable to 48)'
        """
        if self.value is None:
            return ""
        sign = "\N{LESS-THAN OR EQUAL TO}" if self.relation == "<=" else "\N{GREATER-THAN OR EQUAL TO}"
        looser = "" if self.variation is None else f" (acceptable to {self.variation:g})"
        return f"{sign} {self.value:g} {self.unit}".rstrip() + looser

    def limit(self, prescription_gy: float | None = None) -> float:
        """The limit in the metric's unit.

        Raises:
            InputError: If the limit is relative to a prescription that is not given.
            ValueError: If the goal has no limit.
        """
        if self.value is None:
            raise ValueError(f"goal {self.roi} {self.metric} has no limit")
        return self._in_metric_unit(self.value, prescription_gy)

    def verdict(self, value: float, prescription_gy: float | None = None) -> Verdict:
        """Judge a value of the metric (``docs/conventions.md``, "Verdicts").

        Raises:
            InputError: If the value is not finite, or as :meth:`limit`.
            ValueError: If the goal has no limit.

        Example:
            >>> goal = Goal(roi="SpinalCord", metric="D0.1cc", relation="<=", value=45, unit="Gy", variation=48)
            >>> goal.verdict(45.0), goal.verdict(46.0), goal.verdict(48.5)
            ('pass', 'acceptable', 'fail')
        """
        if not abs(value) < float("inf"):
            raise InputError(f"goal {self.roi} {self.metric} cannot judge the value {value}")
        limit, variation = self.limits(prescription_gy)
        return judge(value, self.relation, limit, variation)

    def limits(self, prescription_gy: float | None = None) -> tuple[float, float | None]:
        """The limit and the looser one, in the metric's unit; raises as :meth:`limit`."""
        variation = None if self.variation is None else self._in_metric_unit(self.variation, prescription_gy)
        return self.limit(prescription_gy), variation

    def _in_metric_unit(self, number: float, prescription_gy: float | None) -> float:
        if self.unit != "% of prescription":
            return number
        if prescription_gy is None:
            raise InputError(f"goal {self.roi} {self.metric} is relative to a prescription, and none is known")
        return number * prescription_gy / 100.0
