"""Finding and sorting the voxels of ROIs in NumPy, whose vectorised sorts are faster than torch's on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.roi import WORD_BITS

_LOW_32 = 0xFFFFFFFF
_CHUNK = 1 << 16  # voxels at a time, so that intermediate arrays stay in the cache


def used_bits(n_words: int, bits: Sequence[int]) -> list[int]:
    """Mask of the used bits of each word."""
    used = [0] * n_words
    for bit in bits:
        used[bit // WORD_BITS] |= 1 << (bit % WORD_BITS)
    return used


def find_voxels(words: NDArray[Any], bits: Sequence[int]) -> list[NDArray[np.intp]]:
    """Indices of each ROI's voxels.

    Args:
        words: ROI words of one sample, shape (L, V).
        bits: Bits of the ROIs.
    """
    used = used_bits(len(words), bits)
    in_any = np.zeros(words.shape[1], bool)
    for start in range(0, len(in_any), _CHUNK):
        part = in_any[start : start + _CHUNK]
        for word, mask in zip(words, used, strict=True):
            if mask:
                part |= (word[start : start + _CHUNK].astype(np.uint16) & np.uint16(mask)) != 0
    union = np.flatnonzero(in_any)
    of_union = {k: words[k].take(union).astype(np.uint16) for k, mask in enumerate(used) if mask}
    return [union[(of_union[bit // WORD_BITS] & np.uint16(1 << (bit % WORD_BITS))) != 0] for bit in bits]


def sort_voxels(dose: NDArray[Any], index: NDArray[np.intp], starts: Sequence[int]) -> NDArray[np.int64]:
    """Indices with each row's voxels sorted by dose; equal doses by index.

    One integer holds a dose and its index, so that a plain sort moves both.

    Args:
        dose: Shape (V,), float32 or float64.
        index: Indices of the voxels, row after row, shape (M,).
        starts: Start of each row in ``index``, and the end.
    """
    values = dose.take(index)
    if values.dtype != np.float32:
        parts = [index[a:b][np.argsort(values[a:b], kind="stable")] for a, b in itertools.pairwise(starts)]
        return np.concatenate(parts).astype(np.int64)
    keys = values.view(np.int32)
    keys ^= (keys >> 31) & 0x7FFFFFFF  # the integers of negative floats descend: reverse them
    packed = (keys.astype(np.int64) << 32) | index
    for a, b in itertools.pairwise(starts):
        packed[a:b].sort()
    packed &= _LOW_32
    return packed
