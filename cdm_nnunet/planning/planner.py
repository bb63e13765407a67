"""One patient planned by a protocol: influence, fluence, normalised dose and notes on the dose."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.errors import InputError
from cdm_nnunet.planning.anatomy import Anatomy
from cdm_nnunet.planning.engine import Engine, Influence
from cdm_nnunet.planning.optimiser import Floats, Problem, Solution, minimise
from cdm_nnunet.planning.protocol import Protocol
from cdm_nnunet.planning.sampling import sampling_matrix
from cdm_nnunet.planning.wishes import Wishes, choose_points

_LOWEST_COVERAGE = 0.5  # of the prescription, before scaling: a lower dose is not a plan


@dataclass(frozen=True, eq=False)
class Plan:
    """A planned dose.

    Attributes:
        dose_gy: Shape (z, y, x), float32, Gy; 0 outside the dose region.
        objective: Terms of the objective by name, before the dose was scaled.
        scale: Factor of the normalisation.
        iterations: Steps of the optimiser.
        cpu_seconds: Processor time of influence and optimisation, by name.
        notes: Unusual properties, in sentences.
    """

    dose_gy: Floats
    objective: Mapping[str, float]
    scale: float
    iterations: int
    cpu_seconds: Mapping[str, float]
    notes: tuple[str, ...]


def plan_patient(anatomy: Anatomy, protocol: Protocol, engine: Engine) -> Plan:
    """Plan a patient.

    Args:
        anatomy: The patient.
        protocol: The planning protocol.
        engine: Calculates the dose.

    Raises:
        InputError: If the patient or the protocol can't be used, or no dose reaches the highest target.
    """
    wishes = Wishes.of(anatomy, protocol)
    start = time.process_time()
    influence = engine.influence(anatomy, protocol.beams)
    calculated = time.process_time()
    points = choose_points(anatomy, influence, wishes.near, anatomy.body)
    problem = points.problem(influence, wishes.terms(points))
    solution = minimise(
        problem, first_fluence(problem, anatomy), protocol.optimiser.iterations, protocol.optimiser.tolerance
    )
    optimised = time.process_time()
    dose_gy = dose_of(anatomy, influence, solution)
    scale = scale_of(anatomy, protocol, dose_gy)
    dose_gy *= np.float32(scale)
    return Plan(
        dose_gy=dose_gy,
        objective=problem.values(solution.fluence),
        scale=scale,
        iterations=solution.iterations,
        cpu_seconds={"influence": calculated - start, "optimisation": optimised - calculated},
        notes=_notes(anatomy, protocol, dose_gy),
    )


def first_fluence(problem: Problem, anatomy: Anatomy) -> Floats:
    """Uniform fluence that gives the highest prescription at the hottest point.

    Raises:
        InputError: If no bixel reaches any point.
    """
    even = np.ones(problem.influence.shape[1], np.float32)
    highest = float(problem.dose_gy(even).max(initial=0))
    if not highest > 0:
        raise InputError("no beam reaches a target")
    return even * np.float32(max(anatomy.prescriptions_gy.values()) / highest)


def dose_of(anatomy: Anatomy, influence: Influence, solution: Solution) -> Floats:
    """Dose of a fluence on the patient's grid, shape (z, y, x), Gy; 0 outside the dose region."""
    voxels = np.flatnonzero(anatomy.dose_region)
    dose_gy = np.zeros(anatomy.grid.shape, np.float32)
    sampling = sampling_matrix(influence, anatomy.grid, voxels)
    dose_gy.ravel()[voxels] = sampling @ (influence.matrix @ solution.fluence)
    return dose_gy


def scale_of(anatomy: Anatomy, protocol: Protocol, dose_gy: Floats) -> float:
    """Factor that scales the dose of the highest target to its prescription.

    Raises:
        InputError: If it receives almost no dose: scaling would be meaningless.
    """
    name, percent = anatomy.highest_target, protocol.normalisation.coverage_percent
    wanted_gy = anatomy.prescriptions_gy[name]
    covered_gy = _dose_at(anatomy, dose_gy, name, percent)
    if covered_gy < _LOWEST_COVERAGE * wanted_gy:
        raise InputError(
            f"D{percent:g}% of '{name}' is {covered_gy:.1f} Gy of {wanted_gy:g} Gy before the dose is scaled: the "
            "beams do not reach it; is a part of it in air, or beyond the CT?"
        )
    return wanted_gy / covered_gy


def _notes(anatomy: Anatomy, protocol: Protocol, dose_gy: Floats) -> tuple[str, ...]:
    name, limit = anatomy.highest_target, protocol.normalisation.hottest_percent
    hottest = 100 * _dose_at(anatomy, dose_gy, name, 1) / anatomy.prescriptions_gy[name]
    if hottest <= limit:
        return ()
    return (f"D1% of '{name}' is {hottest:.1f} % of its prescription, above the {limit:g} % of the protocol",)


def _dose_at(anatomy: Anatomy, dose_gy: Floats, name: str, percent: float) -> float:
    voxel_cc = float(np.prod(anatomy.grid.spacing_zyx_mm)) / 1000
    return evaluate(Metric.parse(f"D{percent:g}%"), dose_gy[anatomy.mask(name)], voxel_volume_cc=voxel_cc)
