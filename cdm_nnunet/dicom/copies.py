"""Removal of duplicate files, also of copies with another header or encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.dicom.files import pixels_of, read_file
from cdm_nnunet.errors import InputError


def without_copies(entries: Sequence[FileEntry], problems: list[str], notes: list[str]) -> list[FileEntry]:
    """One file for each SOP instance; copies of equal content are dropped, others are a problem."""
    first: dict[str, FileEntry] = {}
    copies = 0
    for entry in entries:
        other = first.setdefault(entry.sop_uid, entry)
        if other is entry:
            continue
        if _same_content(Path(other.path), Path(entry.path)):
            copies += 1
        else:
            problems.append(f"{entry.path} and {other.path} have the same SOPInstanceUID but differ; remove one")
    if copies:
        notes.append(f"copies of files ignored: {copies}")
    return list(first.values())


def _same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same data set, whatever their headers and encodings."""
    if one.read_bytes() == other.read_bytes():
        return True
    try:
        first, second = (read_file(path) for path in (one, other))
        if ("PixelData" in first) != ("PixelData" in second):
            return False
        if "PixelData" in first:
            if not np.array_equal(pixels_of(first, one), pixels_of(second, other)):
                return False
            del first.PixelData, second.PixelData
    except InputError:
        return False
    return bool(first == second)
