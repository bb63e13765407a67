"""Positions and sizes of the ROIs of a case, to compare patients."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.roi import Catalogue, mask_from_words

_COARSE_MM = 3.0  # voxels of about this size are fine enough for centres, sizes and distances
_FEW_VOXELS = 10
_Mm3 = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class CaseGeometry:
    """Geometry of a case.

    Attributes:
        sizes_mm: Extent (z, y, x) of each contoured ROI by name, and of the body by an empty name. The body is the
            external, else the dose region, else all ROIs together.
        offsets_mm: Distance of each ROI's centre from the body's centre, towards the patient's left.
        distances_mm: Distance of each ROI that is not a target to the nearest voxel of a target; 0 if they overlap.
        gaps_mm: Distances between the centres of two organs at risk, by their names joined with ``" | "``.
        beyond_mm: Extent of the body beyond the targets, towards the feet and towards the head.
        cut: ROIs that touch the first or last plane of the image.
        organs: The contoured organs at risk.
        hu: Median of the CT in each ROI, HU; without ROIs of only a few voxels.
        parts: Number of separate parts of the targets; parts that share only an edge or a corner are separate.
        contact: Share of the targets' surfaces at which one target borders on another.
    """

    sizes_mm: Mapping[str, _Mm3]
    offsets_mm: Mapping[str, float]
    distances_mm: Mapping[str, float]
    gaps_mm: Mapping[str, float]
    beyond_mm: tuple[float, float]
    cut: frozenset[str]
    organs: tuple[str, ...]
    hu: Mapping[str, float]
    parts: int
    contact: float

    @classmethod
    def measure(
        cls,
        ct_hu: NDArray[np.float32],
        words: NDArray[np.uint16],
        spacing_mm: Sequence[float],
        catalogue: Catalogue,
        contoured: Sequence[str],
    ) -> CaseGeometry:
        """Measure a case with at least one contoured target.

        Args:
            ct_hu: CT, shape (Z, Y, X), HU.
            words: ROI words, shape (L, Z, Y, X).
            spacing_mm: Voxel size (z, y, x).
            catalogue: Catalogue of the bits.
            contoured: ROIs that have voxels.
        """
        cut = {name for name in contoured if mask_from_words(words[:, [0, -1]], catalogue.bit(name)).any()}
        coarse, size_mm = _coarsened(words[(slice(None), *_box(words))], spacing_mm)
        kinds = {name: catalogue.rois[catalogue.bit(name)].kind for name in contoured}
        masks = {name: mask_from_words(coarse, catalogue.bit(name)) for name in contoured}
        places = {name: _Place.of(mask, size_mm) for name, mask in masks.items()}
        body = _Place.of(_body(masks, kinds, coarse), size_mm)
        of_targets = [mask for name, mask in masks.items() if kinds[name] == "target"]
        targets = np.logical_or.reduce(of_targets)
        others = [name for name in contoured if kinds[name] not in ("target", "external", "dose_region")]
        distance_mm = ndimage.distance_transform_edt(~targets, sampling=size_mm) if others else None
        target_ends = _Place.of(targets, size_mm).ends_z_mm
        organs = tuple(name for name in contoured if kinds[name] == "oar")
        return cls(
            sizes_mm={"": body.size_mm, **{name: place.size_mm for name, place in places.items()}},
            offsets_mm={name: place.centre_mm[2] - body.centre_mm[2] for name, place in places.items()},
            distances_mm={} if distance_mm is None else {one: float(distance_mm[masks[one]].min()) for one in others},
            gaps_mm={
                f"{one} | {other}": float(np.linalg.norm(np.subtract(places[one].centre_mm, places[other].centre_mm)))
                for one, other in itertools.combinations(organs, 2)
            },
            beyond_mm=(target_ends[0] - body.ends_z_mm[0], body.ends_z_mm[1] - target_ends[1]),
            cut=frozenset(cut),
            organs=organs,
            hu=_medians(ct_hu, words, spacing_mm, {name: catalogue.bit(name) for name in contoured}),
            parts=int(ndimage.label(targets)[1]),
            contact=_contact(of_targets, size_mm),
        )


@dataclass(frozen=True)
class _Place:
    """Position of a mask: centre of gravity, extent (z, y, x), and ends along z."""

    centre_mm: _Mm3
    size_mm: _Mm3
    ends_z_mm: tuple[float, float]

    @classmethod
    def of(cls, mask: NDArray[np.bool_], voxel_mm: _Mm3) -> _Place:
        centre, size, ends = [], [], []
        for axis, step_mm in enumerate(voxel_mm):
            counts = mask.sum(axis=tuple({0, 1, 2} - {axis}))
            held = np.flatnonzero(counts)
            centre.append(float(counts @ np.arange(counts.size) / counts.sum()) * step_mm)
            size.append(float(held[-1] - held[0] + 1) * step_mm)
            ends.append((float(held[0]) * step_mm, float(held[-1] + 1) * step_mm))
        return cls((centre[0], centre[1], centre[2]), (size[0], size[1], size[2]), ends[0])


def _box(words: NDArray[np.uint16]) -> tuple[slice, ...]:
    """Bounding box of all ROIs."""
    held = [np.flatnonzero(words.any(axis=tuple({0, 1, 2, 3} - {axis}))) for axis in (1, 2, 3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in held)


def _contact(masks: Sequence[NDArray[np.bool_]], voxel_mm: _Mm3) -> float:
    """Share (by area) of the targets' surface faces that have a target on each side.

    Example:
        >>> row = np.array([True, True, False, False]).reshape(1, 1, 4)
        >>> _contact([row, row[..., ::-1]], (1.0, 1.0, 1.0))  # 1 of 2 * 2 * 4 + 2 + 1 faces
        0.05263157894736842
    """
    member = np.pad(np.stack(masks), [(0, 0), (1, 1), (1, 1), (1, 1)])  # (T, Z + 2, Y + 2, X + 2)
    inside = between = 0.0
    for axis, area in enumerate((voxel_mm[1] * voxel_mm[2], voxel_mm[0] * voxel_mm[2], voxel_mm[0] * voxel_mm[1]), 1):
        one, other = np.delete(member, 0, axis), np.delete(member, -1, axis)
        faces = (one != other).any(0)
        between += area * float(np.count_nonzero(faces))
        inside += area * float(np.count_nonzero(faces & one.any(0) & other.any(0)))
    return inside / between


def _medians(
    ct_hu: NDArray[np.float32], words: NDArray[np.uint16], spacing_mm: Sequence[float], bits: Mapping[str, int]
) -> dict[str, float]:
    """Medians over a regular subset of voxels."""
    steps = tuple(slice(None, None, _step(mm)) for mm in spacing_mm)
    ct_hu, words = ct_hu[steps], words[(slice(None), *steps)]
    inside = {name: ct_hu[mask_from_words(words, bit)] for name, bit in bits.items()}
    return {name: float(np.median(values)) for name, values in inside.items() if values.size >= _FEW_VOXELS}


def _step(mm: float) -> int:
    return max(1, round(_COARSE_MM / mm))


def _coarsened(words: NDArray[np.uint16], spacing_mm: Sequence[float]) -> tuple[NDArray[np.uint16], _Mm3]:
    """Merge blocks of small voxels, so that a fine grid takes no longer; no ROI is lost."""
    sizes = []
    for axis, mm in enumerate(spacing_mm, 1):
        step = _step(mm)
        if step > 1:
            words = np.bitwise_or.reduceat(words, np.arange(0, words.shape[axis], step), axis=axis)
        sizes.append(float(mm) * step)
    return words, (sizes[0], sizes[1], sizes[2])


def _body(
    masks: Mapping[str, NDArray[np.bool_]], kinds: Mapping[str, str], words: NDArray[np.uint16]
) -> NDArray[np.bool_]:
    for kind in ("external", "dose_region"):
        for name, mask in masks.items():
            if kinds[name] == kind:
                return mask
    return np.asarray(words.any(0))
