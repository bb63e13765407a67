"""DVHs from contours against dicompyler-core: time for a patient, and errors for solids with closed forms.

    python benchmarks/dvh_peers.py WORK --peer-python PYTHON [--dicom FOLDER] [--repeats 3] [--no-fine]

The peer needs scikit-image for its interpolation. It runs with its defaults (the voxel centres of the dose's planes),
and with pixels and planes as fine as this package's samples (its pixels are those of the dose, halved until they are at
most as large), within the box of each ROI. Seconds are those of the processor, one thread, the least of the repeats;
both read the same files. FOLDER holds ``structures.dcm``, ``dose.dcm`` and ``plan.dcm``, as ``dicom_of_case.py``
writes them.

The solids are drawn on slices of 3 mm at four positions; the dose (voxels of 3 mm) rises by 1 Gy/mm along the slices'
normal. Errors: mean size and the largest one, of volume (%), D95%, D2% and Dmean (Gy).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from contour_ends import closed_form_gy
from numpy.typing import NDArray

from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Solid, Sphere
from cdm_nnunet.dicom.plan_dvh import PlanDvhRequest, plan_dvh
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.dvh import Metric
from cdm_nnunet.geometry.contour_dvh import sampling_mm
from cdm_nnunet.geometry.contours import stack_of
from cdm_nnunet.geometry.planes import axes_of
from cdm_nnunet.geometry.slices import drawn_slices

METRICS = tuple(Metric.parse(key) for key in ("D95%", "D2%", "Dmean", "V20Gy"))
SLICES_MM, POSITIONS = 3.0, 4
SOLIDS: dict[str, Solid] = {
    "ball of 30 mm": Sphere((0.4, -0.3, 0.0), 15.0),
    "ball of 12 mm": Sphere((40.4, -0.3, 0.0), 6.0),
    "cylinder, 24 mm high, 20 wide": Cylinder((-40.2, 0.1, 0.0), 10.0, 24.0),
    "cone, 30 by 30 mm": Cylinder((0.4, 45.3, 0.0), 15.0, 30.0, 0.0),
    "straw, 30 mm high, 3 wide": Cylinder((0.4, -45.3, 0.0), 1.5, 30.0),
}
WAYS = {"this package": None, "dicompyler-core, defaults": "dvh_dicompyler", "as fine": "dvh_dicompyler_fine"}


def own(folder: Path) -> dict[str, list[float]]:
    """D95%, D2%, Dmean, V20Gy and the volume of all ROIs."""
    files = [folder / "dicom" / name for name in ("structures.dcm", "dose.dcm", "plan.dcm")]
    rois = plan_dvh(PlanDvhRequest(files[0], (files[1],), files[2], METRICS)).rois
    return {name: [*roi.values.values(), roi.volume_cc] for name, roi in rois.items()}


def write_sampling(folder: Path) -> None:
    """For the peer: how often the dose's pixels are halved, and planes between contours, as close as our samples."""
    structures = read_structures(folder / "dicom" / "structures.dcm")
    spacing_mm = read_dose((folder / "dicom" / "dose.dcm",), None).volume.grid.spacing_zyx_mm[1:]
    found = {}
    for roi in structures.rois:
        axes = axes_of(roi)
        stack = stack_of(roi, drawn_slices(structures.rois, axes), axes=axes)
        step_mm, apart_mm = sampling_mm(stack), float(np.median(np.diff(stack.planes_mm)))
        halved = [max(0, math.ceil(math.log2(mm / step_mm))) for mm in spacing_mm]
        found[roi.name] = halved, math.ceil(apart_mm / step_mm) - 1
    (folder / "sampling.json").write_text(json.dumps(found))


def measured(folder: Path, task: str | None, args: argparse.Namespace) -> tuple[float, dict[str, list[float]]]:
    """Processor seconds, and the values by ROI."""
    if task is not None:
        command = [str(args.peer_python), str(Path(__file__).with_name("floors_peers.py")), task, str(folder)]
        repeats = "1" if task.endswith("fine") else str(args.repeats)
        done = subprocess.run([*command, repeats], stdout=subprocess.PIPE, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer["seconds"], answer["values"]
    seconds = []
    for _ in range(args.repeats):
        start = time.process_time()
        values = own(folder)
        seconds.append(time.process_time() - start)
    return min(seconds), values


def truth(solid: Solid) -> NDArray[np.float64]:
    """Volume, D95%, D2% and Dmean."""
    at_mm = np.linspace(-40, 40, 16001)
    below = np.array([solid.fraction_below(2, float(mm)) for mm in at_mm])
    mean_gy = 60 + float((at_mm[:-1] + at_mm[1:]) / 2 @ np.diff(below))
    return np.array([solid.volume_cc, closed_form_gy(solid, 0.05), closed_form_gy(solid, 0.98), mean_gy])


def errors(args: argparse.Namespace, ways: dict[str, str | None]) -> None:
    """Print errors and seconds for the solids."""
    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    seconds = dict.fromkeys(ways, 0.0)
    for position in range(POSITIONS):
        folder = args.work / f"solids_{position}"
        shift_mm = (position + 0.5) * SLICES_MM / POSITIONS
        slices_mm = tuple((np.arange(-8, 8) * SLICES_MM + shift_mm).tolist())
        dose = LinearDose(2, 1.0, 60.0)
        voxel_mm = (3.0, 3.0, 3.0)
        phantom = Phantom(SOLIDS, dose, slices_z_mm=slices_mm, pixels=(72, 72), dose_spacing_mm=voxel_mm)
        write_phantom(phantom, folder / "dicom")
        write_sampling(folder)
        for way, task in ways.items():
            own_s, values = measured(folder, task, args)
            seconds[way] += own_s / POSITIONS
            for name, solid in SOLIDS.items():
                d95, d2, mean, _, volume_cc = values[name]
                expected = truth(solid)
                error = np.array([volume_cc, d95, d2, mean]) - expected
                error[0] *= 100 / expected[0]
                found.setdefault((name, way), []).append(error)
    print("| solid | by | volume, % | D95%, Gy | D2%, Gy | Dmean, Gy |\n| --- | --- | --- | --- | --- | --- |")
    for (name, way), rows in sorted(found.items(), key=lambda item: list(SOLIDS).index(item[0][0])):
        sizes = np.abs(rows)
        cells = [f"{mean:.2f} ({most:.2f})" for mean, most in zip(sizes.mean(0), sizes.max(0), strict=True)]
        print(f"| {name} | {way} | {' | '.join(cells)} |")
    print("seconds for the five:", ", ".join(f"{way} {own_s:.2f}" for way, own_s in seconds.items()))


def times(args: argparse.Namespace, ways: dict[str, str | None]) -> None:
    """Print the seconds for a patient."""
    folder = args.work / "patient"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dicom").exists():
        (folder / "dicom").symlink_to(args.dicom.resolve())
    write_sampling(folder)
    print("| by | processor (s) |\n| --- | --- |")
    for way, task in ways.items():
        print(f"| {way} | {measured(folder, task, args)[0]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--dicom", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-fine", action="store_true", help="without the run that samples as finely")
    args = parser.parse_args()
    ways = {way: task for way, task in WAYS.items() if not (args.no_fine and way == "as fine")}
    errors(args, ways)
    if args.dicom is not None:
        times(args, ways)


if __name__ == "__main__":
    main()
