"""Something that the fuzzer reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something to read.

    Attributes:
        name: Its name.
        kind: How its files are damaged, and how a silent change is detected: ``json``, ``yaml``, ``nifti``, ``dicom``,
            ``csv``,
            ``packed`` (complete files with checksums inside) or ``cache`` (unreadable entries are read again).
        files: The files that are spoilt, as a pattern.
        make: Writes them into a folder.
        read: Reads them; its result is compared.
    """

    name: str
    kind: str
    files: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
