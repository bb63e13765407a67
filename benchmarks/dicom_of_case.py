"""A converted case as DICOM files like a clinic's: CT with four times as many pixels, contours, plan, dose.

    python benchmarks/dicom_of_case.py nnUNet_raw/Dataset501_OpenKBP pt_201 FOLDER

CT, dose and masks are those of the case; positions are relative to the centre of its grid. Contours are drawn on the
pixels of the CT, with as many points as their shape needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dicom.phantom import Phantom, PhantomFiles, write_phantom
from cdm_nnunet.images import read_image
from cdm_nnunet.roi import mask_of

FACTOR = 4  # pixels of the CT per voxel of the case, in the plane
TOLERANCE_PIXELS = 0.2  # maximum distance of a simplified contour from the mask's edge
KINDS = {"target": "PTV", "external": "EXTERNAL", "dose_region": "EXTERNAL"}


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """A mask as a solid of a phantom, only with contours.

    Attributes:
        mask: (Z, Y, X).
        voxel_mm: Voxel size (z, y, x).
    """

    mask: NDArray[np.bool_]
    voxel_mm: tuple[float, float, float]

    @property
    def volume_cc(self) -> float:
        """Volume of the voxels."""
        return float(self.mask.sum() * np.prod(self.voxel_mm) / 1000)

    @property
    def extent_z_mm(self) -> tuple[float, float]:
        """Lowest and highest plane."""
        planes = np.flatnonzero(self.mask.any((1, 2)))
        return self._z_mm(int(planes[0])), self._z_mm(int(planes[-1]))

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """Contours of a plane, each (points, 2)."""
        plane = self.mask[round(z_mm / self.voxel_mm[0] + (len(self.mask) - 1) / 2)]
        if not plane.any():
            return []
        fine = ndimage.zoom(plane.astype(np.float32), FACTOR, order=1, mode="grid-constant", grid_mode=True)
        size_mm = self.voxel_mm[2] / FACTOR, self.voxel_mm[1] / FACTOR
        middle = (np.array(fine.shape[::-1]) - 1) / 2
        lines = (approximate_polygon(line, TOLERANCE_PIXELS) for line in find_contours(np.pad(fine, 1), 0.5))
        return [(line[:-1, ::-1] - 1 - middle) * size_mm for line in lines if len(line) > 3]

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Always False: the CT is not drawn from it."""
        return np.zeros(points_mm.shape[:-1], bool)

    def fraction_below(self, axis: int, at_mm: float) -> float:
        """Not known."""
        raise NotImplementedError

    def _z_mm(self, plane: int) -> float:
        return (plane - (len(self.mask) - 1) / 2) * self.voxel_mm[0]


@dataclass(frozen=True, eq=False)
class SampledDose:
    """A dose interpolated on a grid centred at the origin.

    Attributes:
        dose_gy: (Z, Y, X).
        voxel_mm: Voxel size (z, y, x).
    """

    dose_gy: NDArray[np.float32]
    voxel_mm: tuple[float, float, float]

    def __call__(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Dose at points (..., 3), Gy."""
        middle = (np.array(self.dose_gy.shape) - 1) / 2
        at = np.moveaxis(points_mm[..., ::-1] / self.voxel_mm + middle, -1, 0)
        values: NDArray[np.float64] = ndimage.map_coordinates(
            self.dose_gy, at, np.float64, order=1, mode="grid-constant"
        )
        return np.maximum(values, 0)


def write_dicom(raw: RawDataset, case: str, folder: Path) -> PhantomFiles:
    """Write a case of a data set as DICOM files.

    Args:
        raw: The data set.
        case: A case with a dose.
        folder: Output folder.
    """
    ct, bits = (read_image(raw.image_path(case, channel)) for channel in (0, 2))
    dose = read_image(raw.dose_path(case))
    z, y, x = ct.grid.spacing_zyx_mm
    voxel_mm = (round(z, 4), FACTOR * round(y / FACTOR, 4), FACTOR * round(x / FACTOR, 4))  # (exact as decimals)
    catalogue, levels = raw.catalogue, dict(raw.record(case).prescriptions_gy)
    masks = {name: mask_of(bits.values, catalogue.bit(name)) for name in catalogue.names}
    solids = {name: DrawnMask(mask, voxel_mm) for name, mask in masks.items() if mask.any()}
    n_planes, rows, columns = ct.values.shape
    files = write_phantom(
        Phantom(
            solids,
            SampledDose(dose.values, voxel_mm),
            slices_z_mm=tuple(voxel_mm[0] * (k - (n_planes - 1) / 2) for k in range(n_planes)),
            pixels=(FACTOR * rows, FACTOR * columns),
            pixel_mm=(voxel_mm[1] / FACTOR, voxel_mm[2] / FACTOR),
            dose_spacing_mm=voxel_mm[::-1],
            prescriptions_gy=levels,
            kinds={name: KINDS.get(catalogue.rois[catalogue.bit(name)].kind, "ORGAN") for name in solids},
        ),
        folder,
    )
    _draw_ct(dict(zip(files.ct, ct.values, strict=True)))
    return files


def _draw_ct(planes_hu: Mapping[Path, NDArray[np.generic]]) -> None:
    for path, plane in planes_hu.items():
        dataset = pydicom.dcmread(path)
        fine = ndimage.zoom(plane.astype(np.float32), FACTOR, order=1, mode="nearest", grid_mode=True)
        stored = np.rint(fine - float(dataset.RescaleIntercept)).clip(0, 4095).astype("<u2")
        dataset.PixelData = stored.tobytes()
        dataset.save_as(path, enforce_file_format=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("case")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write_dicom(RawDataset(args.dataset), args.case, args.folder)


if __name__ == "__main__":
    main()
