"""Dose at the voxels of a patient from the dose at the nodes of a dose grid, as a sparse matrix."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.planning.engine import Influence

Indices = NDArray[np.int64]


def sampling_matrix(influence: Influence, grid: Grid, voxels: Indices) -> Any:
    """Trilinear interpolation between the nodes that have a dose.

    At the skin some corners of a cell lie in air and have no dose. They are ignored and the others share their weight,
    so that air does not lower the dose of a voxel inside the body.

    Args:
        influence: Influence; its nodes are those with a dose.
        grid: The patient's grid, upright.
        voxels: The voxels, in the order of memory, shape (n,).

    Returns:
        CSR, float32, shape (n, nodes); the row of a voxel without such a node nearby is empty.
    """
    at = [_cells(influence.grid, grid, axis, index) for axis, index in _indices(grid, voxels)]
    row_of = np.full(int(np.prod(influence.grid.shape)), -1, np.int64)
    row_of[influence.nodes] = np.arange(influence.nodes.size)
    parts = [_corner(influence.grid, at, row_of, corner) for corner in itertools.product((0, 1), repeat=3)]
    rows, columns, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    total = np.bincount(rows, weights, voxels.size)
    weights = (weights / total[rows]).astype(np.float32)
    return sparse.csr_array((weights, (rows, columns)), shape=(voxels.size, influence.nodes.size))


def _indices(grid: Grid, voxels: Indices) -> list[tuple[int, Indices]]:
    """Axis (0 for x) and index along it, for z, y and x."""
    return list(zip((2, 1, 0), np.unravel_index(voxels, grid.shape), strict=True))


def _cells(nodes: Grid, grid: Grid, axis: int, index: Indices) -> tuple[Indices, NDArray[np.float64]]:
    """The lower node along an axis, and the fraction of a voxel's position beyond it, from 0 to 1."""
    place_mm = grid.origin_xyz_mm[axis] + grid.offsets_xyz_mm[axis][index] - nodes.origin_xyz_mm[axis]
    place = place_mm / nodes.spacing_xyz_mm[axis]
    low = np.floor(place + 1e-6).astype(np.int64)
    return low, np.clip(place - low, 0, 1)


def _corner(
    nodes: Grid, at: list[tuple[Indices, NDArray[np.float64]]], row_of: Indices, corner: tuple[int, ...]
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Voxels to which a corner of their cell contributes, its row in the matrix, and its weight."""
    weight = np.ones(at[0][0].size)
    inside = np.ones(at[0][0].size, bool)
    place = np.zeros(at[0][0].size, np.int64)
    for (low, beyond), up, n in zip(at, corner, nodes.shape, strict=True):
        index = low + up
        inside &= (index >= 0) & (index < n)
        place = place * n + np.clip(index, 0, n - 1)
        weight *= beyond if up else 1 - beyond
    counts = np.flatnonzero(inside & (weight > 0) & (row_of[place] >= 0))
    return counts, row_of[place[counts]], weight[counts]
