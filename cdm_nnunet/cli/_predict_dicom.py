"""The part of ``cdm-nnunet predict`` that takes DICOM-RT files in and puts RTDOSE out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import passing_folder

if TYPE_CHECKING:
    from cdm_nnunet.dataset_conversion.case import Case
    from cdm_nnunet.dataset_conversion.dicom import DicomPatient
    from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
    from cdm_nnunet.dvh import Template

_OPTIONS = ("mapping", "prescription", "grid", "bits")


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


def refuse_options_without_dicom(args: argparse.Namespace) -> None:
    """Check the options against each other.

    Raises:
        InputError: If an option of ``--dicom`` is given without it, or the other way round.
    """
    if args.dicom is None:
        for option in _OPTIONS:
            if getattr(args, option) is not None:
                raise InputError(f"--{option} goes with --dicom; -i takes cases that are converted already")
    elif args.continue_prediction:
        raise InputError("--continue_prediction goes with -i; with --dicom every dose is predicted anew")


def run(
    args: argparse.Namespace, model: Path, predict: Callable[[list[list[str]], Path], None]
) -> list[dict[str, Any]]:
    """Predict the patients of a folder.

    Args:
        args: Of the verb.
        model: The trained model's folder.
        predict: Writes a dose (NIfTI) into a folder for each case, given its channels.

    Returns:
        For each patient its case name, RTDOSE file, prescriptions (Gy), contoured ROIs, those that it lacks, and notes.

    Raises:
        InputError: If a patient can't be used: all of them in one message, before anything is predicted. What the
            model refuses is told at the end, when the other patients have their doses.
    """
    from cdm_nnunet.dataset_conversion.case_files import write_case
    from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
    from cdm_nnunet.dicom.export import export_dose
    from cdm_nnunet.nnunet.inputs import find_cases, write_catalogue
    from cdm_nnunet.nnunet.prediction_record import PredictionRecord
    from cdm_nnunet.nnunet.predictor import CasesRefusedError

    trained = _read_model(model)
    patients = _patients(args, model, trained)
    records = []
    with passing_folder(args.o, ".predict_") as work:  # (beside the results: it holds the patients' images)
        cases = dict(_load(patients, trained, lambda case: write_case(work, case, {})))
        write_catalogue(work, template_catalogue(trained.template))
        refused: CasesRefusedError | None = None
        try:
            predict(find_cases(work / "imagesTs"), work / "doses")
        except CasesRefusedError as error:
            refused = error
        for patient in patients:
            if refused is not None and patient.name in refused.reasons:
                continue
            files, dose = patient.files, work / "doses" / f"{patient.name}.nii.gz"
            source = [path for path in (*files.ct, files.structures, *files.plans) if path is not None]
            out = args.o / f"{patient.name}.dcm"
            exported = export_dose(dose, source, out, bits=args.bits or 16)
            record = cases[patient.name]
            notes = [*record["notes"], *PredictionRecord.read(dose).notes]
            records.append({**record, "notes": notes, "file": str(out), "maximum_gy": exported.maximum_gy})
    if refused is not None:
        raise refused
    return records


def render(record: dict[str, Any]) -> str:
    """A line for each patient: what was predicted, and from what."""
    levels = ", ".join(f"{roi} {gy:g} Gy" for roi, gy in record["prescriptions_gy"].items())
    absent = f"; without {', '.join(record['absent_rois'])}" if record["absent_rois"] else ""
    lines = [f"{record['file']}: up to {record['maximum_gy']:.2f} Gy, prescribed {levels}{absent}; not for treatment"]
    return "\n".join([*lines, *(f"  {note}" for note in record["notes"])])


def _patients(args: argparse.Namespace, model: Path, trained: _Trained) -> list[DicomPatient]:
    from cdm_nnunet.dataset_conversion.dicom import DicomPatient, spacing_mm
    from cdm_nnunet.dataset_conversion.dicom_mapping import read_mapping
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
    mapping = _mapping(own, trained, model)
    prescribed = _prescriptions_gy(args.prescription or [], trained.template)
    for roi, level_gy in {} if own is None else own.prescriptions_gy.items():
        if prescribed.get(roi, level_gy) != level_gy:
            raise InputError(
                f"--prescription gives '{roi}' {prescribed[roi]:g} Gy, and {args.mapping} {level_gy:g} Gy; "
                "leave one out"
            )
    # (the names that inspection gave the patients, whose plans the mapping may choose)
    pseudonyms = Pseudonyms() if args.mapping is None else read_pseudonyms(args.mapping.parent, make=False)
    found = index_folder(args.dicom).patients(needed=("RTSTRUCT",), plans=mapping.plans, pseudonyms=pseudonyms)
    return [DicomPatient(files, mapping, trained.template, grid, "Ts", prescribed) for files in found]


@dataclass(frozen=True)
class _Trained:
    """What a model says of its training data; ROIs that all its patients had, or all ROIs where it does not say."""

    template: Template
    catalogue_json: list[dict[str, Any]]
    mapping: DicomMapping | None
    grid: str
    always_contoured: frozenset[str]


def _read_model(model: Path) -> _Trained:
    from cdm_nnunet.dataset import cdm_section
    from cdm_nnunet.dataset_conversion.dicom_mapping import mapping_from
    from cdm_nnunet.documents import read_json
    from cdm_nnunet.nnunet.plans import DosePlans

    content = {}
    for name in ("plans.json", "dataset.json"):
        content[name] = read_json(model / name, dict[str, Any], "was the training moved or cut off?")
    plans = DosePlans(content["plans.json"])
    where = str(model / "dataset.json")
    section = cdm_section(content["dataset.json"], where)
    stored = section.get("mapping")
    mapping = None if stored is None else mapping_from(stored, f"{where}: mapping")
    z, y, x = content["plans.json"]["original_median_spacing_after_transp"]
    # (to a micrometre: what is left of NIfTI's float32)
    grid = "x".join(f"{round(size, 3):g}" for size in (x, y, z))
    counts = section.get("facts", {}).get("training_cases_with_roi", {})
    n_cases = content["dataset.json"]["numTraining"]
    always = frozenset(name for name in plans.catalogue.names if counts.get(name, n_cases) == n_cases)
    return _Trained(plans.template, plans.catalogue.to_json(), mapping, grid, always)


def _mapping(own: DicomMapping | None, trained: _Trained, model: Path) -> DicomMapping:
    from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping

    if own is None and trained.mapping is None:
        raise InputError(
            f"{model} was not trained on DICOM files and does not know their ROI names; give --mapping, the reviewed "
            "rois.yaml of 'cdm-nnunet inspect dicom'"
        )
    mapping = trained.mapping or DicomMapping({})
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


def _load(
    patients: Sequence[DicomPatient], trained: _Trained, use: Callable[[Case], object]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read one patient after the other; what each is, by name."""
    refused = []
    for patient in patients:
        try:
            case = patient.load()
            _refuse_missing_outline(case, trained)
        except InputError as error:
            refused.append(f"[{patient.name}] {error}")
            continue
        use(case)
        yield patient.name, _record(case, patient)
    if refused:
        raise InputError(f"{len(refused)} of {len(patients)} patients can't be used: {'; '.join(refused)}")


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
