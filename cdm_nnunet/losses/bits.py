"""ROI bits on any torch device: the counterpart of :mod:`cdm_nnunet.roi.bits`.

On the device, bits are 16-bit words: tensors of shape (B, L, ...) whose values are whole numbers from 0 to 65535,
in float32 or any integer type.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdm_nnunet.roi import WORD_BITS, n_words


def pack_words(masks: Tensor) -> Tensor:
    """Pack boolean masks into 16-bit words.

    Args:
        masks: Boolean, shape (B, K, ...).

    Returns:
        float32, shape (B, L, ...) with L = ceil(K / 16).
    """
    n_rois = masks.shape[1]
    words = torch.zeros(len(masks), n_words(n_rois), *masks.shape[2:], dtype=torch.int32, device=masks.device)
    for k in range(n_rois):
        words[:, k // WORD_BITS] |= masks[:, k].to(torch.int32) << (k % WORD_BITS)
    return words.float()


def unpack_words(words: Tensor, n_rois: int) -> Tensor:
    """The boolean masks behind 16-bit words: the inverse of :func:`pack_words`.

    Args:
        words: Shape (B, L, ...), whole numbers from 0 to 65535 in any type that holds them exactly.
        n_rois: Number K of ROIs, at most 16 L.

    Returns:
        Boolean, shape (B, K, ...).
    """
    values = (1 << torch.arange(WORD_BITS, dtype=torch.int32, device=words.device)).view(-1, *[1] * (words.ndim - 2))
    masks = []
    for first in range(0, n_rois, WORD_BITS):  # a word at a time: the integers take four times the memory of the masks
        word = words[:, first // WORD_BITS, None].to(torch.int32)  # (B, 1, ...)
        masks.append((word & values[: n_rois - first]) != 0)
    return torch.cat(masks, 1)


def roi_mask(words: Tensor, bit: int) -> Tensor:
    """Mask of one ROI.

    Args:
        words: Shape (B, L, ...), as in :func:`unpack_words`.
        bit: Bit of the ROI.

    Returns:
        Boolean, shape (B, ...).
    """
    return ((words[:, bit // WORD_BITS].to(torch.int32) >> (bit % WORD_BITS)) & 1).bool()


def permute_words(words: Tensor, permutation: Sequence[int]) -> Tensor:
    """Move ROI bits between words: bit ``k`` of the result is bit ``permutation[k]`` of the input.

    Args:
        words: Shape (B, L, ...), as in :func:`unpack_words`.
        permutation: A permutation of ``range(K)``, for example the mirror partners of the catalogue.

    Returns:
        Same shape, type and device.
    """
    moves: dict[tuple[int, int, int], int] = {}  # (word, its source, shift to the left): bits of the source to move
    for k, source in enumerate(permutation):
        move = (k // WORD_BITS, source // WORD_BITS, k % WORD_BITS - source % WORD_BITS)
        moves[move] = moves.get(move, 0) | 1 << (source % WORD_BITS)
    if all(word == source and shift == 0 for word, source, shift in moves):
        return words
    source_words = words.to(torch.int32)
    result = torch.zeros_like(source_words)
    for (word, source, shift), bits in moves.items():
        moved = source_words[:, source] & bits
        result[:, word] |= moved << shift if shift >= 0 else moved >> -shift
    return result.to(words.dtype)
