"""Sums of logistic steps in NumPy: see :func:`cdm_nnunet.losses.steps.step_sums`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SliceSums(torch.autograd.Function):
    """Sums slice by slice in NumPy; the calls cost little compared with thousands of voxels.

    This needs no index of all positions, and no gradient of the size of all doses for each term.
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
        """The sums, float64."""
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
        """The gradient of the doses."""
        of_voxels = np.zeros(ctx.shape, ctx.dtype)
        for near, step, factor in zip(ctx.slices, ctx.steps, (gradient / ctx.width_gy).tolist(), strict=True):
            slope = 1 - step
            slope *= step
            slope *= factor
            of_voxels[near] += slope
        return torch.from_numpy(of_voxels), None, None, None, None
