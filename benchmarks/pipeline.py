"""ROIs as bits through this package against ROIs as one-hot channels through stock nnU-Net, from raw files to an epoch.

    python benchmarks/pipeline.py [--rois 8 32 64] [--patch 96] [--patients 3] [--repeats 3] [--steps 8] [--json]

The same phantoms (about 110 x 150 x 150 voxels), voxel size, patch size, batch of 2 and small U-Net for both:

bits    this package: reader, DosePreprocessor, DoseDataLoader, BitDecodeUNet
onehot  nnU-Net 2.8: SimpleITKIO, DefaultPreprocessor, nnUNetDataLoader, PlainConvUNet, with one uint8 image channel an
        ROI, and the dose as one more (its label is a single binary mask, the cheapest that it runs with)

The augmentation of the stock loader is reduced to ours, with nnU-Net's own transforms: SpatialTransform
rotates 30 % of the patches by up to 5 degrees about the long axis, MirrorTransform flips left-right half of them, and
noise is added to the CT channel of 20 %. (It does not swap the names of paired ROIs.) Other augmentation of stock
nnU-Net, which would take more time, is off.

loader   processor time of a patch, one thread: 0.7 x a patch without + 0.3 x one with rotation, both measured
epoch    wall time of --steps batches from one worker process, for a device that takes no time (free) and for the
         U-Net with its backward pass on this CPU (cpu)
memory   peak resident set of the process that loads, and of the process that trains
prepare  processor time of preprocessing all patients
disk     ROI channels alone (compressed files of the raw data, compressed chunks of the preprocessed), and all of both

Bits and one-hot alternate in separate processes; every figure is the median of the repeats, for preprocessing of one
run.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from roi_phantoms import CONFIGURATION, OURS, STOCK, small_plans, stock_plans, write_bits, write_onehot

WAYS = ("bits", "onehot")
FEATURES = 8
FIRST_ROI = 2  # after CT and prescription, in both


class Way:
    """One of the two pipelines: its data set, preprocessor, loader and network."""

    def __init__(self, name: str, root: Path, n_rois: int):
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        from cdm_nnunet.nnunet.registration import register

        register()
        self.bits, self.n_rois = name == "bits", n_rois
        self.raw = root / "raw" / (OURS if self.bits else STOCK)
        self.folder = root / "preprocessed" / self.raw.name
        self.plans = json.loads((self.folder / "nnUNetPlans.json").read_text())
        self.dataset_json = json.loads((self.raw / "dataset.json").read_text())
        self.manager = PlansManager(self.plans)
        self.configuration = self.manager.get_configuration(CONFIGURATION)
        self.cases = self.folder / self.configuration.data_identifier
        self.dataset_class = nnUNetDatasetBlosc2
        self.patch = tuple(self.configuration.patch_size)

    def preprocess(self) -> None:
        """All cases, in this process."""
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        self.cases.mkdir(exist_ok=True)
        for label in sorted((self.raw / "labelsTr").iterdir()):
            case = label.name.removesuffix(".nii.gz")
            images = sorted(str(path) for path in (self.raw / "imagesTr").glob(f"{case}_*"))
            preprocessor.run_case_save(
                str(self.cases / case), images, str(label), self.manager, self.configuration, self.dataset_json
            )

    def loader(self) -> Any:
        """The training loader, augmentation on."""
        labels = self.manager.get_label_manager(self.dataset_json)
        dataset = self.dataset_class(str(self.cases))
        if self.bits:
            from cdm_nnunet.nnunet.loader import DoseDataLoader, Patches
            from cdm_nnunet.nnunet.plans import DosePlans

            plans = DosePlans(self.plans)
            patches = Patches(
                plans=plans,
                digest=plans.digest(CONFIGURATION),
                batch_size=2,
                patch_size=self.patch,
                label_manager=labels,
            )
            return DoseDataLoader(dataset, patches, target_share=0.5, augment=True)
        from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
        from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
        from stock_augmentation import LIMIT, transforms

        cut = get_patch_size(self.patch, (-LIMIT, LIMIT), (0, 0), (0, 0), (1, 1))
        return nnUNetDataLoader(
            dataset, 2, cut, self.patch, labels, 0.5, None, None, True, transforms=transforms(self.patch)
        )

    @contextmanager
    def rotating(self, loader: Any, share: float) -> Iterator[None]:
        """Rotate this share of the patches."""
        from cdm_nnunet.nnunet import augmentation

        before, augmentation._P_ROTATION = augmentation._P_ROTATION, share
        if not self.bits:
            loader.transforms.transforms[0].p_rotation = share
        yield
        augmentation._P_ROTATION = before

    def network(self) -> torch.nn.Module:
        """The same U-Net behind either input."""
        from dynamic_network_architectures.architectures.unet import PlainConvUNet
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        from cdm_nnunet.nnunet.compute import prepare_network

        kwargs = dict(self.configuration.network_arch_init_kwargs)
        if not self.bits:
            kwargs.pop("n_rois")
        name = self.configuration.network_arch_class_name if self.bits else f"{PlainConvUNet.__module__}.PlainConvUNet"
        network = get_network_from_plans(
            name,
            kwargs,
            self.configuration.network_arch_init_kwargs_req_import,
            FIRST_ROI + self.n_rois,
            1,
            deep_supervision=False,
        )
        return prepare_network(network, torch.device("cpu"))

    def split(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and dose of a batch."""
        return (batch["data"], batch["target"]) if self.bits else (batch["data"][:, :-1], batch["data"][:, -1:])

    def roi_bytes(self) -> dict[str, int]:
        """Bytes on disk of the ROI channels, and of everything."""
        import blosc2

        images = sorted((self.raw / "imagesTr").iterdir())
        channels = [int(path.name[-11:-7]) for path in images]
        rois = range(FIRST_ROI, FIRST_ROI + (1 if self.bits else self.n_rois))
        preprocessed = sorted(self.cases.iterdir())
        roi_chunks = 0
        for path in preprocessed:
            if path.suffix == ".b2nd" and not path.name.endswith("_seg.b2nd"):
                data = blosc2.open(str(path), mode="r")
                words = data[FIRST_ROI:] if self.bits else data[FIRST_ROI:-1]
                packed = blosc2.asarray(words, chunks=data.chunks, blocks=data.blocks, cparams=data.schunk.cparams)
                roi_chunks += packed.schunk.cbytes
        labels = sorted((self.raw / "labelsTr").iterdir())
        return {
            "raw_roi": sum(p.stat().st_size for p, channel in zip(images, channels, strict=True) if channel in rois),
            "raw": sum(path.stat().st_size for path in [*images, *labels]),
            "preprocessed_roi": roi_chunks,
            "preprocessed": sum(path.stat().st_size for path in preprocessed),
        }


def peak_mb() -> float:
    """Peak resident set of this process (Linux; getrusage would count that of its parent before it was started)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure_loader(way: Way, seed: int, n_batches: int) -> dict[str, float]:
    """Seconds per patch in this process."""
    loader = way.loader()
    seconds = {}
    for rotated in (0.0, 1.0):
        with way.rotating(loader, rotated):
            next(loader)
            np.random.seed(seed)  # noqa: NPY002  # the generator that both loaders draw from
            torch.manual_seed(seed)
            start = time.process_time()
            for _ in range(n_batches):
                next(loader)
            seconds[rotated] = (time.process_time() - start) / n_batches / 2
    return {
        "loader_s": 0.7 * seconds[0.0] + 0.3 * seconds[1.0],
        "loader_rotated_s": seconds[1.0],
        "loader_mb": peak_mb(),
    }


def measure_epoch(way: Way, seed: int, n_steps: int, compute: bool) -> dict[str, float]:
    """Wall time of an epoch with one worker process."""
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

    from cdm_nnunet.nnunet.compute import autocast, to_device

    device = torch.device("cpu")
    network = way.network() if compute else None
    loader = NonDetMultiThreadedAugmenter(way.loader(), None, 1, 3, [seed], False, wait_time=0.002)
    try:
        for _ in range(4):  # its three batches in stock
            next(loader)
        start = time.perf_counter()
        for _ in range(n_steps):
            data, dose = way.split(next(loader))
            if network is not None:
                with autocast(device):
                    predicted = network(to_device(data, device))
                torch.nn.functional.l1_loss(predicted.float(), dose).backward()
        seconds = time.perf_counter() - start
    finally:
        loader._finish()
    if not compute:
        return {"epoch_free_s": seconds}
    return {"epoch_cpu_s": seconds, "trainer_mb": peak_mb()}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Measurements in a separate process."""
    torch.set_num_threads(1)
    way = Way(args.way, args.root, args.rois[0])
    if args.measure == "loader":
        return measure_loader(way, args.seed, args.steps)
    if args.measure == "preprocess":
        start = time.process_time()
        way.preprocess()
        return {"preprocess_s": time.process_time() - start}
    return measure_epoch(way, args.seed, args.steps, args.measure == "epoch_cpu")


def in_process(args: argparse.Namespace, root: Path, n_rois: int, way: str, what: str, seed: int) -> dict[str, float]:
    """Run :func:`measure` in a new process."""
    command = [sys.executable, __file__, "--rois", str(n_rois), "--steps", str(args.steps), "--root", str(root)]
    command += ["--way", way, "--measure", what, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}, {what}: {done.stderr[-2000:]}")
    record: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return record


def prepare(root: Path, args: argparse.Namespace, n_rois: int) -> None:
    """Raw data and plans of both pipelines."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str(root / name)
    write_bits(root / "raw", n_rois, args.patients)
    write_onehot(root / "raw", n_rois, args.patients)
    code = (
        "from cdm_nnunet.nnunet.planner import DoseFingerprintExtractor, DosePlanner\n"
        "DoseFingerprintExtractor(701, 1).run(); DosePlanner(701, 8.0).plan_experiment()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    plans = small_plans(root / "preprocessed" / OURS / "nnUNetPlans.json", args.patch, FEATURES)
    (root / "preprocessed" / STOCK).mkdir()
    path = root / "preprocessed" / STOCK / "nnUNetPlans.json"
    path.write_text(json.dumps(stock_plans(plans, n_rois)))


def compare(args: argparse.Namespace, n_rois: int) -> dict[str, Any]:
    """All figures for one number of ROIs."""
    found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, args, n_rois)
        for what in ("preprocess", "loader", "epoch_free", "epoch_cpu"):
            for seed in range(1 if what == "preprocess" else args.repeats):  # (preprocessing takes minutes)
                for way in WAYS:
                    for key, value in in_process(args, root, n_rois, way, what, seed).items():
                        found[way].setdefault(key, []).append(value)
        for way in WAYS:
            sizes[way] = Way(way, root, n_rois).roi_bytes()
    return {
        "rois": n_rois,
        "patch": args.patch,
        **{
            way: {**{key: statistics.median(values) for key, values in found[way].items()}, "bytes": sizes[way]}
            for way in WAYS
        },
    }


def show(record: dict[str, Any]) -> str:
    """The figures for one number of ROIs, with the savings by bits."""
    bits, onehot = ({**record[way], **record[way]["bytes"]} for way in WAYS)
    lines = [f"{record['rois']} ROIs, patches of {record['patch']}^3: onehot -> bits"]
    for key in onehot:
        if key != "bytes":
            saved = 100 * (1 - bits[key] / onehot[key])
            lines.append(f"  {key:18s} {onehot[key]:14.4g} -> {bits[key]:12.4g}  {saved:5.1f} % less")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    for hidden in ("--way", "--measure"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    for n_rois in args.rois:
        record = compare(args, n_rois)
        print(json.dumps(record) if args.json else show(record), flush=True)


if __name__ == "__main__":
    main()
