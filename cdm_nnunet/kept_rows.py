"""Cache of what was read of many files or patients, one line each, so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cdm_nnunet.documents import parse_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_text


class KeptRows:
    """JSON objects by name, in a file of lines that grows as they come; without a path nothing is kept.

    The file is readable by its owner alone. A line that was cut off is left out. At the end, what was not asked for or
    set in this run is dropped.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any]) -> None:
        """Open.

        Args:
            path: The file; it is made where it is missing, and begun anew where its first line is another ``head``.
            head: First line: says what the rows are, with a version.
        """
        self.path, self.head = path, dict(head)
        self.used: dict[str, dict[str, Any]] = {}
        self._known = self._read()
        self._changed = False
        self._file: TextIO | None = None

    def __enter__(self) -> KeptRows:
        if self.path is not None:
            if not self._known:
                self._write()
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write("\n")  # (ends what an interruption left of a line)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and self.path is not None and (self._changed or len(self.used) < len(self._known)):
            self._write()

    def get(self, name: str, stamp: object) -> dict[str, Any] | None:
        """The row of a name, if it was set with the same stamp."""
        entry = self._known.get(name)
        if entry is None or entry["stamp"] != stamp:
            return None
        self.used[name] = entry
        row: dict[str, Any] = entry["row"]
        return row

    def set(self, name: str, stamp: object, row: Mapping[str, Any]) -> None:
        """Keep a row; ``stamp`` says of which state of the source it is, as JSON can tell it."""
        self._changed = self._changed or name in self._known
        self.used[name] = {"stamp": stamp, "row": dict(row)}
        if self._file is not None:
            self._file.write(_line(name, self.used[name]))

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.path is None or not self.path.is_file():
            return {}
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            if next(lines, "") != _head_line(self.head):
                return {}
            return dict(row for row in map(_row_of, lines) if row is not None)

    def _write(self) -> None:
        if self.path is not None:
            lines = (_line(name, entry) for name, entry in self.used.items())
            write_text(self.path, _head_line(self.head) + "".join(lines), private=True)


def _head_line(head: Mapping[str, Any]) -> str:
    return json.dumps(head) + "\n"


def _line(name: str, entry: Mapping[str, Any]) -> str:
    text = json.dumps([name, entry])
    return f"{_checksum(text)} {text}\n"


def _row_of(line: str) -> tuple[str, dict[str, Any]] | None:
    """Name and entry of a line; None where the line is truncated or was changed."""
    checksum, _, text = line.rstrip("\n").partition(" ")
    if not text or checksum != _checksum(text):
        return None
    try:
        return parse_json(text, tuple[str, dict[str, Any]], "a kept row")
    except InputError:
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
