"""Times of other software for the patient of ``floors.py``, which runs this with an interpreter that has the peers.

    PYTHON benchmarks/floors_peers.py TASK FOLDER [REPEATS]

FOLDER holds ``dicom`` (files of the patient), ``names.json``, ``doses.npz`` and, for one task, ``sampling.json``.
Prints processor seconds and, for DVHs and gamma, the values as JSON; ``null`` where the peer is not installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GAMMA_PERCENT, GAMMA_MM, THRESHOLD_PERCENT = 3.0, 2.0, 10.0


def conversion(folder: Path) -> None:
    """DicomRTTool reads CT, contours and dose; SimpleITK brings CT and masks to the dose grid and writes NIfTI."""
    import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
    from DicomRTTool.ReaderWriter import DicomReaderWriter

    reader = DicomReaderWriter(verbose=False)
    reader.walk_through_folders(str(folder / "dicom"))
    reader.set_contour_names_and_associations(contour_names=reader.return_rois(print_rois=False))
    reader.set_index(reader.indexes_with_contours[0])
    reader.get_images_and_mask()
    dose = sitk.ReadImage(str(folder / "dicom" / "dose.dcm"))
    reader.get_dose(resample_to=dose)
    dose = reader.dose_handle
    with tempfile.TemporaryDirectory() as out:
        ct = sitk.Resample(reader.dicom_handle, dose, sitk.Transform(), sitk.sitkLinear, -1000.0)
        for name, image in (("ct", sitk.Cast(ct, sitk.sitkInt16)), ("dose", sitk.Cast(dose, sitk.sitkFloat32))):
            sitk.WriteImage(image, f"{out}/{name}.nii.gz")
        masks = sitk.GetArrayViewFromImage(reader.annotation_handle)
        for value in range(1, int(masks.max()) + 1):
            one = sitk.Resample(reader.annotation_handle == value, dose, sitk.Transform(), sitk.sitkNearestNeighbor)
            sitk.WriteImage(sitk.Cast(one, sitk.sitkUInt8), f"{out}/{value}.nii.gz")


def dvh_dicompyler(folder: Path, fine: dict[str, tuple[list[int], int]] | None = None) -> dict[str, list[float]]:
    """D95%, D2%, Dmean, V20Gy and the volume of all ROIs from contours; by default at the dose's voxel centres alone.

    Args:
        folder: As that of the script.
        fine: How often the dose's pixels are halved, rows and columns, and planes between two contours, by ROI.
    """
    import pydicom
    from dicompylercore import dvhcalc

    structures = pydicom.dcmread(folder / "dicom" / "structures.dcm")
    dose = pydicom.dcmread(folder / "dicom" / "dose.dcm")
    values = {}
    for roi in structures.StructureSetROISequence:
        options: dict[str, Any] = {}
        if fine is not None:
            halved, planes = fine[str(roi.ROIName)]
            pixels_mm = [mm / 2**times for mm, times in zip(dose.PixelSpacing, halved, strict=True)]
            options = {
                "interpolation_resolution": tuple(pixels_mm),
                "interpolation_segments_between_planes": planes,
                "use_structure_extents": True,
            }
        dvh = dvhcalc.get_dvh(structures, dose, roi.ROINumber, **options)
        v20 = float(dvh.relative_volume.volume_constraint(20, "Gy").value)
        values[str(roi.ROIName)] = [float(dvh.D95.value), float(dvh.D2.value), float(dvh.mean), v20, float(dvh.volume)]
    return values


def dvh_dicompyler_fine(folder: Path) -> dict[str, list[float]]:
    """The same, sampled as finely as this package does: ``sampling.json`` of the folder."""
    return dvh_dicompyler(folder, json.loads((folder / "sampling.json").read_text()))


def dvh_dosemetrics(folder: Path) -> dict[str, list[float]]:
    """The same from masks."""
    from dosemetrics.dose import Dose
    from dosemetrics.metrics import dvh
    from dosemetrics.structures import OAR

    stored = np.load(folder / "doses.npz")
    spacing_mm = tuple(stored["spacing_mm"][::-1])
    dose = Dose(stored["reference_gy"].transpose(2, 1, 0), spacing_mm, (0.0, 0.0, 0.0))
    values = {}
    for name in json.loads((folder / "names.json").read_text()):
        structure = OAR(name, stored[name].transpose(2, 1, 0), spacing_mm, (0.0, 0.0, 0.0))
        at = [dvh.compute_dose_at_volume(dose, structure, percent) for percent in (95, 2)]
        values[name] = [*at, dvh.compute_mean_dose(dose, structure), dvh.compute_volume_at_dose(dose, structure, 20)]
    return values


def gamma(folder: Path) -> float:
    """Pass rate of 3 %/2 mm, global, percent."""
    import pymedphys

    stored = np.load(folder / "doses.npz")
    reference_gy, predicted_gy = (stored[name][stored["slab"]] for name in ("reference_gy", "predicted_gy"))
    axes = tuple(np.arange(n) * mm for n, mm in zip(reference_gy.shape, stored["spacing_mm"], strict=True))
    found = pymedphys.gamma(
        axes,
        reference_gy,
        axes,
        predicted_gy,
        GAMMA_PERCENT,
        GAMMA_MM,
        lower_percent_dose_cutoff=THRESHOLD_PERCENT,
        global_normalisation=float(stored["scale_gy"]),
        max_gamma=1.01,
        quiet=True,
    )
    known = found[np.isfinite(found)]
    return 100 * float(np.mean(known <= 1))


TASKS: dict[str, Callable[[Path], Any]] = {
    "conversion": conversion,
    "dvh_dicompyler": dvh_dicompyler,
    "dvh_dicompyler_fine": dvh_dicompyler_fine,
    "dvh_dosemetrics": dvh_dosemetrics,
    "gamma": gamma,
}


def main() -> None:
    task, folder, repeats = TASKS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        try:
            values = task(folder)
        except ImportError:
            print("null")
            return
        seconds.append(time.process_time() - start)
    print(json.dumps({"seconds": min(seconds), "values": values}))


if __name__ == "__main__":
    main()
