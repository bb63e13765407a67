"""Time of evaluating a cohort, from its NIfTI files to the pooled scores, and of DVHs against dicompyler-core.

    python benchmarks/evaluation.py [--patients 100] [--rois 10] [--size 128] [--processes 2] [--gamma]
                                    [--peer-python PYTHON] [--json]

The patients are ellipsoids in a smooth dose. Ten of them are made; the others are links to their files, so that all are
read and scored. The peer is an interpreter that can import dicompyler-core (0.5.6 needs pydicom 2): it receives the
contours and the dose of one patient in memory, and computes DVHs and D95%, D2%, Dmean and V20Gy of all ROIs; this
package does the same from masks. Both give the same DVHs within the accuracy of a mask; the differences are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SPACING_MM = (3.0, 2.5, 2.5)  # z, y, x
KEYS = ("D95%", "D2%", "Dmean", "V20Gy")
DISTINCT = 10
REPEATS = 5


def ellipsoids(number: int, n_rois: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centres and half axes in mm (z, y, x): the body, then targets and organs."""
    generator = np.random.default_rng(number)
    extent = np.array(SPACING_MM) * (size - 1)
    rois = [(extent / 2, 0.46 * extent)]
    for _ in range(n_rois - 1):
        centre = extent * generator.uniform(0.35, 0.65, 3)
        rois.append((centre, extent * generator.uniform(0.04, 0.14, 3)))
    return rois


def dose_and_masks(number: int, n_rois: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A dose in Gy, float32, and masks, (n_rois, size, size, size)."""
    axes = [np.arange(size) * step for step in SPACING_MM]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    masks = [
        ((z - c[0]) / a[0]) ** 2 + ((y - c[1]) / a[1]) ** 2 + ((x - c[2]) / a[2]) ** 2 <= 1
        for c, a in ellipsoids(number, n_rois, size)
    ]
    middle = [axis[-1] / 2 for axis in axes]
    squared = (z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2
    dose = 72 * np.exp(-squared / 90.0**2) * (1 + 0.02 * np.sin(x / 7 + number) * np.cos(y / 9) * np.sin(z / 11))
    return (dose * masks[0]).astype(np.float32), np.stack(masks)


def write_cohort(folder: Path, n_patients: int, n_rois: int, size: int) -> tuple[Path, Path]:
    """A raw data set, and predictions."""
    from cdm_nnunet.dataset import CaseRecord
    from cdm_nnunet.geometry.grid import Grid
    from cdm_nnunet.images import Image, write_image
    from cdm_nnunet.roi import Catalogue, Roi, pack

    names = ["Body", *(f"PTV_{k}" for k in range(1, 4)), *(f"Organ_{k}" for k in range(4, n_rois))][:n_rois]
    kinds = ["external" if n == "Body" else "target" if n.startswith("PTV") else "oar" for n in names]
    catalogue = Catalogue(tuple(Roi(name, kind) for name, kind in zip(names, kinds, strict=True)))  # type: ignore[arg-type]
    raw, predictions = folder / "Dataset501_Benchmark", folder / "predictions"
    for path in (raw / "imagesTr", raw / "labelsTr", predictions):
        path.mkdir(parents=True)
    cases = {}
    for number in range(n_patients):
        case, first = f"case_{number:03d}", f"case_{number % DISTINCT:03d}"
        paths = [folder_ / name for folder_, name in (
            (raw / "labelsTr", "{}.nii.gz"), (predictions, "{}.nii.gz"), (raw / "imagesTr", "{}_0002.nii.gz")
        )]  # fmt: skip
        if number < DISTINCT:
            dose, masks = dose_and_masks(number, n_rois, size)
            predicted = (0.98 * dose + 0.5 * masks[0]).astype(np.float32)
            for path, values in zip(paths, (dose, predicted, pack(masks)), strict=True):
                target = path.with_name(path.name.format(case))
                write_image(Image(values, Grid(values.shape, SPACING_MM), target))
        else:
            for path in paths:
                os.link(path.with_name(path.name.format(first)), path.with_name(path.name.format(case)))
        prescriptions = {name: 70.0 - 7 * k for k, name in enumerate(n for n in names if n.startswith("PTV"))}
        cases[case] = CaseRecord(
            prescriptions_gy=prescriptions, rois=tuple(names), spacing_mm=SPACING_MM, split="Tr"
        ).to_json()
    section = {
        "format_version": 1,
        "units": {"dose": "Gy", "ct": "HU"},
        "catalogue": catalogue.to_json(),
        "template": template(names, kinds),
    }
    (raw / "dataset.json").write_text(json.dumps({"cdm": section}), encoding="utf-8")
    (raw / "cdm_cases.json").write_text(json.dumps(cases), encoding="utf-8")
    return raw, predictions


def template(names: list[str], kinds: list[str]) -> dict[str, Any]:
    """Seven metrics for each target, four for all others."""
    goals = []
    for name, kind in zip(names, kinds, strict=True):
        keys = ("D98%", "D95%", "D2%", "D50%", "Dmean", "V95%", "HI") if kind == "target" else (*KEYS, "D0.1cc")
        goals += [{"roi": name, "metric": key} for key in keys]
    rois = [
        {"name": name, "kind": kind, **({"prescription_gy": "patient"} if kind == "target" else {})}
        for name, kind in zip(names, kinds, strict=True)
    ]
    return {"format_version": 1, "name": "benchmark", "rois": rois, "goals": goals}


def time_cohort(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds for the whole cohort, including reading and the start of workers, and again with nothing to do."""
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.evaluation.gamma import GammaRule
    from cdm_nnunet.evaluation.run import Options, evaluate_folder, write_outputs

    with tempfile.TemporaryDirectory() as folder:
        raw, predictions = write_cohort(Path(folder), args.patients, args.rois, args.size)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            evaluation = evaluate_folder(
                RawDataset(raw),
                predictions,
                options=Options(gamma=(GammaRule(),) if args.gamma else ()),
                finished=Path(folder, "out", ".scored_cases"),
                processes=args.processes,
            )
            write_outputs(evaluation, Path(folder, "out"))
            seconds.append(time.perf_counter() - start)
    return {"patients": len(evaluation.cases), "first_s": seconds[0], "again_s": seconds[1]}


def time_dvhs(args: argparse.Namespace) -> tuple[float, list[list[float]]]:
    """Median seconds for the metrics of all ROIs of one patient in one dose, and their values."""
    from cdm_nnunet.dvh import Metric, evaluate_all
    from cdm_nnunet.evaluation.rois import roi_boxes
    from cdm_nnunet.roi import pack

    dose, masks = dose_and_masks(0, args.rois, args.size)
    bits = pack(masks)
    metrics = [Metric.parse(key) for key in KEYS]
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        values = []
        for bit, box in enumerate(roi_boxes(bits, args.rois)):
            if box is None:
                raise RuntimeError(f"ROI {bit} is empty; take a larger --size")
            doses = dose[box][(bits[box] & bits.dtype.type(1 << bit)) != 0]
            values.append(list(evaluate_all(metrics, doses, voxel_volume_cc=np.prod(SPACING_MM) / 1000)))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), values


def peer(n_rois: int, size: int) -> dict[str, Any]:
    """The same by dicompyler-core; runs in its own interpreter."""
    from dicompylercore import dvhcalc
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dose, _ = dose_and_masks(0, n_rois, size)
    z_mm = np.arange(size) * SPACING_MM[0]
    rtdose = Dataset()
    rtdose.file_meta = FileMetaDataset()
    rtdose.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rtdose.is_little_endian, rtdose.is_implicit_VR = True, False
    rtdose.SOPClassUID, rtdose.Modality = "1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"
    rtdose.Rows = rtdose.Columns = rtdose.NumberOfFrames = size
    rtdose.PixelSpacing, rtdose.ImagePositionPatient = [SPACING_MM[1], SPACING_MM[2]], [0, 0, 0]
    rtdose.ImageOrientationPatient, rtdose.GridFrameOffsetVector = [1, 0, 0, 0, 1, 0], z_mm.tolist()
    rtdose.DoseUnits, rtdose.DoseGridScaling, rtdose.DoseSummationType = "GY", 1e-4, "PLAN"
    rtdose.SamplesPerPixel, rtdose.PhotometricInterpretation, rtdose.PixelRepresentation = 1, "MONOCHROME2", 0
    rtdose.BitsAllocated = rtdose.BitsStored = 32
    rtdose.HighBit = 31
    rtdose.PixelData = np.round(dose / 1e-4).astype(np.uint32).tobytes()
    rtstruct = Dataset()
    rtstruct.file_meta = rtdose.file_meta
    rtstruct.is_little_endian, rtstruct.is_implicit_VR = True, False
    rtdose.SOPInstanceUID, rtstruct.SOPInstanceUID = "1.2.3", "1.2.4"
    rtstruct.SOPClassUID, rtstruct.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
    rtstruct.StructureSetROISequence, rtstruct.ROIContourSequence = [], []
    rtstruct.RTROIObservationsSequence = []
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    for number, (centre, half) in enumerate(ellipsoids(0, n_rois, size), 1):
        roi, contours, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, f"roi_{number}"
        contours.ReferencedROINumber, contours.ContourSequence, contours.ROIDisplayColor = number, [], [255, 0, 0]
        observation.ReferencedROINumber, observation.RTROIInterpretedType = number, ""
        for z in z_mm:
            radius = 1 - ((z - centre[0]) / half[0]) ** 2
            if radius > 0:
                contour = Dataset()
                y, x = (centre[k] + half[k] * np.sqrt(radius) * f(angle) for k, f in ((1, np.sin), (2, np.cos)))
                points = np.stack([x, y, np.full_like(x, z)], axis=1).round(3)
                contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
                contour.ContourData = points.ravel().tolist()
                contours.ContourSequence.append(contour)
        rtstruct.StructureSetROISequence.append(roi)
        rtstruct.ROIContourSequence.append(contours)
        rtstruct.RTROIObservationsSequence.append(observation)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        values = []
        for number in range(1, n_rois + 1):
            dvh = dvhcalc.get_dvh(rtstruct, rtdose, number)
            relative = dvh.relative_volume
            v20 = float(relative.volume_constraint(20, "Gy").value)
            values.append([float(dvh.D95.value), float(dvh.D2.value), float(dvh.mean), v20])
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--rois", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--gamma", action="store_true")
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_peer:
        print(json.dumps(peer(args.rois, args.size)))
        return
    record: dict[str, Any] = {"cohort": time_cohort(args)}
    own_s, own = time_dvhs(args)
    record["dvhs"] = {"own_s": own_s}
    if args.peer_python is not None:
        command = [str(args.peer_python), __file__, "--as-peer", "--rois", str(args.rois), "--size", str(args.size)]
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
        difference = np.abs(np.array(own) - np.array(answer["values"])).max(axis=0)
        record["dvhs"] |= {
            "peer_s": answer["seconds"],
            "ratio": answer["seconds"] / own_s,
            "largest_difference": dict(zip(KEYS, difference.tolist(), strict=True)),
        }
    print(json.dumps(record, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in record.items()))


if __name__ == "__main__":
    sys.exit(main())
