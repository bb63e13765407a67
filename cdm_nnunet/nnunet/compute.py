"""Precision and memory layout of a network on a device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cdm_nnunet.cpu.layout import has_fast_bfloat16, memory_layout
from cdm_nnunet.cpu.memory import keep_freed_memory
from cdm_nnunet.errors import InputError

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision if the device benefits: float16 on CUDA, bfloat16 on a CPU that has the instructions."""
    if device.type == "cuda":
        return torch.autocast("cuda")
    if has_fast_bfloat16(device):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def available_device(asked: str | None = None) -> torch.device:
    """The device to compute on.

    Args:
        asked: ``cuda``, ``mps`` or ``cpu``; None takes the first available one.

    Raises:
        InputError: If it is not available.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked is None:
        asked = next(name for name, is_there in there.items() if is_there)
    if asked not in there:
        raise InputError(f"the device is one of {', '.join(there)}, not '{asked}'")
    if not there[asked]:
        raise InputError(f"no {asked.upper()} device is available; predict with -device cpu")
    return torch.device(asked)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a (B, C, Z, Y, X) input to the device, in its fast memory layout."""
    return tensor.to(device, non_blocking=True, memory_format=memory_layout(device))


def prepare_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device, in its fast memory layout."""
    if device.type == "cpu":
        keep_freed_memory()
    return network.to(device).to(memory_format=memory_layout(device))


def bare(network: nn.Module) -> nn.Module:
    """The module behind the wrappers of DDP and ``torch.compile``."""
    network = network.module if isinstance(network, DistributedDataParallel) else network
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner


def pad_to_patch(data: Tensor, patch_size: Sequence[int], padding: Sequence[float]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad an image to at least one patch, centred; also return the position of the image in the result."""
    shape = [max(n, patch) for n, patch in zip(data.shape[1:], patch_size, strict=True)]
    inside = tuple(
        slice((new - old) // 2, (new - old) // 2 + old) for new, old in zip(shape, data.shape[1:], strict=True)
    )
    if tuple(shape) == tuple(data.shape[1:]):
        return data, inside
    padded = data.new_tensor(padding).view(-1, 1, 1, 1).repeat(1, *shape)
    padded[(slice(None), *inside)] = data
    return padded, inside


def lock_of(network: nn.Module) -> threading.RLock:
    """Lock of a network, shared by all its predictors."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(network, threading.RLock())
