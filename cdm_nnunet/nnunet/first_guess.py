"""First guess of the dose in targets: the prescription, and near a higher one as much as falls off from it.

The network learns the difference (``docs/architecture.md``, "The anchored output").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree
from torch import Tensor

WIDTHS_MM = np.arange(4.0, 21.0)  # standard deviations that are tried
_DEFAULT_MM = 13.0  # where no case has two levels, so that it does not matter
_SAMPLES = 20_000  # voxels of a case
_REACH = 2.0  # standard deviations of a target's fall-off: with 14 % left, less than any other target's prescription


@torch.library.custom_op("cdm_nnunet::falling_off", mutates_args=())  # compiled, its loops would double that time
def falling_off(prescription: Tensor, fall_off: Sequence[float]) -> Tensor:
    """First guess of the dose: each prescription falls off like a Gaussian around its voxel; the largest counts.

    It is for voxels in targets. Around them it ends at two standard deviations.

    Args:
        prescription: (B, 1, Z, Y, X), zero outside targets, in any unit of dose.
        fall_off: Voxel size along z, y and x in units of the Gaussian's standard deviation.

    Returns:
        Same shape and unit; in targets at least the prescription, more near a target of a higher one.
    """
    if prescription.device.type == "cpu" and prescription.amax() > 0:  # (elsewhere, finding the box would cost more)
        around = _around_targets(prescription, fall_off)
        guess = torch.zeros_like(prescription)
        guess[around] = _falling_off(prescription[around].contiguous(), fall_off)
        return guess
    return _falling_off(prescription, fall_off)


def _falling_off(prescription: Tensor, fall_off: Sequence[float]) -> Tensor:
    guess = prescription
    for axis, voxel in zip((2, 3, 4), fall_off, strict=True):  # axis by axis: products of Gaussians are Gaussians
        size, along = guess.shape[axis], guess.clone()
        for step in range(1, min(size - 1, math.ceil(_REACH / voxel)) + 1):
            near = guess * math.exp(-((step * voxel) ** 2) / 2)
            for to, origin in ((0, step), (step, 0)):
                part = along.narrow(axis, to, size - step)
                torch.maximum(part, near.narrow(axis, origin, size - step), out=part)
        guess = along
    return guess


def _around_targets(prescription: Tensor, fall_off: Sequence[float]) -> tuple[slice, ...]:
    """Bounding box of all prescriptions, with the margin in which they fall off."""
    box = [slice(None), slice(None)]
    for axis, voxel in zip((2, 3, 4), fall_off, strict=True):
        other_axes = [other for other in range(5) if other != axis]
        held = prescription.amax(other_axes).nonzero()
        reach = math.ceil(_REACH / voxel)
        box.append(slice(max(int(held[0]) - reach, 0), int(held[-1]) + reach + 1))
    return tuple(box)


@falling_off.register_fake
def _(prescription: Tensor, fall_off: Sequence[float]) -> Tensor:
    return torch.empty_like(prescription)


def misfits_gy(
    prescription_gy: NDArray[np.floating], dose_gy: NDArray[np.floating], spacing_mm: Sequence[float]
) -> NDArray[np.float64] | None:
    """How well first guesses of each width fit a plan.

    Args:
        prescription_gy: (Z, Y, X), zero outside targets.
        dose_gy: Planned dose, (Z, Y, X).
        spacing_mm: Voxel size (z, y, x).

    Returns:
        For each of ``WIDTHS_MM``, the mean absolute difference in targets between dose and guess, less their median
        difference, which a network learns at once. None without targets of two levels.
    """
    levels_gy = np.unique(prescription_gy[prescription_gy > 0])
    if len(levels_gy) < 2:
        return None
    voxels = np.argwhere(prescription_gy > 0)
    voxels = voxels[:: math.ceil(len(voxels) / _SAMPLES)]
    own_gy, planned_gy = (values[tuple(voxels.T)].astype(np.float64) for values in (prescription_gy, dose_gy))
    guesses_gy = np.tile(own_gy, (len(WIDTHS_MM), 1))
    for level_gy in levels_gy[1:]:
        target = prescription_gy == level_gy
        edge = np.argwhere(target & ~binary_erosion(target))
        lower = own_gy < level_gy
        distances_mm, _ = KDTree(edge * spacing_mm).query(voxels[lower] * spacing_mm)
        falling_gy = level_gy * np.exp(-((distances_mm / WIDTHS_MM[:, None]) ** 2) / 2)
        guesses_gy[:, lower] = np.maximum(guesses_gy[:, lower], falling_gy)
    differences_gy = planned_gy - guesses_gy
    misfits: NDArray[np.float64] = np.abs(differences_gy - np.median(differences_gy, 1, keepdims=True)).mean(1)
    return misfits


def best_width_mm(misfits: Iterable[NDArray[np.float64] | None]) -> float:
    """The width whose first guesses fit the plans of a data set best.

    Args:
        misfits: :func:`misfits_gy` of each case.

    Returns:
        One of ``WIDTHS_MM``.

    Examples:
        >>> best_width_mm([None, np.abs(WIDTHS_MM - 8.4)])
        8.0
        >>> best_width_mm([None])
        13.0
    """
    known = [one for one in misfits if one is not None]
    return float(WIDTHS_MM[np.mean(known, 0).argmin()]) if known else _DEFAULT_MM
