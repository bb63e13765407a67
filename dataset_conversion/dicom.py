"""DICOM-RT: from a folder of exports to a raw data set."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdm_nnunet.dicom.index import INDEX_FILE, FolderIndex, index_folder
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.dicom.plan_choice import DEFAULT, DOSE_TYPES
from cdm_nnunet.dicom.pseudonyms import Pseudonyms, read_pseudonyms
from cdm_nnunet.dicom.unread import unread_lines
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import dataset_name

from .case import CASE_NAME
from .case_files import STATE_FOLDER
from .dicom_mapping import DicomMapping
from .dicom_patient import DicomPatient, spacing_mm
from .dicom_sources import sources_path, write_sources
from .raw_layout import Conversion, DatasetSpec, template_catalogue, write_dataset


def convert_dicom(
    source: Path,
    raw_folder: Path,
    dataset_id: int,
    name: str,
    template: Template,
    mapping: DicomMapping,
    local: Path,
    *,
    grid: str = "dose",
    exclude: Collection[str] = (),
    keep_ids: bool = False,
    n_processes: int = 1,
) -> Conversion:
    """Convert a folder of DICOM-RT exports into a raw data set.

    Args:
        source: Any tree of DICOM files.
        raw_folder: nnU-Net's raw folder.
        dataset_id: Number of the data set.
        name: Name of the data set.
        template: Its ROIs make the catalogue.
        mapping: Which ROI of the files is which of the template, and which of several plans counts.
        local: Folder for what names patients: the key of the cases' names, the headers, and which files a case came
            from. It stays with the patients' data.
        grid: As of :class:`DicomPatient`.
        exclude: Names of cases, or of patients with several, to leave out.
        keep_ids: Call cases by PatientID.
        n_processes: Worker processes.

    Raises:
        InputError: As :func:`write_dataset`, or if the grid is unknown, a case to leave out or a patient whose plan is
            chosen is not there, ``local`` is within the data set or not that of the
            earlier conversion, or a PatientID makes no name.
    """
    refuse_unfit(grid, template, mapping)
    folder = raw_folder / dataset_name(dataset_id, name)
    sources = sources_path(local, folder.name)
    _refuse_other_local_folder(folder, sources)
    pseudonyms = read_pseudonyms(local, keep_ids=keep_ids)
    index = index_folder(source, local / INDEX_FILE)
    chosen = chosen_patients(index, template, mapping, pseudonyms, grid=grid, exclude=exclude)
    if chosen and all(patient.files.problems for patient in chosen):
        told = "; ".join(f"[{patient.name}] {', '.join(patient.files.problems)}" for patient in chosen)
        raise InputError("; ".join((f"none of {len(chosen)} patients can be used: {told}", *index.remarks)))
    spec = DatasetSpec(
        dataset_id,
        name,
        "Patients from DICOM-RT",
        template,
        "dicom",
        excluded=tuple(sorted(exclude)),
        patients={patient.name: patient.files.patient_name for patient in chosen},
        mapping=mapping.to_json(),
        facts=dose_facts([patient.files for patient in chosen]),
        remarks=index.remarks,
    )
    conversion = write_dataset(
        raw_folder,
        spec,
        chosen,
        n_processes,
        before=lambda: write_sources(sources, [patient.files for patient in chosen], pseudonyms),
        log=local / f"{folder.name}_errors.log",
    )
    return replace(conversion, unread=tuple(unread_lines(index.unread)))


def refuse_unfit(grid: str, template: Template, mapping: DicomMapping) -> None:
    """Check settings before anything is read.

    Raises:
        InputError: If the grid is unknown, or the template has more than 64 ROIs or lacks one of the mapping.
    """
    if grid not in ("dose", "ct"):
        spacing_mm(grid)
    template_catalogue(template)
    mapping.refuse_unknown_rois(template)


def chosen_patients(
    index: FolderIndex,
    template: Template,
    mapping: DicomMapping,
    pseudonyms: Pseudonyms,
    *,
    grid: str = "dose",
    exclude: Collection[str] = (),
) -> list[DicomPatient]:
    """The patients of a folder that are to be converted, by name.

    Args:
        index: The folder.
        template: As of :func:`convert_dicom`; so are mapping, grid and exclude.
        mapping: As there.
        pseudonyms: Make the names.
        grid: As there.
        exclude: As there.

    Raises:
        InputError: If a case to leave out or a patient whose plan is chosen is not there, or a PatientID makes no name.
    """
    # (in the order of names, since that of PatientID would say something)
    patients = index.patients(choice=mapping.choice, pseudonyms=pseudonyms)
    found = sorted(patients, key=lambda files: files.case_name)
    _refuse_unknown_names(found, exclude, mapping, index.folder)
    return [
        DicomPatient(files, mapping, template, grid, pseudonyms=pseudonyms)
        for files in found
        if not {files.case_name, files.patient_name} & set(exclude)
    ]


def _refuse_other_local_folder(folder: Path, sources: Path) -> None:
    if sources.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{sources.parent} is within the data set {folder}, and will name patients; choose another")
    if any((folder / STATE_FOLDER / "cases").glob("*.json")) and not sources.is_file():
        raise InputError(
            f"{folder} is there already, but not {sources}, which knows the names of its cases; give the folder of the "
            "earlier conversion (--local), or another -d, or remove the data set"
        )


def _refuse_unknown_names(
    found: Sequence[PatientFiles], exclude: Collection[str], mapping: DicomMapping, source: Path
) -> None:
    patients = {files.patient_name for files in found}
    for names, known, what in (
        (set(exclude), patients | {files.case_name for files in found}, "to be excluded"),
        (set(mapping.plans) - {DEFAULT}, patients, "named under 'plans' of the mapping"),
        (
            set(mapping.patients),
            patients | {files.case_name for files in found},
            "named under 'patients' of the mapping",
        ),
    ):
        if unknown := sorted(names - known):
            raise InputError(f"{what}, but not in {source}: {', '.join(unknown)}")
    for files in found:
        if not re.fullmatch(CASE_NAME, files.case_name):
            raise InputError(
                f"PatientID '{files.patient}' makes no name of a case: letters, digits, '_', '-' and '.' do; convert "
                "without --keep-ids"
            )


def dose_facts(cases: Sequence[PatientFiles]) -> dict[str, Any]:
    """Which type the doses of a data set are of, and how many plans are of ions.

    Raises:
        InputError: If the doses are of both types.
    """
    usable = [files for files in cases if not files.problems]
    by_type = {kind: [files.case_name for files in usable if files.dose_type == kind] for kind in DOSE_TYPES}
    if all(by_type.values()):
        fewer = min(by_type, key=lambda kind: len(by_type[kind]))
        counts = " and ".join(f"{kind} in {len(names)} cases" for kind, names in by_type.items())
        shown = ", ".join(by_type[fewer][:8]) + (", ..." if len(by_type[fewer]) > 8 else "")
        raise InputError(
            f"doses are {counts} ({fewer}: {shown}), and a model learns one type: choose by 'dose_type' of the "
            "mapping, and leave out the other cases (--exclude)"
        )
    known = [kind for kind, names in by_type.items() if names]
    return {"dose_type": known[0] if known else "PHYSICAL", "ion_plans": sum(files.has_ions for files in usable)}
