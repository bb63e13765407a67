"""Mean of doses predicted by several models for the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import Image, read_image, write_image
from cdm_nnunet.prediction_record import Applicability, MeanOrigin, PredictionRecord, record_path
from cdm_nnunet.progress import progress


def dose_files(folder: Path) -> dict[str, Path]:
    """Predicted doses of a folder by case.

    Raises:
        InputError: If there is no such folder, or no dose in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give folders that 'cdm-nnunet predict' wrote")
    files = sorted(path for path in folder.glob(f"*{FILE_ENDING}") if not path.name.startswith("."))
    if not files:
        raise InputError(f"no doses (CASE{FILE_ENDING}) in {folder}")
    return {path.name.removesuffix(FILE_ENDING): path for path in files}


def average_doses(members: Sequence[dict[str, Path]], out: Path, names: Sequence[str]) -> list[str]:
    """Write the mean dose of each case.

    Args:
        members: Doses by case, for each model.
        out: Folder for the means.
        names: Names of the models, for the records.

    Returns:
        The cases.

    Raises:
        InputError: If there are fewer than two models, they differ in cases, grids, images or prescriptions,
            or a dose does not match its record.
    """
    if len(members) < 2:
        raise InputError("an ensemble has at least two members")
    for name, member in zip(names, members, strict=True):
        differing = sorted(set(member) ^ set(members[0]))
        if differing:
            raise InputError(
                f"{names[0]} and {name} do not have the same cases: '{differing[0]}' is in one of them only"
            )
    out.mkdir(parents=True, exist_ok=True)
    for case in progress(members[0], desc="ensemble"):
        files = [member[case] for member in members]
        mean = _mean_of([read_image(file) for file in files], out / f"{case}{FILE_ENDING}")
        with _record_of(case, files, names).beside(mean.path):
            write_image(mean)
    return list(members[0])


def _mean_of(doses: Sequence[Image], path: Path) -> Image:
    total = np.zeros(doses[0].values.shape, np.float64)
    for dose in doses:
        doses[0].refuse_other_grid(dose)
        if dose.values.dtype.kind != "f" or dose.values.min() < 0:
            raise InputError(f"{dose.path} is not a dose: it holds {dose.values.dtype}, from {dose.values.min():g} on")
        total += dose.values
    return replace(doses[0], path=path, values=(total / len(doses)).astype(np.float32))


def _record_of(case: str, files: Sequence[Path], names: Sequence[str]) -> PredictionRecord:
    records = [PredictionRecord.of_dose(file) for file in files if record_path(file).is_file()]
    levels = {tuple(sorted((record.prescriptions_gy or {}).items())) for record in records}
    if len(levels) > 1:
        raise InputError(f"case '{case}': the models have read different prescriptions: {', '.join(map(str, files))}")
    inputs = {tuple(sorted(record.inputs_sha256.items())) for record in records if record.inputs_sha256}
    if len(inputs) > 1:
        raise InputError(f"case '{case}': the models were given different images: {', '.join(map(str, files))}")
    are_known = len(records) == len(files) and all(record.inputs_sha256 for record in records)
    notes = list(dict.fromkeys(note for record in records for note in record.notes))
    prescriptions = records[0].prescriptions_gy if records else None
    origins = [record.origin for record in records if record.origin is not None]
    return PredictionRecord(
        case=case,
        prescriptions_gy=prescriptions,
        notes=[*notes, f"mean of {len(names)} doses: {', '.join(names)}"],
        origin=MeanOrigin(mean_of=origins) if len(origins) == len(files) else None,
        inputs_sha256=dict(inputs.pop()) if are_known else None,
        applicability=_least_applicable(records) if are_known else None,
    )


def _least_applicable(records: Sequence[PredictionRecord]) -> Applicability | None:
    """The position of the patient in the model that applies least."""
    known = [record.applicability for record in records if record.applicability is not None]
    order = ("outside", "unusual", "not compared", "inside")
    return min(known, key=lambda one: order.index(one.status), default=None)
