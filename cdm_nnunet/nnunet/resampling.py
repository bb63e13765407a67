"""Resampling between the grid of a case and the grid of the network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_Number = TypeVar("_Number", bound=np.generic)
_BEYOND = 12  # voxels: the influence of values farther away on a spline is below 1e-6


def resample_ct(volume: NDArray[np.floating], shape: Sequence[int]) -> NDArray[np.float32]:
    """Resample a CT by cubic splines, as nnU-Net does.

    Both grids fill the same box; border values are repeated outside the image. An axis that becomes coarser is smoothed
    first, so that detail below the new voxel size does not alias.

    Args:
        volume: Shape (Z, Y, X).
        shape: New shape.

    Returns:
        float32, the new shape.
    """
    coarser = any(new < old for old, new in zip(volume.shape, shape, strict=True))
    return _splines(volume, shape, smooth_first=coarser)


def resample_dose(
    dose: NDArray[np.floating], region: NDArray[np.bool_] | None, shape: Sequence[int]
) -> NDArray[np.float32]:
    """Resample a dose by cubic splines; the grids are as in :func:`resample_ct`.

    Dose is smooth (the penumbra of a beam is a few mm wide), so samples at 6 mm determine it well, if neither smoothing
    nor linear interpolation flattens its shoulders: after resampling and back, D95% of OpenKBP's targets loses 0.4 Gy,
    instead of 1.6 Gy with both (``docs/benchmarks.md``, "Resampling the dose").

    Args:
        dose: Shape (Z, Y, X), any unit, not negative where it is known.
        region: Mask of known dose, same shape; elsewhere the nearest known dose is used, so that the dose just inside
            is not mixed with values outside. None: known everywhere.
        shape: New shape.

    Returns:
        float32, the new shape, not negative.
    """
    if region is not None and region.any() and not region.all():
        nearest = ndimage.distance_transform_edt(~region, return_distances=False, return_indices=True)
        dose = dose[tuple(nearest)]
    return np.maximum(_splines(dose, shape, smooth_first=False), 0)


def _splines(volume: NDArray[np.floating], shape: Sequence[int], *, smooth_first: bool) -> NDArray[np.float32]:
    """As ``skimage.transform.resize`` of order 3, axis by axis: cubic splines are separable."""
    if tuple(shape) == volume.shape:
        return volume.astype(np.float32)
    resampled = volume.astype(np.float64)
    if smooth_first:
        sigmas = [max(0.0, (old / new - 1) / 2) for old, new in zip(volume.shape, shape, strict=True)]
        resampled = ndimage.gaussian_filter(resampled, sigmas, mode="nearest")
    for axis, (old, new) in enumerate(zip(volume.shape, shape, strict=True)):
        if old != new:
            resampled = np.moveaxis(np.tensordot(_spline_matrix(old, new), resampled, (1, axis)), 0, axis)
    return np.ascontiguousarray(resampled, np.float32)


@functools.lru_cache(maxsize=64)
def _spline_matrix(old: int, new: int) -> NDArray[np.float64]:
    """Matrix (new, old) of resampling along one axis: cubic B-splines, border values repeated."""
    beyond = np.pad(np.eye(old), ((_BEYOND, _BEYOND), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(beyond, 3, 0, mode="nearest")  # (old + 2 * _BEYOND, old)
    at = (np.arange(new) + 0.5) * old / new - 0.5 + _BEYOND
    first = np.floor(at).astype(np.intp)
    t = (at - first)[:, None]
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    matrix: NDArray[np.float64] = sum(w * coefficients[first + k] for k, w in enumerate(weights, -1)) / 6
    return matrix


def resample_nearest(volume: NDArray[_Number], shape: Sequence[int]) -> NDArray[_Number]:
    """Resample ROI words, or a map that is constant within ROIs, by the nearest voxel; no new values occur.

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
