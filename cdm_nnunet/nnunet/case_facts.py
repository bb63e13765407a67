"""Summary numbers of a case: voxel size, CT inside the ROIs, volumes, prescriptions. Contradictions are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.case_geometry import CaseGeometry
from cdm_nnunet.nnunet.plans import CT, FIRST_WORD, PRESCRIPTION
from cdm_nnunet.nnunet.preprocessor import take_words
from cdm_nnunet.ranges import CT_HU, LOWEST_HU, PRESCRIPTION_GY, VOXEL_SIZE_MM
from cdm_nnunet.roi import WORD_BITS, Catalogue, mask_from_words

HU_PERCENTILES = (0.5, 50.0, 99.5)
_CT_SAMPLES = 1_000_000
_WORD_VALUES = 1 << WORD_BITS


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """Measurements of a case, the same for training and prediction.

    Attributes:
        spacing_mm: Voxel size (z, y, x).
        hu: Percentiles ``HU_PERCENTILES`` of the CT inside the ROIs.
        volumes_cc: Volume of each contoured ROI, by name.
        prescriptions_gy: Prescription of each contoured target that has one, by name.
        geometry: Positions and sizes of the ROIs.
    """

    spacing_mm: tuple[float, float, float]
    hu: tuple[float, float, float]
    volumes_cc: Mapping[str, float]
    prescriptions_gy: Mapping[str, float]
    geometry: CaseGeometry

    @classmethod
    def measure(cls, data: NDArray[np.float32], spacing_mm: Sequence[float], catalogue: Catalogue) -> CaseFacts:
        """Measure a case and refuse impossible values.

        Args:
            data: Result of :meth:`CDMReaderWriter.read_images`, (2 + L, Z, Y, X).
            spacing_mm: Voxel size (z, y, x).
            catalogue: Catalogue of the bits.

        Raises:
            InputError: If a voxel size, the CT or a prescription is impossible, no target has a prescription, the
                prescription map does not consist of the targets' levels, or the bits do not fit the catalogue.
        """
        z, y, x = (float(size) for size in spacing_mm)
        for size in (z, y, x):
            VOXEL_SIZE_MM.refuse_impossible(size)
        words = take_words(data[FIRST_WORD:], catalogue).astype(np.uint16)
        volumes_cc = _volumes_cc(words, z * y * x / 1000, catalogue)
        return cls(
            spacing_mm=(z, y, x),
            hu=_hu_inside(data[CT], words),
            volumes_cc=volumes_cc,
            prescriptions_gy=_prescriptions_gy(data[PRESCRIPTION], words, volumes_cc, catalogue),
            geometry=CaseGeometry.measure(data[CT], words, (z, y, x), catalogue, list(volumes_cc)),
        )


def _volumes_cc(words: NDArray[np.uint16], voxel_cc: float, catalogue: Catalogue) -> dict[str, float]:
    """Volumes of the contoured ROIs, from the frequency of each 16-bit word."""
    bits_of_value = (np.arange(_WORD_VALUES)[:, None] >> np.arange(WORD_BITS)) & 1  # (65536, 16)
    voxels = [np.bincount(word.ravel(), minlength=_WORD_VALUES) @ bits_of_value for word in words]
    counts = np.concatenate(voxels)[: len(catalogue)]
    return {name: float(n) * voxel_cc for name, n in zip(catalogue.names, counts, strict=True) if n}


def _hu_inside(ct_hu: NDArray[np.float32], words: NDArray[np.uint16]) -> tuple[float, float, float]:
    lowest, highest = float(ct_hu.min()), float(ct_hu.max())
    if not (CT_HU.is_possible(lowest) and CT_HU.is_possible(highest)):
        low, high = CT_HU.possible
        raise InputError(f"CT values from {lowest:g} to {highest:g} are not HU (expected {low:g} to {high:g})")
    if not LOWEST_HU.is_possible(lowest):
        raise InputError(f"the lowest CT value is {lowest:g} HU: no air anywhere; is the CT shifted, as HU + 1024?")
    inside = ct_hu[words.any(0)]
    if not inside.size:
        raise InputError("no voxel has an ROI")
    percentiles = np.percentile(inside[:: -(-inside.size // _CT_SAMPLES)], HU_PERCENTILES)
    low_hu, median_hu, high_hu = (float(value) for value in percentiles)
    return low_hu, median_hu, high_hu


def _prescriptions_gy(
    map_gy: NDArray[np.float32], words: NDArray[np.uint16], volumes_cc: Mapping[str, float], catalogue: Catalogue
) -> dict[str, float]:
    """Recover the targets' levels from a prescription map, which holds per voxel the highest level of its targets.

    If such levels exist, the lowest values in each target are one solution and reproduce the map.
    """
    targets = [bit for bit in catalogue.bits_of_kind("target") if catalogue.names[bit] in volumes_cc]
    where = map_gy != 0
    masks = {bit: mask_from_words(words, bit) for bit in targets}
    for mask in masks.values():
        where = where | mask
    values = map_gy[where]
    inside = {bit: mask[where] for bit, mask in masks.items()}
    levels = {bit: float(values[member].min()) for bit, member in inside.items()}
    rebuilt = np.zeros_like(values)
    for bit in targets:
        np.maximum(rebuilt, np.where(inside[bit], np.float32(levels[bit]), 0), out=rebuilt)
    _refuse_other_map(values, rebuilt, np.any([*inside.values()], 0) if inside else np.zeros(values.shape, bool))
    prescribed = {catalogue.names[bit]: level for bit, level in levels.items() if level > 0}
    if not prescribed:
        raise InputError("no contoured target has a prescription")
    for name, level_gy in prescribed.items():
        PRESCRIPTION_GY.refuse_impossible(level_gy, name)
    return prescribed


def _refuse_other_map(
    map_gy: NDArray[np.float32], rebuilt_gy: NDArray[np.float32], in_target: NDArray[np.bool_]
) -> None:
    outside = (map_gy != 0) & ~in_target
    if outside.any():
        raise InputError(
            f"{np.count_nonzero(outside)} voxels of the prescription map, up to {map_gy[outside].max():g} Gy, lie "
            "outside all targets: it belongs to other ROIs, or is a dose"
        )
    differing = map_gy != rebuilt_gy
    if differing.any():
        first = int(np.argmax(differing))
        raise InputError(
            f"the prescription map does not follow from one dose level per target: {np.count_nonzero(differing)} "
            f"voxels differ, such as {map_gy[first]:g} Gy where the voxel's targets have at most {rebuilt_gy[first]:g} "
            "Gy; it belongs to other ROIs, or is a dose"
        )
