"""Plausible ranges: one table by which converters, inspection and prediction recognise units and implausible data.

Each quantity has two ranges. Outside the possible one it is refused: it is another unit, another quantity or damaged.
Inside that, but outside the usual one, it is accepted with a note. Sources: ``docs/data.md``, "Plausible
ranges".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdm_nnunet.errors import InputError


@dataclass(frozen=True)
class Range:
    """Possible and usual values of a quantity.

    Attributes:
        quantity: Its name in messages.
        unit: Unit for messages; empty for a ratio.
        possible: Lowest and highest possible value.
        usual: Lowest and highest usual value.
        hint: Question to the user for an impossible value.
    """

    quantity: str
    unit: str
    possible: tuple[float, float]
    usual: tuple[float, float]
    hint: str = ""

    def is_possible(self, value: float) -> bool:
        """Whether a value is possible; NaN is not.

        Example:
            >>> PRESCRIPTION_GY.is_possible(70), PRESCRIPTION_GY.is_possible(7000), VOXEL_SIZE_MM.is_possible(25)
            (True, False, False)
        """
        low, high = self.possible
        return low <= value <= high

    def is_usual(self, value: float) -> bool:
        """Whether a value is usual; others are noted."""
        low, high = self.usual
        return low <= value <= high

    def refuse_impossible(self, value: float, of: str = "") -> None:
        """Check that a value is possible.

        Args:
            value: Value in the range's unit.
            of: Its ROI or file, for messages.

        Raises:
            InputError: If it is not.
        """
        if not self.is_possible(value):
            hint = f"; {self.hint}" if self.hint else ""
            expected = self._expected(self.possible)
            raise InputError(f"{self._said(value, of)}, which is not plausible (expected {expected}){hint}")

    def note(self, value: float, of: str = "") -> str | None:
        """Note on a possible but unusual value; None for a usual one."""
        if self.is_usual(value):
            return None
        return f"unusual: {self._said(value, of)} (usually {self._expected(self.usual)})"

    def _said(self, value: float, of: str) -> str:
        return f"{self.quantity}{f' of {of}' if of else ''} is {value:.4g}{f' {self.unit}' if self.unit else ''}"

    def _expected(self, bounds: tuple[float, float]) -> str:
        return f"{bounds[0]:g} to {bounds[1]:g}{f' {self.unit}' if self.unit else ''}"


VOXEL_SIZE_MM = Range("the voxel size", "mm", (0.3, 10.0), (0.7, 6.0))
CT_HU = Range("the CT value", "HU", (-1024, 3071), (-1024, 3071))  # 12 bits; conversion clips to it
RESCALE_SLOPE = Range("RescaleSlope", "HU per step", (1e-3, 64.0), (0.25, 4.0))

# Median of at least one ROI or of the body: soft tissue, bone, or lung with surrounding tissue.
TISSUE_HU = Range("the median CT value", "HU", (-300.0, 350.0), (-200.0, 250.0), "is the CT shifted, as HU + 1024?")
LOWEST_HU = Range("the lowest CT value", "HU", (-1024.0, -200.0), (-1024.0, -800.0))  # air, inside or around the body
NO_TISSUE_HU = -500.0  # a plane of the body with only lower values shows no body
NOTHING_HU = -900.0  # air or padding; lung lies above it
EXTERNAL_AIR_PERCENT = Range(
    "the share of the external that is air in the CT", "%", (0.0, 30.0), (0.0, 8.0), "does the CT end before it?"
)

PRESCRIPTION_GY = Range(
    "the prescription", "Gy", (4.0, 150.0), (12.0, 85.0), "it is the total in Gy, not of a fraction, in cGy or percent"
)
FRACTION_DOSE_GY = Range(
    "the dose of a fraction", "Gy", (0.3, 40.0), (1.0, 20.0), "is the prescription that of a single fraction?"
)
DOSE_MAXIMUM_GY = Range("the dose maximum", "Gy", (0.01, 300.0), (4.0, 130.0), "is the dose in cGy?")
# Ratios to the prescription. A stereotactic plan prescribed to the 50 % isodose has a maximum of 2 and a median
# well below it; a dose that was counted twice has a median of 2.
MAXIMUM_PER_PRESCRIPTION = Range("dose maximum / highest prescription", "", (0.5, 3.0), (0.98, 1.45))
MEDIAN_PER_HIGHEST_PRESCRIPTION = Range("median dose / prescription", "", (0.8, 1.85), (0.93, 1.2))
MEDIAN_PER_PRESCRIPTION = Range("median dose / prescription", "", (0.8, 2.5), (0.9, 1.3))  # (a target inside another)

EXTERNAL_CC = Range("the volume", "cc", (1.0, 250_000.0), (200.0, 150_000.0))
TARGET_CC = Range("the volume", "cc", (0.003, 20_000.0), (0.05, 5_000.0))
CONTOUR_REACH_MM = 2_500.0  # larger than any contour of a patient, and any distance between two

_PERCENT = (92.0, 112.0)  # the median of a target whose dose is in percent of the prescription or of the maximum
_PERCENT_FROM_RATIO = 1.14  # below this, such a median may also be in Gy


def looks_like_percent(median: float, prescription_gy: float) -> bool:
    """Whether a target's median is probably in percent, not Gy.

    Args:
        median: Median dose of the target, in the uncertain unit.
        prescription_gy: Its prescription.

    Example:
        >>> looks_like_percent(101.5, 70), looks_like_percent(71.2, 70), looks_like_percent(80, 60)
        (True, False, False)
    """
    return _PERCENT[0] <= median <= _PERCENT[1] and median > _PERCENT_FROM_RATIO * prescription_gy


def prescription_notes(prescriptions_gy: Mapping[str, float]) -> list[str]:
    """Check prescriptions alone.

    Args:
        prescriptions_gy: Gy by name of the target.

    Raises:
        InputError: If one is not plausible for a course in Gy.
    """
    for name, level_gy in prescriptions_gy.items():
        PRESCRIPTION_GY.refuse_impossible(level_gy, f"'{name}'")
    notes = [PRESCRIPTION_GY.note(level_gy, f"'{name}'") for name, level_gy in prescriptions_gy.items()]
    return [note for note in notes if note]


def maximum_notes(maximum_gy: float, highest_gy: float) -> list[str]:
    """Check the maximum of a dose against the highest prescription.

    Raises:
        InputError: If one of them seems to have another unit or to belong to another plan.
    """
    low, high = (factor * highest_gy for factor in MAXIMUM_PER_PRESCRIPTION.possible)
    if not low <= maximum_gy <= high:
        raise InputError(
            f"the dose maximum is {maximum_gy:g} Gy for a prescription of {highest_gy:g} Gy, expected "
            f"{low:g} to {high:g} Gy; is it in cGy or in percent, or does it belong to another plan?"
        )
    DOSE_MAXIMUM_GY.refuse_impossible(maximum_gy)
    notes = [DOSE_MAXIMUM_GY.note(maximum_gy), MAXIMUM_PER_PRESCRIPTION.note(maximum_gy / highest_gy)]
    return [note for note in notes if note]
