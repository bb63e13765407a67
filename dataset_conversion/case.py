"""One patient in memory, checked on construction: a source creates it and ``raw_layout`` writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import NOTES, CaseRecord, Split
from cdm_nnunet.errors import InputError, numbers
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.ranges import CT_HU, FRACTION_DOSE_GY, VOXEL_SIZE_MM, prescription_notes
from cdm_nnunet.roi import Catalogue, add_mask, mask_of, refuse_stray_bits, used_bits

from .plausibility import ct_notes, dose_notes

_ORTHONORMAL = 1e-4
CASE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def refuse_grid(grid: Grid) -> None:
    """Check that a grid is valid for a case.

    Raises:
        InputError: If the voxel size is implausible, planes are unequally spaced, or the axes do not run to the
            patient's left, back and head.
    """
    low, high = VOXEL_SIZE_MM.possible
    if not all(VOXEL_SIZE_MM.is_possible(size) for size in grid.spacing_zyx_mm):
        raise InputError(
            f"voxel size {numbers(grid.spacing_xyz_mm)} mm is not plausible; expected three of {low} to {high} mm"
        )
    if not grid.is_uniform:
        raise InputError("the planes of the grid are unequally spaced")
    if not np.allclose(grid.axes @ grid.axes.T, np.eye(3), atol=_ORTHONORMAL):
        raise InputError(f"direction cosines must be an orthonormal 3 x 3 matrix, not {numbers(grid.direction)}")
    grid.refuse_other_axes("the image")


@dataclass(frozen=True, eq=False)
class Case:
    """A patient, ready to be written.

    Attributes:
        name: nnU-Net's case identifier.
        split: ``Tr`` (for training) or ``Ts`` (kept out of training).
        ct_hu: CT, shape (z, y, x), int16 or float32, HU from -1024 to 3071.
        roi_bits: Packed ROI masks, shape (z, y, x), in the catalogue's type; see :func:`pack_masks`.
        catalogue: Catalogue of the bits.
        dose_gy: Reference dose, shape (z, y, x), float32 Gy; None if there is none (``Ts`` only).
        prescriptions_gy: Prescribed dose by target name, Gy; for contoured targets only.
        grid: The grid that all images share.
        source: Origin of the case, without anything that identifies the patient.
        empty_rois: ROIs named by the source whose masks have no voxel; they count as absent.
        fractions: Number of fractions of the plan; None if unknown.
        notes: Unusual properties, found by the checks.

    Raises:
        InputError: If anything is inconsistent or implausible; the message names it.
    """

    name: str
    split: Split
    ct_hu: NDArray[np.int16] | NDArray[np.float32]
    roi_bits: NDArray[np.unsignedinteger]
    catalogue: Catalogue
    dose_gy: NDArray[np.float32] | None
    prescriptions_gy: Mapping[str, float]
    grid: Grid
    source: Mapping[str, str] = field(default_factory=dict)
    empty_rois: tuple[str, ...] = ()
    fractions: int | None = None
    notes: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if not re.fullmatch(CASE_NAME, self.name):
            raise InputError(f"a case name has letters, digits, '_', '-' and '.' only, not '{self.name}'")
        if self.split not in ("Tr", "Ts"):
            raise InputError(f"the split is 'Tr' or 'Ts', not '{self.split}'")
        self._check_ct()
        self._check_rois()
        refuse_grid(self.grid)
        notes = ct_notes(self.ct_hu, self.catalogue, self.rois, self.mask, self.grid.spacing_zyx_mm)
        self._check_prescriptions()
        notes += prescription_notes(self.prescriptions_gy)
        notes += self._fraction_notes()
        self._check_dose()
        if self.dose_gy is not None:
            notes += dose_notes(self.dose_gy, self.prescriptions_gy, self.mask)
            self._check_dose_region(self.dose_gy)
        object.__setattr__(self, "notes", tuple(notes))

    @cached_property
    def rois(self) -> tuple[str, ...]:
        """Names of the contoured ROIs (those with at least one voxel), in catalogue order."""
        return tuple(self.catalogue.names[bit] for bit in used_bits(self.roi_bits))

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Mask of one ROI, shape (z, y, x); all False if it was not contoured.

        Raises:
            InputError: If the catalogue has no such ROI.
        """
        return mask_of(self.roi_bits, self.catalogue.bit(name))

    def prescription_map_gy(self) -> NDArray[np.float32]:
        """Per voxel the highest prescription of the targets that contain it, else 0; shape (z, y, x)."""
        prescription_gy = np.zeros(self.roi_bits.shape, np.float32)
        for name, level_gy in sorted(self.prescriptions_gy.items(), key=lambda item: item[1]):
            prescription_gy[self.mask(name)] = level_gy
        return prescription_gy

    def record(self) -> CaseRecord:
        """The entry of ``cdm_cases.json``."""
        ordered = {name: float(self.prescriptions_gy[name]) for name in self.rois if name in self.prescriptions_gy}
        source = dict(self.source)
        if self.notes:
            source[NOTES] = json.dumps([*json.loads(source.get(NOTES, "[]")), *self.notes], ensure_ascii=False)
        return CaseRecord(
            prescriptions_gy=ordered,
            rois=self.rois,
            spacing_mm=self.grid.spacing_zyx_mm,
            split=self.split,
            source=source,
            fractions=self.fractions,
        )

    def _check_ct(self) -> None:
        if self.ct_hu.ndim != 3 or self.ct_hu.dtype not in (np.dtype(np.int16), np.dtype(np.float32)):
            raise InputError(f"the CT must be 3D, int16 or float32, not {self.ct_hu.ndim}D {self.ct_hu.dtype}")
        if self.ct_hu.shape != self.grid.shape:
            raise InputError(f"the CT has shape {self.ct_hu.shape}, and its grid {self.grid.shape}")

    def _check_rois(self) -> None:
        if self.roi_bits.shape != self.ct_hu.shape:
            raise InputError(f"ROI masks have shape {self.roi_bits.shape}, the CT has {self.ct_hu.shape}")
        if self.roi_bits.dtype != self.catalogue.dtype:
            raise InputError(
                f"{len(self.catalogue)} ROIs are packed into {self.catalogue.dtype}, not {self.roi_bits.dtype}"
            )
        refuse_stray_bits(self.roi_bits, len(self.catalogue))
        region = self.catalogue.dose_region_bit
        if region is not None and self.catalogue.names[region] not in self.rois:
            raise InputError(f"ROI '{self.catalogue.names[region]}', outside which dose is zero, is empty or missing")

    def _check_prescriptions(self) -> None:
        targets = [name for name in self.rois if self.catalogue.rois[self.catalogue.bit(name)].kind == "target"]
        for name in self.prescriptions_gy:
            if name not in targets:
                raise InputError(
                    f"'{name}' has a prescription but is not a contoured target; those are "
                    f"{', '.join(targets) or 'none'}"
                )
        if not self.prescriptions_gy:
            raise InputError(
                f"no target with a prescription; contoured are {', '.join(self.rois) or 'no ROIs at all'}, "
                f"targets would be {', '.join(self.catalogue.names[k] for k in self.catalogue.bits_of_kind('target'))}"
            )

    def _fraction_notes(self) -> list[str]:
        if self.fractions is None:
            return []
        if self.fractions < 1:
            raise InputError(f"a plan has at least one fraction, not {self.fractions}")
        dose_gy = max(self.prescriptions_gy.values()) / self.fractions
        FRACTION_DOSE_GY.refuse_impossible(dose_gy)
        note = FRACTION_DOSE_GY.note(dose_gy)
        return [] if note is None else [note]

    def _check_dose(self) -> None:
        if self.dose_gy is None:
            if self.split == "Tr":
                raise InputError("a training case needs a reference dose; without one it can only be a test case")
            return
        if self.dose_gy.shape != self.ct_hu.shape:
            raise InputError(f"the dose has shape {self.dose_gy.shape}, the CT has {self.ct_hu.shape}")
        if self.dose_gy.dtype != np.float32:
            raise InputError(f"the dose must be float32, not {self.dose_gy.dtype}")
        if not np.isfinite(self.dose_gy).all():
            bad = counted(np.count_nonzero(~np.isfinite(self.dose_gy)), "voxel")
            raise InputError(f"the dose is NaN or infinite in {bad}")
        if self.dose_gy.min() < 0:
            raise InputError(f"the dose is negative in {counted(np.count_nonzero(self.dose_gy < 0), 'voxel')}")

    def _check_dose_region(self, dose_gy: NDArray[np.float32]) -> None:
        region = self.catalogue.dose_region_bit
        if region is not None:
            outside_gy = dose_gy[~self.mask(self.catalogue.names[region])]
            if outside_gy.any():
                raise InputError(
                    f"there is dose up to {outside_gy.max():g} Gy outside '{self.catalogue.names[region]}', in "
                    f"{counted(np.count_nonzero(outside_gy), 'voxel')}; by definition it is zero there"
                )


def pack_masks(
    catalogue: Catalogue, masks: Iterable[tuple[str, NDArray[np.bool_]]], shape: tuple[int, ...]
) -> tuple[NDArray[np.unsignedinteger], tuple[str, ...]]:
    """Pack named masks into one channel, one at a time, so that only one mask from a generator is in memory.

    Args:
        catalogue: Catalogue of the bits.
        masks: Pairs of ROI name and boolean mask of shape ``shape``.
        shape: Shape of the grid (z, y, x).

    Returns:
        The packed channel, shape ``shape``, and the names of the masks that have no voxel.

    Raises:
        InputError: If a name is unknown or repeated, or a mask is not boolean or has another shape.
    """
    roi_bits: NDArray[Any] = np.zeros(shape, catalogue.dtype)
    seen: list[str] = []
    empty: list[str] = []
    for name, mask in masks:
        bit = catalogue.bit(name)
        if name in seen:
            raise InputError(f"ROI '{name}' is repeated")
        seen.append(name)
        if mask.shape != roi_bits.shape or mask.dtype != np.bool_:
            raise InputError(
                f"the mask of '{name}' is {mask.dtype} {mask.shape}, expected bool {roi_bits.shape}; "
                "threshold and resample it explicitly first"
            )
        if mask.any():
            add_mask(roi_bits, bit, mask)
        else:
            empty.append(name)
    return roi_bits, tuple(empty)


def clip_hu(ct_hu: NDArray[Any]) -> NDArray[np.int16]:
    """Round and clip CT values to the stored range of -1024 to 3071 HU (12 bits; metal and padding lie outside).

    Raises:
        InputError: If a value is NaN or infinite.
    """
    if not np.isfinite(ct_hu).all():
        raise InputError(f"the CT is NaN or infinite in {counted(np.count_nonzero(~np.isfinite(ct_hu)), 'voxel')}")
    clipped: NDArray[np.int16] = np.rint(np.clip(ct_hu, *CT_HU.possible)).astype(np.int16)
    return clipped
