"""Sums of logistic steps over ranges of sorted doses: the part of a smooth V-metric near its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def step_sums(voxels_gy: Tensor, first: Tensor, end: Tensor, thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
    """Sum of sigmoid((dose - threshold) / width) over a range of places, for each term.

    Args:
        voxels_gy: Shape (M,), Gy, float32 or float64; differentiable.
        first: Place of each term's first voxel, shape (n,), int64.
        end: Place after each term's last voxel, shape (n,), int64.
        thresholds_gy: Threshold of each term, Gy.
        width_gy: Width of the step, Gy.

    Returns:
        Shape (n,), float64.
    """
    if voxels_gy.device.type == "cpu":
        sums: Tensor = _Slices.apply(voxels_gy, first.tolist(), end.tolist(), thresholds_gy, width_gy)
        return sums
    return _of_all(voxels_gy, first, end, thresholds_gy, width_gy)


def _of_all(voxels_gy: Tensor, first: Tensor, end: Tensor, thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
    """All terms at once: few calls of the device, which waits for the host once."""
    lengths = end - first
    total = int(lengths.sum())
    term = torch.repeat_interleave(lengths, output_size=total)
    place = torch.arange(total, device=first.device) + (end - lengths.cumsum(0)).index_select(0, term)
    threshold_gy = voxels_gy.new_tensor(list(thresholds_gy)).index_select(0, term)
    step = torch.sigmoid((voxels_gy.index_select(0, place) - threshold_gy) / width_gy)
    return torch.zeros_like(end, dtype=torch.float64).index_add(0, term, step.double())


class _Slices(torch.autograd.Function):
    """Slice after slice in NumPy, whose calls cost little beside some thousand voxels.

    There is no index of all places, and no gradient of the size of all doses for each term.
    """

    @staticmethod
    def forward(
        ctx: Any,
        voxels_gy: Tensor,
        first: Sequence[int],
        end: Sequence[int],
        thresholds_gy: Sequence[float],
        width_gy: float,
    ) -> Tensor:
        doses_gy = voxels_gy.detach().numpy()
        ctx.slices = [slice(*ends) for ends in zip(first, end, strict=True)]
        ctx.shape, ctx.dtype, ctx.width_gy = doses_gy.shape, doses_gy.dtype, width_gy
        ctx.steps = []
        for near, threshold_gy in zip(ctx.slices, thresholds_gy, strict=True):
            step = doses_gy[near] - doses_gy.dtype.type(threshold_gy)
            step *= -1 / width_gy
            np.exp(step, out=step)
            step += 1
            ctx.steps.append(np.reciprocal(step, out=step))
        return torch.tensor([step.sum(dtype=np.float64) for step in ctx.steps], dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        of_voxels = np.zeros(ctx.shape, ctx.dtype)
        for near, step, factor in zip(ctx.slices, ctx.steps, (gradient / ctx.width_gy).tolist(), strict=True):
            slope = 1 - step
            slope *= step
            slope *= factor
            of_voxels[near] += slope
        return torch.from_numpy(of_voxels), None, None, None, None
