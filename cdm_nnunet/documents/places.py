"""Places in a text: the line and column of each key and value, by the path that leads to it."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """A place in a text, counted from 1 as editors do."""

    line: int
    column: int


@dataclass(frozen=True)
class Places:
    """Places of the keys and values of a document.

    Attributes:
        keys: Place of each key of an object, by path, such as ``("goals", 2, "unit")``.
        values: Start of each value, by path; ``()`` is the whole.
        repeated_keys: Path of every key that its object already has.
    """

    keys: Mapping[Path, Place] = field(default_factory=dict)
    values: Mapping[Path, Place] = field(default_factory=dict)
    repeated_keys: tuple[tuple[Path, Place], ...] = ()

    def of(self, path: Path, *, key: bool = False) -> Place | None:
        """Place of a value (or, with ``key``, of its key).

        For a missing path, the place of its innermost existing part; None if no place is known.
        """
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path)


class Lines:
    """Converts offsets in a text to places."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, at: int) -> Place:
        """Line and column of a character."""
        line = bisect.bisect_right(self._starts, at)
        return Place(line, at - self._starts[line - 1] + 1)
