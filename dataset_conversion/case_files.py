"""The files of one case on disk: written aside, read back, moved into place, then recorded as complete.

Layout of the data set's folder (names with a leading dot are invisible to nnU-Net):

=====================================  ========================================================================
``imagesTr`` .. ``labelsTs``           nnU-Net's folders; complete files only
``.conversion/incomplete``             files that are being written
``.conversion/cases/CASE.json``        completion record of a case: written last, removed before any change
=====================================  ========================================================================
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from cdm_nnunet.dataset import CT_CHANNEL, FILE_ENDING, PRESCRIPTION_CHANNEL, ROI_CHANNEL, CaseRecord, Split, image_name
from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.images import Image, write_image

from .case import Case

STATE_FOLDER = ".conversion"
_CASE_FILE = re.compile(r"(images|labels)T[rs]/[^/]+")  # (withdrawing a case removes only these files)
CONVERTER_VERSION = "3"  # increase it when the same source gives other files; cases of older versions are written again


class CaseSource(Protocol):
    """A patient that can be converted. It is sent to worker processes, so it holds paths and not arrays."""

    @property
    def name(self) -> str:
        """Name of the case."""

    @property
    def split(self) -> Split:
        """Whether it is for training."""

    def checksums(self) -> Mapping[str, str]:
        """Digests of the content of the source; if they are unchanged, the case is not converted again."""

    def load(self) -> Case:
        """Read and check the patient; raise InputError if that is not possible."""


@dataclass(frozen=True)
class CompletedCase:
    """A case that is completely on disk.

    Attributes:
        record: Its entry of ``cdm_cases.json``.
        checksums: Checksums of its source.
        files: SHA-256 of each written file, by path relative to the data set's folder.
        empty_rois: ROIs that the source names but that have no voxels.
        converter_version: Version of the code that wrote it.
    """

    record: CaseRecord
    checksums: Mapping[str, str]
    files: Mapping[str, str]
    empty_rois: tuple[str, ...] = ()
    converter_version: str = CONVERTER_VERSION

    @property
    def has_dose(self) -> bool:
        """Whether there is a reference dose."""
        return any(file.startswith("labels") for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """JSON for the completion record."""
        return {
            "record": self.record.to_json(),
            "checksums": dict(self.checksums),
            "files": dict(self.files),
            "empty_rois": list(self.empty_rois),
            "converter_version": self.converter_version,
        }

    @classmethod
    def read(cls, folder: Path, name: str) -> CompletedCase | None:
        """Read the completion record of a case; None if it is missing or unreadable."""
        try:
            found = read_json(record_path(folder, name), cls)
        except InputError:
            return None
        return found if all(map(_CASE_FILE.fullmatch, found.files)) else None

    def is_current(self, folder: Path, split: Split, checksums: Mapping[str, str]) -> bool:
        """Whether split and source are unchanged and all files are present and unchanged."""
        return (
            self.converter_version == CONVERTER_VERSION
            and self.record.split == split
            and dict(self.checksums) == dict(checksums)
            and all((folder / file).is_file() and sha256(folder / file) == sum_ for file, sum_ in self.files.items())
        )


def record_path(folder: Path, name: str) -> Path:
    """Path of the completion record of a case."""
    return folder / STATE_FOLDER / "cases" / f"{name}.json"


def recorded_names(folder: Path) -> frozenset[str]:
    """Names of the cases with a completion record."""
    return frozenset(path.stem for path in record_path(folder, "").parent.glob("*.json"))


def write_case(folder: Path, case: Case, checksums: Mapping[str, str]) -> CompletedCase:
    """Write a case into a data set; a case of the same name is replaced.

    At every moment the case is either complete and recorded, or not recorded; in the latter case ``dataset.json`` is
    absent too. The dose is moved into place last.

    Args:
        folder: The data set's folder.
        case: The case.
        checksums: Checksums of its source, stored to detect later changes.

    Raises:
        OSError: If a file can't be written, for example because the disk is full; no partial file remains.
    """
    incomplete = folder / STATE_FOLDER / "incomplete"
    incomplete.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{case.name}-", dir=incomplete))
    try:
        files = {}
        for target, array in _images(case).items():
            aside = staging / target.replace("/", "-")
            write_image(Image(array, case.grid, aside))
            files[target] = (aside, sha256(aside))
        withdraw_case(folder, case.name)
        for target, (aside, _) in files.items():
            (folder / target).parent.mkdir(exist_ok=True)
            os.replace(aside, folder / target)
        completed = CompletedCase(
            case.record(), checksums, {target: sum_ for target, (_, sum_) in files.items()}, case.empty_rois
        )
        write_json(record_path(folder, case.name), completed.to_json())
        return completed
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def withdraw_case(folder: Path, name: str) -> None:
    """Mark the data set as unfinished and remove a case, starting with its completion record."""
    (folder / "dataset.json").unlink(missing_ok=True)
    completed = CompletedCase.read(folder, name)
    record_path(folder, name).unlink(missing_ok=True)
    for file in completed.files if completed is not None else ():
        (folder / file).unlink(missing_ok=True)


def _images(case: Case) -> dict[str, NDArray[Any]]:
    """Images to write, by path in the data set, in the order of writing: the dose last."""
    channels = {
        CT_CHANNEL: case.ct_hu,
        PRESCRIPTION_CHANNEL: case.prescription_map_gy(),
        ROI_CHANNEL: case.roi_bits,
    }
    images = {f"images{case.split}/{image_name(case.name, k)}": array for k, array in channels.items()}
    if case.dose_gy is not None:
        images[f"labels{case.split}/{case.name}{FILE_ENDING}"] = case.dose_gy
    return images


def sha256(path: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
