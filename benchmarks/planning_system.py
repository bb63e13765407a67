"""DVH metrics from contours against the DVHs that a planning system stored in its RTDOSE.

    python benchmarks/planning_system.py RTSTRUCT RTDOSE [--end-caps MODE]

Prints, for each ROI with a stored DVH, its volume and the differences from ``cdm-nnunet dvh``. Stored DVHs are
interpreted as cumulative volumes at the lower edges of their bins, linear within a bin.
"""

import argparse
import json
import subprocess

import numpy as np
import pydicom
from numpy.typing import NDArray

from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS

METRICS = ("D95%", "D2%", "Dmean")


def stored_dvh(dvh: pydicom.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of the bins in Gy and the volume in cc that receives at least that dose."""
    if (dvh.DVHType, dvh.DoseUnits, dvh.DVHVolumeUnits) != ("CUMULATIVE", "GY", "CM3"):
        raise SystemExit(
            f"cumulative DVHs in Gy and cc are read, not {dvh.DVHType}, {dvh.DoseUnits}, {dvh.DVHVolumeUnits}"
        )
    widths, volumes = np.array(dvh.DVHData, dtype=np.float64).reshape(-1, 2).T
    edges = np.concatenate([[0.0], np.cumsum(widths * float(dvh.DVHDoseScaling))])
    return edges, np.append(volumes, 0.0)


def stored_metrics(edges: NDArray[np.float64], volumes: NDArray[np.float64]) -> dict[str, float]:
    shares = volumes / volumes[0] * 100
    centres = (edges[1:] + edges[:-1]) / 2
    return {
        "D95%": float(np.interp(-95, -shares, edges)),
        "D2%": float(np.interp(-2, -shares, edges)),
        "Dmean": float(-np.diff(volumes) @ centres / volumes[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rtstruct")
    parser.add_argument("rtdose")
    parser.add_argument("--end-caps", default=DEFAULT_END_CAPS)
    args = parser.parse_args()
    files = ("--rtstruct", args.rtstruct, "--rtdose", args.rtdose, "--end-caps", args.end_caps)
    command = ("cdm-nnunet", "dvh", *files, "--metrics", *METRICS, "--json")
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    structures = pydicom.dcmread(args.rtstruct)
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in structures.StructureSetROISequence}
    print("| ROI | volume (cc) | difference of it (%) | " + " | ".join(f"{metric} (Gy)" for metric in METRICS) + " |")
    print("| --- " * (3 + len(METRICS)) + "|")
    for dvh in pydicom.dcmread(args.rtdose).DVHSequence:
        name = names[int(dvh.DVHReferencedROISequence[0].ReferencedROINumber)]
        edges, volumes = stored_dvh(dvh)
        theirs = stored_metrics(edges, volumes)
        cells = [f"{ours[name][metric] - theirs[metric]:+.2f}" for metric in METRICS]
        volume = 100 * (ours[name]["volume_cc"] / volumes[0] - 1)
        print(f"| {name} | {volumes[0]:.2f} | {volume:+.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
