"""Cache of what was found out about many files, patients or cases, so that an interrupted run resumes.

A line a row: a checksum, then name and stamp, then the row, separated by tabs (JSON has none). Rows stay text until
they are asked for, so that the cache of a large cohort is no larger in memory than on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from cdm_nnunet.documents import parse_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_text


class _Entry(NamedTuple):
    stamp: Any
    row: str


class KeptRows:
    """JSON objects by name, in a file of lines that grows as they come; without a path nothing is kept.

    The file is readable by its owner alone. A line that was cut off or changed is left out. At the end, what was not
    asked for or set in this run is dropped.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any], *, keep_others: bool = False) -> None:
        """Open.

        Args:
            path: The file; it is made where it is missing, and begun anew where its first line is another ``head``.
            head: First line: says what the rows are, with a version.
            keep_others: Keep rows at the end that this run did not ask for.
        """
        self.path, self.head = path, dict(head)
        self._known = self._read()
        self._used: dict[str, _Entry] = dict(self._known) if keep_others else {}
        self._changed = False
        self._file: TextIO | None = None

    def __enter__(self) -> KeptRows:
        if self.path is not None:
            if not self._known:
                self._write()  # (what is there has another head, or no row that is whole)
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write("\n")  # (ends what an interruption left of a line)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and self.path is not None and (self._changed or len(self._used) < len(self._known)):
            self._write()

    def get(self, name: str, stamp: object) -> dict[str, Any] | None:
        """The row of a name, if it was set with the same stamp."""
        entry = self._known.get(name)
        if entry is None or entry.stamp != stamp:
            return None
        self._used[name] = entry
        return parse_json(entry.row, dict[str, Any], f"{self.path}, '{name}'")

    @property
    def stamps(self) -> dict[str, Any]:
        """Stamps of the rows that were kept, by name."""
        return {name: entry.stamp for name, entry in self._known.items()}

    def set(self, name: str, stamp: object, row: Mapping[str, Any]) -> None:
        """Keep a row; ``stamp`` says of which state of the source it is, as JSON can tell it."""
        self._changed = self._changed or name in self._known
        entry = self._used[name] = _Entry(stamp, json.dumps(dict(row)))
        if self._file is not None:
            self._file.write(_line(name, entry))
            self._file.flush()

    def _read(self) -> dict[str, _Entry]:
        if self.path is None or not self.path.is_file():
            return {}
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            if next(lines, "") != _head_line(self.head):
                return {}
            return dict(row for row in map(_row_of, lines) if row is not None)

    def _write(self) -> None:
        if self.path is not None:
            lines = (_line(name, entry) for name, entry in self._used.items())
            write_text(self.path, _head_line(self.head) + "".join(lines), private=True)


def _head_line(head: Mapping[str, Any]) -> str:
    return json.dumps(head) + "\n"


def _line(name: str, entry: _Entry) -> str:
    text = f"{json.dumps([name, entry.stamp])}\t{entry.row}"
    return f"{_checksum(text)}\t{text}\n"


def _row_of(line: str) -> tuple[str, _Entry] | None:
    """Name and entry of a line; None if the line is truncated or was changed."""
    checksum, _, text = line.rstrip("\n").partition("\t")
    head, _, row = text.partition("\t")
    if not row or checksum != _checksum(text):
        return None
    try:
        name, stamp = parse_json(head, tuple[str, Any], "a kept row")
    except InputError:
        return None
    return name, _Entry(stamp, row)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
