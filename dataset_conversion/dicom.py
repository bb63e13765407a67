"""DICOM-RT: from a folder of exports to a raw data set."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.index import INDEX_FILE, FolderIndex, index_folder
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.dicom.plan_choice import DEFAULT, DOSE_TYPES
from cdm_nnunet.dicom.pseudonyms import Pseudonyms, read_pseudonyms
from cdm_nnunet.dicom.unread import unread_lines
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.voxel_size import voxel_size_zyx_mm

from .case import CASE_NAME
from .case_files import STATE_FOLDER
from .conversion import DatasetPlace, FoundPatients, convert
from .dicom_mapping import DicomMapping
from .dicom_patient import GRID_OPTION, DicomPatient
from .dicom_sources import sources_path, write_sources
from .raw_layout import Conversion, template_catalogue


@dataclass(frozen=True)
class DicomRules:
    """Rules for converting patients in DICOM files to cases.

    Attributes:
        template: Its ROIs form the catalogue.
        mapping: Template ROI of each ROI in the files, and the choice among several plans.
        grid: As in :class:`DicomPatient`.
    """

    template: Template
    mapping: DicomMapping
    grid: str = "dose"

    def refuse_unfit(self) -> None:
        """Check the rules before files are read.

        Raises:
            InputError: If the grid is unknown, or the template has more than 64 ROIs or lacks an ROI of the mapping.
        """
        if self.grid not in ("dose", "ct"):
            voxel_size_zyx_mm(self.grid, GRID_OPTION)
        template_catalogue(self.template)
        self.mapping.refuse_unknown_rois(self.template)


def convert_dicom(
    source: Path,
    place: DatasetPlace,
    rules: DicomRules,
    local: Path,
    *,
    exclude: Collection[str] = (),
    keep_ids: bool = False,
    n_processes: int = 1,
) -> Conversion:
    """Convert a folder of DICOM-RT exports into a raw data set.

    Args:
        source: Any tree of DICOM files.
        place: Location of the data set.
        rules: Rules for the conversion.
        local: Folder for data that identify patients: the key of the cases' names, the headers, and the source files of
            each case. Keep it with the patients' data.
        exclude: Names of cases to exclude, or of patients with several cases.
        keep_ids: Name cases by PatientID.
        n_processes: Worker processes.

    Raises:
        InputError: As :func:`convert` and :func:`find_dicom`, or if the rules contradict each other, or ``local`` is
            within the data set or differs from that of the earlier conversion.
    """
    rules.refuse_unfit()
    sources = sources_path(local, place.folder.name)
    _refuse_other_local_folder(place.folder, sources)
    pseudonyms = read_pseudonyms(local, keep_ids=keep_ids)
    found = replace(
        find_dicom(index_folder(source, local / INDEX_FILE), rules, pseudonyms),
        log=local / f"{place.folder.name}_errors.log",
        before=lambda chosen: write_sources(sources, [patient.files for patient in chosen], pseudonyms),
    )
    return convert(found, place, exclude=exclude, n_processes=n_processes)


def find_dicom(index: FolderIndex, rules: DicomRules, pseudonyms: Pseudonyms) -> FoundPatients[DicomPatient]:
    """Find the patients of a folder, by name, for conversion.

    Args:
        index: The folder.
        rules: Rules for the conversion.
        pseudonyms: Makes the names.

    Raises:
        InputError: If the mapping chooses a plan of a patient who does not exist, or a PatientID is not a valid name.
    """
    # (in the order of names, because the order of PatientIDs would reveal something)
    patients = index.patients(choice=rules.mapping.choice, pseudonyms=pseudonyms)
    found = sorted(patients, key=lambda files: files.case_name)
    _refuse_unknown_names(found, rules.mapping, index.folder)
    return FoundPatients(
        "dicom",
        index.folder,
        "Patients from DICOM-RT",
        rules.template,
        [DicomPatient(files, rules.mapping, rules.template, rules.grid, pseudonyms=pseudonyms) for files in found],
        patients={files.case_name: files.patient_name for files in found},
        mapping=rules.mapping.to_json(),
        remarks=index.remarks,
        unread=tuple(unread_lines(index.unread)),
        facts_of=lambda chosen: _facts_of(chosen, index),
    )


def _facts_of(chosen: Sequence[DicomPatient], index: FolderIndex) -> dict[str, Any]:
    if chosen and all(patient.files.problems for patient in chosen):
        told = "; ".join(f"[{patient.name}] {', '.join(patient.files.problems)}" for patient in chosen)
        raise InputError("; ".join((f"none of {counted(len(chosen), 'patient')} can be used: {told}", *index.remarks)))
    return dose_facts([patient.files for patient in chosen])


def _refuse_other_local_folder(folder: Path, sources: Path) -> None:
    if sources.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{sources.parent} is within the data set {folder}, and would identify patients; choose another folder"
        )
    if any((folder / STATE_FOLDER / "cases").glob("*.json")) and not sources.is_file():
        raise InputError(
            f"{folder} exists already, but not {sources}, which knows the names of its cases; give the folder of the "
            "earlier conversion (--local), or another -d, or remove the data set"
        )


def _refuse_unknown_names(found: Sequence[PatientFiles], mapping: DicomMapping, source: Path) -> None:
    patients = {files.patient_name for files in found}
    cases = patients | {files.case_name for files in found}
    for names, known, key in (
        (set(mapping.plans) - {DEFAULT}, patients, "plans"),
        (set(mapping.patients), cases, "patients"),
    ):
        if unknown := sorted(names - known):
            raise InputError(f"named under '{key}' of the mapping, but not in {source}: {', '.join(unknown)}")
    for files in found:
        if not re.fullmatch(CASE_NAME, files.case_name):
            raise InputError(
                f"PatientID '{files.patient}' is not a valid case name: letters, digits, '_', '-' and '.' do; convert "
                "without --keep-ids"
            )


def dose_facts(cases: Sequence[PatientFiles]) -> dict[str, Any]:
    """Type of the doses of a data set, and number of ion plans.

    Raises:
        InputError: If the doses are of both types.
    """
    usable = [files for files in cases if not files.problems]
    by_type = {kind: [files.case_name for files in usable if files.dose_type == kind] for kind in DOSE_TYPES}
    if all(by_type.values()):
        fewer = min(by_type, key=lambda kind: len(by_type[kind]))
        counts = " and ".join(f"{kind} in {counted(len(names), 'case')}" for kind, names in by_type.items())
        shown = ", ".join(by_type[fewer][:8]) + (", ..." if len(by_type[fewer]) > 8 else "")
        raise InputError(
            f"doses are {counts} ({fewer}: {shown}), and a model learns one type: choose by 'dose_type' of the "
            "mapping, and leave out the other cases (--exclude)"
        )
    known = [kind for kind, names in by_type.items() if names]
    return {"dose_type": known[0] if known else "PHYSICAL", "ion_plans": sum(files.has_ions for files in usable)}
