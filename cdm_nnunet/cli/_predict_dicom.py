"""The part of ``cdm-nnunet predict`` that takes DICOM-RT files in and puts RTDOSE out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli._convert_dicom import add_match_geometry
from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.files import passing_folder

if TYPE_CHECKING:
    from cdm_nnunet.dataset_conversion.case import Case
    from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
    from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
    from cdm_nnunet.dicom.destination import Destination
    from cdm_nnunet.dvh import Template

_OPTIONS = ("mapping", "prescription", "grid", "bits", "match_geometry")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that go with ``--dicom``."""
    group = parser.add_argument_group("new patients as DICOM (--dicom)")
    group.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="rois.yaml of 'cdm-nnunet inspect dicom'; its entries come before those that the model was trained with",
    )
    group.add_argument(
        "--prescription", nargs="+", metavar="ROI=GY", help="prescriptions of targets that the plan does not state"
    )
    group.add_argument(
        "--grid",
        metavar="ct|MM|MMxMMxMM",
        help="voxels of the dose: the CT's, or of a size (x, y, z) (default: the median size of the training data)",
    )
    group.add_argument("--bits", type=int, choices=(16, 32), help="bits a voxel of the RTDOSE (default: 16)")
    add_match_geometry(group)


def refuse_options_without_dicom(args: argparse.Namespace) -> None:
    """Check the options against each other.

    Raises:
        InputError: If an option of ``--dicom`` is given without it, or the other way round.
    """
    if args.dicom is None:
        for option in _OPTIONS:
            if getattr(args, option) not in (None, False):
                raise InputError(
                    f"--{option.replace('_', '-')} goes with --dicom; -i takes cases that are converted already"
                )
    elif args.continue_prediction:
        raise InputError("--continue_prediction goes with -i; with --dicom every dose is predicted anew")


def run(args: argparse.Namespace, model: Path, predict: Callable[[list[list[str]], Path], None]) -> dict[str, Any]:
    """Predict the patients of a folder.

    Everything that is known of a patient is checked before anything is predicted; one that can't be used does not stop
    the others.

    Args:
        args: Of the verb.
        model: The trained model's folder.
        predict: Writes a dose (NIfTI) into a folder for each case, given its channels.

    Returns:
        ``patients``: for each its case name, RTDOSE file, prescriptions (Gy), contoured ROIs, those that it lacks, and
        notes. ``error``, where there were others: why they can't be used.

    Raises:
        InputError: If no patient can be used, or the doses would go into the folder of the patients.
    """
    from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
    from cdm_nnunet.dicom.export import export_dose
    from cdm_nnunet.nnunet.inputs import find_cases, write_catalogue
    from cdm_nnunet.prediction_record import PredictionRecord

    if args.o.resolve().is_relative_to(args.dicom.resolve()):
        raise InputError(f"{args.o} (-o) is within {args.dicom} (--dicom); predicted doses go to a folder of their own")
    trained = _read_model(model, args.f, args.chk)
    patients = _patients(args, model, trained)
    refusals = _Refusals(args.o / "errors.log", len(patients))
    records = []
    with passing_folder(args.o, ".predict_") as work:  # (beside the results: it holds the patients' images)
        ready = {}
        for patient in patients:
            with refusals.of(patient.name):
                ready[patient.name] = _prepare(patient, trained, work)
        refusals.refuse_if_none(ready)
        write_catalogue(work, template_catalogue(trained.template))
        _predict(find_cases(work / "imagesTs"), work / "doses", predict, refusals)
        for name, (record, source) in ready.items():
            dose = work / "doses" / f"{name}{FILE_ENDING}"
            if name in refusals.reasons:
                continue
            with refusals.of(name, passing=(OSError,)):
                out = args.o / f"{name}.dcm"
                done = export_dose(dose, source, out, bits=args.bits or 16, dose_type=trained.dose_type)
                notes = [*record["notes"], *done.notes, *PredictionRecord.read(dose).notes]
                records.append({**record, "notes": notes, "file": str(out), "maximum_gy": done.maximum_gy})
    return {"patients": records} | ({"error": refusals.text} if refusals.reasons else {})


def render(record: dict[str, Any]) -> str:
    """A line for each patient: what was predicted, and from what."""
    levels = ", ".join(f"{roi} {gy:g} Gy" for roi, gy in record["prescriptions_gy"].items())
    absent = f"; without {', '.join(record['absent_rois'])}" if record["absent_rois"] else ""
    lines = [f"{record['file']}: up to {record['maximum_gy']:.2f} Gy, prescribed {levels}{absent}; not for treatment"]
    return "\n".join([*lines, *(f"  {note}" for note in record["notes"])])


def _patients(args: argparse.Namespace, model: Path, trained: _Trained) -> list[DicomPatient]:
    from cdm_nnunet.dataset_conversion.dicom_mapping import read_mapping
    from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient, spacing_mm
    from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
    from cdm_nnunet.dicom.index import index_folder
    from cdm_nnunet.dicom.pseudonyms import Pseudonyms, read_pseudonyms

    if template_catalogue(trained.template).to_json() != trained.catalogue_json:
        raise InputError(f"{model / 'plans.json'}: the catalogue is not that of the template; plan and train again")
    grid = args.grid or trained.grid
    if grid != "ct":
        if grid == "dose":
            raise InputError("a new patient has no dose grid; --grid takes 'ct' or a voxel size")
        spacing_mm(grid)
    own = None if args.mapping is None else read_mapping(args.mapping)
    mapping = replace(_mapping(own, trained, model), match_geometry=args.match_geometry)
    prescribed = _prescriptions_gy(args.prescription or [], trained.template)
    for roi, level_gy in {} if own is None else own.prescriptions_gy.items():
        if prescribed.get(roi, level_gy) != level_gy:
            raise InputError(
                f"--prescription gives '{roi}' {prescribed[roi]:g} Gy, and {args.mapping} {level_gy:g} Gy; "
                "leave one out"
            )
    # (the names that inspection gave the patients, whose plans the mapping may choose)
    pseudonyms = Pseudonyms() if args.mapping is None else read_pseudonyms(args.mapping.parent, make=False)
    found = index_folder(args.dicom).patients(needed=("RTSTRUCT",), choice=mapping.choice, pseudonyms=pseudonyms)
    usual_gy = {} if trained.mapping is None else trained.mapping.prescriptions_gy
    return [
        DicomPatient(files, mapping, trained.template, grid, "Ts", prescribed, usual_gy=usual_gy) for files in found
    ]


@dataclass(frozen=True)
class _Trained:
    """What a model says of its training data; ROIs that all its patients had, or all ROIs where it does not say."""

    template: Template
    catalogue_json: list[dict[str, Any]]
    mapping: DicomMapping | None
    grid: str
    always_contoured: frozenset[str]
    dose_type: str  # empty where it is not known
    ion_plans: int | None


def _read_model(folder: Path, folds: Sequence[str], checkpoint: str) -> _Trained:
    from cdm_nnunet.dataset import cdm_section
    from cdm_nnunet.dataset_conversion.dicom_mapping import mapping_from
    from cdm_nnunet.nnunet.model import read_model
    from cdm_nnunet.nnunet.plans import DosePlans

    model = read_model(folder, folds, checkpoint)
    plans, where = DosePlans(model.plans), f"dataset.json of {folder}"
    section = cdm_section(model.dataset_json, where)
    stored = section.get("mapping")
    mapping = None if stored is None else mapping_from(stored, f"{where}: mapping")
    z, y, x = model.plans["original_median_spacing_after_transp"]
    # (to a micrometre: what is left of NIfTI's float32)
    grid = "x".join(f"{round(size, 3):g}" for size in (x, y, z))
    counts = section.get("facts", {}).get("training_cases_with_roi", {})
    n_cases = model.dataset_json["numTraining"]
    always = frozenset(name for name in plans.catalogue.names if counts.get(name, n_cases) == n_cases)
    facts = section.get("facts", {})
    dose_type, ion_plans = facts.get("dose_type", ""), facts.get("ion_plans")
    return _Trained(plans.template, plans.catalogue.to_json(), mapping, grid, always, dose_type, ion_plans)


def _mapping(own: DicomMapping | None, trained: _Trained, model: Path) -> DicomMapping:
    from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping

    if own is None and trained.mapping is None:
        raise InputError(
            f"{model} was not trained on DICOM files and does not know their ROI names; give --mapping, the reviewed "
            "rois.yaml of 'cdm-nnunet inspect dicom'"
        )
    mapping = DicomMapping({} if trained.mapping is None else trained.mapping.rois)
    if own is not None:
        mapping = mapping.updated(own)
    mapping.refuse_unknown_rois(trained.template)
    return mapping


def _prescriptions_gy(given: Sequence[str], template: Template) -> dict[str, float]:
    targets = [roi.name for roi in template.rois if roi.kind == "target"]
    found: dict[str, float] = {}
    for text in given:
        name, _, level = text.rpartition("=")
        try:
            level_gy = float(level)
        except ValueError:
            raise InputError(f"--prescription takes ROI=GY, for example PTV_High=70, not '{text}'") from None
        if name not in targets:
            raise InputError(f"--prescription: '{name}' is no target of the model; those are {', '.join(targets)}")
        if name in found:
            raise InputError(f"--prescription gives '{name}' twice")
        found[name] = level_gy
    return found


@dataclass(frozen=True)
class _Refusals:
    """Patients that can't be used, with the reasons."""

    log: Path
    n_patients: int
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        each = "; ".join(f"[{name}] {reason}" for name, reason in self.reasons.items())
        return f"{len(self.reasons)} of {self.n_patients} patients can't be used: {each}"

    @contextmanager
    def of(self, name: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Keep the reason where a patient is refused."""
        try:
            with fenced(name, self.log, passing=passing):
                yield
        except InputError as error:
            self.reasons[name] = str(error)

    def refuse_if_none(self, usable: Sized) -> None:
        if not usable:
            raise InputError(self.text)


def _prepare(patient: DicomPatient, trained: _Trained, work: Path) -> tuple[dict[str, Any], Destination]:
    """Check all that is known of a patient, and write its images; what it is, and where its dose will belong."""
    from cdm_nnunet.dataset_conversion.case_files import write_case
    from cdm_nnunet.dicom.destination import destination_of
    from cdm_nnunet.dicom.export import dose_type_for

    case = patient.load()
    _refuse_missing_outline(case, trained)
    files = patient.files
    if trained.ion_plans == 0 and files.has_ions:
        raise InputError("the plan is one of ions (RT Ion Plan), and the model was trained on none")
    found = destination_of(files, f"the files of {patient.name}")
    dose_type_for(found, trained.dose_type)
    write_case(work, case, {})
    return _record(case, patient), found


def _predict(
    cases: Sequence[list[str]], out: Path, predict: Callable[[list[list[str]], Path], None], refusals: _Refusals
) -> None:
    """Predict all cases; one by one, where one of them meets an internal error."""
    from cdm_nnunet.nnunet.predictor import CasesRefusedError

    def attempt(some: Sequence[list[str]]) -> None:
        try:
            predict(list(some), out)
        except CasesRefusedError as error:
            refusals.reasons.update(error.reasons)

    try:
        with fenced("all patients", refusals.log):
            attempt(cases)
    except InputError as error:
        if error.__cause__ is None or len(cases) == 1:  # (what the model refuses, it refuses for all)
            raise
        for files in cases:
            with refusals.of(Path(files[0]).name.removesuffix(f"_0000{FILE_ENDING}")):
                attempt([files])
    refusals.refuse_if_none(range(refusals.n_patients - len(refusals.reasons)))


def _refuse_missing_outline(case: Case, trained: _Trained) -> None:
    """Dose is zero outside the dose region; an external is needed where the model knows no patient without one."""
    for bit in case.catalogue.bits_of_kind("external", "dose_region"):
        roi = case.catalogue.rois[bit]
        if roi.name not in case.rois and (roi.kind == "dose_region" or roi.name in trained.always_contoured):
            raise InputError(
                f"ROI '{roi.name}' (kind {roi.kind}), which all patients of the training data had, is not contoured or "
                "not mapped; give its name in the files with --mapping"
            )


def _record(case: Case, patient: DicomPatient) -> dict[str, Any]:
    notes = list(case.record().notes)
    return {
        "case": case.name,
        "prescriptions_gy": dict(case.record().prescriptions_gy),
        "rois": list(case.rois),
        "absent_rois": [name for name in case.catalogue.names if name not in case.rois],
        "notes": notes,
    }
