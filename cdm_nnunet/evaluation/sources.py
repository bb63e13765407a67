"""Locations of the images of an evaluation: a small file next to its record, for displaying them later."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cdm_nnunet.documents import read_json
from cdm_nnunet.files import write_json

SOURCES_FILE = ".images.json"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Two folders, relative to that of the evaluation, so that a tree can be moved as a whole.

    Attributes:
        dataset: The raw data set.
        predictions: The predictions, ``CASE.nii.gz``.
    """

    dataset: str
    predictions: str


def write_sources(dataset: Path, predictions: Path, out: Path, folder: Path) -> None:
    """Write the file of an evaluation into a folder; it will be moved to the folder ``out``."""
    dataset_text, predictions_text = (os.path.relpath(path.resolve(), out.resolve()) for path in (dataset, predictions))
    write_json(folder / SOURCES_FILE, asdict(Sources(dataset=dataset_text, predictions=predictions_text)))


def read_sources(evaluation: Path) -> tuple[Path, Path] | None:
    """The folders of the data set and of the predictions of an evaluation; None if it does not state them.

    Args:
        evaluation: Its folder, or the record in it.

    Raises:
        InputError: If the file is damaged.
    """
    folder = evaluation if evaluation.is_dir() else evaluation.parent
    if not (folder / SOURCES_FILE).is_file():
        return None
    found = read_json(folder / SOURCES_FILE, Sources, "evaluate again")
    return (folder / found.dataset).resolve(), (folder / found.predictions).resolve()
