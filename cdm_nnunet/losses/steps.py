"""Sums of logistic steps over ranges of sorted doses: the part of a smooth V-metric near its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdm_nnunet.cpu.step_sums import SliceSums


def step_sums(voxels_gy: Tensor, first: Tensor, end: Tensor, thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
    """Sum of sigmoid((dose - threshold) / width) over a range of positions, for each term.

    Args:
        voxels_gy: Shape (M,), Gy, float32 or float64; differentiable.
        first: Position of each term's first voxel, shape (n,), int64.
        end: Position after each term's last voxel, shape (n,), int64.
        thresholds_gy: Threshold of each term, Gy.
        width_gy: Width of the step, Gy.

    Returns:
        Shape (n,), float64.
    """
    if voxels_gy.device.type == "cpu":
        sums: Tensor = SliceSums.apply(voxels_gy, first.tolist(), end.tolist(), thresholds_gy, width_gy)
        return sums
    return _of_all(voxels_gy, first, end, thresholds_gy, width_gy)


def _of_all(voxels_gy: Tensor, first: Tensor, end: Tensor, thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
    """All terms at once: few device calls and one synchronisation."""
    lengths = end - first
    total = int(lengths.sum())
    term = torch.repeat_interleave(lengths, output_size=total)
    place = torch.arange(total, device=first.device) + (end - lengths.cumsum(0)).index_select(0, term)
    threshold_gy = voxels_gy.new_tensor(list(thresholds_gy)).index_select(0, term)
    step = torch.sigmoid((voxels_gy.index_select(0, place) - threshold_gy) / width_gy)
    return torch.zeros_like(end, dtype=torch.float64).index_add(0, term, step.double())
