"""Precision and memory layout of a network on a device."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cdm_nnunet.cpu.layout import has_fast_bfloat16, memory_layout
from cdm_nnunet.cpu.memory import keep_freed_memory


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision where the device gains by it: float16 on CUDA, bfloat16 on a CPU that has the instructions."""
    if device.type == "cuda":
        return torch.autocast("cuda")
    if has_fast_bfloat16(device):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a (B, C, Z, Y, X) input to the device, in the memory layout that is fast there."""
    return tensor.to(device, non_blocking=True, memory_format=memory_layout(device))


def prepare_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device, in the memory layout that is fast there."""
    if device.type == "cpu":
        keep_freed_memory()
    return network.to(device).to(memory_format=memory_layout(device))


def bare(network: nn.Module) -> nn.Module:
    """The module behind the wrappers of DDP and ``torch.compile``."""
    network = network.module if isinstance(network, DistributedDataParallel) else network
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner
