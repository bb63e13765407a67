"""nnU-Net's network behind a decoder of ROI bits, with a dose as output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear

from cdm_nnunet.losses.bits import unpack_words
from cdm_nnunet.nnunet.plans import FIRST_WORD

# Memory of a training step beyond nnU-Net's estimate, in the estimate's unit: feature map values that are kept for the
# backward pass, about 7 bytes each (nnU-Net's reference: 8 GB for 2 samples of 5.6e8 values).
_BYTES_PER_VALUE = 7.0
_DECODED_SHARE = 0.5  # a decoded mask is kept for the first convolution's gradient, in half precision
_HEAD_BYTES = 4.0  # a float32 copy of each feature of the finest output layer
# The loss's peak on a device for each voxel of the patch and ROI, forward and backward, counted over live tensors: 1.1,
# 1.1 and 1.6 for the 8, 32 and 64 ROIs of benchmarks/loss.py, 0.8 to 1.3 for patients of OpenKBP.
_LOSS_BYTES = 1.6


class Float32Conv3d(nn.Conv3d):
    """A convolution that stays in float32 under autocast.

    As the last layer it keeps the dose from being rounded: in bfloat16 the numbers next to 70 Gy are 0.25 to 0.5 Gy
    away.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve in float32."""
        with torch.autocast(input.device.type, enabled=False):
            if self.kernel_size == (1, 1, 1) and _is_channels_last_on_cpu(input):
                features = input.float().movedim(1, -1)
                return linear(features, self.weight.flatten(1), self.bias).movedim(-1, 1)
            return super().forward(input.float())


class InstanceNorm3d(nn.InstanceNorm3d):
    """PyTorch's instance normalisation, without its change of memory layout on a CPU.

    PyTorch copies a channels-last input to the other layout, and the next convolution copies it back: a fifth of a
    training step. The kernels of its batch normalisation know both, and give the same numbers for one sample at a time.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each sample."""
        if not _is_channels_last_on_cpu(input):
            return super().forward(input)
        weight, bias, eps = self.weight, self.bias, self.eps
        return torch.cat([batch_norm(one, None, None, weight, bias, training=True, eps=eps) for one in input.split(1)])


def _is_channels_last_on_cpu(input: Tensor) -> bool:
    return input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last_3d)


class BitDecodeUNet(PlainConvUNet):
    """nnU-Net's plain U-Net on CT, prescription and K ROI masks, which it decodes from words on the device.

    Input: (B, 2 + L, Z, Y, X), float32: normalised CT, prescription, and L = ceil(K / 16) words of ROI bits.
    Output: (B, 1, Z, Y, X), float32, dose in units of the plans' dose scale; a list of it, finest first, with deep
    supervision.

    Args:
        input_channels: Not used: the number follows from ``n_rois``.
        num_classes: Number of output channels.
        n_rois: Number K of ROIs in the words.
        **architecture: As for ``PlainConvUNet``.
    """

    def __init__(self, input_channels: int, *, num_classes: int, n_rois: int, **architecture: Any):
        del input_channels
        if architecture.get("norm_op") is nn.InstanceNorm3d:
            architecture["norm_op"] = InstanceNorm3d
        super().__init__(FIRST_WORD + n_rois, num_classes=num_classes, **architecture)
        self.n_rois = n_rois
        self.decoder.seg_layers = nn.ModuleList(
            Float32Conv3d(layer.in_channels, layer.out_channels, 1) for layer in self.decoder.seg_layers
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Predict the dose."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        masks = unpack_words(x[:, FIRST_WORD:], self.n_rois)
        decoded = torch.cat([x[:, :FIRST_WORD].to(dtype), masks.to(dtype)], 1)
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            decoded = decoded.contiguous(memory_format=torch.channels_last_3d)
        predicted: Tensor | list[Tensor] = super().forward(decoded)
        return predicted

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """nnU-Net's measure of a training step's memory, with the decoded masks and the loss counted."""
        voxels = float(np.prod(input_size, dtype=np.float64))
        finest_features = self.decoder.seg_layers[-1].in_channels
        extra_bytes = _HEAD_BYTES * finest_features + _LOSS_BYTES * self.n_rois
        extra = voxels * (_DECODED_SHARE * (FIRST_WORD + self.n_rois) + extra_bytes / _BYTES_PER_VALUE)
        total: np.int64 = np.int64(super().compute_conv_feature_map_size(input_size) + extra)
        return total
