"""Cache of results for many files, patients or cases, so that an interrupted run resumes.

One line per row: a checksum, then name and stamp, then the row, separated by tabs (JSON has none). Rows stay text until
they are used, so that the cache of a large cohort is no larger in memory than on disk.
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
    """JSON objects by name, appended to a file line by line; without a path nothing is stored.

    Only its owner can read the file. Lines that were cut off or changed are ignored. At the end, rows that were not
    used or set in this run are dropped.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any], *, keep_others: bool = False) -> None:
        """Open.

        Args:
            path: The file; it is made if missing, and emptied if its first line is not ``head``.
            head: First line: kind of the rows, with a version.
            keep_others: Keep rows that this run did not use.
        """
        self.path, self.head = path, dict(head)
        self._known = self._read()
        self._used: dict[str, _Entry] = dict(self._known) if keep_others else {}
        self._changed = False
        self._file: TextIO | None = None

    def __enter__(self) -> KeptRows:
        if self.path is not None:
            if not self._known:
                self._write()  # (the file has another head, or no complete row)
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write("\n")  # (ends an interrupted line)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and self.path is not None and (self._changed or len(self._used) < len(self._known)):
            self._write()

    def get(self, name: str, stamp: object) -> dict[str, Any] | None:
        """Row of a name, if its stamp is the same."""
        entry = self._known.get(name)
        if entry is None or entry.stamp != stamp:
            return None
        self._used[name] = entry
        return parse_json(entry.row, dict[str, Any], f"{self.path}, '{name}'")

    @property
    def stamps(self) -> dict[str, Any]:
        """Stamps of the stored rows by name."""
        return {name: entry.stamp for name, entry in self._known.items()}

    def set(self, name: str, stamp: object, row: Mapping[str, Any]) -> None:
        """Store a row; ``stamp`` identifies the state of the source, as a JSON value."""
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
