"""Dose at voxels from dose at nodes."""

import numpy as np
import pytest
from scipy import sparse

from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.planning.engine import Influence
from cdm_nnunet.planning.sampling import sampling_matrix

NODES = Grid((6, 7, 8), (5.0, 5.0, 5.0), np.array((1.0, -2.0, 3.0)))
VOXELS = Grid((9, 8, 10), (2.5, 3.0, 2.0), np.array((6.0, 2.0, 5.0)))  # all within the box of the nodes


def influence(nodes):
    return Influence(sparse.csr_array((nodes.size, 1), dtype=np.float32), NODES, nodes)


def places(grid):
    return np.stack(
        np.meshgrid(*(low + mm for low, mm in zip(grid.origin_xyz_mm, grid.offsets_xyz_mm, strict=True)), indexing="ij")
    ).transpose(0, 3, 2, 1)


def linear(grid):
    x, y, z = places(grid)
    return (2 + 0.3 * x - 0.5 * y + 0.7 * z).ravel()


def test_a_linear_dose_is_kept():
    voxels = np.arange(np.prod(VOXELS.shape))
    found = sampling_matrix(influence(np.arange(np.prod(NODES.shape))), VOXELS, voxels) @ linear(NODES)
    np.testing.assert_allclose(found, linear(VOXELS), rtol=1e-5, atol=1e-5)


def test_voxels_come_in_the_order_they_are_asked_for():
    whole = sampling_matrix(influence(np.arange(np.prod(NODES.shape))), VOXELS, np.array([700, 3, 40]))
    np.testing.assert_allclose(whole @ linear(NODES), linear(VOXELS)[[700, 3, 40]], rtol=1e-5)


def test_nodes_in_air_take_nothing_from_voxels_beside_them():
    inside = np.flatnonzero(places(NODES)[0].ravel() < 20)  # (air from x = 20 mm on; the last nodes are at 16 mm)
    sampling = sampling_matrix(influence(inside), VOXELS, np.arange(np.prod(VOXELS.shape)))
    found = (sampling @ np.full(inside.size, 50.0)).reshape(VOXELS.shape)
    x = places(VOXELS)[0]
    np.testing.assert_allclose(found[x < 21], 50.0, rtol=1e-6)
    assert found[x > 21].max(initial=0) == 0  # (no node nearby: none is invented)


def test_beyond_the_nodes_there_is_nothing():
    far = Grid((1, 1, 2), (2.0, 2.0, 100.0), np.array((6.0, 2.0, 5.0)))
    sampling = sampling_matrix(influence(np.arange(np.prod(NODES.shape))), far, np.arange(2))
    assert sampling.sum(axis=1) == pytest.approx([1, 0])


def test_an_influence_has_a_row_for_each_node():
    with pytest.raises(ValueError, match="2 rows for 3 nodes"):
        Influence(sparse.csr_array((2, 1), dtype=np.float32), NODES, np.arange(3))
    with pytest.raises(ValueError, match="CSR of float32"):
        Influence(sparse.csr_array((2, 1), dtype=np.float64), NODES, np.arange(2))
