"""NIfTI, NRRD and MetaImage files: patients as folders of images, or listed in a CSV table, into a raw data set.

Images are flipped and permuted to the patient's axes. CT, dose and masks of a patient must have one grid, else the
patient is refused; only a dose may be resampled, on request. Layouts: ``docs/data.md``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import FILE_ENDING, NOTES, Split
from cdm_nnunet.documents import read_json, read_number
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import Image
from cdm_nnunet.nifti_header import SAME_POSITION_VOXELS

from .case import Case, clip_hu, pack_masks
from .case_files import sha256
from .conversion import FoundPatients
from .image_files import ENDINGS, dose_of, mask_of, read_on_patient_axes, stem_of
from .raw_layout import template_catalogue
from .roi_mapping import RoiMapping, map_rois, prescriptions_gy, unused_text

CT_STEM, DOSE_STEM = "ct", "dose"
CT_FILE, DOSE_FILE = f"{CT_STEM}{FILE_ENDING}", f"{DOSE_STEM}{FILE_ENDING}"
MASK_FOLDER, PRESCRIPTION_FILE = "masks", "prescriptions.json"
COLUMNS = ("case", "ct", "dose", "masks", "prescriptions", "split", "patient", "fractions")
MASK_COLUMN, PRESCRIPTION_COLUMN = "mask:", "prescription:"
_FRACTIONS = "fractions"  # key among the prescriptions of a patient
_NO_CHECKSUM = ("prescriptions", "resample_dose", "patient", _FRACTIONS)
_SPLITS: Mapping[str, Split] = {"train": "Tr", "validation": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class NiftiPatient:
    """A patient's files.

    Attributes:
        name: Name of the case.
        split: ``Tr``, or ``Ts`` for a patient that is kept out of training and may lack a dose.
        ct: CT, HU.
        dose: Dose, Gy; None if there is none.
        masks: Masks by ROI name as in the data.
        prescriptions: Prescribed dose by target name as in the data, Gy.
        template: Assigns names to ROIs.
        resample_dose: Whether a dose with another grid is resampled to the CT's.
        patient: The patient, if a patient may have several cases.
        fractions: Number of fractions; None if unknown.
    """

    name: str
    split: Split
    ct: Path
    dose: Path | None
    masks: Mapping[str, Path]
    prescriptions: Mapping[str, object]
    template: Template
    resample_dose: bool = False
    patient: str = ""
    fractions: int | None = None

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file, and all settings that affect its conversion."""
        images = {"ct": self.ct, **({} if self.dose is None else {"dose": self.dose})}
        masks = {f"roi {roi}": self.masks[name] for roi, name in self._mapping.names.items()}
        return {
            **{key: sha256(path) for key, path in {**images, **masks}.items() if path.is_file()},
            "prescriptions": repr(sorted(self.prescriptions.items())),
            **({"resample_dose": "True"} if self.resample_dose else {}),
            **({"patient": self.patient} if self.patient else {}),
            **({} if self.fractions is None else {"fractions": str(self.fractions)}),
        }

    def load(self) -> Case:
        """Read and check the patient.

        Raises:
            InputError: If a file is missing or damaged, an image has another grid, a mask has other values, a
                prescription is missing, or the patient is implausible.
        """
        catalogue = template_catalogue(self.template)
        notes: list[str] = []
        ct = read_on_patient_axes(self.ct)
        roi_bits, empty = pack_masks(catalogue, self._read_masks(ct, notes), ct.values.shape)
        dose_gy = self._read_dose(ct, notes)
        contoured = [roi for roi in self._mapping.names if roi not in empty]
        return Case(
            name=self.name,
            split=self.split,
            ct_hu=clip_hu(ct.values),
            roi_bits=roi_bits,
            catalogue=catalogue,
            dose_gy=dose_gy,
            prescriptions_gy=prescriptions_gy(self.template, self.prescriptions, contoured),
            grid=ct.grid,
            source={
                "patient": self.patient or self.name,
                **{f"sha256 {k}": v for k, v in self.checksums().items() if k not in _NO_CHECKSUM},
                **unused_text(self._mapping.unused),
                **({NOTES: json.dumps(notes)} if notes else {}),
            },
            empty_rois=empty,
            fractions=self.fractions,
        )

    @property
    def _mapping(self) -> RoiMapping:
        return map_rois(self.template, self.masks)

    def _read_dose(self, ct: Image, notes: list[str]) -> NDArray[np.float32] | None:
        if self.dose is None:
            return None
        return dose_of(read_on_patient_axes(self.dose), ct, notes, resample=self.resample_dose)

    def _read_masks(self, ct: Image, notes: list[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        for roi, name in self._mapping.names.items():
            image = read_on_patient_axes(self.masks[name])
            rounded = ct.refuse_other_grid(image, rounding=SAME_POSITION_VOXELS)
            notes += [rounded] if rounded else []
            yield roi, mask_of(image, notes)


@dataclass(frozen=True)
class NiftiSource:
    """The patients found.

    Attributes:
        patients: Patients by name.
        validation: Names of patients chosen for validation.
    """

    patients: tuple[NiftiPatient, ...]
    validation: tuple[str, ...] = ()


def find_patients(source: Path, template: Template, *, test_only: bool = False) -> NiftiSource:
    """Find patients.

    Args:
        source: A CSV table, or a folder with one folder per patient.
        template: Assigns names to ROIs.
        test_only: Keep all patients out of training, for example because they have no dose.

    Raises:
        InputError: If there are none, or a folder or row is not a patient.
    """
    if source.is_file():
        found = _read_table(source, template, test_only)
    elif source.is_dir():
        folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        found = NiftiSource(tuple(_read_folder(path, template, "Ts" if test_only else "Tr") for path in folders))
    else:
        raise InputError(f"{source} is missing; expected a CSV table or a folder with one folder per patient")
    if not found.patients:
        raise InputError(f"no patients in {source}; expected a CSV table or a folder with one folder per patient")
    return found


def find_nifti(
    source: Path, template: Template, *, test_only: bool = False, resample_dose: bool = False
) -> FoundPatients[NiftiPatient]:
    """Patients in NIfTI files, for conversion.

    Args:
        source: See :func:`find_patients`.
        template: Its ROIs form the catalogue; its aliases assign the masks.
        test_only: Keep all patients out of training.
        resample_dose: Resample a dose with another grid to the CT's, linearly.

    Raises:
        InputError: As :func:`find_patients`, or if the template has more than 64 ROIs.
    """
    template_catalogue(template)  # (before files are read)
    found = find_patients(source, template, test_only=test_only)
    return FoundPatients(
        "nifti",
        source,
        "Patients from NIfTI files",
        template,
        [replace(patient, resample_dose=resample_dose) for patient in found.patients],
        found.validation,
        {patient.name: patient.patient or patient.name for patient in found.patients},
    )


def _read_folder(folder: Path, template: Template, split: Split) -> NiftiPatient:
    files = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    for name, path in files.items():
        stem = stem_of(path)
        if name in (MASK_FOLDER, PRESCRIPTION_FILE) or stem in (CT_STEM, DOSE_STEM):
            continue
        if path.is_dir() or stem is not None or ".nii" in name:
            raise InputError(
                f"{path} is not understood; a patient has {CT_FILE}, {DOSE_FILE}, {MASK_FOLDER}/ROI{FILE_ENDING} and "
                f"{PRESCRIPTION_FILE} (images may end in {', '.join(ENDINGS)})"
            )
    images = _by_stem(path for path in files.values() if path.is_file())
    prescriptions = read_json(files[PRESCRIPTION_FILE], dict[str, object]) if PRESCRIPTION_FILE in files else {}
    return NiftiPatient(
        _checked_name(folder.name, folder),
        split,
        images.get(CT_STEM, folder / CT_FILE),
        _dose_or_none(images.get(DOSE_STEM), split, folder / DOSE_FILE),
        _masks_in(folder / MASK_FOLDER),
        prescriptions,
        template,
        fractions=_take_fractions(prescriptions, "", folder / PRESCRIPTION_FILE),
    )


def _masks_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; it holds one mask per ROI, ROI{FILE_ENDING}")
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    for path in files:
        if stem_of(path) is None:
            raise InputError(f"{path} is not a mask; expected files ROI{FILE_ENDING} (or {', '.join(ENDINGS[1:])})")
    return _by_stem(files)


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        stem = stem_of(path)
        if stem is None:
            continue
        if stem in found:
            raise InputError(f"{found[stem]} and {path.name} are both there; keep one of them")
        found[stem] = path
    return found


def _read_table(path: Path, template: Template, test_only: bool) -> NiftiSource:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV table in UTF-8: {error}") from None
    prefixes = (MASK_COLUMN, PRESCRIPTION_COLUMN)
    for column in columns:
        if columns.count(column) > 1 or (column not in COLUMNS and not column.startswith(prefixes)):
            raise InputError(
                f"{path}: column '{column}' is unknown or repeated; known are {', '.join(COLUMNS)}, "
                f"{MASK_COLUMN}ROI and {PRESCRIPTION_COLUMN}ROI"
            )
    for column in ("case", "ct"):
        if column not in columns:
            raise InputError(f"{path} has no column '{column}'; it has {', '.join(columns) or 'none'}")
    patients, validation = [], []
    for line, row in enumerate(rows, 2):
        where = f"{path}, line {line}"
        if None in row or None in row.values():
            raise InputError(f"{where} has another number of fields than the header")
        patient = _read_row({key: value.strip() for key, value in row.items()}, path.parent, template, test_only, where)
        patients.append(patient)
        if row.get("split", "").strip() == "validation" and not test_only:
            validation.append(patient.name)
    return NiftiSource(tuple(patients), tuple(validation))


def _read_row(row: Mapping[str, str], folder: Path, template: Template, test_only: bool, where: str) -> NiftiPatient:
    label = row.get("split") or "train"
    if label not in _SPLITS:
        raise InputError(f"{where}: split '{label}' is unknown; known are {', '.join(_SPLITS)}")
    split: Split = "Ts" if test_only else _SPLITS[label]
    if not row["ct"]:
        raise InputError(f"{where} names no CT")
    masks = _masks_in(folder / row["masks"]) if row.get("masks") else {}
    prescriptions = read_json(folder / row["prescriptions"], dict[str, object]) if row.get("prescriptions") else {}
    for column, value in row.items():
        kind, _, roi = column.partition(":")
        if not roi or not value:
            continue
        if roi in (masks if kind == "mask" else prescriptions):
            raise InputError(f"{where}: '{roi}' has a {kind} in two places")
        if kind == "mask":
            masks[roi] = folder / value
            continue
        try:
            prescriptions[roi] = read_number(value)
        except ValueError:
            raise InputError(f"{where}: the prescription of '{roi}' is '{value}', expected a number in Gy") from None
    if not masks:
        raise InputError(f"{where} names no masks; give a folder in column 'masks', or columns '{MASK_COLUMN}ROI'")
    dose = folder / row["dose"] if row.get("dose") else None
    return NiftiPatient(
        _checked_name(row["case"], where),
        split,
        folder / row["ct"],
        _dose_or_none(dose, split, where),
        masks,
        prescriptions,
        template,
        patient=_checked_name(row["patient"], f"{where}, patient") if row.get("patient") else "",
        fractions=_take_fractions(prescriptions, row.get("fractions", ""), where),
    )


def _take_fractions(prescriptions: dict[str, object], column: str, where: object) -> int | None:
    """Number of fractions from the prescriptions, where it is removed, or from the table."""
    stated = prescriptions.pop(_FRACTIONS, None)
    found = [value for value in (stated, int(column) if column.isdecimal() else column or None) if value is not None]
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{where}: the number of fractions is {value!r}, expected a whole number from 1 on")
    if len(set(found)) > 1:
        raise InputError(f"{where}: the number of fractions is {found[0]} in one place and {found[1]} in another")
    return int(str(found[0])) if found else None


def _dose_or_none(dose: Path | None, split: Split, where: object) -> Path | None:
    if dose is None and split == "Tr":
        raise InputError(f"{where}: the dose is missing; only a test patient can do without it")
    return dose


def _checked_name(name: str, where: object) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"{where}: a case name has letters, digits, '_', '-' and '.' only, not '{name}'")
    return name
