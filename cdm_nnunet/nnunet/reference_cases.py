"""Distributions of the training patients' quantities, and the distance of a new patient from them.

The limits come from the training patients themselves: each fifth of them is compared with the others, so that about the
same share of patients of the same clinic exceeds them, for any clinic and number of ROIs. Definitions:
``docs/new_patient.md``, "Does the model apply?".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.case_geometry import CaseGeometry
from cdm_nnunet.nnunet.quantities import HU_KEYS, kind_of, lengths_of, quantities_of
from cdm_nnunet.prediction_record import ENOUGH_CASES

MIN_CASES = ENOUGH_CASES
_MIN_KNOWN = 10  # minimum number of cases with a quantity
_LEAST_LIMIT = 4.0  # standard deviations
LEVELS = (0.0, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 100.0)  # percent
_MEDIAN, _LOW, _HIGH = (LEVELS.index(level) for level in (50.0, 5.0, 95.0))
_NORMAL_95 = 1.645  # the 95th percentile of a normal distribution, in standard deviations
_FOLDS = 5
_SCORE_PERCENT = 98.0  # share of the training patients with a lower score
_APART_PERCENT = 97.0  # share of the training patients with the same targets
_LEAST_APART = 2.0  # standard deviations
_END_PERCENT = 0.5  # share of them on each side beyond the limits for size and CT, before the margin
_SIZE_MARGIN, _CT_MARGIN = 1.15, 2.0  # because few patients determine the tails of a distribution poorly
_MOST_VALUES = 60
_SIZE_FLOOR = 0.02
_CT_FLOOR_HU = 5.0
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Distribution(BaseModel):
    """Distribution of a quantity over the training cases that have it.

    Attributes:
        n: Number of these cases.
        quantiles: Values at :data:`LEVELS`.
    """

    model_config = _STRICT

    n: int = Field(ge=1)
    quantiles: Annotated[tuple[float, ...], Field(min_length=len(LEVELS), max_length=len(LEVELS))]

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Distribution of values."""
        return cls(n=len(values), quantiles=tuple(np.percentile(values, LEVELS).tolist()))

    @property
    def median(self) -> float:
        """The middle value."""
        return self.quantiles[_MEDIAN]

    def percentile(self, value: float) -> float:
        """Percent of the training cases with a lower value: 0 below all, 100 above all."""
        low, high = self.quantiles[0], self.quantiles[-1]
        if value < low or value > high:
            return 0.0 if value < low else 100.0
        return float(np.interp(value, self.quantiles, LEVELS))

    def score(self, key: str, value: float) -> float:
        """Distance from the median in standard deviations, estimated from the 5th or 95th percentile."""
        kind = kind_of(key)
        median, low, high = (kind.scaled(self.quantiles[k]) for k in (_MEDIAN, _LOW, _HIGH))
        away = kind.scaled(value) - median
        spread = (high - median if away > 0 else median - low) / _NORMAL_95
        return away / max(spread, kind.floor)


class Apart(BaseModel):
    """Separation of the targets of a case: many parts with little contact if a target between them is missing.

    Attributes:
        parts: Distribution of the number of separate parts.
        contact: Distribution of the share of their surfaces at which they touch.
        limit: Highest usual difference of both scores.
    """

    model_config = _STRICT

    parts: Distribution
    contact: Distribution
    limit: float = Field(gt=0)

    @classmethod
    def of(cls, cases: Sequence[CaseGeometry]) -> Apart:
        """Separation for cases with the same targets; the limit comes from comparing each fifth with the others."""
        away = [cls._unlimited(others).score(case) for others, held in _held_out(cases) for case in held]
        limit = max(_LEAST_APART, float(np.percentile(away, _APART_PERCENT)))
        return cls._unlimited(cases).model_copy(update={"limit": limit})

    @classmethod
    def _unlimited(cls, cases: Sequence[CaseGeometry]) -> Apart:
        parts, contact = ([getattr(case, name) for case in cases] for name in ("parts", "contact"))
        return cls(parts=Distribution.of(parts), contact=Distribution.of(contact), limit=_LEAST_APART)

    def score(self, case: CaseGeometry) -> float:
        """Score in standard deviations: more parts and less contact than usual."""
        return self.parts.score("parts", case.parts) - self.contact.score("contact", case.contact)


class TargetSet(BaseModel):
    """Targets that were prescribed together.

    Attributes:
        targets: Names of the targets.
        n: Number of training cases.
        apart: Their separation; None for fewer than :data:`MIN_CASES` cases and in plans of earlier versions.
    """

    model_config = _STRICT

    targets: tuple[str, ...]
    n: int = Field(ge=1)
    apart: Apart | None = None

    @classmethod
    def all_of(cls, cases: Sequence[CaseFacts]) -> tuple[TargetSet, ...]:
        """Target sets of cases."""
        sets: dict[tuple[str, ...], list[CaseGeometry]] = {}
        for case in cases:
            sets.setdefault(tuple(sorted(case.prescriptions_gy)), []).append(case.geometry)
        return tuple(
            cls(targets=targets, n=len(found), apart=Apart.of(found) if len(found) >= MIN_CASES else None)
            for targets, found in sorted(sets.items())
        )


class Usual(BaseModel):
    """Combination of many values of a case, such as lengths for its size: the weighted median of differences.

    Attributes:
        values: Median and spread of each value among the training cases, by key.
        of_cases: Distribution of the training cases' own weighted medians.
        limits: Lowest and highest usual value.
    """

    model_config = _STRICT

    values: Mapping[str, tuple[float, float]]
    of_cases: Distribution
    limits: tuple[float, float]

    @classmethod
    def of(cls, cases: Sequence[Mapping[str, float]], floor: float, margin: float) -> Usual:
        """Combination for values by case.

        Args:
            cases: Values of each case by key.
            floor: Minimum spread.
            margin: Factor of the limits.
        """
        own = [
            _difference(usual, case) or 0.0
            for others, held in _held_out(cases)
            for usual in [_usual(others, floor)]
            for case in held
        ]
        low, high = (float(np.percentile(own, level)) for level in (_END_PERCENT, 100 - _END_PERCENT))
        return cls(
            values=_usual(cases, floor),
            of_cases=Distribution.of(own),
            limits=(margin * min(low, -floor), margin * max(high, floor)),
        )

    def difference(self, case: Mapping[str, float]) -> float | None:
        """Weighted median of a case's differences; None if it has none of the values."""
        return _difference(self.values, case)

    def beyond(self, difference: float) -> float:
        """Ratio of a difference to the limit; at most 1 if it is usual."""
        low, high = self.limits
        return difference / high if difference > 0 else difference / low


class ReferenceCases(BaseModel):
    """Distributions over the training cases.

    Attributes:
        quantities: Distributions by key of :func:`cdm_nnunet.nnunet.quantities.quantities_of`.
        score_limit: Highest usual score of a quantity.
        size: Size of the anatomy, from the logarithms of its lengths.
        ct: CT, from its medians in the ROIs, HU.
        target_sets: Targets that were prescribed together.
        cut: Number of cases in which each ROI touched the first or last plane of the image.
    """

    model_config = _STRICT

    quantities: Mapping[str, Distribution]
    score_limit: float = Field(gt=0)
    size: Usual
    ct: Usual
    target_sets: tuple[TargetSet, ...]
    cut: Mapping[str, int]

    @classmethod
    def of(cls, cases: Sequence[CaseFacts]) -> ReferenceCases | None:
        """Distributions over cases; None for fewer than :data:`MIN_CASES`."""
        if len(cases) < MIN_CASES:
            return None
        quantities = [quantities_of(case) for case in cases]
        scores = [
            _highest_score(known, case)
            for others, held in _held_out(quantities)
            for known in [_distributions(others)]
            for case in held
        ]
        cut = Counter(name for case in cases for name in case.geometry.cut)
        return cls(
            quantities=_distributions(quantities),
            score_limit=max(_LEAST_LIMIT, float(np.percentile(scores, _SCORE_PERCENT))),
            size=Usual.of([lengths_of(case) for case in cases], _SIZE_FLOOR, _SIZE_MARGIN),
            ct=Usual.of([case.geometry.hu for case in cases], _CT_FLOOR_HU, _CT_MARGIN),
            target_sets=TargetSet.all_of(cases),
            cut=dict(sorted(cut.items())),
        )

    @property
    def is_earlier(self) -> bool:
        """Whether they come from an earlier version with fewer quantities."""
        return not self.quantities.keys() >= set(HU_KEYS)

    def scores(self, case: CaseFacts) -> dict[str, tuple[float, float]]:
        """Value and score of each quantity of a case that enough training cases have."""
        known = quantities_of(case)
        return {
            key: (known[key], distribution.score(key, known[key]))
            for key, distribution in self.quantities.items()
            if key in known
        }


_Case = TypeVar("_Case")


def _held_out(cases: Sequence[_Case]) -> Iterator[tuple[list[_Case], Sequence[_Case]]]:
    """Each fifth of the cases, with the other four."""
    for fold in range(_FOLDS):
        yield [case for k, case in enumerate(cases) if k % _FOLDS != fold], cases[fold::_FOLDS]


def _distributions(cases: Sequence[Mapping[str, float]]) -> dict[str, Distribution]:
    values: dict[str, list[float]] = {}
    for case in cases:
        for key, value in case.items():
            values.setdefault(key, []).append(value)
    return {key: Distribution.of(found) for key, found in sorted(values.items()) if len(found) >= _MIN_KNOWN}


def _highest_score(known: Mapping[str, Distribution], case: Mapping[str, float]) -> float:
    return max((abs(known[key].score(key, value)) for key, value in case.items() if key in known), default=0.0)


def _usual(cases: Sequence[Mapping[str, float]], floor: float) -> dict[str, tuple[float, float]]:
    """Median and spread (of the middle 68 %) of the values that vary least."""
    values: dict[str, list[float]] = {}
    for case in cases:
        for key, value in case.items():
            values.setdefault(key, []).append(value)
    found = {}
    for key, of_key in values.items():
        if len(of_key) >= _MIN_KNOWN:
            median = float(np.median(of_key))
            found[key] = (median, max(float(np.percentile(np.abs(np.subtract(of_key, median)), 68.0)), floor))
    return dict(sorted(found.items(), key=lambda item: item[1][1])[:_MOST_VALUES])


def _difference(usual: Mapping[str, tuple[float, float]], case: Mapping[str, float]) -> float | None:
    """Weighted median of differences; weights are the inverse squares of the spreads."""
    keys = [key for key in usual if key in case]
    if not keys:
        return None
    away = np.array([case[key] - usual[key][0] for key in keys])
    weights = np.array([usual[key][1] ** -2 for key in keys])
    order = np.argsort(away)
    summed = np.cumsum(weights[order])
    return float(away[order][np.searchsorted(summed, summed[-1] / 2)])
