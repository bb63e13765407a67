"""DVH metric keys, parsed once: what ``"D95%"`` means, for the NumPy and the torch implementation alike.

Definitions: ``docs/conventions.md``, "DVH metrics". A kind of metric is one row in :mod:`cdm_nnunet.dvh.kinds`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, cast, get_args

from cdm_nnunet.dvh.kinds import KINDS, Kind, MetricKind, MetricUnit
from cdm_nnunet.errors import InputError

Counting = Literal["exact", "openkbp"]

SAME_VOLUME = 1e-6  # of a volume: voxel sizes come as 32-bit floats, and ten voxels of 0.027 cc are 0.27 cc
_KIND_OF_PARTS = {(row.word, row.number_unit, row.bracket): kind for kind, row in KINDS.items()}
_KIND_OF_WORD = {row.word: kind for kind, row in KINDS.items() if row.number_unit is None}
_COUNTED_AS_OPENKBP = ("dose_at_percent", "dose_at_cc")
# TG-263's words
_SAME_AS = {"Mean": "Dmean", "Min": "Dmin", "Max": "Dmax", "Median": "D50%", "Dmedian": "D50%", "R50": "R50%"}
_KEY = re.compile(r"(DC|CV|D|V|gEUD)(-?(?:\d+\.?\d*|\.\d+))(%|cc|mm3|cGy|Gy|cm|)")
_BRACKET = re.compile(r"(.*?)\[([^\[\]]+)\]")
_FORMS = (
    "D<x>%, D<x>cc, D<x>mm3, Dmean, Dmin, Dmax, V<x>Gy, V<x>% (percent of the prescription), V<x>Gy[cc], V<x>%[cc], "
    "DC<x>%, DC<x>cc and CV<x>Gy, CV<x>Gy[cc] (the coldest part), gEUD<a>, HI, Volume[cc]; "
    "of targets D<x>cm, PaddickCI, RTOGCI, GI, R50%"
)


@dataclass(frozen=True)
class Metric:
    """One DVH metric of a region of interest.

    Attributes:
        kind: What is measured.
        value: The number in the key (percent, cc, Gy or the exponent of gEUD); None for a kind without one.
        counting: How D_x finds its voxel: ``exact`` or as OpenKBP's official evaluator does (key ``D0.1cc[openkbp]``,
            ``D95%[openkbp]``). It is ``exact`` for every other kind.

    Raises:
        InputError: If the value is missing, superfluous or out of range.

    Example:
        >>> metric = Metric.parse("D95%")
        >>> metric.kind, metric.value, metric.unit, str(metric)
        ('dose_at_percent', 95.0, 'Gy', 'D95%')
    """

    kind: MetricKind
    value: float | None = None
    counting: Counting = "exact"

    def __post_init__(self) -> None:
        if self.kind not in get_args(MetricKind):
            raise InputError(f"unknown kind of DVH metric '{self.kind}'; known are {', '.join(get_args(MetricKind))}")
        if self.counting not in get_args(Counting):
            raise InputError(f"unknown way to count '{self.counting}'; known are {', '.join(get_args(Counting))}")
        if self.counting != "exact" and self.kind not in _COUNTED_AS_OPENKBP:
            raise InputError(
                f"'[{self.counting}]' is a way to count the voxels of D<x>cc and D<x>%; it has no other use"
            )
        if (self.value is None) != (self._row.number_unit is None):
            raise InputError(f"a metric of kind '{self.kind}' cannot have the value {self.value}")
        if self.value is not None:
            self._refuse_out_of_range(self.value)

    def _refuse_out_of_range(self, value: float) -> None:
        if not math.isfinite(value):
            raise InputError(f"the value of a metric of kind '{self.kind}' must be finite, not {value}")
        if self.kind == "geud":
            if value == 0:
                raise InputError(f"'{self}' has the exponent 0, for which gEUD is not defined")
        elif self._row.is_order_statistic and self._row.number_unit == "%":
            if not 0 <= value <= 100:
                raise InputError(f"'{self}' asks for a volume outside 0 to 100 percent")
        elif not value > 0:
            quantity = "distance" if self._row.of_plan else "volume" if self._row.is_order_statistic else "dose"
            raise InputError(f"'{self}' asks for a {quantity} that is not above zero")

    @classmethod
    def parse(cls, key: str) -> Metric:
        """The metric behind a key such as ``D95%``, ``D0.03cc``, ``Dmean``, ``V20Gy``, ``CV15Gy[cc]`` or ``HI``.

        Equal metrics have equal keys, so that other spellings are read and shown as the usual one: ``D35mm3`` is
        ``D0.035cc``, ``V2000cGy`` is ``V20Gy``, and TG-263's ``D95%[Gy]``, ``V20Gy[%]``, ``Mean[Gy]`` and
        ``Median[Gy]`` are ``D95%``, ``V20Gy``, ``Dmean`` and ``D50%``.

        Raises:
            InputError: If the key has no or no unique reading, or its number is out of range.

        Example:
            >>> Metric.parse("V20")
            Traceback (most recent call last):
                ...
            cdm_nnunet.errors.InputError: 'V20' has no unit: write 'V20Gy' (volume that receives at least 20 Gy) or \
'V20%' (at least 20 % of the prescription)
            >>> str(Metric.parse("D95%[Gy]"))
            'D95%'
        """
        with_bracket = _BRACKET.fullmatch(key)
        body, bracket = with_bracket.groups() if with_bracket else (key, "")
        body = _SAME_AS.get(body, body)
        if body == "CI":
            raise InputError(
                "'CI' can be read in two ways: write 'PaddickCI' (TV_PIV^2 / (TV PIV)) or 'RTOGCI' (PIV / TV)"
            )
        if body in _KIND_OF_WORD:
            kind, value = _KIND_OF_WORD[body], None
        else:
            kind, value = _kind_and_value(key, body, bracket)
        row, counting = KINDS[kind], "exact"
        if bracket not in ("", row.bracket, row.unit):
            if bracket in ("%", "cGy") and row.unit == "Gy":
                in_gy = key.removesuffix(f"[{bracket}]")
                raise InputError(
                    f"'{key}': doses are in Gy here; write '{in_gy}', give a limit in 'Gy' or in '% of prescription'"
                )
            if bracket in ("cc", "%", "Gy", "cGy"):
                raise InputError(f"'{key}' is not a DVH metric; expected {_FORMS}")
            counting = bracket
        checked_by_the_constructor = cast(Counting, counting)
        return cls(kind, value, checked_by_the_constructor)

    def __str__(self) -> str:
        row = self._row
        number = "" if self.value is None else f"{_plain(self.value)}{row.number_unit}"
        bracket = row.bracket or ("" if self.counting == "exact" else self.counting)
        return f"{row.word}{number}" + (f"[{bracket}]" if bracket else "")

    @property
    def _row(self) -> Kind:
        return KINDS[self.kind]

    @property
    def unit(self) -> MetricUnit:
        """Unit of the result: Gy, percent of the ROI's volume, cc, or an empty text for a plain number."""
        return self._row.unit

    @property
    def is_volume(self) -> bool:
        """Whether the result is the part of the ROI on one side of a dose (V and CV), in percent or cc."""
        return self._row.is_volume

    @property
    def is_cold(self) -> bool:
        """Whether it looks from the cold end (DC and CV)."""
        return self._row.is_cold

    @property
    def in_loss(self) -> bool:
        """Whether a loss can train on it."""
        return self._row.in_loss

    @property
    def of_plan(self) -> bool:
        """Whether it needs the whole dose: conformity, gradient, and the dose beyond a distance from the targets."""
        return self._row.of_plan

    @property
    def needs_prescription(self) -> bool:
        """Whether the metric is defined only where the ROI has a prescription."""
        return (self.is_volume and self._row.number_unit == "%") or (self.of_plan and self.kind != "dose_beyond")

    @property
    def order_statistics(self) -> tuple[Metric, ...]:
        """The order statistics that the metric is made of: itself, none, or those of the homogeneity index.

        Example:
            >>> [str(part) for part in Metric.parse("HI").order_statistics]
            ['D2%', 'D98%', 'D50%']
        """
        if self.kind == "homogeneity":
            return tuple(Metric("dose_at_percent", percent) for percent in (2.0, 98.0, 50.0))
        return (self,) if self._row.is_order_statistic else ()

    def why_undefined(self, roi_volume_cc: float) -> str | None:
        """Why an ROI of this volume has no such metric: it is smaller than the volume that D_xcc asks for.

        Args:
            roi_volume_cc: Volume of the ROI in cc.

        Returns:
            The reason in words; None where the metric is defined.

        Example:
            >>> Metric.parse("D0.03cc").why_undefined(0.02)
            'the ROI has 0.02 cc, less than 0.03 cc'
        """
        if self.value is None or self._row.number_unit != "cc" or self.counting != "exact":
            return None
        if roi_volume_cc >= self.value * (1 - SAME_VOLUME):
            return None
        return f"the ROI has {roi_volume_cc:.4g} cc, less than {_plain(self.value)} cc"

    def rank(self, n_voxels: int, voxel_volume_cc: float) -> float:
        """Which of the ascending voxel doses the metric is, counted from 0 (``docs/conventions.md``, "D_x").

        It is a whole number, except for ``[openkbp]``: there the metric lies between two neighbours, linearly.

        Args:
            n_voxels: Number of voxels of the ROI, at least 1.
            voxel_volume_cc: Volume of a voxel in cc.

        Returns:
            From 0 (the minimum) to n_voxels - 1 (the maximum).

        Raises:
            InputError: If the ROI has no voxel, a voxel no volume, or the ROI is smaller than the volume asked for.
            ValueError: If the metric is no order statistic.

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
            raise InputError(f"{self} is not defined: {reason}")
        if self.kind in ("min", "max"):
            return 0.0 if self.kind == "min" else n_voxels - 1.0
        if self.value is None or not self._row.is_order_statistic:
            raise ValueError(f"{self} is not an order statistic of the voxel doses")
        if self.counting == "openkbp":
            return self._openkbp_fraction(self.value, n_voxels, voxel_volume_cc) * (n_voxels - 1)
        # D: the highest dose that a volume of at least x reaches; then V(D_x) >= x, and less than x gets more than D_x
        if self._row.number_unit == "%":
            voxels = math.ceil(Fraction(repr(float(self.value))) * n_voxels / 100)
        else:
            voxels = math.ceil(self.value * (1 - SAME_VOLUME) / voxel_volume_cc)
        voxels = min(max(voxels, 1), n_voxels)
        return float(voxels - 1 if self.is_cold else n_voxels - voxels)

    def threshold_gy(self, prescription_gy: float | None = None) -> float:
        """The dose that counts voxels for a V-metric, Gy (``docs/conventions.md``, "V_x").

        Args:
            prescription_gy: Prescription of the ROI in Gy, for V<x>% and V<x>%[cc].

        Raises:
            InputError: If V<x>% has no prescription, or one that is not above zero.
            ValueError: If the metric is a dose.

        Example:
            >>> Metric.parse("V95%").threshold_gy(70.0)
            66.5
        """
        if not self.is_volume or self.value is None:
            raise ValueError(f"{self} has no dose threshold")
        if not self.needs_prescription:
            return self.value
        if prescription_gy is None:
            raise InputError(f"{self} is a percentage of the prescription, and the ROI has none; use V<x>Gy")
        if not (math.isfinite(prescription_gy) and prescription_gy > 0):
            raise InputError(f"{self} needs a prescription above zero, not {prescription_gy} Gy")
        return self.value * prescription_gy / 100.0

    def _openkbp_fraction(self, value: float, n_voxels: int, voxel_volume_cc: float) -> float:
        """Where the official evaluator looks, from 0 (minimum) to 1 (maximum)."""
        if self.kind == "dose_at_percent":
            return (100.0 - value) / 100.0
        voxels = max(1.0, float(round((1000 * value) / (1000 * voxel_volume_cc))))  # in mm3: the same ties are rounded
        return 1.0 - min(voxels, n_voxels) / n_voxels


def _kind_and_value(key: str, body: str, bracket: str) -> tuple[MetricKind, float]:
    """Kind and number of a key that has a number."""
    match = _KEY.fullmatch(body)
    if match is None:
        raise InputError(f"'{key}' is not a DVH metric; expected {_FORMS}")
    word, number, unit = match.groups()
    if not unit and word != "gEUD":
        raise InputError(_without_unit(key, word, number))
    value = float(number)
    if unit == "mm3":
        unit, value = "cc", float(Decimal(number) / 1000)
    if unit == "cGy":
        unit, value = "Gy", float(Decimal(number) / 100)
    for in_bracket in (bracket, ""):
        if (word, unit, in_bracket) in _KIND_OF_PARTS:
            return _KIND_OF_PARTS[word, unit, in_bracket], value
    raise InputError(f"'{key}' is not a DVH metric; expected {_FORMS}")


def _plain(value: float) -> str:
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _without_unit(key: str, word: str, number: str) -> str:
    what = {
        "V": ("Gy", f"volume that receives at least {number} Gy", f"at least {number} % of the prescription"),
        "CV": ("Gy", f"volume that receives less than {number} Gy", f"less than {number} % of the prescription"),
        "D": (
            "cc",
            f"dose that the hottest {number} cc reach",
            f"dose that the hottest {number} % of the volume reach",
        ),
        "DC": (
            "cc",
            f"highest dose in the coldest {number} cc",
            f"highest dose in the coldest {number} % of the volume",
        ),
    }
    unit, absolute, relative = what[word]
    readings = [f"'{word}{number}{unit}' ({absolute})", f"'{word}{number}%' ({relative})"]
    return f"'{key}' has no unit: write {' or '.join(readings if unit == 'Gy' else readings[::-1])}"
