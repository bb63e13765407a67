"""The deliverable dose closest to a given one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cdm_nnunet.errors import InputError
from cdm_nnunet.planning.anatomy import Anatomy, Mask
from cdm_nnunet.planning.engine import Engine, Influence
from cdm_nnunet.planning.optimiser import Floats, Term, minimise
from cdm_nnunet.planning.planner import dose_of, first_fluence
from cdm_nnunet.planning.protocol import Protocol
from cdm_nnunet.planning.wishes import Points, choose_points, mean_term


@dataclass(frozen=True, eq=False)
class Mimicked:
    """A deliverable dose.

    Attributes:
        dose_gy: Shape (z, y, x), float32, Gy; 0 outside the dose region.
        fluence: Shape (bixels,).
        iterations: Steps of the optimiser.
        cpu_seconds: Processor time of the optimisation.
    """

    dose_gy: Floats
    fluence: Floats
    iterations: int
    cpu_seconds: float


class Mimic:
    """Finds deliverable doses of one patient; the dose of every bixel, which takes longest, is calculated once."""

    def __init__(self, anatomy: Anatomy, protocol: Protocol, engine: Engine) -> None:
        """Calculate the dose of every bixel.

        Raises:
            InputError: If the dose can't be calculated.
        """
        self._anatomy, self._protocol = anatomy, protocol
        start = time.process_time()
        self._influence: Influence = engine.influence(anatomy, protocol.beams)
        self.influence_cpu_seconds = time.process_time() - start
        self._points = choose_points(anatomy, self._influence, self._near(), anatomy.dose_region & anatomy.body)

    def closest_to(self, dose_gy: Floats, start: Floats | None = None) -> Mimicked:
        """Find the deliverable dose closest to a given one.

        The distance has the weights of the protocol: mean square difference in the dose region, underdose and, with a
        smaller weight, overdose of targets, and overdose of organs.

        Args:
            dose_gy: The dose, shape (z, y, x), Gy.
            start: Initial fluence; None for a uniform one.

        Raises:
            InputError: If the shape of the dose is not that of the patient, or the dose is zero everywhere.
        """
        if dose_gy.shape != self._anatomy.grid.shape:
            raise InputError(f"the dose has shape {dose_gy.shape}, the patient {self._anatomy.grid.shape}")
        if not dose_gy.any():
            raise InputError("the dose is zero everywhere: there is nothing to deliver")
        begin = time.process_time()
        problem = self._points.problem(
            self._influence, list(_terms(self._anatomy, self._protocol, self._points, dose_gy))
        )
        rules = self._protocol.optimiser
        first = first_fluence(problem, self._anatomy) if start is None else start
        solution = minimise(problem, first, rules.iterations, rules.tolerance)
        deliverable_gy = dose_of(self._anatomy, self._influence, solution)
        return Mimicked(deliverable_gy, solution.fluence, solution.iterations, time.process_time() - begin)

    def _near(self) -> Mask:
        near = self._anatomy.distance_mm(self._anatomy.targets) <= self._protocol.optimiser.far_mm
        for name in _organs(self._anatomy):
            near |= self._anatomy.mask(name)
        return near


def _organs(anatomy: Anatomy) -> list[str]:
    return [roi.name for roi in anatomy.catalogue.rois if roi.kind == "oar" and anatomy.mask(roi.name).any()]


def _terms(anatomy: Anatomy, protocol: Protocol, points: Points, dose_gy: Floats) -> Iterator[Term]:
    weights, wanted_gy = protocol.mimicking, dose_gy.ravel()[points.all_voxels]
    everywhere = np.arange(points.all_voxels.size)
    yield mean_term("difference", everywhere, wanted_gy, weights.body_weight, "both", points.stands_for)
    for name in anatomy.prescriptions_gy:
        own = points.inside(anatomy.mask(name))
        yield mean_term(f"{name} less", own, wanted_gy[own], weights.target_weight, "under")
        yield mean_term(f"{name} more", own, wanted_gy[own], weights.hot_weight, "over")
    for name in _organs(anatomy):
        own = points.inside(anatomy.mask(name))
        yield mean_term(f"{name} more", own, wanted_gy[own], weights.organ_weight, "over")
