"""nnU-Net's network behind a decoder of ROI bits, with a dose as output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, linear

from cdm_nnunet.cpu.instance_norm import InstanceNorm3d
from cdm_nnunet.cpu.layout import is_channels_last_on_cpu
from cdm_nnunet.losses.bits import unpack_words
from cdm_nnunet.nnunet.first_guess import falling_off
from cdm_nnunet.nnunet.plans import FIRST_WORD, PRESCRIPTION

# Memory of a training step beyond nnU-Net's estimate, in the estimate's unit: feature map values kept for the
# backward pass, about 7 bytes each (nnU-Net's reference: 8 GB for 2 samples of 5.6e8 values).
_BYTES_PER_VALUE = 7.0
_DECODED_SHARE = 0.5  # a decoded mask is kept for the first convolution's gradient, in half precision
_HEAD_BYTES = 4.0  # a float32 copy of each feature of the finest output layer
# The loss's peak on a device for each voxel of the patch and ROI, forward and backward, counted over live tensors: 1.1,
# 1.1 and 1.6 for the 8, 32 and 64 ROIs of benchmarks/loss.py, 0.8 to 1.3 for patients of OpenKBP.
_LOSS_BYTES = 1.6


class ZeroConv3d(nn.Conv3d):
    """A convolution that starts with zeros: an untrained network gives the first guess, without random doses."""


class Float32Conv3d(ZeroConv3d):
    """A convolution that stays in float32 under autocast.

    As the last layer it avoids rounding the dose: in bfloat16, neighbouring numbers near 70 Gy are 0.25 to 0.5 Gy
    apart.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve in float32."""
        with torch.autocast(input.device.type, enabled=False):
            if self.kernel_size == (1, 1, 1) and is_channels_last_on_cpu(input):
                features = input.float().movedim(1, -1)
                return linear(features, self.weight.flatten(1), self.bias).movedim(-1, 1)
            return super().forward(input.float())


class BitDecodeUNet(PlainConvUNet):
    """nnU-Net's plain U-Net on CT, prescription and K ROI masks, which it decodes from words on the device.

    Input: (B, 2 + L, Z, Y, X), float32: normalised CT, prescription, and L = ceil(K / 16) words of ROI bits.
    Output: (B, 1, Z, Y, X), float32, dose in units of the plans' dose scale; a list of it, finest first, with deep
    supervision.

    With ``cell`` above 1 the U-Net works on cells of this many voxels: a learned, strided layer reads each cell's CT,
    prescription and masks, and the last layers give the doses of a cell's voxels as channels (sub-pixel convolution,
    W. Shi et al., CVPR 2016). Inputs and outputs keep the full resolution, and so does every loss. With ``details`` a
    second strided layer adds a linear function of a cell's own inputs, and of the first guess, to its doses: the
    features have no room for which voxel of the cell is in which ROI.

    With ``fall_off`` the dose is anchored on the prescription: the network gives two numbers per voxel, the dose, used
    outside targets, and the difference from a first guess, used inside. The guess is the prescription, or more near
    targets of a higher one (:func:`falling_off`). So a target's edge is at its contour, even if the features are
    blurred, and an untrained network gives the guess.

    Args:
        input_channels: Not used: the number follows from ``n_rois``.
        num_classes: Number of output channels.
        n_rois: Number K of ROIs in the words.
        cell: Voxels of a cell along z, y and x.
        fall_off: Voxel size along z, y and x, as for :func:`falling_off`; None for a dose that is not anchored.
        details: Whether a cell's inputs also reach its doses directly.
        **architecture: As for ``PlainConvUNet``.
    """

    def __init__(
        self,
        input_channels: int,
        *,
        num_classes: int,
        n_rois: int,
        cell: Sequence[int] = (1, 1, 1),
        fall_off: Sequence[float] | None = None,
        details: bool = False,
        **architecture: Any,
    ):
        del input_channels
        if architecture.get("norm_op") is nn.InstanceNorm3d:
            architecture["norm_op"] = InstanceNorm3d
        channels = FIRST_WORD + n_rois
        packed = math.prod(cell) > 1
        features = architecture["features_per_stage"][0] if packed else channels
        outputs = num_classes * math.prod(cell) * (1 if fall_off is None else 2)
        super().__init__(features, num_classes=outputs, **architecture)
        self.n_rois, self.cell, self.fall_off = n_rois, (cell[0], cell[1], cell[2]), fall_off
        self.decoder.seg_layers = nn.ModuleList(
            Float32Conv3d(layer.in_channels, layer.out_channels, 1) for layer in self.decoder.seg_layers
        )
        # (space to depth; it keeps the name that the weights of trained models have)
        self.fold = nn.Conv3d(channels, features, self.cell, self.cell) if packed else nn.Identity()
        anchored = fall_off is not None
        self.details = ZeroConv3d(channels, outputs, self.cell, self.cell) if details else None
        self.guess_details = ZeroConv3d(1, outputs, self.cell, self.cell) if details and anchored else None

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net's initialisation, with last layers of zeros: otherwise random doses must be unlearnt first."""
        if isinstance(module, ZeroConv3d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            PlainConvUNet.initialize(module)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Predict the dose."""
        prescription = x[:, PRESCRIPTION : PRESCRIPTION + 1]
        in_target = (prescription > 0).to(prescription.dtype)
        guess = None if self.fall_off is None else in_target * falling_off(prescription, self.fall_off)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        masks = unpack_words(x[:, FIRST_WORD:], self.n_rois)
        decoded = torch.cat([x[:, :FIRST_WORD].to(dtype), masks.to(dtype)], 1)
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            decoded = decoded.contiguous(memory_format=torch.channels_last_3d)
        predicted: Tensor | list[Tensor] = super().forward(self.fold(decoded))
        finest, *coarser = predicted if isinstance(predicted, list) else [predicted]
        if self.details is not None:
            finest = finest + self.details(decoded)
        if self.guess_details is not None and guess is not None:
            finest = finest + self.guess_details(guess - prescription)
        doses = [depth_to_space(one, self.cell) for one in (finest, *coarser)]
        if guess is not None:
            doses = [_anchored(one, guess, in_target) for one in doses]
        return doses if isinstance(predicted, list) else doses[0]

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """nnU-Net's measure of a training step's memory, including the decoded masks and the loss."""
        inner_size = [n // voxels for n, voxels in zip(input_size, self.cell, strict=True)]
        voxels, cells = (float(np.prod(size, dtype=np.float64)) for size in (input_size, inner_size))
        finest_features = self.decoder.seg_layers[-1].in_channels
        extra = voxels * (_DECODED_SHARE * (FIRST_WORD + self.n_rois) + _LOSS_BYTES * self.n_rois / _BYTES_PER_VALUE)
        extra += cells * finest_features * _HEAD_BYTES / _BYTES_PER_VALUE
        if isinstance(self.fold, nn.Conv3d):
            extra += cells * self.fold.out_channels
        if self.details is not None:
            extra += cells * self.details.out_channels
        total: np.int64 = np.int64(super().compute_conv_feature_map_size(inner_size) + extra)
        return total


def _anchored(values: Tensor, guess: Tensor, in_target: Tensor) -> Tensor:
    """Combine dose outside and difference inside targets, (B, 2, z, y, x), with the first guess, (B, 1, Z, Y, X)."""
    outside, inside = values.chunk(2, 1)
    if values.shape[2:] != guess.shape[2:]:  # a coarse voxel lies in targets with a share of its volume
        size = (values.shape[2], values.shape[3], values.shape[4])
        guess, in_target = (adaptive_avg_pool3d(one, size) for one in (guess, in_target))
    return guess + in_target * inside + (1 - in_target) * outside


def depth_to_space(values: Tensor, cell: Sequence[int]) -> Tensor:
    """Move the channels of a cell to its voxels.

    Args:
        values: (B, C * c_z * c_y * c_x, Z, Y, X).
        cell: Voxels (c_z, c_y, c_x) of a cell.

    Returns:
        (B, C, Z * c_z, Y * c_y, X * c_x); channel (i * c_y + j) * c_x + k of a cell becomes its voxel (i, j, k).
    """
    if math.prod(cell) == 1:
        return values
    batch, _, *cells = values.shape
    parts = values.reshape(batch, -1, *cell, *cells).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(batch, -1, *(n * voxels for n, voxels in zip(cells, cell, strict=True)))
