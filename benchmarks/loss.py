"""Time and memory of the CDM loss, forward and backward, against two obvious ways to compute it.

    python benchmarks/loss.py [--size 128] [--rois 8 32 64] [--repeats 3] [--threads 2] [--json]

For each number of ROIs, on one synthetic patient with overlapping ellipsoids and the metrics D95%, D50%, D2%, D0.1cc,
V20Gy, V40Gy, V60Gy, V95% and Dmean of every ROI:

cdm        this package as used by the loss: each ROI's voxels sorted separately, windows of order statistics
cdm_exact  the same without windows, as the next two
onehot     dense boolean volumes and a full sort of the dose for each ROI
gather     per ROI, gather its voxels and call torch.quantile once
floor      one read of dose and bits
unpack     the first step of onehot and gather: the bits as a boolean volume for each ROI

All run in one process on the same data, alternating, so that none reuses memory that another has just freed; ratios are
between medians. Peak memory is measured in a separate process. Metric values of the three methods are compared before
timing.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.losses.bits import pack_words, unpack_words
from cdm_nnunet.losses.metrics import dvh_metrics
from cdm_nnunet.losses.terms import EXACT, Smoothing, Term, Terms

KEYS = ("D95%", "D50%", "D2%", "D0.1cc", "V20Gy", "V40Gy", "V60Gy", "V95%", "Dmean")
METRICS = tuple(map(Metric.parse, KEYS))
PRESCRIPTION_GY = 70.0
VOXEL_CC = 0.0375
WIDTH_GY = 1.0


def patient(size: int, n_rois: int) -> tuple[Tensor, Tensor]:
    """A dose in Gy, (size,) * 3, and ROI words, (L, ...)."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(size) / size
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    dose = 75 * torch.exp(-((z - 0.5) ** 2 + (y - 0.5) ** 2 + (x - 0.5) ** 2) / 0.08)
    dose = dose + torch.rand(dose.shape, generator=generator)
    masks = []
    for _ in range(n_rois):
        cz, cy, cx = 0.25 + 0.5 * torch.rand(3, generator=generator)
        radius = 0.04 + 0.1 * torch.rand((), generator=generator)
        masks.append((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2)
    return dose, pack_words(torch.stack(masks)[None])[0]


@functools.cache
def terms(n_rois: int) -> Terms:
    """Every metric of every ROI."""
    return Terms(tuple(Term(bit, metric, 1.0, True) for bit in range(n_rois) for metric in METRICS))


def _metrics(values: Tensor, n: int, order_statistics: Tensor) -> list[Tensor]:
    out, found = [], iter(order_statistics)
    for metric in METRICS:
        if metric.is_volume:
            out.append(100 * torch.sigmoid((values - metric.threshold_gy(PRESCRIPTION_GY)) / WIDTH_GY).sum() / n)
        elif metric.kind == "mean":
            out.append(values.sum() / n)
        else:
            out.append(next(found))
    return out


def _ranks(n: int) -> Tensor:
    return torch.tensor([metric.rank(n, VOXEL_CC) for metric in METRICS if metric.order_statistics])


def gather(dose: Tensor, words: Tensor, n_rois: int) -> Tensor:
    """Per ROI: its voxels and torch.quantile."""
    out = []
    for mask in unpack_words(words[None], n_rois)[0]:
        inside = dose[mask]
        n = inside.numel()
        out += _metrics(inside, n, torch.quantile(inside, _ranks(n) / (n - 1)))  # (refuses more than 16 million values)
    return torch.stack(out)


def onehot(dose: Tensor, words: Tensor, n_rois: int) -> Tensor:
    """Per ROI: a dense volume, everything outside moved below all doses, and a full sort."""
    masks = unpack_words(words[None], n_rois)[0].float()
    out = []
    for mask in masks:
        n = int(mask.sum())
        ordered = torch.where(mask > 0, dose, -1.0).flatten().sort().values[dose.numel() - n :]
        positions = _ranks(n)
        j = positions.long().clamp(max=max(n - 2, 0))
        metrics = _metrics(dose * mask, n, torch.lerp(ordered[j], ordered[(j + 1).clamp(max=n - 1)], positions - j))
        for k, metric in enumerate(METRICS):  # the sigmoid over the volume counts voxels outside too
            if metric.is_volume:
                threshold = metric.threshold_gy(PRESCRIPTION_GY)
                metrics[k] = 100 * (torch.sigmoid((dose - threshold) / WIDTH_GY) * mask).sum() / n
        out += metrics
    return torch.stack(out)


def cdm_exact(dose: Tensor, words: Tensor, n_rois: int) -> Tensor:
    """This package, without a window."""
    smoothing = Smoothing(window_percent=0.0, threshold_width_gy=WIDTH_GY)
    return dvh_metrics(dose, words, terms(n_rois), [PRESCRIPTION_GY] * n_rois, VOXEL_CC, smoothing)[0]


def cdm(dose: Tensor, words: Tensor, n_rois: int) -> Tensor:
    """This package as used by the loss."""
    return dvh_metrics(dose, words, terms(n_rois), [PRESCRIPTION_GY] * n_rois, VOXEL_CC, Smoothing())[0]


def floor(dose: Tensor, words: Tensor, n_rois: int) -> Tensor:
    """One read of dose and bits."""
    return dose.sum() + words.sum()


def unpack(dose: Tensor, words: Tensor, n_rois: int) -> Tensor:
    """The bits as a boolean volume for each ROI, without further computation."""
    unpack_words(words[None], n_rois)
    return 0 * dose.flatten()[0]


WAYS = {"cdm": cdm, "cdm_exact": cdm_exact, "gather": gather, "onehot": onehot, "floor": floor, "unpack": unpack}


def seconds(way: Callable[[Tensor, Tensor, int], Tensor], dose: Tensor, words: Tensor, n_rois: int) -> float:
    """Forward and backward pass up to the gradient of the dose, which training passes on to the network."""
    dose = dose.clone().requires_grad_()
    start = time.perf_counter()
    torch.autograd.grad(way(dose, words, n_rois).sum(), dose)
    return time.perf_counter() - start


def peak_mb(name: str, data: Path, n_rois: int) -> float:
    """Memory of one forward and backward pass in addition to its data, in a separate process (Linux)."""
    command = [sys.executable, __file__, "--rois", str(n_rois), "--data", str(data), "--peak", name]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _measure_peak(way: Callable[[Tensor, Tensor, int], Tensor], data: Path, n_rois: int) -> float:
    dose, words = torch.load(data)
    seconds(way, dose[:16, :16, :16], words[:, :16, :16, :16] * 0 + 65535, n_rois)  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present size

    def status(field: str) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return float(line.split()[1]) / 1024

    before = status("VmRSS")
    seconds(way, dose, words, n_rois)
    return status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rois", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(_measure_peak(WAYS[args.peak], args.data, args.rois[0]))
        return
    for n_rois in args.rois:
        dose, words = patient(args.size, n_rois)
        reference = cdm_exact(dose, words, n_rois)
        for way in (gather, onehot):
            torch.testing.assert_close(way(dose, words, n_rois), reference, rtol=0, atol=2e-3)
        exact, _ = dvh_metrics(dose, words, terms(n_rois), [PRESCRIPTION_GY] * n_rois, VOXEL_CC, EXACT)
        median = {}
        for name, way in WAYS.items():
            seconds(way, dose, words, n_rois)
            median[name] = statistics.median(seconds(way, dose, words, n_rois) for _ in range(args.repeats))
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "patient.pt"
            torch.save((dose, words), data)
            peaks = {f"{name}_peak_mb": peak_mb(name, data, n_rois) for name in ("cdm", "onehot", "gather")}
        record = {
            "rois": n_rois,
            **{f"{name}_s": value for name, value in median.items()},
            **peaks,
            "max_sigmoid_error_percent": float((exact - reference).abs().max()),
        }
        if args.json:
            print(json.dumps(record), flush=True)
            continue
        print(
            f"{n_rois} ROIs: cdm {median['cdm']:.3f} s ({median['cdm_exact']:.3f} s without windows); "
            f"onehot {median['onehot'] / median['cdm']:.0f} x, gather {median['gather'] / median['cdm']:.1f} x "
            f"(of both, unpacking {median['unpack'] / median['cdm']:.1f} x), "
            f"floor 1 / {median['cdm'] / median['floor']:.0f}; peak memory {record['cdm_peak_mb']:.0f} MB against "
            f"{record['onehot_peak_mb']:.0f} and {record['gather_peak_mb']:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
