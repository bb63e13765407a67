"""Instance normalisation that keeps a CPU's fast memory layout and full precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cdm_nnunet.cpu.layout import is_channels_last_on_cpu

_GROUPS = 1024  # a power of two: divides the sizes of most patches and of their halves


class InstanceNorm3d(nn.InstanceNorm3d):
    """PyTorch's instance normalisation, without its change of memory layout on a CPU.

    PyTorch copies a channels-last input to the other layout, and the next convolution copies it back: a fifth of a
    training step. Its batch normalisation supports both layouts.

    That alone is not precise enough. It adds a channel's voxels one by one in float32, which changes the standard
    deviation of 200 000 voxels by 1 in 1 500, differently for each number of threads, and doses by up to 0.05 Gy. So
    each channel is divided into 1024 interleaved groups, whose means and variances are combined.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each sample.

        Args:
            input: (B, C, Z, Y, X), float32, float64, or bfloat16 under autocast.

        Returns:
            Same shape, type and memory layout.
        """
        if not is_channels_last_on_cpu(input):
            return super().forward(input)
        return torch.cat([_Normalise.apply(one, self.weight, self.bias, self.eps) for one in input.split(1)])


class _Normalise(torch.autograd.Function):
    """Normalise one sample, (1, C, Z, Y, X), channels last. It has no second derivative."""

    @staticmethod
    def forward(context: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        mean, variance = _mean_and_variance(input)
        context.save_for_backward(input, weight, mean, (variance + eps).rsqrt())
        context.eps = eps
        output: Tensor = torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)[0]
        return output

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        input, weight, mean, inverse_deviation = context.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient,
            input,
            weight,
            None,
            None,
            mean,
            inverse_deviation,
            True,
            context.eps,
            context.needs_input_grad[:3],
        )
        return of_input, of_weight, of_bias, None


def _mean_and_variance(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of (1, C, Z, Y, X), channels last: (C,) each, at least in float32."""
    voxels = input.movedim(1, -1).flatten(0, -2)  # a view
    channels = input.shape[1]
    groups = math.gcd(len(voxels), _GROUPS)
    # unused running statistics would determine the result's type
    unused = torch.zeros(2, groups * channels, dtype=torch.promote_types(input.dtype, torch.float32))
    means, variances = torch.batch_norm_update_stats(voxels.reshape(-1, groups * channels), unused[0], unused[1], 0.0)
    means, variances = means.view(groups, channels), variances.view(groups, channels)
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)
