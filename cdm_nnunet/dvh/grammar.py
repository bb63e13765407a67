"""Grammar of DVH metric keys such as ``D95%``, and messages for invalid keys.

Every kind of metric states its own part of the grammar (:class:`Grammar`); nothing here names a kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

from cdm_nnunet.errors import InputError

MetricUnit = Literal["Gy", "%", "cc", ""]

# TG-263's words
_SAME_AS = {"Mean": "Dmean", "Min": "Dmin", "Max": "Dmax", "Median": "D50%", "Dmedian": "D50%", "R50": "R50%"}
_TWO_READINGS = {"CI": "'PaddickCI' (TV_PIV^2 / (TV PIV)) or 'RTOGCI' (PIV / TV)"}
_KEY = re.compile(r"([A-Za-z]+)(-?(?:\d+\.?\d*|\.\d+))(%|[A-Za-z]+\d*|)")
_BRACKET = re.compile(r"(.*?)\[([^\[\]]+)\]")
_UNITS = ("cc", "%", "Gy", "cGy")


@dataclass(frozen=True, kw_only=True)
class Number:
    """The number in a key.

    Attributes:
        unit: Its unit; empty for a plain number.
        is_in_range: Whether a finite number makes sense.
        fault: Its fault otherwise, as in "'V0%' asks for a dose that is not above zero".
        other_units: Other accepted units, and how many of them make one ``unit``.
    """

    unit: str
    is_in_range: Callable[[float], bool]
    fault: str
    other_units: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """Grammar of the keys of a kind of metric.

    Attributes:
        name: Name of the kind.
        word: The key, or the part before its number.
        number: The number in the key; None if there is none.
        bracket: Text in brackets after it.
        unit: Unit of the result: Gy, percent of the ROI's volume, cc, or an empty text for a plain number.
        reading: Readable description with ``{x}`` for the number; offered if a number has no unit.
        hint: Remark on its key in lists of all kinds.
    """

    name: str
    word: str
    number: Number | None = None
    bracket: str = ""
    unit: MetricUnit = "Gy"
    reading: str = ""
    hint: str = ""

    def key(self, value: str | None, bracket: str = "") -> str:
        """The key with a number, and with a text in brackets if the kind itself has none."""
        number = "" if self.number is None else f"{value}{self.number.unit}"
        bracket = self.bracket or bracket
        return f"{self.word}{number}" + (f"[{bracket}]" if bracket else "")

    @property
    def form(self) -> str:
        """The key with a placeholder for its number."""
        return self.key("<x>" if self.number is None or self.number.unit else "<a>")

    def refuse_out_of_range(self, key: str, value: float) -> None:
        """Check the number of a key.

        Raises:
            InputError: If it is not finite or out of range.
        """
        if not math.isfinite(value):
            raise InputError(f"the value of a metric of kind '{self.name}' must be finite, not {value}")
        if self.number is not None and not self.number.is_in_range(value):
            raise InputError(f"'{key}' {self.number.fault}")


class ParsedKey(NamedTuple):
    """A parsed key: its kind, its number in the kind's unit, and the counting in brackets, if any."""

    kind: str
    value: float | None
    counting: str | None


def parse_key(key: str, kinds: Iterable[Grammar]) -> ParsedKey:
    """Parse a key.

    Args:
        key: Such as ``D95%`` or ``V20Gy[cc]``.
        kinds: All kinds.

    Raises:
        InputError: If the key has no or no unique reading.
    """
    kinds = tuple(kinds)
    with_bracket = _BRACKET.fullmatch(key.replace(" ", ""))
    body, bracket = with_bracket.groups() if with_bracket else (key.replace(" ", ""), "")
    body = _SAME_AS.get(body, body)
    if body in _TWO_READINGS:
        raise InputError(f"'{body}' can be read in two ways: write {_TWO_READINGS[body]}")
    plain = next((kind for kind in kinds if kind.number is None and kind.word == body), None)
    kind, value = (plain, None) if plain is not None else _with_number(key, body, bracket, kinds)
    if bracket in ("", kind.bracket, kind.unit):
        return ParsedKey(kind.name, value, None)
    if bracket in ("%", "cGy") and kind.unit == "Gy":
        in_gy = key.replace(" ", "").removesuffix(f"[{bracket}]")
        raise InputError(
            f"'{key}': doses are in Gy here; write '{in_gy}', give a limit in 'Gy' or in '% of prescription'"
        )
    if bracket in _UNITS:
        raise _no_metric(key, kinds)
    return ParsedKey(kind.name, value, bracket)


def plain_number(value: float) -> str:
    """A number without exponent and trailing zeros."""
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _with_number(key: str, body: str, bracket: str, kinds: tuple[Grammar, ...]) -> tuple[Grammar, float]:
    match = _KEY.fullmatch(body)
    of_word = [kind for kind in kinds if match is not None and kind.number is not None and kind.word == match[1]]
    if match is None or not of_word:
        raise _no_metric(key, kinds)
    _, number, unit = match.groups()
    found: dict[str, tuple[Grammar, float]] = {}  # by the text in brackets
    for kind in of_word:
        if kind.number is None:
            continue
        if unit == kind.number.unit:
            found[kind.bracket] = kind, float(number)
        elif unit in kind.number.other_units:
            found[kind.bracket] = kind, float(Decimal(number) / kind.number.other_units[unit])
    if found:
        if bracket in found or "" in found:
            return found[bracket if bracket in found else ""]
    elif not unit:
        raise InputError(_without_unit(key, number, of_word))
    raise _no_metric(key, kinds)


def _no_metric(key: str, kinds: tuple[Grammar, ...]) -> InputError:
    forms = (kind.form + (f" ({kind.hint})" if kind.hint else "") for kind in kinds)
    return InputError(f"'{key}' is not a DVH metric; expected {', '.join(forms)}")


def _without_unit(key: str, number: str, of_word: Iterable[Grammar]) -> str:
    readings = [f"'{kind.key(number)}' ({kind.reading.format(x=number)})" for kind in of_word if kind.reading]
    return f"'{key}' has no unit: write {' or '.join(readings)}"
