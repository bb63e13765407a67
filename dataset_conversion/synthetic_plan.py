"""Targets and reference dose of the phantoms: a formula-based model of a head-and-neck VMAT plan.

The dose depends only on anatomy and targets, up to a normalisation that varies by half a percent, so a network can
learn it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .synthetic_anatomy import Anatomy, Canvas, Field, Mask

FRACTIONS = 35
LEVELS_GY: Mapping[str, float] = {"PTV_7000": 70.0, "PTV_6300": 63.0, "PTV_5600": 56.0}
_SKIN_CROP_MM = 4.0
_MARGIN_MM = 5.0
# Fraction of the dose that the optimiser removes from an organ outside targets.
_SPARING: Mapping[str, float] = {
    "SpinalCord": 0.36,
    "Brainstem": 0.30,
    "Parotid_L": 0.28,
    "Parotid_R": 0.28,
    "Larynx": 0.15,
    "Esophagus": 0.15,
    "Bone_Mandible": 0.08,
}
# Primary sites: distance from the midline, in front of the spine, level (mm), and radii (x, y, z).
_SITES: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((20, 24, 18), (22, 24, 26)),  # oropharynx
    ((22, 45, 20), (23, 26, 21)),  # base of tongue
    ((5, 32, -26), (22, 22, 24)),  # larynx
    ((8, 18, 56), (26, 19, 19)),  # nasopharynx
)


def make_targets(rng: np.random.Generator, anatomy: Anatomy) -> dict[str, Mask]:
    """Draw disjoint targets: the tumour with nodes at 70 Gy, and electively treated neck around it."""
    grid = anatomy.grid
    allowed = anatomy.body & (anatomy.depth_mm > _SKIN_CROP_MM)
    side = int(rng.choice((-1, 1)))
    gross = _tumour(rng, anatomy, side)
    for _ in range(int(rng.integers(1, 4))):
        gross |= _node(rng, anatomy, side)
    ptv_high = grid.grown(gross, _MARGIN_MM) & allowed
    targets = {"PTV_7000": ptv_high}
    necks = {s: _neck(rng, anatomy, s) for s in (side, -side)}
    taken = ptv_high
    if rng.random() < 0.55:
        z = grid.coordinates()[0]
        upper_neck = necks[side] & (np.abs(z - 5) < 30)
        targets["PTV_6300"] = (grid.grown(ptv_high, 8) | upper_neck) & allowed & ~taken & ~anatomy.airway
        taken = taken | targets["PTV_6300"]
    if rng.random() < 0.92:
        both = necks[side] | necks[-side] if rng.random() < 0.85 else necks[side]
        targets["PTV_5600"] = (both | grid.grown(ptv_high, 6)) & allowed & ~taken & ~anatomy.airway
    return targets


def make_dose(
    rng: np.random.Generator, anatomy: Anatomy, targets: Mapping[str, Mask]
) -> tuple[NDArray[np.float32], Mask]:
    """The reference dose in Gy, and the region outside which it is zero, each of shape (Z, Y, X)."""
    grid = anatomy.grid
    union = np.logical_or.reduce(list(targets.values()))
    # Steep gradient close to each target, low-dose bath of the coplanar arcs further away.
    # (lower levels get 3 % more, because the final normalisation is to the highest)
    raised = {name: level if name == "PTV_7000" else 1.03 * level for name, level in LEVELS_GY.items()}
    fields = [_falloff(grid, target) * raised[name] for name, target in targets.items()]
    dose = np.power(np.sum([level**14 for level in fields], axis=0), 1 / 14)
    inside = np.minimum(grid.depth_mm(union), 8) / 8
    dose *= 1 + 0.025 * inside + _tissue_deviation(anatomy) * np.minimum(anatomy.depth_mm, 20) / 20
    dose *= _arc_ripple(grid, targets["PTV_7000"])

    in_target = grid.blur(union, 2.5)
    for name, fraction in _SPARING.items():
        margin = 4.0 if name in ("SpinalCord", "Brainstem") else 0.0
        organ = grid.blur(grid.grown(anatomy.organs[name], margin), 3.5)
        dose *= 1 - fraction * organ * (1 - in_target)
    dose = grid.blur(dose, 2.2)
    dose *= 1 - 0.45 * np.exp(-anatomy.depth_mm / 3.0)  # build-up below the skin

    high = targets["PTV_7000"]
    coverage = float(np.clip(1.005 - 1.3 * (anatomy.depth_mm[high] < 9).mean(), 0.985, 1.005))
    dose *= 70.0 * 1.028 * coverage * rng.normal(1, 0.004) / np.median(dose[high])
    z = grid.coordinates()[0]
    levels = z[np.any(union, axis=(1, 2))]
    region: Mask = anatomy.body & (z > levels.min() - 42) & (z < levels.max() + 42)
    return np.where(region, dose, 0).astype(np.float32), region


def _tumour(rng: np.random.Generator, anatomy: Anatomy, side: int) -> Mask:
    """An irregular primary: an ellipsoid whose radius varies with direction."""
    (off_midline, in_front, level), radii = _SITES[int(rng.choice(len(_SITES), p=(0.4, 0.2, 0.25, 0.15)))]
    z, y, x = anatomy.grid.coordinates()
    level += rng.normal(0, 4)
    front = float(np.interp(level, z[:, 0, 0], anatomy.spine_y_mm[:, 0, 0])) - in_front
    rx, ry, rz = rng.normal(1, 0.15, 3).clip(0.7, 1.3) * radii
    u, v, w = (x - side * off_midline) / rx, (y - front) / ry, (z - level) / rz
    phases = rng.uniform(0, 2 * np.pi, 3)
    bumps = 0.16 * np.sin(3 * u + phases[0]) + 0.16 * np.sin(3 * v + phases[1]) + 0.16 * np.sin(3 * w + phases[2])
    tumour: Mask = (np.sqrt(u**2 + v**2 + w**2) < 1 + bumps) & anatomy.body
    return tumour


def _node(rng: np.random.Generator, anatomy: Anatomy, side: int) -> Mask:
    """An involved lymph node next to the large vessels, level II to III."""
    z = anatomy.grid.coordinates()[0]
    level = rng.uniform(-30, 38)
    y = float(np.interp(level, z[:, 0, 0], anatomy.spine_y_mm[:, 0, 0])) - 2 + rng.normal(0, 4)
    return anatomy.grid.ellipsoid((side * (38 + rng.normal(0, 3)), y, level), rng.uniform((9, 9, 11), (14, 16, 20)))


def _neck(rng: np.random.Generator, anatomy: Anatomy, side: int) -> Mask:
    """The elective volume of one side, level II to IV: a tube that runs inwards to the clavicle."""
    grid = anatomy.grid
    z = grid.coordinates()[0]
    centre_x = side * (37 + 0.07 * z + rng.normal(0, 1.5))
    top, bottom = 44 + rng.normal(0, 5), -66 + rng.normal(0, 6)
    return grid.tube((bottom, top), centre_x, anatomy.spine_y_mm + 1, (17 + rng.normal(0, 1), 23 + rng.normal(0, 1.5)))


def _falloff(grid: Canvas, target: Mask) -> Field:
    """Relative dose around a target by distance: about 1 Gy/mm to 3 Gy/mm at its edge, faster along z further out."""
    near_mm, far_mm = grid.depth_mm(~target), grid.depth_mm(~target, z_weight=2.0)
    return 0.40 * np.exp(-((near_mm / 13.0) ** 1.6)) + 0.60 * np.exp(-far_mm / 48.0)


def _tissue_deviation(anatomy: Anatomy) -> Field:
    """Relative dose change by the density around: less scatter next to air, slightly more behind soft tissue."""
    density = 1 + np.clip(anatomy.ct_hu, -1000, 600) / 1000
    near, wide = anatomy.grid.blur(density, 7), anatomy.grid.blur(density, 22)
    deviation: Field = 0.11 * (near - wide)
    return deviation


def _arc_ripple(grid: Canvas, target: Mask) -> Field:
    """The faint star pattern of an arc's control points outside the target."""
    z, y, x = grid.coordinates()
    weights = target / target.sum()
    centre_y, centre_x = float((weights * y).sum()), float((weights * x).sum())
    radius = np.hypot(y - centre_y, x - centre_x) + 0 * z
    angle = np.arctan2(y - centre_y, x - centre_x)
    ripple: Field = 1 + 0.05 * np.cos(11 * angle) * np.clip((radius - 40) / 60, 0, 1)
    return ripple
