"""JSON with places: where in a file each key and value stands, so that a message can point at it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """A place in a text, counted from 1 as editors do."""

    line: int
    column: int


@dataclass(frozen=True)
class JsonText:
    """A parsed JSON text.

    Attributes:
        value: What :func:`json.loads` makes of it.
        repeated_keys: Path of every key that its object already has.
        keys: Where each key of an object stands, by path, such as ``("goals", 2, "unit")``.
        values: Where each value begins, by path; ``()`` is the whole.
    """

    value: Any
    repeated_keys: tuple[tuple[Path, Place], ...]
    keys: dict[Path, Place]
    values: dict[Path, Place]

    @classmethod
    def parse(cls, text: str) -> JsonText:
        r"""Parse a text.

        Raises:
            json.JSONDecodeError: If it is not JSON; NaN and Infinity, which Python would take, are not.

        Example:
            >>> JsonText.parse('{"goals": [1,\n  {"unit": "Gy"}]}').values["goals", 1, "unit"]
            Place(line=2, column=12)
        """

        def refuse(constant: str) -> NoReturn:
            raise json.JSONDecodeError(f"{constant} is no JSON number", text, _constant_at(text, constant))

        value = json.loads(text, parse_constant=refuse)
        walk = _Walk(text)
        walk.value((), _skip_space(text, 0))
        return cls(value, tuple(walk.repeated), walk.keys, walk.values)

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where a value (or, with ``key``, its key) stands; of a path that is not there, the innermost part that is."""
        if key and path in self.keys:
            return self.keys[path]
        while path not in self.values:
            path = path[:-1]
        return self.values[path]


class _Walk:
    """One pass over a text that is known to be JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.repeated: list[tuple[Path, Place]] = []

    def value(self, path: Path, at: int) -> int:
        """Note the value that begins at ``at``; return where it ends."""
        self.values[path] = self._place(at)
        first = self.text[at]
        if first == "{":
            return self._members(at, "}", lambda _, start: self._pair(path, start))
        if first == "[":
            return self._members(at, "]", lambda number, start: self.value((*path, number), start))
        return _DECODER.raw_decode(self.text, at)[1]

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
        place = self._place(at)
        if (*path, key) in self.keys:
            self.repeated.append(((*path, key), place))
        self.keys[*path, key] = place
        colon = _skip_space(self.text, end)
        return self.value((*path, key), _skip_space(self.text, colon + 1))

    def _place(self, at: int) -> Place:
        return Place(self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at))


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _constant_at(text: str, constant: str) -> int:
    """Offset of the first NaN or Infinity that is not in a string."""
    match = re.search(rf'(?:[^"]|"(?:[^"\\]|\\.)*")*?({re.escape(constant)})', text, re.DOTALL)
    return 0 if match is None else match.start(1)
