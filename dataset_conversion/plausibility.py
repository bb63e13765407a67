"""Plausibility checks across the images of a case: units, offsets and truncated files.

Each check refuses impossible values, and returns notes on unusual ones. Bounds: :mod:`cdm_nnunet.ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError
from cdm_nnunet.ranges import (
    CT_HU,
    EXTERNAL_AIR_PERCENT,
    EXTERNAL_CC,
    LOWEST_HU,
    MEDIAN_PER_HIGHEST_PRESCRIPTION,
    MEDIAN_PER_PRESCRIPTION,
    NO_TISSUE_HU,
    NOTHING_HU,
    TARGET_CC,
    TISSUE_HU,
    looks_like_percent,
    maximum_notes,
)
from cdm_nnunet.roi import Catalogue

MaskOf = Callable[[str], NDArray[np.bool_]]
_MIN_PLANE_MM2 = 1_000.0  # a smaller plane of the external may be a fold of skin
_EDGE_PLANES = 1  # the outermost plane of the external may lie half a voxel beyond the CT
_AXES = ("z", "y", "x")


def ct_notes(
    ct_hu: NDArray[Any], catalogue: Catalogue, rois: tuple[str, ...], mask_of: MaskOf, spacing_mm: tuple[float, ...]
) -> list[str]:
    """Check a CT, alone and against its ROIs.

    Args:
        ct_hu: Shape (z, y, x), HU.
        catalogue: Kinds of the ROIs.
        rois: Names of the contoured ROIs.
        mask_of: Mask of an ROI, shape (z, y, x).
        spacing_mm: Voxel size (z, y, x).

    Raises:
        InputError: If values lie outside 12 bits, there is no air or no tissue, or the external extends beyond the
            end of the CT.
    """
    low, high = float(ct_hu.min()), float(ct_hu.max())
    if not (CT_HU.possible[0] <= low and high <= CT_HU.possible[1]):  # NaN fails too
        raise InputError(
            f"CT values from {low:g} to {high:g} HU are outside {CT_HU.possible[0]:g} to {CT_HU.possible[1]:g}"
        )
    if not LOWEST_HU.is_possible(low):
        raise InputError(f"the lowest CT value is {low:g} HU: no air anywhere; is it stored as HU + 1024?")
    medians_hu = {}
    notes = [note for note in [LOWEST_HU.note(low)] if note]
    cc = float(np.prod(spacing_mm)) / 1000
    for name in rois:
        mask, kind = mask_of(name), catalogue.rois[catalogue.bit(name)].kind
        medians_hu[name] = float(np.median(ct_hu[mask]))
        volume = {"external": EXTERNAL_CC, "target": TARGET_CC}.get(kind)
        if volume is not None:
            volume_cc = float(np.count_nonzero(mask)) * cc
            volume.refuse_impossible(volume_cc, f"'{name}'")
            notes += [note for note in [volume.note(volume_cc, f"'{name}'")] if note]
        if kind == "external":
            notes += _external_notes(name, mask, ct_hu, spacing_mm)
    if medians_hu and not any(TISSUE_HU.is_possible(median_hu) for median_hu in medians_hu.values()):
        name = min(medians_hu, key=lambda roi: abs(medians_hu[roi]))
        raise InputError(
            f"no ROI lies in tissue: the median CT value of '{name}' is {medians_hu[name]:g} HU, and of the others "
            "farther from 0; is the CT stored as HU + 1024, was its offset applied twice, or does it belong to another "
            "patient?"
        )
    return notes


def _external_notes(
    name: str, mask: NDArray[np.bool_], ct_hu: NDArray[Any], spacing_mm: tuple[float, ...]
) -> list[str]:
    """Compare the external with the body in the CT."""
    tissue = mask & (ct_hu > NO_TISSUE_HU)
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        area_mm2 = np.count_nonzero(mask, axis=others) * float(np.prod([spacing_mm[k] for k in others]))
        bare = np.flatnonzero((area_mm2 >= _MIN_PLANE_MM2) & ~tissue.any(axis=others))
        if bare.size > _EDGE_PLANES:
            raise InputError(
                f"'{name}' continues where the CT shows only air: in {counted(bare.size, 'plane')} along {_AXES[axis]} "
                f"({bare.size * spacing_mm[axis]:g} mm); does the CT end there, is it truncated, "
                "or does it belong to another patient?"
            )
    air_percent = 100 * float(np.mean(ct_hu[mask] < NOTHING_HU))
    EXTERNAL_AIR_PERCENT.refuse_impossible(air_percent)
    return [note for note in [EXTERNAL_AIR_PERCENT.note(air_percent)] if note]


def dose_notes(dose_gy: NDArray[np.float32], prescriptions_gy: Mapping[str, float], mask_of: MaskOf) -> list[str]:
    """Check a dose against the prescriptions.

    Args:
        dose_gy: Shape (z, y, x), Gy.
        prescriptions_gy: Gy by name of the target; at least one.
        mask_of: Mask of an ROI, shape (z, y, x).

    Raises:
        InputError: If the dose seems to have another unit, or to belong to another plan or patient.
    """
    maximum_gy, highest_gy = float(dose_gy.max()), max(prescriptions_gy.values())
    notes = maximum_notes(maximum_gy, highest_gy)
    medians_gy = {name: float(np.median(dose_gy[mask_of(name)])) for name in prescriptions_gy}
    for name, level_gy in prescriptions_gy.items():
        if looks_like_percent(medians_gy[name], level_gy):
            said = _said(name, medians_gy[name], level_gy)
            raise InputError(f"{said}; the dose looks like percent, or counted twice. Export the absolute dose in Gy")
    for name, level_gy in prescriptions_gy.items():
        bounds = MEDIAN_PER_HIGHEST_PRESCRIPTION if level_gy == highest_gy else MEDIAN_PER_PRESCRIPTION
        said = _said(name, medians_gy[name], level_gy)
        if not bounds.is_possible(medians_gy[name] / level_gy):
            low, high = (factor * level_gy for factor in bounds.possible)
            raise InputError(
                f"{said}: not plausible (expected {low:g} to {high:g} Gy); is the dose in percent, in cGy, counted "
                "twice or of a part of the course, is the prescription that of a fraction, or does one of them belong "
                "to another plan?"
            )
        if not bounds.is_usual(medians_gy[name] / level_gy):
            notes.append(f"unusual: {said}")
    return notes


def _said(name: str, median_gy: float, level_gy: float) -> str:
    return f"the median dose of '{name}' is {median_gy:.4g} Gy, and {level_gy:g} Gy are prescribed"
