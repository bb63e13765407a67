"""Dose influence by pyRadPlan: its SVD pencil beam on its generic linear accelerator of 6 MV."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid, Volume
from cdm_nnunet.images import itk_of_volume
from cdm_nnunet.planning.anatomy import Anatomy
from cdm_nnunet.planning.engine import Influence
from cdm_nnunet.planning.protocol import Beams

MACHINE = "Generic"
OUTSIDE_HU = -1000.0


class PyRadPlanEngine:
    """pyRadPlan as an engine."""

    @property
    def version(self) -> str:
        """Name and version."""
        return f"pyRadPlan {version('pyradplan')}, SVD pencil beam, photons {MACHINE}"

    def influence(self, anatomy: Anatomy, beams: Beams) -> Influence:
        """As :meth:`cdm_nnunet.planning.engine.Engine.influence`."""
        with _quietly():
            pyradplan = _modules()
            ct, structures = _patient(pyradplan, anatomy)
            plan = _plan(pyradplan, beams)
            rays = pyradplan.generate_stf(ct, structures, plan)
            found = pyradplan.calc_dose_influence(ct, structures, rays, plan)
        grid = _grid(found.dose_grid)
        matrix = sparse.csr_array(found.physical_dose.flat[0], dtype=np.float32)
        nodes = np.flatnonzero(np.diff(matrix.indptr))
        if not nodes.size:
            raise InputError("no beam reaches the body; is the CT in HU?")
        return Influence(_narrow(matrix[nodes]), grid, nodes)


@functools.cache
def _modules() -> Any:
    """Modules of pyRadPlan, set to calculate with NumPy whatever else is installed."""
    pyradplan = importlib.import_module("pyRadPlan")
    pyradplan.settings.xp.prefer_gpu = False
    pyradplan.settings.xp.preferred_cpu_array_backend = "numpy"
    logging.getLogger("pyRadPlan").setLevel(logging.ERROR)
    return pyradplan


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress pyRadPlan's internal warnings and progress bars."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _patient(pyradplan: Any, anatomy: Anatomy) -> tuple[Any, Any]:
    """CT and structures as pyRadPlan's objects."""
    cst = importlib.import_module("pyRadPlan.cst")
    ct = importlib.import_module("pyRadPlan.ct").create_ct(cube_hu=_image(anatomy, _ct_hu(anatomy)))
    parts = (("targets", "TARGET", anatomy.targets), ("body", "EXTERNAL", anatomy.body))
    regions = [
        cst.create_voi(name=name, ct_image=ct, mask=_image(anatomy, mask.astype(np.uint8)), voi_type=kind)
        for name, kind, mask in parts
    ]
    return ct, cst.create_cst(regions, ct=ct)


def _ct_hu(anatomy: Anatomy) -> NDArray[np.float32]:
    return np.where(anatomy.body, anatomy.ct_hu, OUTSIDE_HU).astype(np.float32)


def _image(anatomy: Anatomy, values: NDArray[Any]) -> Any:
    upright = Grid(anatomy.grid.shape, anatomy.grid.spacing_zyx_mm, anatomy.grid.origin_xyz_mm)
    return itk_of_volume(Volume(values, upright))


def _plan(pyradplan: Any, beams: Beams) -> Any:
    plan = pyradplan.PhotonPlan(machine=MACHINE)
    angles = np.asarray(beams.gantry_deg, np.float64)
    plan.prop_stf = {
        "gantry_angles": angles,
        "couch_angles": np.zeros_like(angles),
        "bixel_width": beams.bixel_mm,
    }
    plan.prop_dose_calc = {"dose_grid": {"resolution": dict.fromkeys("xyz", beams.dose_grid_mm)}}
    return plan


def _grid(grid: Any) -> Grid:
    x, y, z = (float(grid.resolution[axis]) for axis in "xyz")
    nx, ny, nz = (int(n) for n in grid.dimensions)
    return Grid((nz, ny, nx), (z, y, x), np.asarray(grid.origin, np.float64))


def _narrow(matrix: Any) -> Any:
    """The matrix with 32-bit indices, if they fit: half the memory to read."""
    if matrix.nnz < np.iinfo(np.int32).max:
        matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return matrix
