"""How a network runs on a device: precision and memory layout."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the CPU has bfloat16 instructions, which make a 3-D U-Net about three times as fast."""
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision where the device gains by it: float16 on CUDA, bfloat16 on a CPU that has the instructions."""
    if device.type == "cuda":
        return torch.autocast("cuda")
    if has_fast_bfloat16(device):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _layout(device: torch.device) -> torch.memory_format:
    """Channels of a voxel side by side on a CPU: its convolutions take a quarter less time, in bfloat16 half."""
    return torch.channels_last_3d if device.type == "cpu" else torch.preserve_format


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a (B, C, Z, Y, X) input to the device, in the memory layout that is fast there."""
    return tensor.to(device, non_blocking=True, memory_format=_layout(device))


def prepare_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device, in the memory layout that is fast there."""
    return network.to(device).to(memory_format=_layout(device))
