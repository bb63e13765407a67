"""JSON as plain values, with their places in the text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from cdm_nnunet.documents.places import Lines, Path, Place, Places

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"[^ \t\n\r,\]}]*")
_DECODER = json.JSONDecoder()
_INTEGER_DIGITS = 19


def parse(text: str) -> tuple[Any, bool]:
    """Parse a text; an excessively large number becomes infinity.

    Returns:
        The result of :func:`json.loads`, and whether an object has a repeated key.

    Raises:
        json.JSONDecodeError: If it is not JSON; NaN and Infinity, which Python accepts, are not.
        RecursionError: If it is nested too deeply.
    """
    repeated = False

    def refuse(constant: str) -> NoReturn:
        raise json.JSONDecodeError(f"{constant} is not a JSON number", text, _constant_at(text, constant))

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated = repeated or len(found) < len(pairs)
        return found

    def integer(digits: str) -> float:
        return int(digits) if len(digits) <= _INTEGER_DIGITS else math.inf

    value = json.loads(text, parse_constant=refuse, parse_int=integer, object_pairs_hook=members)
    return value, repeated


def places_in(text: str) -> Places:
    r"""Places of all keys and values in a text that is known to be JSON and not nested deeply.

    Example:
        >>> places_in('{"goals": [1,\n  {"unit": "Gy"}]}').values["goals", 1, "unit"]
        Place(line=2, column=12)
    """
    walk = _Walk(text)
    walk.value((), _skip_space(text, 0))
    return Places(walk.keys, walk.values, tuple(walk.repeated))


class _Walk:
    """One pass over a text that is known to be JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.repeated: list[tuple[Path, Place]] = []

    def value(self, path: Path, at: int) -> int:
        """Record the value that starts at ``at``; return its end."""
        self.values[path] = self.lines.place(at)
        first = self.text[at]
        if first == "{":
            return self._members(at, "}", lambda _, start: self._pair(path, start))
        if first == "[":
            return self._members(at, "]", lambda number, start: self.value((*path, number), start))
        if first == '"':
            return _DECODER.raw_decode(self.text, at)[1]
        return _end_of(_SCALAR, self.text, at)

    def _members(self, at: int, closing: str, member: Callable[[int, int], int]) -> int:
        at = _skip_space(self.text, at + 1)
        number = 0
        while self.text[at] != closing:
            at = _skip_space(self.text, member(number, at))
            number += 1
            if self.text[at] == ",":
                at = _skip_space(self.text, at + 1)
        return at + 1

    def _pair(self, path: Path, at: int) -> int:
        key, end = _DECODER.raw_decode(self.text, at)
        place = self.lines.place(at)
        if (*path, key) in self.keys:
            self.repeated.append(((*path, key), place))
        self.keys[*path, key] = place
        colon = _skip_space(self.text, end)
        return self.value((*path, key), _skip_space(self.text, colon + 1))


def _skip_space(text: str, at: int) -> int:
    return _end_of(_SPACE, text, at)


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _constant_at(text: str, constant: str) -> int:
    """Offset of the first NaN or Infinity that is not in a string."""
    found = re.finditer(rf'"(?:[^"\\]|\\.)*"|({re.escape(constant)})', text, re.DOTALL)
    return next((match.start(1) for match in found if match[1]), 0)
