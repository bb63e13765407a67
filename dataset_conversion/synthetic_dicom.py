"""Head-and-neck phantoms as DICOM files: the anatomy and the dose of ``synthetic.py``, with contours around masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from skimage.measure import find_contours

from cdm_nnunet.dicom.phantom import Phantom, PhantomFiles, write_phantom
from cdm_nnunet.errors import InputError

from .synthetic_anatomy import Anatomy, Canvas, Mask, make_anatomy
from .synthetic_plan import LEVELS_GY, make_dose, make_targets

_PIXELS, _PIXEL_MM = 96, 4.0
_SLICES_Z_MM = tuple(float(z) for z in np.arange(-96.0, 94.0, 3.0))
_CT_NOISE_HU = 8.0
_MOST_PATIENTS = 99


@dataclass(frozen=True)
class MaskSolid:
    """An ROI given by its voxels.

    Attributes:
        mask: Its voxels, shape (Z, Y, X).
        grid: Its grid, with the patient's axes.
    """

    mask: Mask
    grid: Canvas

    @property
    def volume_cc(self) -> float:
        """Volume in cc."""
        return float(self.mask.sum() * np.prod(self.grid.spacing_zyx_mm) / 1000)

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest z of its voxels' centres."""
        z_mm = self._z_mm()[self.mask.any((1, 2))]
        return float(z_mm.min()), float(z_mm.max())

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """Contours halfway between the centres of voxels inside and outside, each of shape (points, 2)."""
        plane = np.pad(self.mask[int(np.argmin(np.abs(self._z_mm() - z_mm)))], 1)
        spacing, origin = (np.array(values[1:]) for values in (self.grid.spacing_zyx_mm, self.grid.origin_zyx_mm))
        outlines = find_contours(plane.astype(np.float64), 0.5)
        return [((outline[:-1] - 1) * spacing + origin)[:, ::-1] for outline in outlines]

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie in the voxels."""
        return np.asarray(_sampled(self.grid, self.mask.astype(np.float64), 0.0)(points_mm) > 0.5)

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """Fraction of voxels with centres below."""
        centres = self.grid.origin_zyx_mm[2 - axis] + self.grid.spacing_zyx_mm[2 - axis] * np.arange(
            self.mask.shape[2 - axis]
        )
        counts = self.mask.sum(tuple(other for other in range(3) if other != 2 - axis))
        return float(counts[centres < at_mm].sum() / counts.sum())

    def _z_mm(self) -> NDArray[np.float64]:
        return np.asarray(self.grid.origin_zyx_mm[0] + self.grid.spacing_zyx_mm[0] * np.arange(self.mask.shape[0]))


def write_patients(folder: Path, n: int) -> list[PhantomFiles]:
    """Write head-and-neck phantoms, each into a folder ``patient_NNN``.

    Args:
        folder: New or empty.
        n: Number of phantoms, 1 to 99.

    Returns:
        The files of each phantom.

    Raises:
        InputError: If the number is out of range, or the folder is not empty.
    """
    if not 1 <= n <= _MOST_PATIENTS:
        raise InputError(f"{n} phantom patients; expected 1 to {_MOST_PATIENTS}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; name a new one with -o")
    return [write_phantom(head_neck_phantom(seed), folder / f"patient_{seed:03d}") for seed in range(n)]


def head_neck_phantom(seed: int = 0) -> Phantom:
    """A head-and-neck patient with body, targets and organs, determined by the seed."""
    rng = np.random.default_rng(1000 + seed)
    half_mm = _PIXEL_MM * (_PIXELS - 1) / 2
    shape = (len(_SLICES_Z_MM), _PIXELS, _PIXELS)
    grid = Canvas(shape, (3.0, _PIXEL_MM, _PIXEL_MM), np.array((-half_mm, -half_mm, _SLICES_Z_MM[0])))
    anatomy = make_anatomy(rng, grid)
    targets = make_targets(rng, anatomy)
    dose_gy, _ = make_dose(rng, anatomy, targets)
    ct_hu = anatomy.ct_hu + rng.normal(0, _CT_NOISE_HU, shape)
    return Phantom(
        _solids(anatomy, targets),
        _sampled(grid, dose_gy.astype(np.float64), 0.0),
        slices_z_mm=_SLICES_Z_MM,
        pixels=(_PIXELS, _PIXELS),
        pixel_mm=(_PIXEL_MM, _PIXEL_MM),
        dose_spacing_mm=(_PIXEL_MM, _PIXEL_MM, 3.0),
        prescriptions_gy={name: LEVELS_GY[name] for name in targets},
        kinds={"BODY": "EXTERNAL", **dict.fromkeys(targets, "PTV")},
        seed=1000 + seed,
        ct_hu=_sampled(grid, ct_hu, -1000.0),
    )


def _solids(anatomy: Anatomy, targets: dict[str, Mask]) -> dict[str, MaskSolid]:
    masks = {"BODY": anatomy.body, **targets, **anatomy.organs}
    return {name: MaskSolid(mask, anatomy.grid) for name, mask in masks.items() if mask.any()}


def _sampled(
    grid: Canvas, values: NDArray[np.float64], outside: float
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Linear interpolation of values on a grid, as a function of points (..., 3) in LPS mm."""
    axes = [
        origin + size * np.arange(n)
        for origin, size, n in zip(grid.origin_zyx_mm, grid.spacing_zyx_mm, values.shape, strict=True)
    ]
    interpolate = RegularGridInterpolator(axes, values, bounds_error=False, fill_value=outside)
    return lambda points_mm: np.asarray(interpolate(points_mm[..., ::-1]))
