"""Quantities for comparing a patient with the training patients, with descriptions, units and scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cdm_nnunet.nnunet.case_facts import CaseFacts

_AXES = ("height", "depth", "width")  # z, y, x
HU_KEYS = ("lower", "middle", "upper")  # of ``CaseFacts.hu``


@dataclass(frozen=True)
class QuantityKind:
    """A kind of quantity.

    Attributes:
        words: Description, with ``{}`` for the ROI if there is one.
        unit: Unit; empty for a plain number.
        is_size: Whether its logarithm is compared.
        floor: Minimum spread expected among patients: in the unit, or as a fraction for sizes.
    """

    words: str
    unit: str
    is_size: bool
    floor: float

    def scaled(self, value: float) -> float:
        """Value on the scale of comparison."""
        return math.log(max(value, 1e-3)) if self.is_size else value


_KINDS: Mapping[str, QuantityKind] = {
    "volume": QuantityKind("the volume of {}", "cc", True, 0.2),
    "height": QuantityKind("the height of {}", "mm", True, 0.1),
    "depth": QuantityKind("the depth of {}", "mm", True, 0.1),
    "width": QuantityKind("the width of {}", "mm", True, 0.1),
    "offset": QuantityKind("the position of {}, from the body's centre to the left,", "mm", False, 5.0),
    "distance": QuantityKind("the distance of {} to the targets", "mm", False, 10.0),
    "feet": QuantityKind("the length of the body below the targets", "mm", False, 10.0),
    "head": QuantityKind("the length of the body above the targets", "mm", False, 10.0),
    "hu": QuantityKind("the median of the CT in {}", "HU", False, 15.0),
    "ratio": QuantityKind("the ratio of the lowest to the highest prescription", "", False, 0.05),
    "organs": QuantityKind("the number of organs at risk", "", False, 1.0),
    "seen": QuantityKind("the height of {}, which the image cuts,", "mm", True, 0.1),
    "lower": QuantityKind("the CT value below which 0.5 % of the ROIs lie", "HU", False, 100.0),
    "middle": QuantityKind("the median of the CT in the ROIs", "HU", False, 50.0),
    "upper": QuantityKind("the CT value below which 99.5 % of the ROIs lie", "HU", False, 400.0),
    "parts": QuantityKind("the number of separate parts of the targets", "", True, 0.2),
    "contact": QuantityKind("the share of the targets' surfaces that another target touches", "", False, 0.02),
}


def kind_of(key: str) -> QuantityKind:
    """Kind of a quantity, from the first word of its key.

    Raises:
        KeyError: If there is no such kind.
    """
    return _KINDS[key.partition(" ")[0]]


def words_of(key: str) -> str:
    """Description of a quantity.

    Example:
        >>> words_of("volume Parotid_L"), words_of("width ")
        ("the volume of 'Parotid_L'", 'the width of the body')
    """
    roi = key.partition(" ")[2]
    return kind_of(key).words.format(f"'{roi}'" if roi else "the body")


def quantities_of(case: CaseFacts) -> dict[str, float]:
    """Quantities of a case, by a key of kind and ROI."""
    geometry, levels_gy = case.geometry, case.prescriptions_gy.values()
    found: dict[str, float] = {f"volume {name}": cc for name, cc in case.volumes_cc.items()}
    body = geometry.sizes_mm[""]
    for name, sizes in geometry.sizes_mm.items():
        if name == "" or sizes != body:  # (the body's outline is also an ROI)
            found |= {f"{axis} {name}": mm for axis, mm in zip(_AXES, sizes, strict=True)}
    found |= {f"offset {name}": mm for name, mm in geometry.offsets_mm.items()}
    found |= {f"distance {name}": mm for name, mm in geometry.distances_mm.items()}
    return {
        **found,
        "feet": geometry.beyond_mm[0],
        "head": geometry.beyond_mm[1],
        **{f"hu {name}": hu for name, hu in geometry.hu.items()},
        **dict(zip(HU_KEYS, case.hu, strict=True)),
        **{f"seen {name}": geometry.sizes_mm[name][0] for name in geometry.organs if name in geometry.cut},
        "ratio": min(levels_gy) / max(levels_gy),
        "organs": float(len(geometry.organs)),
    }


def lengths_of(case: CaseFacts) -> dict[str, float]:
    """Logarithms of lengths that measure the size of the anatomy: of organs at risk, and between them."""
    geometry = case.geometry
    lengths = {f"gap {pair}": mm for pair, mm in geometry.gaps_mm.items()}
    for name in geometry.organs:
        lengths |= {f"{axis} {name}": mm for axis, mm in zip(_AXES, geometry.sizes_mm[name], strict=True)}
        lengths[f"volume {name}"] = case.volumes_cc[name] ** (1 / 3)
    return {key: math.log(max(length, 1e-3)) for key, length in lengths.items()}
