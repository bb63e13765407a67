"""The CDM loss of a batch at once against sample by sample and in fixed shapes, forward and backward.

    python benchmarks/loss_batch.py [--size 96] [--rois 10] [--batch 4] [--repeats 9]
                                    [--device cuda | --as-on-a-gpu] [--compile]

Synthetic patients with the metrics of ``loss.py`` that fixed shapes support. Counted are torch's operators that make or
write a tensor: on a GPU the minimum number of kernel launches, unless a compiler fuses them. ``--as-on-a-gpu`` runs the
loss's GPU code, without NumPy, on a CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from loss import PRESCRIPTION_GY, VOXEL_CC, patient, terms
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cdm_nnunet.losses import sorted_doses, steps
from cdm_nnunet.losses.bits import roi_mask
from cdm_nnunet.losses.captured import CapturedCDMLoss
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.roi_index import RoiIndex
from cdm_nnunet.losses.terms import Terms


class Counter(TorchDispatchMode):
    """Counts operators that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = [value.alias_info for value in func._schema.returns]
        self.n += not any(alias is not None and not alias.is_write for alias in returned)
        return func(*args, **(kwargs or {}))


def take_the_way_of_other_devices() -> None:
    """Use the code for other devices, without NumPy."""
    RoiIndex.of = lambda words, bits: RoiIndex._of_torch(words.detach().flatten(2), bits)  # type: ignore[method-assign]
    RoiIndex.ascending = lambda self, dose: self._ascending_torch(dose.detach())  # type: ignore[method-assign]
    sorted_doses.step_sums = steps._of_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rois", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--as-on-a-gpu", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the loss in fixed shapes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.as_on_a_gpu:
        take_the_way_of_other_devices()
    dose_gy, words = patient(args.size, args.rois)
    words = torch.stack([words.roll(3 * b, 1) for b in range(args.batch)]).to(args.device)
    reference = dose_gy.expand(args.batch, 1, -1, -1, -1).to(args.device)
    predicted = (reference + torch.rand_like(reference)).requires_grad_()
    known = tuple(term for term in terms(args.rois).terms if term.metric.kind != "geud")
    loss = CDMLoss(Terms(known), PRESCRIPTION_GY)
    captured = CapturedCDMLoss(loss, compiled=args.compile).to(args.device)
    whole = [[int(n) for n in roi_mask(words[:1], bit).sum((1, 2, 3))] for bit in range(args.rois)]
    whole_voxels = [[n for (n,) in whole]] * args.batch
    rx, volume = [[PRESCRIPTION_GY] * args.rois] * args.batch, [VOXEL_CC] * args.batch

    def at_once() -> Tensor:
        return loss(predicted, reference, words, rx, volume)

    def one_by_one() -> Tensor:
        samples = range(args.batch)
        return sum(loss(predicted[[b]], reference[[b]], words[[b]], rx[:1], volume[:1]) for b in samples) / args.batch

    def fixed_shapes() -> Tensor:
        return captured(predicted, reference, words, rx, volume, whole_voxels)

    def gradient(way: Callable[[], Tensor]) -> Tensor:
        found = torch.autograd.grad(way(), predicted)[0]
        if args.device != "cpu":
            torch.cuda.synchronize()
        return found

    torch.testing.assert_close(gradient(at_once), gradient(one_by_one))
    torch.testing.assert_close(gradient(at_once), gradient(fixed_shapes))
    for way in (one_by_one, at_once, fixed_shapes):
        with Counter() as counter:
            gradient(way)
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            gradient(way)
            seconds.append(time.perf_counter() - start)
        print(f"{way.__name__}: {counter.n} operators, {1000 * statistics.median(seconds):.1f} ms")


if __name__ == "__main__":
    main()
