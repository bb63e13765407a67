"""Time for masks of 30 ROIs on 512 x 512 x 200 voxels, and errors of their volumes.

    python benchmarks/rasteriser.py FOLDER
    python benchmarks/rasteriser.py FOLDER --peer rt-utils       (in an environment that has it)
    python benchmarks/rasteriser.py FOLDER --peer DicomRTTool

writes a phantom into FOLDER if there is none yet. Timed are the masks and reading the structure set, not the CT.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

VOXEL_MM = (1.5, 1.0, 1.5)  # (z, y, x)
SHAPE = (200, 512, 512)


def solids():
    from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere, Torus

    made = {"Body": Cylinder((0.3, -0.2, 0.0), 190.0, 296.0), "Shell": Sphere((0.2, 0.1, 0.4), 80.0, 60.0)}
    for k in range(28):
        angle = 2 * math.pi * k / 28
        centre = (110 * math.cos(angle), 110 * math.sin(angle), 90 * math.sin(3 * angle))
        shapes = (
            Sphere(centre, 6.0 + k),
            Cylinder(centre, 4.0 + k / 2, 90.0),
            Torus(centre, 20.0 + k / 2, 4.0 + k / 6),
        )
        made[f"ROI_{k:02d}"] = shapes[k % 3]
    return made


def write(folder: Path) -> None:
    from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom

    z, y, x = VOXEL_MM
    heights = tuple(z * (k - (SHAPE[0] - 1) / 2) for k in range(SHAPE[0]))
    write_phantom(Phantom(solids(), LinearDose(0, 0.1, 60.0), "HFS", heights, SHAPE[1:], (y, x)), folder)


def ours(folder: Path) -> tuple[float, dict[str, float]]:
    from cdm_nnunet.dicom.ct import read_ct
    from cdm_nnunet.dicom.structures import read_structures
    from cdm_nnunet.geometry.rasteriser import rasterise

    grid = read_ct(sorted(folder.glob("ct_*.dcm"))).volume.grid
    start = time.process_time()
    structures = read_structures(folder / "structures.dcm")
    counts = {roi.name: int(rasterise(roi, grid).mask.sum()) for roi in structures.rois}
    return time.process_time() - start, counts


def rt_utils(folder: Path) -> tuple[float, dict[str, float]]:
    from rt_utils import RTStructBuilder

    start = time.process_time()
    built = RTStructBuilder.create_from(str(folder), str(folder / "structures.dcm"))
    counts = {name: int(built.get_roi_mask_by_name(name).sum()) for name in built.get_roi_names()}
    return time.process_time() - start, counts


def dicom_rt_tool(folder: Path) -> tuple[float, dict[str, float]]:
    from DicomRTTool.ReaderWriter import DicomReaderWriter

    reader = DicomReaderWriter(verbose=False)
    reader.walk_through_folders(str(folder))
    names = reader.return_rois(print_rois=False)
    reader.set_contour_names_and_associations(contour_names=names)
    reader.set_index(reader.indexes_with_contours[0])
    reader.get_images()
    start = time.process_time()
    counts = {}
    for name in names:
        reader.set_contour_names_and_associations(contour_names=[name])
        reader.set_index(reader.indexes_with_contours[0])
        reader.get_mask()
        counts[name] = int((reader.mask > 0).sum())
    return time.process_time() - start, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", choices=("rt-utils", "DicomRTTool"))
    args = parser.parse_args()
    if not (args.folder / "structures.dcm").is_file():
        write(args.folder)
    measure = {None: ours, "rt-utils": rt_utils, "DicomRTTool": dicom_rt_tool}[args.peer]
    seconds, counts = measure(args.folder)
    from cdm_nnunet.dicom.phantom_shapes import Solid

    truth: dict[str, Solid] = solids()
    lower = {name.casefold(): name for name in truth}
    voxel_cc = math.prod(VOXEL_MM) / 1000
    errors = {
        name: 100 * (count * voxel_cc / truth[lower[name.casefold()]].volume_cc - 1) for name, count in counts.items()
    }
    print(f"{args.peer or 'cdm_nnunet'}: {len(counts)} ROIs in {seconds:.1f} s of one core")
    print(f"volume off by {min(errors.values()):+.2f} to {max(errors.values()):+.2f} %")
    print(f"mean of the errors' sizes {sum(map(abs, errors.values())) / len(errors):.2f} %")


if __name__ == "__main__":
    main()
