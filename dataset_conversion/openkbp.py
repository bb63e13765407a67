"""OpenKBP: from the published folders to a raw data set, and from predicted doses back to OpenKBP's CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.challenges.openkbp import DOSE_REGION_FILE, FRACTIONS, PRESCRIPTIONS_GY, ROI_FILES
from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import FILE_ENDING, ROI_CHANNEL, RawDataset, Split
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import read_image
from cdm_nnunet.roi import Catalogue, mask_of

from .case import Case, clip_hu, pack_masks, refuse_grid
from .case_files import sha256
from .conversion import FoundPatients
from .openkbp_csv import (
    GRID,
    from_grid,
    read_mask,
    read_spacing_mm,
    read_values,
    to_grid,
    write_values,
)
from .raw_layout import template_catalogue

CT_OFFSET_HU = 1024
# Air is not listed: published files lack up to 10 % of the dose region, and up to 4 voxels of it beyond their end.
MAX_VOXELS_BEYOND_CT, MAX_AIR_IN_REGION = 50, 0.25
OTHER_FILES = ("ct", "dose", "voxel_dimensions")
TRAINING_FOLDERS = ("train-pats",)
VALIDATION_FOLDERS = ("validation-pats", "valid-pats")
TEST_FOLDERS = ("test-pats",)
_DESCRIPTION = (
    "OpenKBP head-and-neck plans; cite Babier et al., OpenKBP: The open-access knowledge-based planning grand "
    "challenge and dataset, Med. Phys. 48 (2021) 5549-5561"
)


@dataclass(frozen=True)
class OpenKbpPatient:
    """A patient's folder of CSV files.

    Attributes:
        folder: The folder ``pt_N``.
        split: ``Tr``, or ``Ts`` for a patient that is kept out of training and may lack a dose.
        catalogue: A catalogue with OpenKBP's ROIs.
    """

    folder: Path
    split: Split
    catalogue: Catalogue

    @property
    def name(self) -> str:
        """Name of the case: the folder's name."""
        return self.folder.name

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each CSV file."""
        return {path.name: sha256(path) for path in self._files().values()}

    def load(self) -> Case:
        """Read and check the patient.

        Raises:
            InputError: If a file is missing, unknown or damaged, or the patient is implausible.
        """
        files = self._files()
        region = read_mask(self._required(DOSE_REGION_FILE))
        roi_bits, empty = pack_masks(self.catalogue, self._masks(files), GRID)
        present = [ROI_FILES[stem] for stem in files if stem in ROI_FILES and ROI_FILES[stem] not in empty]
        return Case(
            name=self.name,
            split=self.split,
            ct_hu=self._ct_hu(region),
            roi_bits=roi_bits,
            catalogue=self.catalogue,
            dose_gy=self._dose_gy(files, region),
            prescriptions_gy={name: gy for name, gy in PRESCRIPTIONS_GY.items() if name in present},
            grid=self._grid(),
            source={
                "patient": self.name,
                "folder": self.folder.parent.name,
                **{f"sha256 {name}": sum_ for name, sum_ in self.checksums().items()},
            },
            empty_rois=empty,
            fractions=FRACTIONS,
        )

    def _files(self) -> dict[str, Path]:
        """CSV files by stem, in the order of names."""
        files = {
            path.stem: path
            for path in sorted(self.folder.iterdir())
            if path.suffix.lower() == ".csv" and not path.name.startswith(".")
        }
        unknown = sorted(set(files) - set(ROI_FILES) - set(OTHER_FILES))
        if unknown:
            raise InputError(
                f"{self.folder} has unknown files {', '.join(f'{stem}.csv' for stem in unknown)}; known are "
                f"{', '.join((*OTHER_FILES, *ROI_FILES))}"
            )
        return files

    def _required(self, stem: str) -> Path:
        path = self._files().get(stem)
        if path is None:
            raise InputError(f"{self.folder / f'{stem}.csv'} is missing")
        return path

    def _masks(self, files: Mapping[str, Path]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        for stem, path in files.items():
            if stem in ROI_FILES:
                yield ROI_FILES[stem], to_grid(read_mask(path), np.array(True))

    def _grid(self) -> Grid:
        path = self._required("voxel_dimensions")
        x, y, z = read_spacing_mm(path)
        try:
            grid = Grid(GRID, (z, y, x))
            refuse_grid(grid)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return grid

    def _ct_hu(self, region: NDArray[np.int64]) -> NDArray[np.int16]:
        path = self._required("ct")
        index, stored = read_values(path)
        if stored.min() < 0:
            raise InputError(
                f"{path}: the lowest value is {stored.min():g}, but the file holds HU + {CT_OFFSET_HU}, which is not "
                "negative; was the offset removed already?"
            )
        if stored.min() >= CT_OFFSET_HU:
            raise InputError(
                f"{path}: the lowest value is {stored.min():g}, but the file holds HU + {CT_OFFSET_HU} and shows air, "
                "near 0; was the offset added twice?"
            )
        beyond, lacking = np.count_nonzero(region > index.max()), np.setdiff1d(region, index).size
        if beyond > MAX_VOXELS_BEYOND_CT or lacking > MAX_AIR_IN_REGION * region.size:
            raise InputError(
                f"{path} ends at index {index.max()} and lacks {lacking} of the {region.size} voxels of "
                f"{DOSE_REGION_FILE}.csv, {beyond} of them beyond its end; it was cut off, copy it again"
            )
        return clip_hu(to_grid(index, stored) - CT_OFFSET_HU)

    def _dose_gy(self, files: Mapping[str, Path], region: NDArray[np.int64]) -> NDArray[np.float32] | None:
        if "dose" not in files:
            if self.split == "Ts":
                return None
            raise InputError(f"{self.folder / 'dose.csv'} is missing; only a test patient can do without it")
        path = files["dose"]
        index, dose_gy = read_values(path)
        outside, lacking = np.setdiff1d(index, region).size, np.setdiff1d(region, index).size
        if outside or lacking:
            raise InputError(
                f"{path} must have a dose for exactly the voxels of {DOSE_REGION_FILE}.csv: {lacking} of them have "
                f"none, and {outside} other voxels have one; is one of the two files cut off?"
            )
        return to_grid(index, dose_gy.astype(np.float32))


@dataclass(frozen=True)
class OpenKbpFolder:
    """The patients found in a folder.

    Attributes:
        patients: In numerical order: training, validation, test.
        validation: Names of the published validation patients.
    """

    patients: tuple[OpenKbpPatient, ...]
    validation: tuple[str, ...]


def find_patients(source: Path, catalogue: Catalogue, *, test_only: bool = False) -> OpenKbpFolder:
    """Find patients in the published layout, or in a plain folder of ``pt_N`` folders.

    Args:
        source: Contains ``train-pats``, ``validation-pats`` (or ``valid-pats``) or ``test-pats``, or folders ``pt_N``.
        catalogue: A catalogue with OpenKBP's ROIs.
        test_only: Keep all patients out of training, for example because they have no dose.

    Raises:
        InputError: If there are none, or a folder is not a patient.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; expected OpenKBP's train-pats, validation-pats, test-pats or pt_N")
    patients: list[OpenKbpPatient] = []
    validation: list[str] = []
    known = (*TRAINING_FOLDERS, *VALIDATION_FOLDERS, *TEST_FOLDERS)
    published = [source / name for name in known if (source / name).is_dir()]
    for folder in published or [source]:
        split: Split = "Ts" if test_only or folder.name in TEST_FOLDERS else "Tr"
        found = [OpenKbpPatient(path, split, catalogue) for path in _patient_folders(folder)]
        patients += found
        if folder in published and folder.name in VALIDATION_FOLDERS and not test_only:
            validation += [patient.name for patient in found]
    if not patients:
        raise InputError(f"no patients in {source}; expected {', '.join(known)} with folders pt_N, or folders pt_N")
    return OpenKbpFolder(tuple(patients), tuple(validation))


def _patient_folders(folder: Path) -> list[Path]:
    """Folders ``pt_N`` in numerical order."""
    found = {}
    for path in sorted(folder.iterdir()):
        if match := re.fullmatch(r"pt_(\d+)", path.name):
            if not path.is_dir():
                raise InputError(f"{path} is not a folder of CSV files")
            found[path] = int(match[1])
        elif not path.name.startswith(".") and (path.is_dir() or path.suffix in (".xz", ".gz", ".zip", ".tar")):
            raise InputError(f"{path} is not a patient folder (pt_N); unpack it, or move it out of {folder}")
    return sorted(found, key=lambda path: found[path])


def find_openkbp(
    source: Path, *, template: Template | None = None, test_only: bool = False
) -> FoundPatients[OpenKbpPatient]:
    """OpenKBP patients, for conversion.

    Args:
        source: See :func:`find_patients`.
        template: Contains OpenKBP's ROIs by their TG-263 names; default: the shipped template ``openkbp``.
        test_only: Keep all patients out of training.

    Raises:
        InputError: As :func:`find_patients`, or if the template lacks an ROI.
    """
    template = template or Template.load("openkbp")
    _refuse_unfit(template)
    found = find_patients(source, template_catalogue(template), test_only=test_only)
    return FoundPatients("openkbp", source, _DESCRIPTION, template, found.patients, found.validation)


def _refuse_unfit(template: Template) -> None:
    kinds = {roi.name: roi.kind for roi in template.rois}
    for roi in template.rois:
        published_gy = PRESCRIPTIONS_GY.get(roi.name, roi.prescription_gy)
        if isinstance(roi.prescription_gy, float) and roi.prescription_gy != published_gy:
            raise InputError(
                f"template '{template.name}' prescribes {roi.prescription_gy:g} Gy to '{roi.name}', but OpenKBP's "
                f"patients were planned with {published_gy:g} Gy"
            )
    for name in ROI_FILES.values():
        expected = "target" if name in PRESCRIPTIONS_GY else "dose_region" if name == "DoseRegion" else "oar"
        if kinds.get(name) != expected:
            raise InputError(f"template '{template.name}' needs an ROI '{name}' of kind '{expected}' for OpenKBP data")


def write_prediction_csv(prediction: Path, csv_path: Path, dose_region: Path | NDArray[np.bool_] | None = None) -> int:
    """Write a predicted dose in the format of OpenKBP's scoring code.

    Args:
        prediction: NIfTI file in Gy, on the grid of the converted patient.
        csv_path: File to write.
        dose_region: The patient's ``possible_dose_mask.csv``, or the same as a mask of shape (z, y, x); its voxels are
            written. None writes all voxels with dose.

    Returns:
        Number of voxels written.

    Raises:
        InputError: If the grid is not OpenKBP's, or the dose is not finite, negative, or extends beyond the region.
    """
    dose_gy = read_image(prediction).values.astype(np.float32)
    if dose_gy.shape != GRID:
        raise InputError(
            f"{prediction} has the grid {dose_gy.shape}, OpenKBP's is {GRID}; it is not an OpenKBP patient"
        )
    if dose_gy.min() < 0:
        raise InputError(f"{prediction} has negative dose in {counted(np.count_nonzero(dose_gy < 0), 'voxel')}")
    flat_gy = from_grid(dose_gy)
    if dose_region is None:
        index = np.flatnonzero(flat_gy)
    elif isinstance(dose_region, Path):
        index = np.sort(read_mask(dose_region))
    else:
        index = np.flatnonzero(from_grid(dose_region))
    lost = np.count_nonzero(flat_gy) - np.count_nonzero(flat_gy[index])
    if lost:
        raise InputError(f"{prediction} has dose in {counted(lost, 'voxel')} outside the patient's dose region")
    write_values(csv_path, index, flat_gy[index])
    return int(index.size)


def write_predictions(predictions: Path, out: Path, dataset: RawDataset) -> Sequence[str]:
    """Write all predicted doses of a folder as ``OUT/CASE.csv``.

    Args:
        predictions: Folder of NIfTI files, named like the cases.
        out: Output folder.
        dataset: The converted data set, with the dose region of each case.

    Returns:
        Names of the cases.

    Raises:
        InputError: If there are no predictions, or as :func:`write_prediction_csv`.
    """
    files = sorted(path for path in predictions.glob(f"*{FILE_ENDING}") if not path.name.startswith("."))
    if not files:
        raise InputError(f"no predicted doses (*{FILE_ENDING}) in {predictions}")
    region_bit = dataset.catalogue.dose_region_bit
    if region_bit is None:
        raise InputError(f"{dataset.folder} has no dose region; it was not converted from OpenKBP")
    out.mkdir(parents=True, exist_ok=True)
    names = []
    for path in files:
        name = path.name.removesuffix(FILE_ENDING)
        rois = read_image(dataset.image_path(name, ROI_CHANNEL))
        rois.refuse_other_grid(read_image(path))
        write_prediction_csv(path, out / f"{name}.csv", mask_of(rois.values, region_bit))
        names.append(name)
    return names
