"""Doses of new patients: from CT, contours and prescriptions in DICOM files to RTDOSE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import CHANNEL_NAMES, FILE_ENDING, POSITION, CaseRecord, case_of_image, image_name
from cdm_nnunet.dataset_conversion.case import Case
from cdm_nnunet.dataset_conversion.case_files import write_case
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, read_mapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.dicom.destination import Destination, destination_of
from cdm_nnunet.dicom.export import dose_type_for, export_dose
from cdm_nnunet.dicom.index import FolderIndex, index_folder
from cdm_nnunet.dicom.plan_choice import DEFAULT
from cdm_nnunet.dicom.pseudonyms import Pseudonyms, read_pseudonyms
from cdm_nnunet.dicom.unread import unread_lines
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import Refusals, fenced
from cdm_nnunet.files import passing_folder
from cdm_nnunet.geometry.voxel_size import voxel_size_zyx_mm
from cdm_nnunet.nnunet.inputs import find_cases, write_catalogue
from cdm_nnunet.nnunet.predictor import CasesRefusedError
from cdm_nnunet.patient.scoring import NewDose, files_of_new
from cdm_nnunet.prediction.described import (
    WITHOUT_FOLDS,
    Described,
    Describer,
    FoldDoses,
    Predict,
    clear,
    describe_all,
    told,
)
from cdm_nnunet.prediction.models import TrainedOn
from cdm_nnunet.prediction.position import position_finding, with_finding
from cdm_nnunet.prediction_record import Applicability, Finding, PredictionRecord, digest_of
from cdm_nnunet.roi import Catalogue


@dataclass(frozen=True)
class NewPatients:
    """Patients to predict, with options and facts besides their files.

    Attributes:
        folder: DICOM files, at any depth.
        out: Folder for the RTDOSE files, outside ``folder``.
        mapping: rois.yaml; its entries override those that the model was trained with.
        prescriptions_gy: Gy by target of the model, for plans that do not state them.
        grid: ``ct`` or a voxel size; None takes the median of the training data.
        bits: 16 or 32 bits per voxel of the RTDOSE.
        match_geometry: Match the CT by its slices if the contours refer to no CT in the folder.
        pseudonyms: Make the names of the patients; None uses those of the mapping's folder, else no key.
        allows_outside: Predict a patient in a position that no training patient had.
    """

    folder: Path
    out: Path
    mapping: Path | None = None
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    grid: str | None = None
    bits: int = 16
    match_geometry: bool = False
    pseudonyms: Pseudonyms | None = None
    allows_outside: bool = False

    def __post_init__(self) -> None:
        if self.out.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(
                f"{self.out} (-o) is within {self.folder} (--dicom); choose a separate folder for predicted doses"
            )


@dataclass(frozen=True)
class PredictedPatient:
    """A patient with a dose.

    Attributes:
        case: The patient's name.
        prescriptions_gy: Gy by target.
        rois: Contoured ROIs.
        absent_rois: ROIs of the model that the patient lacks.
        notes: Remarks for the user.
        file: The RTDOSE.
        maximum_gy: Highest dose.
        described: Files and results next to it; None if they could not be written.
    """

    case: str
    prescriptions_gy: dict[str, float]
    rois: list[str]
    absent_rois: list[str]
    notes: list[str]
    file: str = ""
    maximum_gy: float = 0.0
    described: Described | None = None


@dataclass(frozen=True)
class PredictedPatients:
    """The outcome for all patients.

    Attributes:
        patients: Patients with a dose.
        refused: Reasons for the others, in one line; empty if there are no others.
        remarks: Ignored or unused files.
        undescribed: Doses without a record, with reasons; empty if all have one.
    """

    patients: tuple[PredictedPatient, ...]
    refused: str
    remarks: tuple[str, ...]
    undescribed: str = ""


@dataclass(frozen=True)
class _Ready:
    """A patient with written images, known facts of the case, and the destination of the dose."""

    record: PredictedPatient
    destination: Destination
    known: CaseRecord
    catalogue: Catalogue
    names: Mapping[str, str]
    finding: Finding | None


def predict_patients(
    request: NewPatients, trained: TrainedOn, predict: Predict, describer: Describer, folds: FoldDoses = WITHOUT_FOLDS
) -> PredictedPatients:
    """Predict the patients of a folder, and write the record of each.

    All facts of a patient are checked before prediction; a refused patient does not stop the others.

    Args:
        request: The patients.
        trained: The model's record of its training data.
        predict: Writes the doses of cases.
        describer: Says what stands beside a dose.
        folds: Predicts with each fold, for a describer that gives intervals.

    Raises:
        InputError: If no patient can be used.
    """
    patients, remarks = _patients(request, trained)
    refusals = Refusals(request.out / "errors.log")
    clear(request.out, (patient.name for patient in patients))
    with passing_folder(request.out, ".predict_") as work:  # (next to the results: it contains the patients' images)
        ready = {}
        for patient in patients:
            with refusals.of(patient.name):
                ready[patient.name] = _prepare(patient, trained, request, work)
        if not ready:
            raise InputError(_told(refusals, request.out, len(patients)))
        write_catalogue(work, template_catalogue(trained.template))
        _predict(find_cases(work / "imagesTs"), work / "doses", predict, refusals)
        done = {}
        for name, one in ready.items():
            if name not in refusals.reasons:
                with refusals.of(name):
                    done[name] = _export(work / "doses" / f"{name}{FILE_ENDING}", one, request, trained)
        if not done:
            raise InputError(_told(refusals, request.out, len(patients)))
        cases = [files for files in find_cases(work / "imagesTs") if case_of_image(files[0]) in done]
        with folds.of(cases, work) as members:
            jobs = [(_new_dose(ready[name], one, work, members), "") for name, one in done.items()]
            described, undescribed = describe_all(describer, jobs, request.out)
    texts = {one.case: one for one in described}
    found = tuple(replace(one, described=texts.get(name)) for name, one in done.items())
    return PredictedPatients(found, _told(refusals, request.out, len(patients)), remarks, told(undescribed))


def _patients(request: NewPatients, trained: TrainedOn) -> tuple[list[DicomPatient], tuple[str, ...]]:
    """The patients found, and remarks on ignored files."""
    grid = trained.grid if request.grid is None else request.grid
    if grid == "dose":
        raise InputError("a new patient has no dose grid; --grid takes 'ct' or a voxel size")
    if grid != "ct":
        voxel_size_zyx_mm(grid, "--grid takes 'ct' or")
    own = None if request.mapping is None else read_mapping(request.mapping)
    mapping = replace(trained.mapping_for(own), match_geometry=request.match_geometry)
    _refuse_prescriptions(request, own, trained)
    # (inspection's names of the patients, by which the mapping may choose plans)
    pseudonyms = request.pseudonyms
    if pseudonyms is None:
        beside = request.mapping
        pseudonyms = Pseudonyms() if beside is None else read_pseudonyms(beside.parent, make=False)
    index = index_folder(request.folder)
    found = index.patients(needed=("RTSTRUCT",), choice=mapping.choice, pseudonyms=pseudonyms)
    usual_gy = {} if trained.mapping is None else trained.mapping.prescriptions_gy
    patients = [
        DicomPatient(files, mapping, trained.template, grid, "Ts", request.prescriptions_gy, usual_gy=usual_gy)
        for files in found
    ]
    return patients, _remarks(index, own, patients)


def _refuse_prescriptions(request: NewPatients, own: DicomMapping | None, trained: TrainedOn) -> None:
    targets = [roi.name for roi in trained.template.rois if roi.kind == "target"]
    for name in request.prescriptions_gy:
        if name not in targets:
            raise InputError(f"--prescription: '{name}' is not a target of the model; those are {', '.join(targets)}")
    for roi, level_gy in {} if own is None else own.prescriptions_gy.items():
        given_gy = request.prescriptions_gy.get(roi, level_gy)
        if given_gy != level_gy:
            raise InputError(
                f"--prescription gives '{roi}' {given_gy:g} Gy, and {request.mapping} {level_gy:g} Gy; leave one out"
            )


def _remarks(index: FolderIndex, own: DicomMapping | None, patients: Sequence[DicomPatient]) -> tuple[str, ...]:
    remarks = [*(f"not read: {line}" for line in unread_lines(index.unread)), *index.remarks]
    known = {name for patient in patients for name in (patient.name, patient.files.patient_name)}
    named = set() if own is None else {*own.patients, *own.plans} - {DEFAULT}
    if strays := sorted(named - known):
        remarks.append(f"named in the mapping, but not in {index.folder}: {', '.join(strays)}")
    return tuple(remarks)


def _prepare(patient: DicomPatient, trained: TrainedOn, request: NewPatients, work: Path) -> _Ready:
    """Check all facts of a patient, and write its images."""
    case = patient.load()
    finding = position_finding(case.source.get(POSITION, ""), trained.positions)
    if finding is not None:
        Applicability.of([finding], "ranges", sum(trained.positions.values())).permitted(request.allows_outside)
    _refuse_missing_outline(case, trained)
    if trained.ion_plans == 0 and patient.files.has_ions:
        raise InputError("the plan is one of ions (RT Ion Plan), and the model was trained on none")
    destination = destination_of(patient.files, f"the files of {patient.name}")
    dose_type_for(destination, trained.dose_type)
    write_case(work, case, {})
    known = case.record()
    absent = [name for name in case.catalogue.names if name not in case.rois]
    record = PredictedPatient(
        case.name,
        dict(known.prescriptions_gy),
        list(case.rois),
        absent,
        [*known.notes, *destination.notes, *([] if finding is None else [finding.note])],
    )
    return _Ready(record, destination, known, case.catalogue, patient.roi_names(), finding)


def _refuse_missing_outline(case: Case, trained: TrainedOn) -> None:
    """Refuse a missing dose region, outside which dose is zero, and an external that all training patients had."""
    for bit in case.catalogue.bits_of_kind("external", "dose_region"):
        roi = case.catalogue.rois[bit]
        if roi.name not in case.rois and (roi.kind == "dose_region" or roi.name in trained.always_contoured):
            raise InputError(
                f"ROI '{roi.name}' (kind {roi.kind}), which all patients of the training data had, is not contoured or "
                "not mapped; give its name in the files with --mapping"
            )


def _predict(cases: Sequence[Sequence[str]], out: Path, predict: Predict, refusals: Refusals) -> None:
    """Predict all cases; after an internal error, one by one."""

    def attempt(some: Sequence[Sequence[str]]) -> None:
        try:
            predict(some, out)
        except CasesRefusedError as error:
            refusals.reasons.update(error.reasons)

    try:
        with fenced("all patients", refusals.log):
            attempt(cases)
    except InputError as error:
        if error.__cause__ is None or len(cases) == 1:  # (the model refuses all or none)
            raise
        for files in cases:
            with refusals.of(case_of_image(files[0])):
                attempt([files])


def _told(refusals: Refusals, out: Path, n_patients: int) -> str:
    """Report refused patients with reasons; a dose of an earlier run must not be mistaken for a new one."""
    told = []
    for name, reason in refusals.reasons.items():
        earlier = out / f"{name}.dcm"
        told.append(f"[{name}] {reason}" + (f" ({earlier} is of an earlier run)" if earlier.exists() else ""))
    return f"{len(told)} of {counted(n_patients, 'patient')} can't be used: {'; '.join(told)}" if told else ""


def _export(dose: Path, ready: _Ready, request: NewPatients, trained: TrainedOn) -> PredictedPatient:
    out = request.out / f"{ready.record.case}.dcm"
    written = export_dose(dose, ready.destination, out, bits=request.bits, dose_type=trained.dose_type)
    notes = [*ready.record.notes, *PredictionRecord.read(dose).notes]
    return replace(ready.record, notes=notes, file=str(out), maximum_gy=written.maximum_gy)


def _new_dose(ready: _Ready, patient: PredictedPatient, work: Path, members: tuple[Path, ...]) -> NewDose:
    """The dose as predicted; that in the RTDOSE is rounded to multiples of its scaling."""
    dose, known = work / "doses" / f"{patient.case}{FILE_ENDING}", ready.known
    ct, _, bits = (work / "imagesTs" / image_name(patient.case, channel) for channel in range(len(CHANNEL_NAMES)))
    files = files_of_new(patient.case, dose, (ct, bits), ready.catalogue, known, members)
    delivered = (Path(patient.file).name, digest_of(Path(patient.file)))
    prediction = PredictionRecord.read(dose)
    applicability = with_finding(prediction.applicability, ready.finding)
    return NewDose(files, delivered, prediction.origin, ready.names, patient.notes, applicability)
