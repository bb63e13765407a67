"""Resampling between the grid of a case and the grid of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

_Number = TypeVar("_Number", bound=np.generic)


def resample_image(volume: NDArray[np.floating], shape: Sequence[int], order: int) -> NDArray[np.float32]:
    """Resample a CT or a dose, whose voxel values are samples of a continuous quantity.

    Both grids fill the same box; the image is continued by its border. An axis that gets coarser is smoothed first, so
    that detail below the new voxel size does not alias.

    Args:
        volume: Shape (Z, Y, X).
        shape: New shape.
        order: Degree of the interpolating spline: 1 for dose, 3 for CT.

    Returns:
        float32, the new shape.
    """
    if tuple(shape) == volume.shape:
        return volume.astype(np.float32)
    coarser = any(new < old for old, new in zip(volume.shape, shape, strict=True))
    resampled: NDArray[np.float64] = resize(
        volume.astype(np.float64), tuple(shape), order=order, mode="edge", anti_aliasing=coarser, preserve_range=True
    )
    return resampled.astype(np.float32)


def resample_nearest(volume: NDArray[_Number], shape: Sequence[int]) -> NDArray[_Number]:
    """Resample ROI words, or a map that is constant within ROIs, by the nearest voxel: no value is ever invented.

    Args:
        volume: Shape (C, Z, Y, X).
        shape: New shape (Z', Y', X').

    Returns:
        Shape (C, Z', Y', X'), same type.
    """
    indices = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for old, new in zip(volume.shape[1:], shape, strict=True)
    ]
    resampled: NDArray[_Number] = volume[np.ix_(np.arange(len(volume)), *indices)]
    return resampled
