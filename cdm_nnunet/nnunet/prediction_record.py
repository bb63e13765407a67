"""What is known of a predicted dose beside its voxels: ``CASE.prediction.json`` beside ``CASE.nii.gz``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.nnunet.checkpoint import weights_digest
from cdm_nnunet.nnunet.compute import bare
from cdm_nnunet.nnunet.model import differences, model_digest

RECORD_ENDING = ".prediction.json"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All that a dose depends on besides its case.

    Attributes:
        dataset: Data set that the model was trained on.
        trainer: Class of the trainer.
        plans: Name of the plans.
        plans_sha256: Digest of the plans and ``dataset.json``: see :func:`cdm_nnunet.nnunet.model.model_digest`.
        spacing_mm: Voxel size (z, y, x) of the network's grid.
        weights_sha256: Digest of each fold's weights.
        tile_step_size: Step between windows, in patch sizes.
        mirroring: Whether left-right mirrored predictions were averaged.
        gaussian: Whether windows were weighted.
    """

    dataset: str
    trainer: str
    plans: str
    plans_sha256: str
    spacing_mm: list[float]
    weights_sha256: list[str]
    tile_step_size: float
    mirroring: bool
    gaussian: bool


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """One predicted dose.

    Attributes:
        case: Name of the case.
        prescriptions_gy: Prescription of each target as the model read it, Gy; None where it is not known.
        notes: What is unusual about the case, one sentence each.
        origin: What the dose depends on; None where it is not known.
        inputs_sha256: Digests of the input files by name; None where there were none.
        dose_sha256: Digest of the dose's file; None until it is written.
    """

    case: str
    prescriptions_gy: dict[str, float] | None
    notes: list[str]
    origin: Origin | None = None
    inputs_sha256: dict[str, str] | None = None
    dose_sha256: str | None = None

    @contextlib.contextmanager
    def beside(self, dose: Path) -> Iterator[None]:
        """Write the record of a dose ``CASE.nii.gz``, which the block writes; a dose without one is not finished."""
        record_path(dose).unlink(missing_ok=True)
        yield
        written = dataclasses.replace(self, dose_sha256=_digest(dose))
        write_json(record_path(dose), asdict(written))

    @classmethod
    def read(cls, dose: Path) -> PredictionRecord:
        """The record of a dose ``CASE.nii.gz``.

        Raises:
            InputError: If it is missing or damaged.
        """
        return read_json(record_path(dose), cls, "predict the case again")


def origin_of(predictor: nnUNetPredictor) -> Origin:
    """The origin of the doses of a predictor, its model loaded."""
    manager, weights = predictor.plans_manager, predictor.list_of_parameters or [bare(predictor.network).state_dict()]
    return Origin(
        dataset=str(manager.dataset_name),
        trainer=str(predictor.trainer_name),
        plans=str(manager.plans_name),
        plans_sha256=model_digest(manager.plans, predictor.dataset_json),
        spacing_mm=[float(mm) for mm in predictor.configuration_manager.spacing],
        weights_sha256=[weights_digest(of_fold) for of_fold in weights],
        tile_step_size=float(predictor.tile_step_size),
        mirroring=bool(predictor.use_mirroring),
        gaussian=bool(predictor.use_gaussian),
    )


def record_path(dose: Path) -> Path:
    """The record's file for a dose ``CASE.nii.gz``."""
    return dose.with_name(dose.name.removesuffix(FILE_ENDING) + RECORD_ENDING)


def digests_of(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files by name."""
    return {Path(file).name: _digest(Path(file)) for file in files}


def unfinished(
    cases: Sequence[list[str]], output: str | Sequence[str], origin: Origin
) -> tuple[list[list[str]], list[str]]:
    """The cases whose dose is not there yet, or was predicted from other input.

    Args:
        cases: For each case the files of its channels.
        output: Folder of the doses, or each dose's file without its ending.
        origin: Of the doses that are to be predicted.

    Returns:
        Their files, and for each the dose's file without its ending.

    Raises:
        InputError: If a dose is there that another model predicted, or that has changed since.
    """
    if isinstance(output, str):
        names = [Path(files[0]).name.removesuffix(f"_0000{FILE_ENDING}") for files in cases]
        output = [str(Path(output) / name) for name in names]
    left = [(files, out) for files, out in zip(cases, output, strict=True) if not _is_finished(files, out, origin)]
    return [files for files, _ in left], [out for _, out in left]


def _is_finished(files: Sequence[str], output: str, origin: Origin) -> bool:
    dose = Path(output + FILE_ENDING)
    try:
        record = PredictionRecord.read(dose)
    except InputError:  # (stopped in between, or of an earlier version: nobody knows whose dose it is)
        return False
    if not dose.is_file() or record.origin is None:
        return False
    mend = "choose another folder (-o), or leave out --continue_prediction to predict all cases anew"
    if unlike := differences(asdict(record.origin), asdict(origin)):
        raise InputError(f"{dose} was predicted by another model or in another way ({unlike}); {mend}")
    if record.dose_sha256 != _digest(dose):
        raise InputError(f"{dose} has changed since it was predicted; {mend}")
    return record.inputs_sha256 == digests_of(files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
