"""Parsed DVH metrics such as ``D95%``, shared by the NumPy and torch implementations.

Definitions: ``docs/conventions.md``, "DVH metrics". The kinds of metrics are the rows of :mod:`cdm_nnunet.dvh.kinds`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.dvh.grammar import Grammar, MetricUnit, parse_key, plain_number
from cdm_nnunet.dvh.protocols import Surface, WholeDose
from cdm_nnunet.errors import InputError

EXACT = "exact"
ROUNDINGS = {challenge.rounding.name: challenge.rounding for challenge in CHALLENGES if challenge.rounding is not None}

SAME_VOLUME = 1e-6  # of a volume: voxel sizes are 32-bit floats, and ten voxels of 0.027 cc must be 0.27 cc


class RoiDoses(Protocol):
    """The doses of an ROI for the formulas of metrics: of voxels, or of samples with volumes.

    An amount of the ROI is a number of voxels, or the volume of samples in cc.
    """

    @property
    def ascending_gy(self) -> NDArray[np.floating]:
        """Doses in ascending order, shape (n,), Gy."""
        ...

    @property
    def prescription_gy(self) -> float | None:
        """Prescription of the ROI in Gy."""
        ...

    @property
    def volume_cc(self) -> float:
        """Volume of the ROI."""
        ...

    def mean_gy(self) -> float:
        """Mean dose."""
        ...

    def power_mean_gy(self, a: float) -> float:
        """The generalised mean with exponent a, not 0; negative doses are refused."""
        ...

    def order_statistic_gy(self, metric: Metric) -> float:
        """The dose that a metric picks from the order of doses."""
        ...

    def reaching(self, dose_gy: float) -> float:
        """Amount that receives at least a dose."""
        ...

    def below(self, dose_gy: float) -> float:
        """Amount that receives less than a dose."""
        ...

    def near(self, dose_gy: float, step_gy: float) -> float:
        """Amount whose dose is within a step of a dose."""
        ...

    def in_unit(self, amount: float, unit: MetricUnit) -> float:
        """An amount in cc, or in percent of the ROI."""
        ...


Formula = Callable[["Metric", RoiDoses], float]
PlanFormula = Callable[["Metric", WholeDose], float]
MaskError = Callable[["Metric", float, Surface, RoiDoses], float]


@dataclass(frozen=True, kw_only=True)
class Kind(Grammar):
    """A kind of metric: the form of its keys, and its formula.

    It has a formula, or a plan formula if the doses in the ROI are not enough. A kind that a loss trains on has another
    formula, under the same name in :mod:`cdm_nnunet.losses.metrics`.

    Attributes:
        formula: Its value in the doses of an ROI, in ``unit``.
        plan_formula: Its value in a whole dose, in ``unit``; NaN if it is not defined.
        undefined: Reason if a plan formula gives NaN.
        mask_error: Change of the value if the ROI's surface moves by half a voxel, in ``unit``; None if unknown
            (``docs/conventions.md``, "Mask error").
        is_order_statistic: Whether it is the dose of one voxel in the order of doses.
        is_volume: Whether it is the part of the ROI on one side of a dose.
        is_cold: Whether it counts from the cold end.
        parts: Keys of its order statistics.
        needs_prescription: Whether it is relative to the prescription of the ROI.
        in_loss: Whether a loss can train on it; otherwise it is only for the evaluation.
    """

    formula: Formula | None = None
    plan_formula: PlanFormula | None = None
    undefined: str = ""
    mask_error: MaskError | None = None
    is_order_statistic: bool = False
    is_volume: bool = False
    is_cold: bool = False
    parts: tuple[str, ...] = ()
    needs_prescription: bool = False
    in_loss: bool = True

    def __post_init__(self) -> None:
        if (self.formula is None) == (self.plan_formula is None):
            raise ValueError(f"kind '{self.name}' needs either a formula or a plan formula")
        if self.number is not None and not self.word.isalpha():
            raise ValueError(f"kind '{self.name}': the word before a number is made of letters, not '{self.word}'")

    @property
    def of_plan(self) -> bool:
        """Whether it needs the whole dose, not only that in the ROI."""
        return self.plan_formula is not None

    @property
    def can_count(self) -> bool:
        """Whether the key may have a counting in brackets."""
        return self.is_order_statistic and not self.is_cold and self.number is not None


KINDS: dict[str, Kind] = {}


def add_kind(kind: Kind) -> None:
    """Register a kind of metric.

    Raises:
        ValueError: If its name or the form of its keys exists already.
    """
    for other in KINDS.values():
        if kind.name == other.name or kind.form == other.form:
            raise ValueError(f"there is a kind '{other.name}' with keys {other.form} already")
    KINDS[kind.name] = kind


class UndefinedMetricError(InputError):
    """A metric that is not defined for an ROI or its doses.

    Attributes:
        reason: The reason.
    """

    def __init__(self, metric: Metric, reason: str):
        self.reason = reason
        super().__init__(f"{metric} is not defined: {reason}")


@dataclass(frozen=True)
class Metric:
    """One DVH metric of a region of interest.

    Attributes:
        kind: What is measured: a name in :data:`KINDS`.
        value: The number in the key (percent, cc, Gy or the exponent of gEUD); None for a kind without one.
        counting: How D_x selects its voxel: ``exact``, or with the rounding of a challenge (key ``D0.1cc[NAME]``,
            ``D95%[NAME]``); ``exact`` for every other kind.

    Raises:
        InputError: If the value is missing, superfluous or out of range.

    Example:
        >>> metric = Metric.parse("D95%")
        >>> metric.kind, metric.value, metric.unit, str(metric)
        ('dose_at_percent', 95.0, 'Gy', 'D95%')
    """

    kind: str
    value: float | None = None
    counting: str = EXACT

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown kind of DVH metric '{self.kind}'; known are {', '.join(KINDS)}")
        if self.counting not in (EXACT, *ROUNDINGS):
            raise InputError(f"unknown way to count '{self.counting}'; known are {', '.join((EXACT, *ROUNDINGS))}")
        if self.counting != EXACT and not self.row.can_count:
            raise InputError(
                f"'[{self.counting}]' is a way to count the voxels of D<x>cc and D<x>%; it has no other use"
            )
        if (self.value is None) != (self.row.number is None):
            raise InputError(f"a metric of kind '{self.kind}' cannot have the value {self.value}")
        if self.value is not None:
            self.row.refuse_out_of_range(str(self), self.value)

    @classmethod
    def parse(cls, key: str) -> Metric:
        """The metric behind a key such as ``D95%``, ``D0.03cc``, ``Dmean``, ``V20Gy``, ``CV15Gy[cc]`` or ``HI``.

        Equal metrics have equal keys: other spellings are converted to the usual one: ``D35mm3`` is
        ``D0.035cc``, ``V2000cGy`` is ``V20Gy``, and TG-263's ``D95%[Gy]``, ``V20Gy[%]``, ``Mean[Gy]`` and
        ``Median[Gy]`` are ``D95%``, ``V20Gy``, ``Dmean`` and ``D50%``; spaces are left out.

        Raises:
            InputError: If the key has no meaning or several, or its number is out of range.

        Example:
            >>> Metric.parse("V20")
            Traceback (most recent call last):
                ...
            cdm_nnunet.errors.InputError: 'V20' has no unit: write 'V20Gy' (volume that receives at least 20 Gy) or \
'V20%' (at least 20 % of the prescription)
            >>> str(Metric.parse("D95%[Gy]"))
            'D95%'
        """
        kind, value, counting = parse_key(key, KINDS.values())
        return cls(kind, value, counting or EXACT)

    def __str__(self) -> str:
        number = None if self.value is None else plain_number(self.value)
        return self.row.key(number, "" if self.counting == EXACT else self.counting)

    @property
    def row(self) -> Kind:
        """Its kind."""
        return KINDS[self.kind]

    @property
    def unit(self) -> MetricUnit:
        """Unit of the result: Gy, percent of the ROI's volume, cc, or an empty text for a plain number."""
        return self.row.unit

    @property
    def is_volume(self) -> bool:
        """Whether the result is the part of the ROI on one side of a dose (V and CV), in percent or cc."""
        return self.row.is_volume

    @property
    def is_cold(self) -> bool:
        """Whether it counts from the cold end (DC, CV and Dmin)."""
        return self.row.is_cold

    @property
    def in_loss(self) -> bool:
        """Whether a loss can train on it."""
        return self.row.in_loss

    @property
    def of_plan(self) -> bool:
        """Whether it needs the whole dose: conformity, gradient, and the dose beyond a distance from the targets."""
        return self.row.of_plan

    @property
    def needs_prescription(self) -> bool:
        """Whether the metric is only defined for an ROI with a prescription."""
        return self.row.needs_prescription

    @property
    def needs_volume(self) -> bool:
        """Whether the value depends on the voxel volume: its key, or its result, is a volume in cc."""
        return self.unit == "cc" or self._number_unit == "cc"

    @property
    def order_statistics(self) -> tuple[Metric, ...]:
        """The order statistics of the metric: itself, none, or those of the homogeneity index.

        Example:
            >>> [str(part) for part in Metric.parse("HI").order_statistics]
            ['D2%', 'D98%', 'D50%']
        """
        return (self,) if self.row.is_order_statistic else _parsed(self.row.parts)

    @property
    def number(self) -> float:
        """The number in the key.

        Raises:
            ValueError: If there is none.
        """
        if self.value is None:
            raise ValueError(f"{self} has no number")
        return self.value

    def why_undefined(self, roi_volume_cc: float) -> str | None:
        """Reason why the metric is not defined for an ROI of this volume: the ROI is smaller than the x of D_xcc.

        Args:
            roi_volume_cc: Volume of the ROI in cc.

        Returns:
            The reason as text; None if the metric is defined.

        Example:
            >>> Metric.parse("D0.03cc").why_undefined(0.02)
            'the ROI has 0.02 cc, less than 0.03 cc'
        """
        if roi_volume_cc >= self.least_volume_cc:
            return None
        return f"the ROI has {roi_volume_cc:.4g} cc, less than {plain_number(self.number)} cc"

    @property
    def least_volume_cc(self) -> float:
        """Volume below which the metric is not defined; 0 if it is always defined."""
        if self.value is None or self._number_unit != "cc" or self.counting != EXACT:
            return 0.0
        return self.value * (1 - SAME_VOLUME)

    def rank(self, n_voxels: int, voxel_volume_cc: float) -> float:
        """Position of the metric among the ascending voxel doses, counted from 0 (``docs/conventions.md``, "D_x").

        It is an integer, except for the rounding of a challenge: then the metric lies between two neighbours.

        Args:
            n_voxels: Number of voxels of the ROI, at least 1.
            voxel_volume_cc: Volume of a voxel in cc.

        Returns:
            From 0 (the minimum) to n_voxels - 1 (the maximum).

        Raises:
            InputError: If the ROI has no voxel, a voxel has no volume, or the ROI is smaller than the x of D_xcc.
            ValueError: If the metric is not an order statistic.

        Example:
            >>> Metric.parse("D95%").rank(1000, 0.027), Metric.parse("D95%[openkbp]").rank(1000, 0.027)
            (50.0, 49.95)
            >>> Metric.parse("D0.03cc").rank(1000, 0.027), Metric.parse("DC0.03cc").rank(1000, 0.027)
            (998.0, 1.0)
        """
        if not n_voxels >= 1:
            raise InputError(f"{self} needs an ROI of at least one voxel, not {n_voxels}")
        if not voxel_volume_cc > 0:
            raise InputError(f"{self} needs a voxel volume above zero, not {voxel_volume_cc} cc")
        if reason := self.why_undefined(n_voxels * voxel_volume_cc):
            raise UndefinedMetricError(self, reason)
        if not self.row.is_order_statistic:
            raise ValueError(f"{self} is not an order statistic of the voxel doses")
        if self.counting != EXACT:
            return self._rounded_fraction(n_voxels, voxel_volume_cc) * (n_voxels - 1)
        voxels = self._n_voxels_from_end(n_voxels, voxel_volume_cc)
        return float(voxels - 1 if self.is_cold else n_voxels - voxels)

    def threshold_gy(self, prescription_gy: float | None = None) -> float:
        """The dose that counts voxels for a V-metric, Gy (``docs/conventions.md``, "V_x").

        Args:
            prescription_gy: Prescription of the ROI in Gy, for V<x>% and V<x>%[cc].

        Raises:
            InputError: If V<x>% has no prescription, or if it is not above zero.
            ValueError: If the metric is a dose.

        Example:
            >>> Metric.parse("V95%").threshold_gy(70.0)
            66.5
        """
        if not self.is_volume:
            raise ValueError(f"{self} has no dose threshold")
        if not self.needs_prescription:
            return self.number
        if prescription_gy is None:
            raise InputError(f"{self} is a percentage of the prescription, and the ROI has none; use V<x>Gy")
        if not (math.isfinite(prescription_gy) and prescription_gy > 0):
            raise InputError(f"{self} needs a prescription above zero, not {prescription_gy} Gy")
        return self.number * prescription_gy / 100.0

    @property
    def _number_unit(self) -> str | None:
        return None if self.row.number is None else self.row.number.unit

    def voxels_from_end(self, voxel_volume_cc: float) -> Fraction | int:
        """Number of voxels in x from the hot or the cold end: as a share of the ROI, or as a number.

        The share must be rounded up, and both limited to one voxel up to all. D_x is then the highest dose that a
        volume of at least x receives: V(D_x) >= x, and a volume below x receives more.

        Args:
            voxel_volume_cc: Volume of a voxel in cc.

        Example:
            >>> Metric.parse("D95%").voxels_from_end(0.027), Metric.parse("D0.1cc").voxels_from_end(0.027)
            (Fraction(19, 20), 4)
        """
        if self.value is None:
            return 1
        if self._number_unit == "%":
            return Fraction(repr(float(self.value))) / 100
        return math.ceil(self.value * (1 - SAME_VOLUME) / voxel_volume_cc)

    def _n_voxels_from_end(self, n_voxels: int, voxel_volume_cc: float) -> int:
        found = self.voxels_from_end(voxel_volume_cc)
        voxels = math.ceil(found * n_voxels) if isinstance(found, Fraction) else found
        return min(max(voxels, 1), n_voxels)

    def _rounded_fraction(self, n_voxels: int, voxel_volume_cc: float) -> float:
        """Position used by a challenge's evaluator, from 0 (minimum) to 1 (maximum)."""
        rounding = ROUNDINGS[self.counting]
        if self._number_unit == "%":
            return rounding.at_percent(self.number)
        return rounding.at_cc(self.number, n_voxels, voxel_volume_cc)


@functools.cache
def _parsed(keys: tuple[str, ...]) -> tuple[Metric, ...]:
    return tuple(map(Metric.parse, keys))
