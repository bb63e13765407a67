"""Phantom patients for demonstration and tests: similar to head-and-neck plans, without patient data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import Split
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError

from .case import Case, clip_hu, pack_masks
from .conversion import FoundPatients
from .raw_layout import template_catalogue
from .synthetic_anatomy import Canvas, make_anatomy
from .synthetic_plan import FRACTIONS, LEVELS_GY, make_dose, make_targets

# Fraction of the patients in which an organ was not contoured.
_NOT_CONTOURED = {"Esophagus": 0.3, "Larynx": 0.25, "Bone_Mandible": 0.2, "Brainstem": 0.06}
_CT_NOISE_HU = 8.0


def synthetic_patient(seed: int, *, name: str | None = None, split: Split = "Tr", coarseness: float = 1.0) -> Case:
    """A head-and-neck phantom, determined by its seed.

    Args:
        seed: Number from 0.
        name: Name of the case; default ``phantom_SEED``.
        split: For training or testing.
        coarseness: Factor on the voxel size, for quick tests; 1 gives 72 x 72 x 48 to 96 x 96 x 64 voxels.

    Returns:
        The case, with the ROIs of the template ``openkbp`` and their disjoint targets.

    Raises:
        InputError: If the seed is negative, or the voxels become too coarse.
    """
    if seed < 0:
        raise InputError(f"a seed is a number from 0, not {seed}")
    rng = np.random.default_rng(seed)
    grid = _draw_grid(rng, coarseness)
    anatomy = make_anatomy(rng, grid)
    targets = make_targets(rng, anatomy)
    dose_gy, region = make_dose(rng, anatomy, targets)
    organs = {roi: mask for roi, mask in anatomy.organs.items() if rng.random() >= _NOT_CONTOURED.get(roi, 0.0)}

    def masks() -> Iterator[tuple[str, NDArray[np.bool_]]]:
        yield from targets.items()
        yield from organs.items()
        yield "DoseRegion", region

    catalogue = template_catalogue(Template.load("openkbp"))
    roi_bits, empty = pack_masks(catalogue, masks(), grid.shape)
    return Case(
        name=name or f"phantom_{seed:03d}",
        split=split,
        ct_hu=clip_hu(anatomy.ct_hu + rng.normal(0, _CT_NOISE_HU, grid.shape)),
        roi_bits=roi_bits,
        catalogue=catalogue,
        dose_gy=dose_gy,
        prescriptions_gy={roi: LEVELS_GY[roi] for roi in targets if roi not in empty},
        grid=grid,
        source={"synthetic": f"seed {seed}"},
        empty_rois=empty,
        fractions=FRACTIONS,
    )


def _draw_grid(rng: np.random.Generator, coarseness: float) -> Canvas:
    """A grid from the shoulders to the skull base, shifted by a few mm."""
    in_plane, slices = rng.uniform(3.6, 4.5) * coarseness, rng.uniform(2.7, 3.5) * coarseness
    n_plane = int(np.clip(rng.integers(330, 390) / in_plane, 72 / coarseness, 96 / coarseness))
    n_slices = int(np.clip(rng.integers(175, 200) / slices, 48 / coarseness, 64 / coarseness))
    centre_z, centre_y, centre_x = rng.normal((-2, 0, 0), 4)
    return Canvas(
        (n_slices, n_plane, n_plane),
        (slices, in_plane, in_plane),
        np.array(
            (
                centre_x - in_plane * (n_plane - 1) / 2,
                centre_y - in_plane * (n_plane - 1) / 2,
                centre_z - slices * (n_slices - 1) / 2,
            )
        ),
    )


@dataclass(frozen=True)
class SyntheticSource:
    """A phantom that is made on demand.

    Attributes:
        seed: Its seed.
        name: Name of the case.
        split: For training or testing.
        coarseness: Factor on the voxel size.
    """

    seed: int
    name: str
    split: Split
    coarseness: float = 1.0

    def checksums(self) -> dict[str, str]:
        """Seed and coarseness, which determine the phantom."""
        return {"seed": str(self.seed), "coarseness": str(self.coarseness)}

    def load(self) -> Case:
        """Make the phantom."""
        return synthetic_patient(self.seed, name=self.name, split=self.split, coarseness=self.coarseness)


def find_synthetic(
    n_training: int, n_test: int = 0, *, seed: int = 0, coarseness: float = 1.0
) -> FoundPatients[SyntheticSource]:
    """Phantom patients, for conversion.

    Args:
        n_training: Patients for training, at least 2.
        n_test: Patients for testing, also with a reference dose.
        seed: Seed of the patients, below 1,000,000.
        coarseness: Factor on the voxel size, for quick tests.

    Raises:
        InputError: If a number is out of range.
    """
    if n_training < 2 or n_test < 0 or n_training + n_test > 999:
        raise InputError(f"{n_training} training and {n_test} test phantoms; expected 2 or more, 0 or more, 999 in all")
    if not 0 <= seed < 1_000_000:
        raise InputError(f"a seed is a number from 0 to 999999, not {seed}")
    sources = [
        SyntheticSource(1000 * seed + k, f"phantom_{k:03d}", "Tr" if k <= n_training else "Ts", coarseness)
        for k in range(1, n_training + n_test + 1)
    ]
    description = "Synthetic head-and-neck phantoms; no patient data, not for any clinical conclusion"
    return FoundPatients("synthetic", f"{len(sources)} phantoms", description, Template.load("openkbp"), sources)
