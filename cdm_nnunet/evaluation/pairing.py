"""Pairing of predicted and reference doses by case, with all checks before the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import CASES_FILE, CT_CHANNEL, FILE_ENDING, ROI_CHANNEL, RawDataset
from cdm_nnunet.dvh.regime import Course
from cdm_nnunet.errors import InputError, numbers
from cdm_nnunet.fence import Refusals, fence_of
from cdm_nnunet.images import SPACING_TOLERANCE_MM, Image, read_image
from cdm_nnunet.roi import Catalogue, mask_of, refuse_stray_bits, used_bits

UNIT_FACTORS = {"cGy": 100.0, "Gy divided by 100": 0.01}
UNIT_FACTOR_TOLERANCE = 0.25
HIGH_DOSE_FRACTION = 0.5
Required = Literal["all", "Tr", "Ts"]


@dataclass(frozen=True)
class CaseFiles:
    """A prediction, the files for its comparison, and the data set's entry of the case.

    Attributes:
        case: Case name.
        predicted: Predicted dose.
        reference: Reference dose.
        ct: CT, for pictures.
        roi_bits: Packed ROI masks.
        catalogue: ROI catalogue of the data set.
        spacing_mm: Voxel size (z, y, x) in mm as the data set records it.
        contoured: ROIs that were contoured.
        prescriptions_gy: Prescription of each target of the case, Gy.
        members: Doses of the ensemble's members, for their spread.
        patient: The patient, from the conversion.
        fractions: Number of fractions; None if unknown.
        converted_from: Name of the data set's conversion.
    """

    case: str
    predicted: Path
    reference: Path
    ct: Path
    roi_bits: Path
    catalogue: Catalogue
    spacing_mm: tuple[float, float, float]
    contoured: tuple[str, ...]
    prescriptions_gy: Mapping[str, float]
    members: tuple[Path, ...] = ()
    patient: str = ""
    fractions: int | None = None
    converted_from: str = ""

    def __str__(self) -> str:
        return f"case '{self.case}'"


@dataclass(frozen=True, eq=False)
class DosePair:
    """Predicted and reference dose of a case on one grid, checked.

    Attributes:
        case: Case name.
        reference_dose_gy: Shape (Z, Y, X), floating point, Gy.
        predicted_dose_gy: Same shape, floating point, Gy.
        roi_bits: Same shape, unsigned, packed ROI masks.
        catalogue: Catalogue of the bits.
        spacing_mm: Voxel size (z, y, x) in mm.
        contoured: ROIs that were contoured.
        prescriptions_gy: Prescription of each target of the case, Gy.
        member_doses_gy: Doses of the ensemble's members, same shape each, Gy.
        patient: The patient, from the conversion.
        fractions: Number of fractions; None if unknown.
        converted_from: Name of the data set's conversion.
    """

    case: str
    reference_dose_gy: NDArray[np.floating]
    predicted_dose_gy: NDArray[np.floating]
    roi_bits: NDArray[np.unsignedinteger]
    catalogue: Catalogue
    spacing_mm: tuple[float, float, float]
    contoured: tuple[str, ...]
    prescriptions_gy: Mapping[str, float]
    member_doses_gy: tuple[NDArray[np.floating], ...] = ()
    patient: str = ""
    fractions: int | None = None
    converted_from: str = ""

    @property
    def course(self) -> Course:
        """The patient's course of treatment."""
        return Course(max(self.prescriptions_gy.values(), default=None), self.fractions)

    @property
    def voxel_volume_cc(self) -> float:
        """Volume of a voxel in cc."""
        z, y, x = self.spacing_mm
        return z * y * x / 1000.0

    def roi_mask(self, name: str) -> NDArray[np.bool_]:
        """Boolean mask of an ROI of the catalogue, shape (Z, Y, X)."""
        return mask_of(self.roi_bits, self.catalogue.bit(name))


@dataclass(frozen=True, eq=False)
class CaseImages:
    """The images of a case for the comparison, read once.

    Attributes:
        files: Their files.
        reference: Reference dose.
        predicted: Predicted dose.
        roi_bits: Packed ROI masks.
        pair: Their values, checked.
    """

    files: CaseFiles
    reference: Image
    predicted: Image
    roi_bits: Image
    pair: DosePair

    def __str__(self) -> str:
        return str(self.files)

    def named(self, files: CaseFiles) -> CaseImages:
        """The images with the names of the original files, of which these are copies."""
        return replace(
            self,
            files=files,
            reference=replace(self.reference, path=files.reference),
            predicted=replace(self.predicted, path=files.predicted),
            roi_bits=replace(self.roi_bits, path=files.roi_bits),
        )


def find_cases(
    dataset: RawDataset,
    predictions: Path,
    *,
    only: Sequence[str] = (),
    required: Required | None = None,
    members: Sequence[Path] = (),
    refusals: Refusals | None = None,
) -> tuple[CaseFiles, ...]:
    """Pair the predictions in a folder with the cases of a data set.

    Every ``*.nii.gz`` in the folder must be named after a case; cases without a prediction are allowed unless they are
    required.

    Args:
        dataset: The raw data set; references are taken from ``labelsTr`` or ``labelsTs`` by case name.
        predictions: Folder of ``CASE.nii.gz``.
        only: Names of the cases; empty for all predictions.
        required: Cases of the data set that must have a prediction: all, or those of a split.
        members: Folders of ``CASE.nii.gz``, one for each member of the ensemble that made the predictions.
        refusals: Collects unusable cases; without it, such a case ends the search.

    Returns:
        The pairs in order of case names.

    Raises:
        InputError: If there is no such folder, no prediction in it, a prediction without a case, or a named or
            required case without a prediction. For a case: if it has no reference dose, ROI masks or member's dose,
            or was edited.
    """
    if not predictions.is_dir():
        raise InputError(f"no folder {predictions}; give the folder that 'cdm-nnunet predict' wrote")
    files = sorted(
        path for path in predictions.iterdir() if path.name.endswith(FILE_ENDING) and not path.name.startswith(".")
    )  # (files with a leading dot are left by killed predictions)
    if not files:
        raise InputError(f"no predictions in {predictions}: expected files named CASE{FILE_ENDING}")
    cases = {path.name.removesuffix(FILE_ENDING): path for path in files}
    unknown = [case for case in cases if case not in dataset.cases]
    if unknown:
        raise InputError(
            f"{predictions / (unknown[0] + FILE_ENDING)}: {dataset.folder.name} has no case '{unknown[0]}' "
            f"({len(unknown)} of {len(cases)} predictions have no case); is the dataset right?"
        )
    wanted = [case for case, record in dataset.cases.items() if required in ("all", record.split)]
    for why, names in (("it was named", only), (f"'{required}' cases are required", wanted)):
        lacking = sorted(set(names) - set(cases))
        if lacking:
            raise InputError(
                f"case '{lacking[0]}' has no prediction in {predictions}, and {why} "
                f"({len(lacking)} of {len(set(names))} lack one)"
            )
    found = []
    for case, path in cases.items():
        if not only or case in only:
            with fence_of(case, refusals):
                found.append(case_files(dataset, case, path, members=members))
    return tuple(found)


def load_pair(files: CaseFiles) -> DosePair:
    """The doses and ROI masks of a case, from :func:`read_case`."""
    return read_case(files).pair


def read_case(files: CaseFiles) -> CaseImages:
    """Read the doses and ROI masks of a case and check that they may be compared.

    Raises:
        InputError: If a file can't be read, the grids differ, a dose is not floating point, not finite or negative,
            or the prediction is in another unit than Gy.
    """
    try:
        return _read_case(files)
    except InputError as error:
        raise InputError(f"case '{files.case}': {error}") from error


def _read_case(files: CaseFiles) -> CaseImages:
    paths = (files.reference, files.predicted, files.roi_bits, *files.members)
    read = {path: read_image(path) for path in dict.fromkeys(paths)}  # (for a new patient the reference is the dose)
    reference, predicted, roi_bits, *members = (read[path] for path in paths)
    if not np.allclose(reference.grid.spacing_zyx_mm, files.spacing_mm, rtol=0, atol=SPACING_TOLERANCE_MM):
        raise InputError(
            f"{files.reference} has spacing {numbers(reference.grid.spacing_zyx_mm)} mm (z, y, x), "
            f"the data set records {numbers(files.spacing_mm)}; convert the data again"
        )
    reference.refuse_other_grid(roi_bits)
    _refuse_what_is_no_dose(reference)
    for dose in (predicted, *members):
        reference.refuse_other_grid(dose)
        _refuse_what_is_no_dose(dose)
        _refuse_other_unit(dose, reference)
    try:
        refuse_stray_bits(roi_bits.values, len(files.catalogue))
    except InputError as error:
        raise InputError(f"{files.roi_bits}: {error}") from error
    _refuse_other_rois(files, roi_bits.values)
    pair = DosePair(
        files.case,
        reference.values,
        predicted.values,
        roi_bits.values,
        files.catalogue,
        files.spacing_mm,
        files.contoured,
        files.prescriptions_gy,
        tuple(member.values for member in members),
        files.patient,
        files.fractions,
        files.converted_from,
    )
    return CaseImages(files, reference, predicted, roi_bits, pair)


def case_files(
    dataset: RawDataset, case: str, predicted: Path, *, reference: Path | None = None, members: Sequence[Path] = ()
) -> CaseFiles:
    """A prediction with its case.

    Args:
        dataset: The raw data set.
        case: Name of the case.
        predicted: Predicted dose.
        reference: Reference dose; None takes the case's own.
        members: Folders of the doses of the ensemble's members.

    Raises:
        InputError: If a file is missing, or the case's list of ROIs does not follow the catalogue.
    """
    record = dataset.record(case)
    files = CaseFiles(
        case,
        predicted,
        dataset.dose_path(case) if reference is None else reference,
        dataset.image_path(case, CT_CHANNEL),
        dataset.image_path(case, ROI_CHANNEL),
        dataset.catalogue,
        record.spacing_mm,
        record.rois,
        record.prescriptions_gy,
        tuple(folder / predicted.name for folder in members),
        dataset.patient(case),
        record.fractions,
        dataset.converted_from,
    )
    if [name for name in dataset.catalogue.names if name in record.rois] != list(record.rois):
        raise InputError(
            f"case '{case}': its ROIs in {CASES_FILE} ({', '.join(record.rois)}) do not follow the catalogue in "
            f"dataset.json ({', '.join(dataset.catalogue.names)}): one of the two was edited; convert the data again"
        )
    parts = [("reference dose", files.reference), ("ROI masks", files.roi_bits)]
    for what, path in [*parts, *(("dose of a member", path) for path in files.members)]:
        if not path.is_file():
            raise InputError(f"case '{case}' has a prediction but no {what}: {path} is missing")
    return files


def _refuse_other_rois(files: CaseFiles, roi_bits: NDArray[np.unsignedinteger]) -> None:
    """Check that the ROIs with voxels are among those that the data set lists for the case."""
    others = [name for bit in used_bits(roi_bits) if (name := files.catalogue.names[bit]) not in files.contoured]
    if others:
        raise InputError(
            f"{files.roi_bits} has voxels of '{others[0]}', which {CASES_FILE} does not list for the case: the "
            "catalogue in dataset.json, or a file, was changed; convert the data again"
        )


def _refuse_what_is_no_dose(dose: Image) -> None:
    if dose.values.dtype.kind != "f":
        raise InputError(
            f"{dose.path} holds {dose.values.dtype}, expected a dose as floating point in Gy; is it a segmentation?"
        )
    lowest = float(dose.values.min())
    if lowest < 0:
        raise InputError(f"{dose.path} has negative doses, down to {lowest:g} Gy; clip the prediction at zero")


def _refuse_other_unit(predicted: Image, reference: Image) -> None:
    highest = float(reference.values.max())
    if highest == 0:
        raise InputError(f"the reference dose {reference.path} is zero everywhere")
    high = reference.values >= HIGH_DOSE_FRACTION * highest
    ratio = float(np.median(predicted.values[high].astype(np.float64) / reference.values[high]))
    for unit, factor in UNIT_FACTORS.items():
        if abs(ratio / factor - 1) <= UNIT_FACTOR_TOLERANCE:
            raise InputError(
                f"{predicted.path} is {ratio:.3g} times its reference in the high-dose region: "
                f"it looks like {unit}; write predictions in Gy"
            )
