"""Times of one real patient: conversion, preprocessing, prediction, evaluation, compared with their floors.

    python benchmarks/floors.py nnUNet_raw/Dataset501_OpenKBP WORK [--case pt_201] [--model openkbp_hn] [--repeats 3]
    python benchmarks/floors.py nnUNet_raw/Dataset501_OpenKBP WORK --peer-python PYTHON
    python benchmarks/floors.py nnUNet_raw/Dataset501_OpenKBP WORK --profile convert

Seconds are processor time of one thread, the least of the repeats; modules and model are loaded before. The floor of a
step is the work that cannot be avoided, measured in the same process:

convert     the DICOM files of the case (``dicom_of_case.py``) read once, the voxels of the NIfTI files packed once
inspect     the DICOM files read once
preprocess  the four images unpacked once, the arrays packed once for nnU-Net's data loader
predict     three images unpacked and the dose packed once, and the FLOPs of the network over all windows at the rate of
            a product of two large matrices
evaluate    the two doses and the ROIs unpacked once (no gamma, no report)

With ``--peer-python``, an interpreter that can import DicomRTTool, dicompyler-core, dosemetrics or pymedphys, each
installed one does the same task with the same patient. nnU-Net's own predictor: ``prediction.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import gzip
import io
import json
import os
import pstats
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"):
    os.environ[variable] = "1"

MATRIX = 2048  # rows of the matrices for measuring the rate
GAMMA_PLANES = 16  # in the middle of the dose: the peer takes minutes for all planes
FASTEST = 1  # of zlib's levels
KEYS = ("D95%", "D2%", "Dmean", "V20Gy")


class Step(NamedTuple):
    """A step, and its unavoidable work."""

    do: Callable[[], object]
    floor: Callable[[], float]


def spent(do: Callable[[], object]) -> float:
    """Processor seconds."""
    start = time.process_time()
    do()
    return time.process_time() - start


def least(do: Callable[[], object], repeats: int) -> float:
    return min(spent(do) for _ in range(repeats))


def read(paths: Iterable[Path]) -> None:
    """Read files once, and unpack packed ones."""
    for path in paths:
        content = path.read_bytes()
        if path.suffix == ".gz":
            gzip.decompress(content)


def pack(paths: Iterable[Path], out: Path) -> float:
    """Seconds for packing and writing the content of files."""
    contents = [gzip.decompress(path.read_bytes()) for path in paths]
    return spent(lambda: [(out / "packed").write_bytes(zlib.compress(content, FASTEST)) for content in contents])


def remove_stored(target: str) -> None:
    """Remove a preprocessed case: blosc2 does not overwrite files."""
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        Path(target + ending).unlink(missing_ok=True)


class Patient:
    """The patient and the folders of the benchmark."""

    def __init__(self, args: argparse.Namespace) -> None:
        from cdm_nnunet.dataset import RawDataset

        self.raw, self.case, self.work, self.model = RawDataset(args.dataset), args.case, args.work, args.model
        self.images = [self.raw.image_path(self.case, channel) for channel in range(3)]
        self.dose = self.raw.dose_path(self.case)
        self.scratch = self.work / "scratch"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    @property
    def dicom(self) -> Path:
        """Its files, made if missing."""
        from dicom_of_case import write_dicom

        folder: Path = self.work / "dicom"
        if not (folder / "dose.dcm").is_file():
            write_dicom(self.raw, self.case, folder)
        return folder

    @property
    def predicted(self) -> Path:
        """Folder of its predicted dose, made if missing."""
        folder: Path = self.work / "predicted"
        if not (folder / self.dose.name).is_file():
            folder.mkdir(exist_ok=True)
            with told_nothing():
                predictor = self.predictor()
                predictor.predict_from_files([[str(path) for path in self.images]], [str(folder / self.case)], False)
        return folder

    def predictor(self, *, mirrors: bool = True) -> Any:
        from cdm_nnunet.prediction.model import Model

        with told_nothing():
            return Model.load(self.model, device="cpu", mirrors=mirrors).predictor

    def managers(self) -> tuple[Any, Any]:
        """The model's plans and configuration."""
        predictor = self.predictor()
        return predictor.plans_manager, predictor.configuration_manager

    def convert(self) -> Step:
        from cdm_nnunet.dataset_conversion.case_files import write_case
        from cdm_nnunet.dataset_conversion.dicom import DicomRules, find_dicom
        from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
        from cdm_nnunet.dicom.index import index_folder
        from cdm_nnunet.dicom.pseudonyms import Pseudonyms

        names = self.raw.record(self.case).rois
        rules = DicomRules(self.raw.template, DicomMapping({name: name for name in names}))
        dicom, out = self.dicom, self.scratch / "converted"

        def do() -> None:
            shutil.rmtree(out, ignore_errors=True)
            (patient,) = find_dicom(index_folder(dicom), rules, Pseudonyms()).cases
            write_case(out, patient.load(), patient.checksums())

        def floor() -> float:
            return spent(lambda: read(dicom.iterdir())) + pack(out.rglob("*.nii.gz"), self.scratch)

        return Step(do, floor)

    def inspect(self) -> Step:
        from cdm_nnunet.dataset_conversion.inspect_dicom import Inspection, inspect_dicom

        dicom, out = self.dicom, self.scratch / "inspected"

        def do() -> None:
            shutil.rmtree(out, ignore_errors=True)
            inspect_dicom(Inspection(dicom, out), lambda _: lambda *_: None)

        return Step(do, lambda: spent(lambda: read(dicom.iterdir())))

    def preprocess(self) -> Step:
        from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

        plans, configuration = self.managers()
        preprocessor = configuration.preprocessor_class(verbose=False)
        target = str(self.scratch / self.case)
        files = [str(path) for path in self.images]

        def do() -> None:
            remove_stored(target)
            preprocessor.run_case_save(target, files, str(self.dose), plans, configuration, {})

        def floor() -> float:
            data, dose, _, properties = nnUNetDatasetBlosc2(str(self.scratch), [self.case]).load_case(self.case)
            data, dose = data[:], dose[:]
            sizes = [comp_blosc2_params(one.shape, tuple(configuration.patch_size), 4) for one in (data, dose)]
            kinds = zip(("blocks", "chunks", "blocks_seg", "chunks_seg"), sizes[0] + sizes[1], strict=True)
            again = str(self.scratch / "again")
            remove_stored(again)
            return spent(lambda: read([*self.images, self.dose])) + spent(
                lambda: nnUNetDatasetBlosc2.save_case(data, dose, properties, again, **dict(kinds))
            )

        return Step(do, floor)

    def predict(self) -> Step:
        predictor = self.predictor()
        target = self.scratch / self.case
        files = [str(path) for path in self.images]
        flops = self._flops(predictor)

        def do() -> None:
            with told_nothing():
                predictor.predict_from_files([files], [str(target)], False, num_processes_preprocessing=0)

        def floor() -> float:
            return spent(lambda: read(self.images)) + pack([self.dose], self.scratch) + flops / flops_a_second()

        return Step(do, floor)

    def evaluate(self) -> Step:
        from cdm_nnunet.evaluation.run import Options, evaluate_folder, write_outputs

        predicted, out = self.predicted, self.scratch / "evaluated"
        options = Options(cases=(self.case,))

        def do() -> None:
            write_outputs(evaluate_folder(self.raw, predicted, options=options), out)

        files = [self.dose, predicted / self.dose.name, self.images[-1]]
        return Step(do, lambda: spent(lambda: read(files)))

    def _flops(self, predictor: Any) -> float:
        """FLOPs of the network over all windows, including mirrored ones."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from cdm_nnunet.nnunet.compute import pad_to_patch

        patch = predictor.configuration_manager.patch_size
        padded, _ = pad_to_patch(self.preprocessed(predictor), patch, predictor.dose_plans.padding)
        n_windows = len(predictor._internal_get_sliding_window_slicers(padded.shape[1:]))
        predictor.network.eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            predictor.network(torch.zeros(1, len(padded), *patch))
        mirrored = predictor.use_mirroring and predictor.dose_plans.catalogue.mirror_permutation is not None
        return float(counter.get_total_flops()) * n_windows * (2 if mirrored else 1)

    def preprocessed(self, predictor: Any) -> Any:
        """Its channels on the network's grid."""
        from cdm_nnunet.nnunet.items import preprocess_files

        job = ([str(path) for path in self.images], None, predictor.plans_manager, predictor.configuration_manager)
        return preprocess_files(job)["data"]


STEPS = ("convert", "inspect", "preprocess", "predict", "evaluate")


def flops_a_second() -> float:
    """FLOPs per second of a matrix product in float32, one thread; in bfloat16 if the network uses it."""
    import torch

    from cdm_nnunet.cpu.layout import has_fast_bfloat16

    kind = torch.bfloat16 if has_fast_bfloat16(torch.device("cpu")) else torch.float32
    one = torch.rand(MATRIX, MATRIX).to(kind)
    return 2 * MATRIX**3 / least(lambda: one @ one, 3)


@contextlib.contextmanager
def told_nothing() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def measure(args: argparse.Namespace) -> dict[str, float]:
    """A step in this process."""
    import torch

    step: Step = getattr(Patient(args), args.step)()
    torch.set_num_threads(1)
    step.do()
    times, floors = [], []
    for _ in range(args.repeats):
        times.append(spent(step.do))
        floors.append(step.floor())
    return {"seconds": min(times), "floor_s": min(floors)}


def profile(args: argparse.Namespace) -> None:
    """Functions by their own time."""
    import torch

    step: Step = getattr(Patient(args), args.profile)()
    torch.set_num_threads(1)
    step.do()
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(step.do)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def own_dvhs(patient: Patient, repeats: int) -> dict[str, Any]:
    """DVH metrics from contours and from masks, and the patient's arrays for the peers."""
    from cdm_nnunet.dicom.plan_dvh import PlanDvhRequest, plan_dvh
    from cdm_nnunet.dvh import Metric, evaluate_all
    from cdm_nnunet.evaluation.gamma import GammaRule, gamma_passes
    from cdm_nnunet.images import read_image
    from cdm_nnunet.roi import mask_of

    metrics = tuple(Metric.parse(key) for key in KEYS)
    request = PlanDvhRequest(
        patient.dicom / "structures.dcm", (patient.dicom / "dose.dcm",), patient.dicom / "plan.dcm", metrics
    )
    reference, predicted = read_image(patient.dose), read_image(patient.predicted / patient.dose.name)
    bits, record = read_image(patient.images[-1]).values, patient.raw.record(patient.case)
    masks = {name: mask_of(bits, patient.raw.catalogue.bit(name)) for name in record.rois}
    spacing_mm = reference.grid.spacing_zyx_mm
    voxel_cc = float(np.prod(spacing_mm)) / 1000

    def from_masks() -> dict[str, list[float]]:
        doses = {name: reference.values[mask] for name, mask in masks.items()}
        return {name: list(evaluate_all(metrics, one, voxel_volume_cc=voxel_cc)) for name, one in doses.items()}

    first = (len(reference.values) - GAMMA_PLANES) // 2
    slab, scale_gy = np.arange(first, first + GAMMA_PLANES), max(record.prescriptions_gy.values())

    def gamma() -> float:
        passes = gamma_passes(
            reference.values[slab], predicted.values[slab], GammaRule(), spacing_mm=spacing_mm, scale_gy=scale_gy
        )
        return 100 * float(np.mean(passes))

    np.savez(
        patient.work / "doses.npz",
        reference_gy=reference.values,
        predicted_gy=predicted.values,
        spacing_mm=spacing_mm,
        scale_gy=scale_gy,
        slab=slab,
        **masks,
    )
    (patient.work / "names.json").write_text(json.dumps(list(masks)))
    dvhs = plan_dvh(request).rois

    def values_of(one: Any) -> list[float]:
        return [*one.values.values(), one.volume_cc]

    return {
        "dvh_dicompyler": (
            least(lambda: plan_dvh(request), repeats),
            {name: values_of(one) for name, one in dvhs.items()},
        ),
        "dvh_dosemetrics": (least(from_masks, repeats), from_masks()),
        "gamma": (least(gamma, repeats), gamma()),
    }


def compare(args: argparse.Namespace, seconds: dict[str, float]) -> None:
    """Print the ratios against the peers."""
    patient = Patient(args)
    own = {"conversion": (seconds["convert"], None), **own_dvhs(patient, args.repeats)}
    print("| task | own (s) | peer (s) | ratio | values: own, peer |\n| --- | --- | --- | --- | --- |")
    script = str(Path(__file__).with_name("floors_peers.py"))
    for task, (own_s, values) in own.items():
        repeats = "1" if task in ("gamma", "dvh_dicompyler") else str(args.repeats)
        done = subprocess.run(
            [str(args.peer_python), script, task, str(patient.work), repeats],
            capture_output=True,
            text=True,
            check=False,
        )
        answer = (
            json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
        )
        if isinstance(answer, dict):
            found = "" if values is None else apart(values, answer["values"])
            print(f"| {task} | {own_s:.3f} | {answer['seconds']:.3f} | {answer['seconds'] / own_s:.1f} | {found} |")
        else:
            print(f"| {task} | {own_s:.3f} | {answer or 'not installed'} | | |")


def apart(own: Any, peer: Any) -> str:
    """Largest differences by metric, or two values."""
    if not isinstance(own, dict):
        return f"{own:.3f}, {peer:.3f}"
    rows = [[abs(a - b) for a, b in zip(own[name], peer[name], strict=True)] for name in own if name in peer]
    return ", ".join(
        f"{key} {max(column):.3g}" for key, column in zip((*KEYS, "cc"), zip(*rows, strict=True), strict=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--case", default="pt_201")
    parser.add_argument("--model", default="openkbp_hn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--profile", choices=STEPS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.profile:
        return profile(args)
    if args.step:
        return print(json.dumps(measure(args)))
    seconds = {}
    print("| step | processor (s) | floor (s) | multiple |\n| --- | --- | --- | --- |")
    for step in args.steps:
        options = ["--case", args.case, "--model", args.model, "--repeats", str(args.repeats), "--step", step]
        command = [sys.executable, __file__, str(args.dataset), str(args.work), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        seconds[step] = found["seconds"]
        multiple = found["seconds"] / found["floor_s"]
        print(f"| {step} | {found['seconds']:.3f} | {found['floor_s']:.3f} | {multiple:.1f} |", flush=True)
    if args.peer_python is not None:
        compare(args, seconds)
    return None


if __name__ == "__main__":
    main()
