"""Doses of the cases of a folder, each with its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cdm_nnunet.dataset import CASES_FILE, FILE_ENDING, CaseRecord, RawDataset, case_of_image
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import Refusals
from cdm_nnunet.images import read_image
from cdm_nnunet.nnunet.predictor import CasesRefusedError
from cdm_nnunet.patient.scoring import NewDose, files_of_new
from cdm_nnunet.prediction.cases import CasePredictor
from cdm_nnunet.prediction.described import WITHOUT_FOLDS, Described, Describer, FoldDoses, clear, describe_all, told
from cdm_nnunet.prediction_record import PredictionRecord
from cdm_nnunet.roi import Catalogue, used_bits

PRESCRIPTION_TOLERANCE_GY = 0.01
FROM_MAP = (
    "prescriptions are from the prescription map, which holds the highest of overlapping targets: no cdm_cases.json "
    "says those of the plan, nor the number of fractions"
)


@dataclass(frozen=True)
class CaseFolder:
    """Cases to predict, and the output folder.

    Attributes:
        folder: Folder with three channels per case.
        out: Folder for the doses.
        part: Index of the part of the cases, from 0.
        n_parts: Number of parts.
    """

    folder: Path
    out: Path
    part: int = 0
    n_parts: int = 1


@dataclass(frozen=True)
class PredictedCases:
    """The outcome for all cases.

    Attributes:
        n_cases: Number of cases with a dose.
        described: Files and results next to the doses.
        undescribed: Doses without a record, with reasons; empty if all have one.
    """

    n_cases: int
    described: tuple[Described, ...]
    undescribed: str


def predict_and_describe(
    predictor: CasePredictor, source: CaseFolder, describer: Describer, catalogue: Catalogue
) -> PredictedCases:
    """Predict the cases of a folder, or a part of them, and write the record of each.

    Args:
        predictor: The model.
        source: The cases.
        describer: Writes the files next to a dose.
        catalogue: Catalogue of the model.

    Raises:
        InputError: As :meth:`CasePredictor.predict`; the others are predicted, and have their records.
    """
    cases = predictor.cases_in(source.folder, source.part, source.n_parts)
    if not cases:
        return PredictedCases(0, (), "")
    clear(source.out, (case_of_image(files[0]) for files in cases))
    refused: CasesRefusedError | None = None
    try:
        predictor.predict(cases, source.out)
    except CasesRefusedError as error:
        refused = error
    left = [files for files in cases if refused is None or case_of_image(files[0]) not in refused.reasons]
    folds = WITHOUT_FOLDS if describer.calibrated is None else fold_doses(predictor)
    unknown = Refusals(source.out / "errors.log")
    with folds.of(left, source.out) as members:
        jobs = []
        for files in left:
            with unknown.of(case_of_image(files[0])):
                jobs.append(_new_dose(files, source.out, catalogue, members))
        described, refusals = describe_all(describer, jobs, source.out, max(1, predictor.n_processes))
    refusals.reasons.update(unknown.reasons)
    if refused is not None:
        raise InputError("; ".join(filter(None, (str(refused), told(refusals)))))
    return PredictedCases(len(left), tuple(described), told(refusals))


def fold_doses(predictor: CasePredictor) -> FoldDoses:
    """Predictors of a model's folds, one by one."""
    models = [replace(predictor.model, folds=(fold,)) for fold in predictor.folds]
    return FoldDoses(tuple(replace(predictor, model=model, keeps=False).predict for model in models))


def _new_dose(files: Sequence[str], out: Path, catalogue: Catalogue, members: tuple[Path, ...]) -> tuple[NewDose, str]:
    """A predicted case with its data set."""
    ct, _, bits = map(Path, files)
    case = case_of_image(files[0])
    dose = out / f"{case}{FILE_ENDING}"
    prediction = PredictionRecord.of_dose(dose)
    dataset = next((path for path in (ct.parent, ct.parent.parent) if (path / CASES_FILE).is_file()), None)
    known = None if dataset is None else RawDataset(dataset).cases.get(case)
    notes = [*prediction.notes]
    if dataset is None or known is None:
        known = _read_from_images(bits, catalogue, prediction)
        notes.append(FROM_MAP)
    else:
        _refuse_other_levels(known.prescriptions_gy, prediction, dataset)
    case_files = files_of_new(case, dose, (ct, bits), catalogue, known, members)
    delivered = (dose.name, prediction.dose_sha256 or "")
    new = NewDose(case_files, delivered, prediction.origin, notes=notes, applicability=prediction.applicability)
    return new, "" if dataset is None else dataset.name


def _read_from_images(bits: Path, catalogue: Catalogue, prediction: PredictionRecord) -> CaseRecord:
    """Facts of a case from its images alone."""
    image = read_image(bits)
    # (the map is float32: 59.4 Gy, not 59.400001525878906)
    levels = {name: float(str(np.float32(gy))) for name, gy in (prediction.prescriptions_gy or {}).items()}
    return CaseRecord(
        prescriptions_gy=levels,
        rois=tuple(catalogue.names[bit] for bit in used_bits(image.values)),
        spacing_mm=image.grid.spacing_zyx_mm,
        split="Ts",
    )


def _refuse_other_levels(levels_gy: Mapping[str, float], prediction: PredictionRecord, dataset: Path) -> None:
    """Check that the prescriptions of a data set agree with the map that the model read, the highest of targets."""
    for name, of_map_gy in (prediction.prescriptions_gy or {}).items():
        own_gy = levels_gy.get(name, 0.0)
        among = any(abs(of_map_gy - level) <= PRESCRIPTION_TOLERANCE_GY for level in levels_gy.values())
        if not among or own_gy > of_map_gy + PRESCRIPTION_TOLERANCE_GY:
            raise InputError(
                f"{dataset / CASES_FILE} and the prescription map contradict each other: the map has {of_map_gy:g} Gy "
                f"in '{name}', and the prescriptions are "
                f"{', '.join(f'{roi} {gy:g} Gy' for roi, gy in levels_gy.items())}"
            )
