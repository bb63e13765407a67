"""A dose engine of parallel beams, which takes milliseconds, and phantoms to plan with it."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.planning.engine import Influence
from cdm_nnunet.planning.protocol import Protocol

LIMITS = [{"roi": "SpinalCord", "upper_gy": 30, "weight": 5}]
BEAMS = {"gantry_deg": [0, 72, 144, 216, 288], "bixel_mm": 10, "dose_grid_mm": 8}
OPTIMISER = {"iterations": 150, "tolerance": 1e-4, "far_mm": 20}


@dataclass(frozen=True)
class ParallelBeams:
    """Beams without divergence or scatter: a Gaussian across, and an exponential along from the middle of the body."""

    version: str = "parallel beams 1"
    strength: float = 1.0

    def influence(self, anatomy, beams):
        grid = _nodes(anatomy.grid, beams.dose_grid_mm)
        points = np.stack([part.ravel() for part in np.meshgrid(*_axes(grid)[::-1], indexing="ij")])  # z, y, x
        nodes = np.flatnonzero(_nearest(anatomy, points))
        points, targets = points[:, nodes], _places(anatomy.grid, anatomy.targets)
        columns = [
            column for angle in beams.gantry_deg for column in _beam(points, targets, np.deg2rad(angle), beams.bixel_mm)
        ]
        matrix = sparse.csr_array(self.strength * np.stack(columns, axis=1).astype(np.float32))
        return Influence(matrix, grid, nodes)


def _nodes(grid, step_mm):
    shape = tuple(int(mm[-1] // step_mm) + 1 for mm in grid.offsets_xyz_mm[::-1])
    return Grid(shape, (step_mm,) * 3, grid.origin_xyz_mm)


def _axes(grid):
    return [origin + mm for origin, mm in zip(grid.origin_xyz_mm, grid.offsets_xyz_mm, strict=True)]


def _nearest(anatomy, points):
    index = [
        np.clip(np.rint((at - low) / step).astype(int), 0, n - 1)
        for at, low, step, n in zip(
            points, anatomy.grid.origin_zyx_mm, anatomy.grid.spacing_zyx_mm, anatomy.grid.shape, strict=True
        )
    ]
    return anatomy.body[tuple(index)]


def _places(grid, mask):
    x, y, z = _axes(grid)
    at = np.nonzero(mask)
    return np.stack([z[at[0]], y[at[1]], x[at[2]]])


def _beam(points, targets, angle, bixel_mm):
    def seen(at):
        across = np.cos(angle) * at[2] + np.sin(angle) * at[1]
        return across, at[0], np.cos(angle) * at[1] - np.sin(angle) * at[2]

    across, along_z, depth = seen(points)
    ends = [(axis.min() - bixel_mm, axis.max() + bixel_mm) for axis in seen(targets)[:2]]
    for u in np.arange(*ends[0], bixel_mm):
        for v in np.arange(*ends[1], bixel_mm):
            profile = np.exp(-((across - u) ** 2 + (along_z - v) ** 2) / (2 * (0.6 * bixel_mm) ** 2))
            yield np.where(profile > 0.01, profile * np.exp(-0.004 * depth), 0)


@pytest.fixture(scope="session")
def engine():
    return ParallelBeams()


@pytest.fixture(scope="session")
def protocol():
    """The shipped protocol, of fewer beams and coarser."""
    shipped = Protocol.load("openkbp_hn").model_dump(mode="json")
    return Protocol.model_validate_json(
        json.dumps(shipped | {"name": "small", "beams": BEAMS, "optimiser": OPTIMISER, "limits": LIMITS})
    )


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A raw data set of four phantoms, one of them for testing."""
    raw = tmp_path_factory.mktemp("raw")
    convert(find_synthetic(3, 1, coarseness=2.2), DatasetPlace(raw, 501, "Phantoms"))
    return RawDataset(raw / "Dataset501_Phantoms")


@pytest.fixture
def raw_folder(phantoms, tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders, with the phantoms in that of raw data."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    (folders["nnUNet_raw"] / phantoms.folder.name).symlink_to(phantoms.folder)
    return folders["nnUNet_raw"]


@pytest.fixture
def as_default(engine, monkeypatch):
    """The fake engine in the place of the extra's."""
    for module in ("planned_cases", "mimic_cases"):
        monkeypatch.setattr(f"cdm_nnunet.planning.{module}.default_engine", functools.partial(lambda one: one, engine))
