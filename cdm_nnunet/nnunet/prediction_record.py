"""What is known of a predicted dose beside its voxels: ``CASE.prediction.json`` beside ``CASE.nii.gz``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.documents import read_json
from cdm_nnunet.files import write_json

RECORD_ENDING = ".prediction.json"


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """One predicted dose.

    Attributes:
        case: Name of the case.
        prescriptions_gy: Prescription of each target as the model read it, Gy; None where it is not known.
        notes: What is unusual about the case, one sentence each.
    """

    case: str
    prescriptions_gy: dict[str, float] | None
    notes: list[str]

    def write(self, dose: Path) -> None:
        """Write the record of a dose ``CASE.nii.gz``; do so before the dose."""
        write_json(record_path(dose), asdict(self))

    @classmethod
    def read(cls, dose: Path) -> PredictionRecord:
        """The record of a dose ``CASE.nii.gz``.

        Raises:
            InputError: If it is missing or damaged.
        """
        return read_json(record_path(dose), cls, "predict the case again")


def record_path(dose: Path) -> Path:
    """The record's file for a dose ``CASE.nii.gz``."""
    return dose.with_name(dose.name.removesuffix(FILE_ENDING) + RECORD_ENDING)
