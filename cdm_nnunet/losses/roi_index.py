"""Sparse ROI index: the voxels of each ROI, and their order by dose, without a dense mask.

All DVH losses share it; it has no gradient.

On a CPU it runs in NumPy, whose vectorised sorts and searches are several times faster than torch's; elsewhere in
torch, with three synchronisations of host and device (all in :meth:`RoiIndex.of`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cdm_nnunet.cpu.sparse_rois import find_voxels, sort_voxels, used_bits
from cdm_nnunet.roi import WORD_BITS


@dataclass(frozen=True)
class RoiIndex:
    """Sparse index of some ROIs of a batch: row r * B + b holds the voxels of ROI r in sample b.

    All samples are processed together, so that a batch needs as few device calls as one sample.

    Attributes:
        index: Flat index of each voxel in the batch, shape (M,), int64, row after row. A voxel in three ROIs occurs
            three times.
        counts: Number of voxels of each row.
    """

    index: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, words: Tensor, bits: Sequence[int]) -> RoiIndex:
        """Find the voxels of ROIs.

        Args:
            words: ROI words, shape (B, L, ...), whole numbers from 0 to 65535.
            bits: Bits of the ROIs, in the desired order.
        """
        flat = words.detach().flatten(2)
        if flat.device.type == "cpu":
            samples = [find_voxels(sample, bits) for sample in flat.numpy()]
            n_voxels = flat.shape[2]
            parts = [found[r] + b * n_voxels for r in range(len(bits)) for b, found in enumerate(samples)]
            return cls(torch.from_numpy(np.concatenate(parts)), tuple(map(len, parts)))
        return cls._of_torch(flat, bits)

    @classmethod
    def _of_torch(cls, words: Tensor, bits: Sequence[int]) -> RoiIndex:
        n_samples, n_words, n_voxels = words.shape
        words = words.to(torch.int32).movedim(1, 0).flatten(1)  # (L, B * V)
        used = torch.tensor(list(used_bits(n_words, bits)), dtype=torch.int32, device=words.device)[:, None]
        union = ((words & used) != 0).any(0).nonzero().squeeze(1)
        words = words.index_select(1, union)
        member = torch.stack([((words[bit // WORD_BITS] >> (bit % WORD_BITS)) & 1).bool() for bit in bits])
        roi, place = member.nonzero().unbind(1)  # ordered by ROI, then by sample
        index = union.index_select(0, place)
        row = roi * n_samples + index // n_voxels
        starts = torch.searchsorted(row, torch.arange(len(bits) * n_samples + 1, device=row.device))
        return cls(index, tuple(starts.diff().tolist()))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Position of each row's first voxel in ``index``; the last entry is the end."""
        return tuple(itertools.accumulate(self.counts, initial=0))

    def ascending(self, dose: Tensor) -> Tensor:
        """The index with each row's voxels sorted by dose; equal doses by position.

        Args:
            dose: Dose of the batch, shape (B * V,), float32 or float64.

        Returns:
            Shape (M,), int64.
        """
        if dose.device.type == "cpu":
            sorted_index = sort_voxels(dose.detach().numpy(), self.index.numpy(), self.starts)
            return torch.from_numpy(sorted_index)
        return self._ascending_torch(dose.detach())

    def _ascending_torch(self, dose: Tensor) -> Tensor:
        by_dose = dose.index_select(0, self.index).argsort(stable=True)
        counts = torch.tensor(self.counts, device=dose.device)
        row = torch.repeat_interleave(counts, output_size=len(self.index))
        by_row = row.index_select(0, by_dose).argsort(stable=True)
        return self.index.index_select(0, by_dose.index_select(0, by_row))
