"""Lossless bit packing of overlapping ROI masks (NumPy).

Layout: in a packed channel, bit ``k`` (value ``2**k``) of a voxel is set if ROI ``k`` of the catalogue contains the
voxel. In nnU-Net, which uses float32, the same bits are stored as 16-bit words: word ``w`` holds ROIs ``16 w`` to
``16 w + 15`` as an integer from 0 to 65535, which float32 (24 bits of mantissa) and every copy, flip and
nearest-neighbour lookup keep exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError

MAX_ROIS = 64
WORD_BITS = 16
_WORD_MASK = np.uint64(0xFFFF)


def bit_dtype(n_rois: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned integer type that holds one bit for each of ``n_rois`` ROIs.

    Raises:
        InputError: If ``n_rois`` is not between 1 and 64.

    Example:
        >>> bit_dtype(8), bit_dtype(9), bit_dtype(64)
        (dtype('uint8'), dtype('uint16'), dtype('uint64'))
    """
    if not 1 <= n_rois <= MAX_ROIS:
        raise InputError(
            f"a bit mask holds 1 to {MAX_ROIS} ROIs, not {n_rois}; "
            "leave out ROIs that neither the network nor the template needs"
        )
    for bits in (8, 16, 32):
        if n_rois <= bits:
            return np.dtype(f"uint{bits}")
    return np.dtype(np.uint64)


def n_words(n_rois: int) -> int:
    """Number of 16-bit words that hold ``n_rois`` bits."""
    bit_dtype(n_rois)  # validates
    return -(-n_rois // WORD_BITS)


def pack(masks: NDArray[np.bool_]) -> NDArray[np.unsignedinteger]:
    """Pack overlapping boolean masks into one unsigned channel.

    Args:
        masks: Boolean, shape (K, ...), K from 1 to 64.

    Returns:
        Shape (...), the narrowest unsigned type for K bits.

    Raises:
        InputError: If ``masks`` is not boolean or K is out of range.

    Example:
        >>> pack(np.array([[True, True, False], [False, True, False]]))
        array([1, 3, 0], dtype=uint8)
    """
    masks = np.asarray(masks)
    if masks.dtype != np.bool_:
        raise InputError(f"ROI masks must be boolean, not {masks.dtype}; threshold them explicitly first")
    if masks.ndim == 0:
        raise InputError("ROI masks need a leading axis with one entry for each ROI")
    dtype = bit_dtype(masks.shape[0])
    packed = np.zeros(masks.shape[1:], dtype)
    for k, mask in enumerate(masks):
        packed |= mask.astype(dtype) << dtype.type(k)
    return packed


def unpack(packed: NDArray[np.unsignedinteger], n_rois: int) -> NDArray[np.bool_]:
    """The boolean masks behind a packed channel: the inverse of :func:`pack`.

    Args:
        packed: Unsigned, shape (...).
        n_rois: Number K of ROIs in the channel.

    Returns:
        Boolean, shape (K, ...).

    Raises:
        InputError: If the type is not unsigned, or a bit at or above ``n_rois`` is set.
    """
    packed = np.asarray(packed)
    refuse_stray_bits(packed, n_rois)
    one = packed.dtype.type(1)
    masks = np.empty((n_rois, *packed.shape), np.bool_)
    for k in range(n_rois):
        masks[k] = (packed >> packed.dtype.type(k)) & one
    return masks


def mask_of(packed: NDArray[np.unsignedinteger], bit: int) -> NDArray[np.bool_]:
    """Mask of one ROI from a packed channel, (...) -> (...).

    Example:
        >>> mask_of(np.array([1, 3, 0], np.uint8), 1)
        array([False,  True, False])
    """
    mask: NDArray[np.bool_] = (packed & packed.dtype.type(1 << bit)) != 0
    return mask


def add_mask(packed: NDArray[np.unsignedinteger], bit: int, mask: NDArray[np.bool_]) -> None:
    """Set the bit of one ROI in the voxels of its mask, in place."""
    packed[mask] |= packed.dtype.type(1 << bit)


def used_bits(packed: NDArray[np.unsignedinteger]) -> tuple[int, ...]:
    """The ROIs that have a voxel, by bit.

    Example:
        >>> used_bits(np.array([1, 5, 0], np.uint8))
        (0, 2)
    """
    used = int(np.bitwise_or.reduce(packed, axis=None))
    return tuple(bit for bit in range(used.bit_length()) if used >> bit & 1)


def refuse_stray_bits(packed: NDArray[np.unsignedinteger], n_rois: int) -> None:
    """Check that a packed channel holds ``n_rois`` ROIs and nothing else.

    Raises:
        InputError: If the type is not unsigned or too narrow, or a bit at or above ``n_rois`` is set somewhere.
    """
    if packed.dtype.kind != "u":
        raise InputError(
            f"a packed ROI channel must have an unsigned integer type, not {packed.dtype}: "
            "it was cast or resampled on the way, and its bits can no longer be trusted"
        )
    width = packed.dtype.itemsize * 8
    if bit_dtype(n_rois).itemsize * 8 > width:
        raise InputError(f"{n_rois} ROIs do not fit into a packed channel of {width} bits")
    if packed.size and n_rois < width:
        stray = int(np.bitwise_or.reduce(packed, axis=None)) >> n_rois
        if stray:
            highest = n_rois + stray.bit_length() - 1
            rois = counted(n_rois, "ROI")
            raise InputError(f"bit {highest} is set, but the catalogue has {rois} (bits 0 to {n_rois - 1})")


def to_words(packed: NDArray[np.unsignedinteger], n_rois: int) -> NDArray[np.float32]:
    """Split a packed channel into 16-bit words, one float32 channel per word.

    Args:
        packed: Unsigned, shape (...).
        n_rois: Number of ROIs in the channel.

    Returns:
        float32, shape (L, ...) with L = ceil(n_rois / 16), values 0 to 65535.

    Raises:
        InputError: As :func:`refuse_stray_bits`.
    """
    packed = np.asarray(packed)
    refuse_stray_bits(packed, n_rois)
    words = np.empty((n_words(n_rois), *packed.shape), np.float32)
    wide = packed.astype(np.uint64) if len(words) > 1 else packed
    for w in range(len(words)):
        words[w] = wide if len(words) == 1 else (wide >> np.uint64(WORD_BITS * w)) & _WORD_MASK
    return words


def from_words(words: NDArray[np.floating], n_rois: int) -> NDArray[np.unsignedinteger]:
    """Merge 16-bit words back into the packed channel: the inverse of :func:`to_words`.

    Args:
        words: Floating point, shape (L, ...), whole numbers from 0 to 65535.
        n_rois: Number of ROIs.

    Returns:
        Unsigned, shape (...), the narrowest type.

    Raises:
        InputError: If the number of words is wrong, or a value is not a whole number from 0 to 65535 (the words were
            interpolated or normalised), or a stray bit is set.
    """
    words = np.asarray(words)
    if words.shape[0] != n_words(n_rois):
        expected = f"{counted(n_words(n_rois), 'word')} of {WORD_BITS} bits for {counted(n_rois, 'ROI')}"
        raise InputError(f"expected {expected}, not {words.shape[0]}")
    # (NaN fails the comparison too)
    if words.size and not (words.min() >= 0 and words.max() <= 0xFFFF and np.array_equal(words, np.rint(words))):
        raise InputError("ROI words must be whole numbers from 0 to 65535: they were interpolated or normalised")
    merged = np.zeros(words.shape[1:], np.uint64)
    for w, word in enumerate(words):
        merged |= word.astype(np.uint64) << np.uint64(WORD_BITS * w)
    refuse_stray_bits(merged, n_rois)
    return merged.astype(bit_dtype(n_rois))


def mask_from_words(words: NDArray[Any], bit: int) -> NDArray[np.bool_]:
    """Mask of one ROI from 16-bit words, (L, ...) -> (...).

    Args:
        words: Whole numbers from 0 to 65535, floating point or integer.
        bit: Bit of the ROI, below 16 L.

    Example:
        >>> mask_from_words(np.array([[0.0, 4.0], [1.0, 0.0]], np.float32), 2)
        array([False,  True])
        >>> mask_from_words(np.array([[0.0, 4.0], [1.0, 0.0]], np.float32), 16)
        array([ True, False])
    """
    mask: NDArray[np.bool_] = (words[bit // WORD_BITS].astype(np.uint32) >> (bit % WORD_BITS)) & 1 == 1
    return mask


def permute_bits(packed: NDArray[np.unsignedinteger], permutation: Sequence[int]) -> NDArray[np.unsignedinteger]:
    """Move ROI bits: bit ``k`` of the result is bit ``permutation[k]`` of the input.

    Args:
        packed: Unsigned, shape (...).
        permutation: A permutation of ``range(n_rois)``, for example :attr:`Catalogue.mirror_permutation`.

    Returns:
        Same shape and type.

    Raises:
        InputError: If ``permutation`` is not a permutation, or as :func:`refuse_stray_bits`.

    Example:
        >>> permute_bits(np.array([0b001, 0b110], np.uint8), (1, 0, 2))
        array([2, 5], dtype=uint8)
    """
    if sorted(permutation) != list(range(len(permutation))):
        raise InputError(f"not a permutation of 0 to {len(permutation) - 1}: {tuple(permutation)}")
    refuse_stray_bits(packed, len(permutation))
    scalar = packed.dtype.type
    moved = [k for k, source in enumerate(permutation) if source != k]
    kept = scalar(sum(1 << k for k in range(len(permutation)) if k not in moved))
    result: NDArray[np.unsignedinteger] = packed & kept
    for k in moved:
        result |= ((packed >> scalar(permutation[k])) & scalar(1)) << scalar(k)
    return result
