"""A predicted case with its reference, for 3D Slicer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdm_nnunet.dataset import FILE_ENDING, RawDataset
from cdm_nnunet.evaluation.pairing import CaseFiles, find_cases, read_case
from cdm_nnunet.evaluation.palette import roi_styles, shown_template
from cdm_nnunet.images import read_image
from cdm_nnunet.slicer.nrrd import write_nrrd
from cdm_nnunet.slicer.scene import DoseVolume, write_scene
from cdm_nnunet.slicer.segments import write_segments

SCENE, CT, SEGMENTS = "scene.mrml", "ct.nrrd", "rois.seg.nrrd"
PREDICTED, REFERENCE = "predicted_dose.nrrd", "reference_dose.nrrd"
PREDICTED_NAME, REFERENCE_NAME = "dose (Gy), PREDICTED, NOT FOR TREATMENT", "reference dose (Gy)"


@dataclass(frozen=True)
class SlicerCase:
    """Files of a case.

    Attributes:
        case: Its name.
        scene: The file to open.
        segments: Names of the ROIs that have voxels.
    """

    case: str
    scene: str
    segments: tuple[str, ...]


def export_to_slicer(predictions: Path, dataset: RawDataset, out: Path) -> list[SlicerCase]:
    """Write a folder for each predicted case: CT, segments, both doses, and a scene that loads them.

    Args:
        predictions: A predicted dose, or a folder of them: ``CASE.nii.gz``.
        dataset: Raw data set of the cases.
        out: Parent of these folders.

    Raises:
        InputError: If a case can't be paired with its data, as in an evaluation.
        OSError: If a file can't be written.
    """
    only = (predictions.name.removesuffix(FILE_ENDING),) if predictions.is_file() else ()
    found = find_cases(dataset, predictions.parent if only else predictions, only=only)
    return [_export(files, dataset, out / files.case) for files in found]


def _export(files: CaseFiles, dataset: RawDataset, out: Path) -> SlicerCase:
    images = read_case(files)
    pair = images.pair
    ct = read_image(files.ct)
    grid = ct.grid
    images.reference.refuse_other_grid(ct)
    is_whole = bool((ct.values == np.rint(ct.values)).all()) and abs(ct.values).max() < 2**15
    write_nrrd(out / CT, ct.values.astype(np.int16 if is_whole else np.float32), grid)
    doses = ((PREDICTED, pair.predicted_dose_gy), (REFERENCE, pair.reference_dose_gy))
    for name, dose_gy in doses:
        write_nrrd(out / name, dose_gy.astype(np.float32), grid, {"DoseUnits": "GY"})
    colours = {name: style.dark for name, style in roi_styles(shown_template(dataset.template, dataset)).items()}
    names = write_segments(out / SEGMENTS, pair.roi_bits, pair.catalogue, grid, colours)
    volumes = (DoseVolume(PREDICTED_NAME, PREDICTED), DoseVolume(REFERENCE_NAME, REFERENCE))
    highest_gy = max(float(dose_gy.max()) for _, dose_gy in doses)
    write_scene(out / SCENE, CT, SEGMENTS, volumes, highest_gy)
    return SlicerCase(files.case, str(out / SCENE), names)
