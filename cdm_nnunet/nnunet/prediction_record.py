"""What is known of a predicted dose beside its voxels: ``CASE.prediction.json`` beside ``CASE.nii.gz``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json

RECORD_ENDING = ".prediction.json"


def write_record(
    output: str, case: str, prescriptions_gy: Mapping[str, float] | None, notes: Sequence[str], **more: Any
) -> None:
    """Write the record of a dose; it is there before the dose is.

    Args:
        output: The dose's file without its ending.
        case: Name of the case.
        prescriptions_gy: By target, as the model read them; None where they are not known.
        notes: What is unusual.
        more: Further entries.
    """
    levels = None if prescriptions_gy is None else dict(prescriptions_gy)
    content = {"case": case, "prescriptions_gy": levels, "notes": list(notes), **more}
    write_json(Path(output + RECORD_ENDING), content)


def read_notes(dose: Path) -> list[str]:
    """What is unusual about a predicted dose.

    Args:
        dose: ``CASE.nii.gz``.

    Raises:
        InputError: If its record is missing or damaged.
    """
    path = dose.with_name(dose.name.removesuffix(FILE_ENDING) + RECORD_ENDING)
    return read_json(path, PredictionRecord).notes
