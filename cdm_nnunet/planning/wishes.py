"""From a protocol and a patient to points and terms of the objective.

Near targets and in organs the points are the patient's own voxels, so that optimisation and evaluation use the same
points. Far away they are nodes of the dose grid, every other along each axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cdm_nnunet.errors import InputError
from cdm_nnunet.planning.anatomy import Anatomy, Mask
from cdm_nnunet.planning.engine import Influence
from cdm_nnunet.planning.optimiser import Floats, Problem, Side, Term
from cdm_nnunet.planning.protocol import FallOff, Protocol
from cdm_nnunet.planning.sampling import sampling_matrix

_EVERY = 2  # nodes along each axis, far away


@dataclass(frozen=True, eq=False)
class Points:
    """Points of the objective: first voxels, then nodes.

    Attributes:
        voxels: The patient's voxels, in the order of memory, shape (n,).
        nodes: Rows of the influence matrix, shape (m,).
        node_voxels: The voxel nearest to each of those nodes, shape (m,).
        sampling: Dose at the points from dose at the nodes, CSR, shape (n + m, nodes).
        voxels_a_node: Number of the patient's voxels that one of those nodes represents.
    """

    voxels: NDArray[np.int64]
    nodes: NDArray[np.int64]
    node_voxels: NDArray[np.int64]
    sampling: Any
    voxels_a_node: float

    @property
    def stands_for(self) -> NDArray[np.float64]:
        """Number of the patient's voxels that each point represents, shape (n + m,)."""
        return np.concatenate([np.ones(self.voxels.size), np.full(self.nodes.size, self.voxels_a_node)])

    @property
    def all_voxels(self) -> NDArray[np.int64]:
        """The voxel of each point, shape (n + m,)."""
        return np.concatenate([self.voxels, self.node_voxels])

    def inside(self, mask: Mask) -> NDArray[np.int64]:
        """Indices of the points that are voxels of a mask."""
        return np.flatnonzero(mask.ravel()[self.voxels])

    def problem(self, influence: Influence, terms: Sequence[Term]) -> Problem:
        """An optimisation at these points; unneeded nodes are left out."""
        used = np.flatnonzero(np.bincount(self.sampling.indices, minlength=self.sampling.shape[1]))
        return Problem(influence.matrix[used], sparse.csr_array(self.sampling[:, used]), terms)


def choose_points(anatomy: Anatomy, influence: Influence, near: Mask, within: Mask) -> Points:
    """Voxels of a mask, and every other node elsewhere.

    Args:
        anatomy: The patient.
        influence: The dose of every bixel.
        near: Mask in which the patient's own voxels are used, shape (z, y, x).
        within: Mask of all points, same shape.
    """
    voxels = np.flatnonzero(near & within)
    place = np.unravel_index(influence.nodes, influence.grid.shape)
    node_voxels = nearest_voxels(anatomy, influence)
    thinned = np.logical_and.reduce([index % _EVERY == 0 for index in place])
    far = np.flatnonzero(thinned & (within & ~near).ravel()[node_voxels])
    of_voxels = sampling_matrix(influence, anatomy.grid, voxels)
    of_nodes = sparse.csr_array(
        (np.ones(far.size, np.float32), (np.arange(far.size), far)), shape=(far.size, influence.nodes.size)
    )
    node_mm3, voxel_mm3 = (float(np.prod(grid.spacing_zyx_mm)) for grid in (influence.grid, anatomy.grid))
    sampling = sparse.csr_array(sparse.vstack([of_voxels, of_nodes]))
    return Points(voxels, far, node_voxels[far], sampling, node_mm3 * _EVERY**3 / voxel_mm3)


def nearest_voxels(anatomy: Anatomy, influence: Influence) -> NDArray[np.int64]:
    """The patient's voxel nearest to each node, in the order of memory, shape (nodes,)."""
    place = np.unravel_index(influence.nodes, influence.grid.shape)
    indices = []
    for axis, index, n in zip((2, 1, 0), place, anatomy.grid.shape, strict=True):
        at_mm = influence.grid.origin_xyz_mm[axis] + influence.grid.offsets_xyz_mm[axis][index]
        step = (at_mm - anatomy.grid.origin_xyz_mm[axis]) / anatomy.grid.spacing_xyz_mm[axis]
        indices.append(np.clip(np.rint(step).astype(np.int64), 0, n - 1))
    return np.asarray(np.ravel_multi_index(tuple(indices), anatomy.grid.shape))


@dataclass(frozen=True, eq=False)
class Wishes:
    """The desired dose of a protocol in a patient, voxel by voxel.

    Attributes:
        anatomy: The patient.
        protocol: The protocol.
        ceiling_gy: Highest dose by the distance from all targets, shape (z, y, x), Gy.
        distance_mm: Distance from the nearest target, same shape, mm.
    """

    anatomy: Anatomy
    protocol: Protocol
    ceiling_gy: Floats
    distance_mm: Floats

    @classmethod
    def of(cls, anatomy: Anatomy, protocol: Protocol) -> Wishes:
        """Desired dose of a protocol.

        Raises:
            InputError: If a limit is for an ROI that is not in the data set, or for a target.
        """
        kinds = {roi.name: roi.kind for roi in anatomy.catalogue.rois}
        for limit in protocol.limits:
            if kinds.get(limit.roi) != "oar":
                raise InputError(
                    f"protocol '{protocol.name}' has a limit for '{limit.roi}', which is not an organ of the data set; "
                    f"its organs are {', '.join(name for name, kind in kinds.items() if kind == 'oar')}"
                )
        return cls(anatomy, protocol, ceiling_gy(anatomy, protocol.fall_off), anatomy.distance_mm(anatomy.targets))

    @property
    def near(self) -> Mask:
        """Mask in which the patient's own voxels are used: around targets, and in organs with a limit."""
        near = self.distance_mm <= self.protocol.optimiser.far_mm
        for limit in self.protocol.limits:
            near |= self.anatomy.mask(limit.roi)
        return near

    def terms(self, points: Points) -> list[Term]:
        """All terms at some points."""
        return [*self._of_targets(points), *self._around(points), *self._of_organs(points)]

    def _of_targets(self, points: Points) -> Iterator[Term]:
        """Each voxel belongs to its highest target; each target has the same weight, independent of its size."""
        rules, left = self.protocol.targets, self.anatomy.targets.copy()
        for name, gy in sorted(self.anatomy.prescriptions_gy.items(), key=lambda item: -item[1]):
            own = points.inside(self.anatomy.mask(name) & left)
            left &= ~self.anatomy.mask(name)
            lower_gy = np.full(own.size, gy * rules.lower_percent / 100, np.float32)
            upper_gy = np.maximum(self._ceilings(points, own), np.float32(gy * rules.upper_percent / 100))
            yield mean_term(f"{name} underdose", own, lower_gy, rules.under_weight, "under")
            yield mean_term(f"{name} overdose", own, upper_gy, rules.over_weight, "over")

    def _around(self, points: Points) -> Iterator[Term]:
        voxels, rules = points.all_voxels, self.protocol.fall_off
        outside = ~self.anatomy.targets.ravel()[voxels]
        is_ring = self.distance_mm.ravel()[voxels] <= rules.percent_at_mm[-1][0]
        parts = (("fall-off", is_ring, rules.weight), ("body beyond", ~is_ring, rules.beyond_weight))
        for name, part, weight in parts:
            own = np.flatnonzero(outside & part)
            yield mean_term(name, own, self._ceilings(points, own), weight, "over", points.stands_for[own])

    def _of_organs(self, points: Points) -> Iterator[Term]:
        for limit in self.protocol.limits:
            own = points.inside(self.anatomy.mask(limit.roi) & ~self.anatomy.targets)
            level_gy = np.full(own.size, limit.upper_gy, np.float32)
            yield mean_term(f"{limit.roi} over {limit.upper_gy:g} Gy", own, level_gy, limit.weight, "over")

    def _ceilings(self, points: Points, own: NDArray[np.int64]) -> Floats:
        return np.asarray(self.ceiling_gy.ravel()[points.all_voxels[own]])


def mean_term(
    name: str,
    own: NDArray[np.int64],
    level_gy: Floats,
    weight: float,
    side: Side,
    stands_for: NDArray[np.float64] | None = None,
) -> Term:
    """A term with a fixed sum of weights, independent of its number of points."""
    share = np.ones(own.size) if stands_for is None else stands_for
    weights = weight * share / max(float(share.sum()), 1.0)
    return Term(name, own, level_gy.astype(np.float32), weights.astype(np.float32), side)


def ceiling_gy(anatomy: Anatomy, rules: FallOff) -> Floats:
    """The highest allowed dose around targets, shape (z, y, x), Gy: the maximum over the targets' fall-offs.

    Inside a target it is the maximum of the others' fall-offs and of its own at distance zero.
    """
    at_mm, percent = np.array(rules.percent_at_mm).T
    ceiling = np.zeros(anatomy.grid.shape, np.float32)
    for name, gy in anatomy.prescriptions_gy.items():
        allowed = gy / 100 * np.interp(anatomy.distance_mm(anatomy.mask(name)), at_mm, percent)
        np.maximum(ceiling, allowed, out=ceiling, casting="same_kind")
    return ceiling
