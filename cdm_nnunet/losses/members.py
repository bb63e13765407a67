"""Which voxels belong to which ROI, and their order by dose: the integer part of all DVH losses, without a dense mask.

On a CPU it runs in NumPy, whose vectorised sorts and searches are several times faster than torch's; elsewhere in
torch, with two points at which the host waits for the device (both in :meth:`Members.of`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdm_nnunet.roi import WORD_BITS

_LOW_32 = 0xFFFFFFFF
_CHUNK = 1 << 16  # voxels at a time, so that what is made of them stays in the cache


@dataclass(frozen=True)
class Members:
    """Voxels of some ROIs, ROI after ROI.

    Attributes:
        index: Flat index of each voxel, shape (M,), int64. A voxel in three ROIs is there three times.
        counts: Number of voxels of each ROI.
    """

    index: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, words: Tensor, bits: Sequence[int]) -> Members:
        """Find the voxels of ROIs.

        Args:
            words: ROI words, shape (L, ...), whole numbers from 0 to 65535.
            bits: Bits of the ROIs, in the order that is wanted.
        """
        flat = words.detach().flatten(1)
        if flat.device.type == "cpu":
            parts = _find_in_numpy(flat.numpy(), bits)
            return cls(torch.from_numpy(np.concatenate(parts)), tuple(map(len, parts)))
        return cls._of_torch(flat, bits)

    @classmethod
    def _of_torch(cls, words: Tensor, bits: Sequence[int]) -> Members:
        words = words.to(torch.int32)  # (L, V)
        used = torch.tensor(list(_used_bits(len(words), bits)), dtype=torch.int32, device=words.device)[:, None]
        union = ((words & used) != 0).any(0).nonzero().squeeze(1)
        words = words.index_select(1, union)
        member = torch.stack([((words[bit // WORD_BITS] >> (bit % WORD_BITS)) & 1).bool() for bit in bits])
        places = member.nonzero()[:, 1]  # row after row
        return cls(union.index_select(0, places), tuple(member.sum(1).tolist()))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Place of each ROI's first voxel in ``index``; the last entry is the end."""
        return tuple(itertools.accumulate(self.counts, initial=0))

    def ascending(self, dose: Tensor) -> Tensor:
        """The index with each ROI's voxels in the order of their doses; equal doses by place.

        Args:
            dose: Shape (V,), float32 or float64.

        Returns:
            Shape (M,), int64.
        """
        if dose.device.type == "cpu":
            sorted_index = _sort_in_numpy(dose.detach().numpy(), self.index.numpy(), self.starts)
            return torch.from_numpy(sorted_index)
        return self._ascending_torch(dose.detach())

    def _ascending_torch(self, dose: Tensor) -> Tensor:
        by_dose = dose.index_select(0, self.index).argsort(stable=True)
        counts = torch.tensor(self.counts, device=dose.device)
        roi = torch.repeat_interleave(counts, output_size=len(self.index))
        by_roi = roi.index_select(0, by_dose).argsort(stable=True)
        return self.index.index_select(0, by_dose.index_select(0, by_roi))


def _used_bits(n_words: int, bits: Sequence[int]) -> list[int]:
    used = [0] * n_words
    for bit in bits:
        used[bit // WORD_BITS] |= 1 << (bit % WORD_BITS)
    return used


def _find_in_numpy(words: NDArray[Any], bits: Sequence[int]) -> list[NDArray[np.intp]]:
    used = _used_bits(len(words), bits)
    in_any = np.zeros(words.shape[1], bool)
    for start in range(0, len(in_any), _CHUNK):
        part = in_any[start : start + _CHUNK]
        for word, mask in zip(words, used, strict=True):
            if mask:
                part |= (word[start : start + _CHUNK].astype(np.uint16) & np.uint16(mask)) != 0
    union = np.flatnonzero(in_any)
    of_union = {k: words[k].take(union).astype(np.uint16) for k, mask in enumerate(used) if mask}
    return [union[(of_union[bit // WORD_BITS] & np.uint16(1 << (bit % WORD_BITS))) != 0] for bit in bits]


def _sort_in_numpy(dose: NDArray[Any], index: NDArray[np.intp], starts: Sequence[int]) -> NDArray[np.int64]:
    """One integer holds a dose and its place, so that a plain sort moves both."""
    values = dose.take(index)
    if values.dtype != np.float32:
        parts = [index[a:b][np.argsort(values[a:b], kind="stable")] for a, b in itertools.pairwise(starts)]
        return np.concatenate(parts).astype(np.int64)
    keys = values.view(np.int32)
    keys ^= (keys >> 31) & 0x7FFFFFFF  # the integers of negative floats descend: turn them round
    packed = (keys.astype(np.int64) << 32) | index
    for a, b in itertools.pairwise(starts):
        packed[a:b].sort()
    packed &= _LOW_32
    return packed
