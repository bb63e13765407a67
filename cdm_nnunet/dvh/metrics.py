"""DVH metric keys, parsed once: what ``"D95%"`` means, for the NumPy and the torch implementation alike.

Definitions: ``docs/conventions.md``, "DVH metrics".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast, get_args

from cdm_nnunet.errors import InputError

MetricKind = Literal[
    "dose_at_percent",
    "dose_at_cc",
    "mean",
    "min",
    "max",
    "geud",
    "homogeneity",
    "volume_at_gy",
    "volume_at_percent",
    "cc_at_gy",
    "cc_at_percent",
]
CcRounding = Literal["fractional", "openkbp"]
MetricUnit = Literal["Gy", "%", "cc", ""]

_KEY_OF_STATISTIC: dict[str, MetricKind] = {"Dmean": "mean", "Dmin": "min", "Dmax": "max", "HI": "homogeneity"}
# letter, unit of the number and what stands in brackets, apart from a way to round
_KIND_OF_PARTS: dict[tuple[str, str, str], MetricKind] = {
    ("D", "%", ""): "dose_at_percent",
    ("D", "cc", ""): "dose_at_cc",
    ("gEUD", "", ""): "geud",
    ("V", "Gy", ""): "volume_at_gy",
    ("V", "%", ""): "volume_at_percent",
    ("V", "Gy", "[cc]"): "cc_at_gy",
    ("V", "%", "[cc]"): "cc_at_percent",
}
_PARTS_OF_KIND = {kind: parts for parts, kind in _KIND_OF_PARTS.items()}
_KEY = re.compile(r"(D|V|gEUD)(-?(?:\d+\.?\d*|\.\d+))(%|cc|mm3|Gy|)(?:\[(\w+)\])?")
_FORMS = (
    "D<x>%, D<x>cc, D<x>mm3, Dmean, Dmin, Dmax, V<x>Gy, V<x>% (percent of the prescription), V<x>Gy[cc], V<x>%[cc], "
    "gEUD<a>, HI"
)


@dataclass(frozen=True)
class Metric:
    """One DVH metric of a region of interest.

    Attributes:
        kind: What is measured.
        value: The number in the key (percent, cc, Gy or the exponent of gEUD); None for the mean, minimum, maximum and
            homogeneity index.
        cc_rounding: How D_xcc counts voxels: ``fractional`` (key ``D0.1cc``) or as OpenKBP does (key
            ``D0.1cc[openkbp]``). It is ``fractional`` for every other kind.

    Raises:
        InputError: If the value is missing, superfluous or out of range.

    Example:
        >>> metric = Metric.parse("D95%")
        >>> metric.kind, metric.value, metric.unit, str(metric)
        ('dose_at_percent', 95.0, 'Gy', 'D95%')
    """

    kind: MetricKind
    value: float | None = None
    cc_rounding: CcRounding = "fractional"

    def __post_init__(self) -> None:
        if self.kind not in get_args(MetricKind):
            raise InputError(f"unknown kind of DVH metric '{self.kind}'; known are {', '.join(get_args(MetricKind))}")
        if self.cc_rounding not in get_args(CcRounding):
            raise InputError(f"unknown cc rounding '{self.cc_rounding}'; known are {', '.join(get_args(CcRounding))}")
        if self.cc_rounding != "fractional" and self.kind != "dose_at_cc":
            raise InputError(f"'[{self.cc_rounding}]' is a way to count the voxels of D<x>cc; it has no other use")
        if (self.value is None) != (self.kind in _KEY_OF_STATISTIC.values()):
            raise InputError(f"a metric of kind '{self.kind}' cannot have the value {self.value}")
        if self.value is None:
            return
        if not math.isfinite(self.value):
            raise InputError(f"the value of a metric of kind '{self.kind}' must be finite, not {self.value}")
        if self.kind == "dose_at_percent" and not 0 <= self.value <= 100:
            raise InputError(f"'{self}' asks for a volume outside 0 to 100 percent")
        if self.kind == "geud":
            if self.value == 0:
                raise InputError(f"'{self}' has the exponent 0, for which gEUD is not defined")
            return
        if self.kind != "dose_at_percent" and not self.value > 0:
            quantity = "volume" if self.kind == "dose_at_cc" else "dose"
            raise InputError(f"'{self}' asks for a {quantity} that is not above zero")

    @classmethod
    def parse(cls, key: str) -> Metric:
        """The metric behind a key such as ``D95%``, ``D0.03cc``, ``Dmean``, ``V20Gy``, ``V95%``, ``gEUD8`` or ``HI``.

        A volume has one spelling, so that equal metrics have equal keys: ``D35mm3`` is read as ``D0.035cc``.

        Raises:
            InputError: If the key has no or no unique reading, or its number is out of range.

        Example:
            >>> Metric.parse("V20")
            Traceback (most recent call last):
                ...
            cdm_nnunet.errors.InputError: 'V20' has no unit: write 'V20Gy' (volume that receives at least 20 Gy) or \
'V20%' (at least 20 % of the prescription)
        """
        if key in _KEY_OF_STATISTIC:
            return cls(_KEY_OF_STATISTIC[key])
        match = _KEY.fullmatch(key)
        if match is None:
            raise InputError(f"'{key}' is not a DVH metric; expected {_FORMS}")
        letter, number, unit, bracket = match.groups()
        if not unit and letter in ("D", "V"):
            raise InputError(_without_unit(key, letter, number))
        value = float(number)
        if unit == "mm3":
            unit, value = "cc", float(Decimal(number) / 1000)
        in_cc = "[cc]" if bracket == "cc" else ""
        if (letter, unit, in_cc) not in _KIND_OF_PARTS:
            raise InputError(f"'{key}' is not a DVH metric; expected {_FORMS}")
        rounding = "fractional" if in_cc or not bracket else bracket
        checked_by_the_constructor = cast(CcRounding, rounding)
        return cls(_KIND_OF_PARTS[letter, unit, in_cc], value, checked_by_the_constructor)

    def __str__(self) -> str:
        if self.value is None:
            return next(key for key, kind in _KEY_OF_STATISTIC.items() if kind == self.kind)
        letter, unit, in_cc = _PARTS_OF_KIND[self.kind]
        suffix = "" if self.cc_rounding == "fractional" else f"[{self.cc_rounding}]"
        return f"{letter}{_plain(self.value)}{unit}{in_cc}{suffix}"

    @property
    def unit(self) -> MetricUnit:
        """Unit of the result: Gy, percent of the ROI's volume, cc, or an empty text for the homogeneity index."""
        if self.is_volume:
            return "cc" if self.kind in ("cc_at_gy", "cc_at_percent") else "%"
        return "" if self.kind == "homogeneity" else "Gy"

    @property
    def is_volume(self) -> bool:
        """Whether the result is a volume (V-metric), in percent or cc."""
        return self.kind in ("volume_at_gy", "volume_at_percent", "cc_at_gy", "cc_at_percent")

    @property
    def needs_prescription(self) -> bool:
        """Whether the metric is defined only where the ROI has a prescription."""
        return self.kind in ("volume_at_percent", "cc_at_percent")

    @property
    def order_statistics(self) -> tuple[Metric, ...]:
        """The order statistics that the metric is made of: itself, none, or those of the homogeneity index.

        Example:
            >>> [str(part) for part in Metric.parse("HI").order_statistics]
            ['D2%', 'D98%', 'D50%']
        """
        if self.kind == "homogeneity":
            return tuple(Metric("dose_at_percent", percent) for percent in (2.0, 98.0, 50.0))
        return (self,) if self.kind in ("dose_at_percent", "dose_at_cc", "min", "max") else ()

    def rank_fraction(self, n_voxels: float, voxel_volume_cc: float) -> float:
        """Where the metric lies among the ascending voxel doses (``docs/conventions.md``, "D_x%", "D_xcc").

        The metric equals the order statistic at position ``p * (n_voxels - 1)``, counted from 0, with linear
        interpolation between its two neighbours.

        Args:
            n_voxels: Number of voxels of the ROI, at least 1.
            voxel_volume_cc: Volume of a voxel in cc.

        Returns:
            p from 0 (the minimum) to 1 (the maximum).

        Raises:
            InputError: If the ROI has no voxel or a voxel no volume.
            ValueError: If the metric is no order statistic.

        Example:
            >>> Metric.parse("D95%").rank_fraction(1000, 0.027)
            0.05
            >>> Metric.parse("D0.27cc").rank_fraction(1000, 0.027)
            0.99
        """
        if not n_voxels >= 1:
            raise InputError(f"{self} needs an ROI of at least one voxel, not {n_voxels}")
        if not voxel_volume_cc > 0:
            raise InputError(f"{self} needs a voxel volume above zero, not {voxel_volume_cc} cc")
        if self.kind == "min":
            return 0.0
        if self.kind == "max":
            return 1.0
        if self.kind == "dose_at_percent" and self.value is not None:
            return (100.0 - self.value) / 100.0
        if self.kind == "dose_at_cc":
            return 1.0 - min(self._hottest_voxels(voxel_volume_cc), n_voxels) / n_voxels
        raise ValueError(f"{self} is not an order statistic of the voxel doses")

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

    def _hottest_voxels(self, voxel_volume_cc: float) -> float:
        if self.value is None:
            raise ValueError(f"{self} has no volume")
        voxels = (1000 * self.value) / (1000 * voxel_volume_cc)  # in mm3, as OpenKBP divides: the same ties are rounded
        return max(1.0, float(round(voxels)) if self.cc_rounding == "openkbp" else voxels)


def _plain(value: float) -> str:
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _without_unit(key: str, letter: str, number: str) -> str:
    if letter == "V":
        return (
            f"'{key}' has no unit: write 'V{number}Gy' (volume that receives at least {number} Gy) or "
            f"'V{number}%' (at least {number} % of the prescription)"
        )
    return (
        f"'{key}' has no unit: write 'D{number}%' (dose that the hottest {number} % of the volume reach) or "
        f"'D{number}cc' (dose that the hottest {number} cc reach)"
    )
