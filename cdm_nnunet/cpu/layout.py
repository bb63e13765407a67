"""Precision and memory layout of fast convolutions on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the CPU has bfloat16 instructions, which make a 3-D U-Net about three times as fast."""
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def memory_layout(device: torch.device) -> torch.memory_format:
    """Channels last on a CPU: convolutions take a quarter less time, in bfloat16 half."""
    return torch.channels_last_3d if device.type == "cpu" else torch.preserve_format


def is_channels_last_on_cpu(tensor: Tensor) -> bool:
    """Whether a (B, C, Z, Y, X) tensor is on a CPU in the channels-last layout."""
    return tensor.device.type == "cpu" and tensor.is_contiguous(memory_format=torch.channels_last_3d)
