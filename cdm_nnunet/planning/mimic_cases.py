"""Deliverable doses for a folder of predicted doses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cdm_nnunet.dataset import FILE_ENDING, RawDataset
from cdm_nnunet.documents import plain, read_json
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pairing import CaseFiles, case_files, load_pair
from cdm_nnunet.fence import Attempt, Refusals, Refused
from cdm_nnunet.files import write_json, write_text
from cdm_nnunet.images import Image, write_image
from cdm_nnunet.parallel import unordered
from cdm_nnunet.planning.anatomy import read_anatomy
from cdm_nnunet.planning.engine import Engine, default_engine
from cdm_nnunet.planning.mimic_record import RULE, MimicRecord, gamma_percent, goals_csv, goals_of
from cdm_nnunet.planning.mimicking import Mimic
from cdm_nnunet.planning.protocol import Protocol
from cdm_nnunet.prediction_record import digest_of
from cdm_nnunet.progress import progress

RECORD_ENDING = ".mimic.json"
LOG = ".mimic_errors.log"


@dataclass(frozen=True)
class MimicRequest:
    """Doses to mimic, and options.

    Attributes:
        dataset: The raw data set of the patients.
        predictions: A dose ``CASE.nii.gz``, or a folder of them.
        out: Folder for doses, records and tables.
        protocol: Protocol with the beams that deliver the dose.
        template: Template with the goals to report; None takes the data set's own.
        n_processes: Number of patients at a time.
        engine: Calculates the doses; None for that of the extra ``planning``.
    """

    dataset: RawDataset
    predictions: Path
    out: Path
    protocol: Protocol
    template: Template | None = None
    n_processes: int = 1
    engine: Engine | None = None


@dataclass(frozen=True)
class MimicResult:
    """The result.

    Attributes:
        records: Records by case.
        left_out: Reason by case, for cases without a record.
    """

    records: dict[str, MimicRecord]
    left_out: dict[str, str]


def mimic_doses(request: MimicRequest) -> MimicResult:
    """Write the deliverable dose, record and table of each predicted dose; valid ones of earlier runs are kept.

    Args:
        request: Doses and options.

    Raises:
        InputError: If there is no predicted dose, or one belongs to no case of the data set.
    """
    paths = _predictions(request)
    request = replace(
        request,
        engine=request.engine or default_engine(),
        template=request.template or request.dataset.template,
    )
    refusals, records = Refusals(request.out / LOG), {}
    attempt = Attempt(partial(_mimic_case, request=request), refusals.log)
    done = unordered(attempt, paths, request.n_processes)
    for position, found in progress(done, total=len(paths), desc="mimic"):
        case = _case_of(paths[position])
        if isinstance(found, Refused):
            refusals.add(case, found.reason)
        else:
            records[case] = found
    return MimicResult({case: records[case] for case in map(_case_of, paths) if case in records}, refusals.reasons)


def _case_of(path: Path) -> str:
    return path.name.removesuffix(FILE_ENDING)


def _predictions(request: MimicRequest) -> Sequence[Path]:
    given = request.predictions
    paths = [given] if given.is_file() else sorted(path for path in given.glob(f"[!.]*{FILE_ENDING}"))
    if not paths or not paths[0].name.endswith(FILE_ENDING):
        raise InputError(f"no predicted dose at {given}: expected CASE{FILE_ENDING}, or a folder of such files")
    unknown = [path for path in paths if _case_of(path) not in request.dataset.cases]
    if unknown:
        raise InputError(f"{unknown[0]}: {request.dataset.folder.name} has no case '{_case_of(unknown[0])}'")
    if request.out.resolve() == paths[0].parent.resolve():
        raise InputError(f"-o {request.out} holds the predicted doses, which would be replaced; give another folder")
    return paths


def _mimic_case(path: Path, *, request: MimicRequest) -> MimicRecord:
    files, has_reference = _files(path, request.dataset)
    inputs = _digests(path, files, request)
    earlier = _earlier(files.case, request.out, inputs)
    if earlier is not None:
        return earlier
    template, engine = request.template or request.dataset.template, request.engine or default_engine()
    pair = load_pair(files)
    anatomy = read_anatomy(request.dataset, files.case)
    mimic = Mimic(anatomy, request.protocol, engine)
    found = mimic.closest_to(np.asarray(pair.predicted_dose_gy, np.float32))
    seconds = {"influence": mimic.influence_cpu_seconds, "prediction": found.cpu_seconds}
    iterations, reference_percent = [found.iterations], None
    if has_reference:
        reference_gy = np.asarray(pair.reference_dose_gy, np.float32)
        best = mimic.closest_to(reference_gy, found.fluence)
        reference_percent = gamma_percent(pair, reference_gy, best.dose_gy)
        seconds["reference"] = best.cpu_seconds
        iterations.append(best.iterations)
    return _write(
        MimicRecord(
            case=files.case,
            inputs_sha256=inputs,
            protocol=request.protocol.name,
            engine=engine.version,
            goals=goals_of(pair, found.dose_gy, template, has_reference=has_reference),
            gamma_rule=f"{RULE.dose_percent:g}%/{RULE.distance_mm:g}mm",
            gamma_percent=gamma_percent(pair, np.asarray(pair.predicted_dose_gy, np.float32), found.dose_gy),
            reference_gamma_percent=reference_percent,
            iterations=tuple(iterations),
            cpu_seconds={name: round(value, 1) for name, value in seconds.items()},
            dose_sha256="",
        ),
        Image(found.dose_gy, anatomy.grid, request.out / path.name),
    )


def _write(record: MimicRecord, dose: Image) -> MimicRecord:
    """Write the dose, then the table, then the record: a record proves a complete case."""
    folder = dose.path.parent
    record_path = folder / f"{record.case}{RECORD_ENDING}"
    record_path.unlink(missing_ok=True)
    write_image(dose)
    record = replace(record, dose_sha256=digest_of(dose.path))
    write_text(folder / f"{record.case}.mimic.csv", goals_csv(record))
    write_json(record_path, plain(record))
    return record


def _earlier(case: str, out: Path, inputs: dict[str, str]) -> MimicRecord | None:
    """The record of an earlier run, if nothing has changed."""
    try:
        found = read_json(out / f"{case}{RECORD_ENDING}", MimicRecord)
        same = found.inputs_sha256 == inputs and found.dose_sha256 == digest_of(out / f"{case}{FILE_ENDING}")
    except (InputError, OSError):
        return None
    return found if same else None


def _digests(path: Path, files: CaseFiles, request: MimicRequest) -> dict[str, str]:
    template, engine = request.template or request.dataset.template, request.engine or default_engine()
    given = {"prediction": path, "ct": files.ct, "roi_bits": files.roi_bits, "reference": files.reference}
    return {
        **{name: digest_of(file) for name, file in given.items()},
        "protocol": request.protocol.sha256,
        "mimicking": request.protocol.mimicking.model_dump_json(),
        "engine": engine.version,
        "template": template.name,
        "prescriptions": str(sorted(files.prescriptions_gy.items())),
    }


def _files(path: Path, dataset: RawDataset) -> tuple[CaseFiles, bool]:
    """The files of a case, and whether it has a reference dose; without one the predicted dose replaces it."""
    case = _case_of(path)
    has_reference = dataset.dose_path(case).is_file()
    return case_files(dataset, case, path, reference=None if has_reference else path), has_reference
