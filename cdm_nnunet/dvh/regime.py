"""Validity of limits: number of fractions, dose per fraction and prescription.

Definitions: ``docs/templates.md``, "Fractionation".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cdm_nnunet.documents import refuse

EQD2_GY = 2.0  # per fraction
TOLERANCE_GY = 0.005  # 70 Gy in 33 fractions is written as 2.12 Gy
_Dose = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Course:
    """Course of treatment of a patient.

    Attributes:
        prescription_gy: Highest prescription of the plan, Gy; None if there is none.
        fractions: Number of fractions; None if unknown.
    """

    prescription_gy: float | None = None
    fractions: int | None = None

    @property
    def dose_per_fraction_gy(self) -> float | None:
        """The highest prescription divided by the fractions."""
        if self.prescription_gy is None or self.fractions is None:
            return None
        return self.prescription_gy / self.fractions


class Regime(BaseModel):
    """The courses that limits hold for; each range is ``[lowest, highest]``, both included.

    Attributes:
        fractions: Number of fractions.
        dose_per_fraction_gy: Highest prescription of the plan divided by the fractions, Gy.
        prescription_gy: Highest prescription of the plan, Gy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fractions: Annotated[tuple[_Count, _Count] | None, Field(exclude_if=operator.not_)] = None
    dose_per_fraction_gy: Annotated[tuple[_Dose, _Dose] | None, Field(exclude_if=operator.not_)] = None
    prescription_gy: Annotated[tuple[_Dose, _Dose] | None, Field(exclude_if=operator.not_)] = None

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Regime:
        given = {key: getattr(self, key) for key in type(self).model_fields if getattr(self, key) is not None}
        if not given:
            refuse([((), f"give one of {', '.join(type(self).model_fields)}, as [lowest, highest]")])
        refuse(((key,), f"{low:g} is above {high:g}") for key, (low, high) in given.items() if low > high)
        return self

    def updated(self, other: Regime | None) -> Regime:
        """This regime, updated with the entries of another one."""
        return self if other is None else self.model_copy(update=other.model_dump())

    def fractionation_differs(self, course: Course) -> str | None:
        """Difference of a course's fractionation, as text; None if it fits or is unknown."""
        if course.fractions is not None and self.fractions is not None:
            low, high = self.fractions
            if not low <= course.fractions <= high:
                return f"made for {_range(low, high)} fractions, and the case has {course.fractions}"
        dose_gy = course.dose_per_fraction_gy
        if dose_gy is not None and self.dose_per_fraction_gy is not None:
            low_gy, high_gy = self.dose_per_fraction_gy
            if not low_gy - TOLERANCE_GY <= dose_gy <= high_gy + TOLERANCE_GY:
                return f"made for {_range(low_gy, high_gy)} Gy a fraction, and the case has {dose_gy:.3g} Gy"
        return None

    def prescription_differs(self, course: Course) -> str | None:
        """Difference of a course's prescription, as text; None if it fits or there is none."""
        if course.prescription_gy is None or self.prescription_gy is None:
            return None
        low_gy, high_gy = self.prescription_gy
        if low_gy - TOLERANCE_GY <= course.prescription_gy <= high_gy + TOLERANCE_GY:
            return None
        return (
            f"made for a prescription of {_range(low_gy, high_gy)} Gy, and the case has {course.prescription_gy:g} Gy"
        )

    def unknown(self, course: Course) -> Iterator[str]:
        """Properties on which the limits depend and that the course does not state, as text."""
        if course.fractions is None and self.fractions is not None:
            yield f"the number of fractions is unknown; limits are for {_range(*self.fractions)}"
        if course.dose_per_fraction_gy is None and self.dose_per_fraction_gy is not None:
            yield f"the dose per fraction is unknown; limits are for {_range(*self.dose_per_fraction_gy)} Gy"
        if course.prescription_gy is None and self.prescription_gy is not None:
            yield f"there is no prescription; limits are for {_range(*self.prescription_gy)} Gy"


def same_effect_dose_gy(limit_gy: float, *, alpha_beta_gy: float, made_for: int | None, fractions: int) -> float:
    """The dose in a number of fractions with the same biological effect as a limit (linear-quadratic model).

    BED = D (1 + d / (alpha/beta)), with d the dose per fraction *in the organ*. The limit at 2 Gy per fraction, or in
    its own number of fractions, and the result in ``fractions`` have the same BED.

    Args:
        limit_gy: The limit, Gy.
        alpha_beta_gy: Alpha/beta of the endpoint, Gy.
        made_for: Number of fractions of the limit; None for 2 Gy per fraction (EQD2).
        fractions: Number of fractions of the course.

    References:
        J. F. Fowler, The linear-quadratic formula and progress in fractionated radiotherapy, Br. J. Radiol. 62 (1989).

    Example:
        >>> round(same_effect_dose_gy(45.0, alpha_beta_gy=2.0, made_for=None, fractions=20), 2)
        43.25
    """
    dose_per_fraction_gy = EQD2_GY if made_for is None else limit_gy / made_for
    bed_gy = limit_gy * (1 + dose_per_fraction_gy / alpha_beta_gy)
    half_gy = fractions * alpha_beta_gy / 2
    return half_gy * (math.sqrt(1 + 2 * bed_gy / half_gy) - 1)


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
