"""Sliding-window prediction of one patient: this package's predictor against nnU-Net's own, on the same network.

    python benchmarks/prediction.py [--size 128] [--patch 64] [--rois 32] [--features 8] [--repeats 3] [--json]

bits    DosePredictor: ROI words, decoded in the network; windows summed in float32; bfloat16 if the processor has it
onehot  nnUNetPredictor of nnU-Net 2.8: CT, prescription and one-hot channels into the same U-Net, same weights;
        windows summed in float16, the network in float32, as usual on a CPU
plain   DosePredictor as nnU-Net runs a network on a CPU (float32, no channels-last): leaves out what bfloat16 gains

Gaussian weights, steps of half a patch, no mirroring. Each in a separate process, alternating; medians;
peak memory is the peak resident set minus that before the prediction.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

WAYS = ("bits", "plain", "onehot")
PRESCRIPTION_CHANNELS = 2


def network(n_rois: int, features: int, *, decode: bool) -> torch.nn.Module:
    """The same U-Net, weights included, with and without the decoder of bits."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    from cdm_nnunet.nnunet.network import BitDecodeUNet

    torch.manual_seed(0)
    architecture: dict[str, Any] = {
        "n_stages": 4,
        "features_per_stage": [features * 2**k for k in range(4)],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1, 2, 2, 2],
        "n_conv_per_stage": 2,
        "n_conv_per_stage_decoder": 2,
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "num_classes": 1,
        "deep_supervision": False,
    }
    ours = BitDecodeUNet(0, n_rois=n_rois, **architecture)
    if decode:
        return ours
    stock = PlainConvUNet(PRESCRIPTION_CHANNELS + n_rois, **architecture)
    stock.load_state_dict(ours.state_dict())
    return stock


def predict(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """One prediction in this process."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from cdm_nnunet.losses.bits import pack_words
    from cdm_nnunet.nnunet import compute
    from cdm_nnunet.nnunet.predictor import DosePredictor

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(PRESCRIPTION_CHANNELS, *[args.size] * 3, generator=generator)
    masks = torch.rand(args.rois, *[args.size // 4] * 3, generator=generator) < 0.1
    masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    kwargs = {"use_mirroring": False, "device": torch.device("cpu"), "allow_tqdm": False}
    if way == "onehot":
        predictor = nnUNetPredictor(**kwargs, perform_everything_on_device=False)
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=1)
        predictor.plans_manager = SimpleNamespace(plans={})
        data = torch.cat([image, masks.float()])
    else:
        if way == "plain":
            compute.has_fast_bfloat16 = lambda device: False
        plans = SimpleNamespace(
            n_channels=PRESCRIPTION_CHANNELS + -(-args.rois // 16),
            padding=(0.0,) * 9,
            catalogue=SimpleNamespace(mirror_permutation=None),
        )
        predictor = type("Predictor", (DosePredictor,), {"dose_plans": plans})(**kwargs)
        data = torch.cat([image, pack_words(masks[None])[0]])
    del image, masks
    predictor.network = network(args.rois, args.features, decode=way != "onehot")
    predictor.configuration_manager = SimpleNamespace(patch_size=[args.patch] * 3)
    predictor.allowed_mirroring_axes = None
    before = _memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present size
    start = time.perf_counter()
    output = predictor.predict_sliding_window_return_logits(data)
    seconds = time.perf_counter() - start
    return {
        "s": seconds,
        "peak_mb": _memory_mb("VmHWM") - before,
        "input_mb": data.nbytes / 2**20,
        "mean": float(output.float().mean()),
        "std": float(output.float().std()),
    }


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"size": 128, "patch": 64, "rois": 32, "features": 8, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(predict(args.way, args)))
        return
    options = [f"--{name}={getattr(args, name)}" for name in ("size", "patch", "rois", "features")]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
    record = {way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]} for way in WAYS}
    if args.json:
        print(json.dumps({"size": args.size, "patch": args.patch, "rois": args.rois, **record}))
        return
    for way, found in record.items():
        print(
            f"{way:7s} {found['s']:7.2f} s ({found['s'] / record['onehot']['s']:.2f} x onehot), peak "
            f"{found['peak_mb']:6.0f} MB beyond an input of {found['input_mb']:.0f} MB; output {found['mean']:.4f} +- "
            f"{found['std']:.4f}"
        )


if __name__ == "__main__":
    main()
