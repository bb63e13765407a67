"""Anatomy of the head-and-neck phantoms: outline, CT and organs, by formulas in patient coordinates (mm).

Coordinates: x to the patient's left, y to the back, z to the head; the origin is in front of the spine at the level of
the hyoid bone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.grid import Grid

Mask = NDArray[np.bool_]
Field = NDArray[np.float64]

AIR_HU, FAT_HU, SOFT_HU, BRAIN_HU, GLAND_HU, BONE_HU, TOOTH_HU, LUNG_HU = -1000, -90, 45, 35, 5, 750, 1600, -780

# Half width, half depth and centre (front to back) of the outline by level: shoulders, neck, jaw, skull.
_OUTLINE_Z_MM = (-125, -95, -72, -52, -25, 0, 18, 38, 65, 110)
_HALF_WIDTH_MM = (205, 185, 125, 76, 59, 60, 65, 72, 76, 74)
_HALF_DEPTH_MM = (92, 86, 74, 64, 58, 62, 80, 92, 96, 95)
_CENTRE_Y_MM = (8, 8, 9, 9, 8, 4, -8, -12, -8, -4)
_SQUARENESS = (2.8, 2.8, 2.6, 2.2, 2.0, 2.0, 2.1, 2.1, 2.0, 2.0)


class Canvas(Grid):
    """A grid along the patient's axes, with shapes to draw on it."""

    def coordinates(self) -> tuple[Field, Field, Field]:
        """Coordinates z (Z, 1, 1), y (1, Y, 1) and x (1, 1, X) in mm."""
        z, y, x = (
            origin + size * np.arange(n, dtype=np.float64)
            for origin, size, n in zip(self.origin_zyx_mm, self.spacing_zyx_mm, self.shape, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def ellipsoid(self, centre_xyz_mm: Sequence[float], radii_xyz_mm: Sequence[float] | Field) -> Mask:
        """Voxels inside an ellipsoid with its axes along the grid's, shape (Z, Y, X)."""
        z, y, x = self.coordinates()
        (cx, cy, cz), (rx, ry, rz) = centre_xyz_mm, radii_xyz_mm
        inside: Mask = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 <= 1
        return inside

    def tube(self, z_range_mm: tuple[float, float], cx: Field, cy: Field, radii_xy_mm: tuple[float, float]) -> Mask:
        """Voxels inside an elliptic tube along z with its centre given by level, shape (Z, Y, X)."""
        z, y, x = self.coordinates()
        section = ((x - cx) / radii_xy_mm[0]) ** 2 + ((y - cy) / radii_xy_mm[1]) ** 2 <= 1
        inside: Mask = section & (z >= z_range_mm[0]) & (z <= z_range_mm[1])
        return inside

    def depth_mm(self, mask: Mask, z_weight: float = 1.0) -> Field:
        """Distance to the nearest voxel outside, 0 outside; distances along z count ``z_weight`` times."""
        dz, dy, dx = self.spacing_zyx_mm
        depth = np.zeros(self.shape)
        box = self._box(mask, (1, 1, 1))
        depth[box] = ndimage.distance_transform_edt(mask[box], sampling=(dz * z_weight, dy, dx))
        return depth

    def grown(self, mask: Mask, margin_mm: float) -> Mask:
        """The mask with a margin in 3D."""
        if margin_mm <= 0:
            return mask
        grown = np.zeros_like(mask)
        box = self._box(mask, [math.ceil(margin_mm / size) + 1 for size in self.spacing_zyx_mm])
        grown[box] = ndimage.distance_transform_edt(~mask[box], sampling=self.spacing_zyx_mm) <= margin_mm
        return grown

    def _box(self, mask: Mask, around: Sequence[int]) -> tuple[slice, ...]:
        """The part of the grid that holds a mask and some voxels around it; distances outside need not be computed."""
        found = ndimage.find_objects(mask.astype(np.uint8))
        if not found:
            return tuple(map(slice, self.shape))
        return tuple(slice(max(s.start - n, 0), s.stop + n) for s, n in zip(found[0], around, strict=True))

    def blur(self, volume: NDArray[np.generic], sigma_mm: float) -> Field:
        """Gaussian blur."""
        sigmas = [sigma_mm / size for size in self.spacing_zyx_mm]
        blurred: Field = ndimage.gaussian_filter(volume.astype(np.float64), sigmas, mode="nearest")
        return blurred


@dataclass(frozen=True)
class Anatomy:
    """A phantom without targets.

    Attributes:
        grid: Its grid.
        body: Mask of the body.
        ct_hu: CT without noise.
        organs: Masks by TG-263 name.
        spine_y_mm: Front edge of the spine by level, shape (Z, 1, 1).
        airway: Air-filled throat and windpipe.
        depth_mm: Distance to the skin, 0 outside.
    """

    grid: Canvas
    body: Mask
    ct_hu: Field
    organs: dict[str, Mask] = field(repr=False)
    spine_y_mm: Field
    airway: Mask
    depth_mm: Field = field(repr=False)


def make_anatomy(rng: np.random.Generator, grid: Canvas) -> Anatomy:
    """Draw a patient: sizes vary by about 5 %, positions by a few mm."""
    z, y, _ = grid.coordinates()
    width, depth = rng.normal(1.0, 0.05, 2).clip(0.9, 1.1)
    spine_y = 14 + 7 * np.cos((z - rng.normal(0, 6)) / 55) - 0.06 * z  # the neck's lordosis
    body = _outline(grid, width, depth)
    inner = grid.depth_mm(body)
    ct_hu = np.where(body, np.where(inner < 5, FAT_HU, SOFT_HU), AIR_HU).astype(np.float64)

    skull = _skull(grid, body, inner)
    ct_hu[skull["brain"]] = BRAIN_HU
    ct_hu[skull["bone"]] = BONE_HU
    canal_y = spine_y + 25
    lung = np.zeros_like(body)
    for side in (-1, 1):
        lung |= grid.ellipsoid((side * 54 * width, 20, -126), (33, 42, 40))
    ct_hu[lung & body] = LUNG_HU
    _draw_bones(grid, ct_hu, body, spine_y, width)

    airway_y = spine_y - 14
    no_shift = np.zeros_like(z)
    throat = grid.tube((-12, 72), no_shift, airway_y, (11 * width, 7))
    windpipe_y = spine_y - 30
    windpipe = grid.tube((-200, -8), no_shift, windpipe_y, (8.5, 8.5))
    nose = grid.ellipsoid((0, -70 * depth, 68), (12, 30, 14))
    sinuses = [grid.ellipsoid((side * 27 * width, -62 * depth, 66), (12, 14, 14)) for side in (-1, 1)]
    airway = (throat | windpipe) & body
    for cavity in (airway, nose & body & (inner > 8), sinuses[0] & (inner > 8), sinuses[1] & (inner > 8)):
        ct_hu[cavity] = AIR_HU

    jaw = _mandible(grid, width, depth) & (inner > 3)
    ct_hu[jaw] = BONE_HU + 150
    teeth = _mandible(grid, width * 0.94, depth * 0.97) & (z > 24) & (z < 42) & (y < -45 * depth) & (inner > 6)
    ct_hu[teeth] = TOOTH_HU

    top_of_cord = 58 + rng.normal(0, 3)
    brainstem_y = float(spine_y[-1, 0, 0]) + 24
    organs = {
        "Brainstem": grid.ellipsoid((0, brainstem_y, top_of_cord + 18), (14, 13, 22)) & (z > top_of_cord),
        "SpinalCord": grid.tube((-200, top_of_cord), no_shift, canal_y, (5.5, 5.0)),
        "Bone_Mandible": jaw,
        "Larynx": grid.ellipsoid((0, float(np.median(windpipe_y)) - 2, -27 + rng.normal(0, 3)), (19, 20, 19)),
        "Esophagus": grid.tube((-200, -40), no_shift - 3, spine_y - 11, (9, 7)),
    }
    for side, name in ((1, "Parotid_L"), (-1, "Parotid_R")):
        centre = (side * 59 * width, 4 + rng.normal(0, 2), 42 + rng.normal(0, 3))
        gland = grid.ellipsoid(centre, rng.normal(1, 0.1, 3).clip(0.8, 1.2) * (12, 19, 24))
        organs[name] = gland & (inner > 4) & ~jaw
    for name, hu in (("Parotid_L", GLAND_HU), ("Parotid_R", GLAND_HU), ("Esophagus", 25), ("SpinalCord", BRAIN_HU)):
        ct_hu[organs[name] & body] = hu
    ct_hu[organs["Larynx"] & ~airway & (grid.depth_mm(organs["Larynx"]) < 4)] = 160  # cartilage
    return Anatomy(grid, body, ct_hu, {name: mask & body for name, mask in organs.items()}, spine_y, airway, inner)


def _outline(grid: Canvas, width: float, depth: float) -> Mask:
    """Mask of the body: a superellipse at each level, with a nose."""
    z, y, x = grid.coordinates()
    half_width, half_depth, centre, power = (
        np.interp(z, _OUTLINE_Z_MM, values) for values in (_HALF_WIDTH_MM, _HALF_DEPTH_MM, _CENTRE_Y_MM, _SQUARENESS)
    )
    body = np.abs(x / (half_width * width)) ** power + np.abs((y - centre) / (half_depth * depth)) ** power <= 1
    nose = grid.ellipsoid((0, -101 * depth, 64), (13, 20, 17))
    inside: Mask = body | nose
    return inside


def _skull(grid: Canvas, body: Mask, inner_mm: Field) -> dict[str, Mask]:
    """Skull and brain, above a plane that rises to the front."""
    z, y, _ = grid.coordinates()
    above = z > 66 - 0.28 * y - 5
    bone = body & above & (inner_mm > 6) & (inner_mm <= 13)
    base = body & (np.abs(z - (63 - 0.28 * y)) < 2.5) & (inner_mm > 6) & (y > -45)
    brain = body & above & (inner_mm > 13) & (y > -60)
    return {"bone": bone | base, "brain": brain}


def _draw_bones(grid: Canvas, ct_hu: Field, body: Mask, spine_y: Field, width: float) -> None:
    """Spine with discs, arches and canal; shoulder bones."""
    z, _, x = grid.coordinates()
    no_shift = np.zeros_like(z)
    column = grid.tube((-200, 62), no_shift, spine_y + 9, (12.5 * width, 9.5))
    ct_hu[column & body] = 320
    disc = column & (np.mod(z, 18.0) < 4)
    ct_hu[disc & body] = 80
    arch = grid.tube((-200, 60), no_shift, spine_y + 25, (14.5, 11.5)) | (
        grid.tube((-200, 55), no_shift, spine_y + 42, (3.5, 9)) & (np.mod(z + 6, 18.0) < 9)
    )
    ct_hu[arch & body] = 450
    ct_hu[grid.tube((-200, 62), no_shift, spine_y + 25, (9.5, 7.5)) & body] = 20
    for side in (-1, 1):
        reach = np.clip((np.abs(x) - 25 * width) / (120 * width), 0, 1)
        collar_bone = (np.sign(x) == side) & (np.abs(x) > 25 * width) & (np.abs(x) < 150 * width)
        y = grid.coordinates()[1]
        rod = collar_bone & ((y + 38 - 45 * reach) ** 2 + (z + 88 - 8 * reach) ** 2 < 7**2)
        head = grid.ellipsoid((side * 158 * width, 18, -105), (22, 22, 24))
        ct_hu[(rod | head) & body] = 420


def _mandible(grid: Canvas, width: float, depth: float) -> Mask:
    """A horseshoe with two rami."""
    z, y, x = grid.coordinates()
    half = 46.0 * width
    arch_y = -80 * depth + 66 * np.clip(np.abs(x) / half, 0, 1) ** 2.2
    slope = 66 * 2.2 / half * np.clip(np.abs(x) / half, 0, 1) ** 1.2
    rise = 0.10 * (y + 80)  # the jaw's lower edge rises to the back
    bow = (np.abs(y - arch_y) < 5.5 * np.sqrt(1 + slope**2)) & (np.abs(x) < half + 3) & (y < -20)
    horseshoe: Mask = bow & (z > 8 + rise) & (z < 30 + rise)
    for side in (-1, 1):
        horseshoe |= grid.ellipsoid((side * (half + 3), -16, 40), (5, 14, 28))
    return horseshoe
