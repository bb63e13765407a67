"""Fluence optimisation: accelerated projected gradient on a sparse matrix, float32.

The objective is half the weighted sum of squares of overdose and underdose at the points. Its curvature is bounded for
each bixel, since no entry of the matrix is negative: for such a matrix M, M^T W M is at most the diagonal matrix of
M^T W M 1. So every bixel has its own step length, without a line search.

References:
    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sci. 2 (2009).
    O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15 (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["over", "under", "both"]
Floats = NDArray[np.float32]
_CHECKED_EVERY = 10


@dataclass(frozen=True, eq=False)
class Term:
    """A term of the objective, at some points.

    Attributes:
        name: Its name in the record.
        points: Numbers of the points, shape (n,), without repeats.
        level_gy: Dose level, shape (n,), Gy.
        weight: Weight of the squared over- or underdose, shape (n,).
        side: Whether dose ``over`` the level counts, ``under`` it, or both.
    """

    name: str
    points: NDArray[np.int64]
    level_gy: Floats
    weight: Floats
    side: Side

    def excess_gy(self, dose_gy: Floats) -> Floats:
        """Overdose (above 0) or underdose (below 0) at the points of the term, shape (n,), Gy."""
        excess_gy: Floats = dose_gy[self.points] - self.level_gy
        if self.side != "both":
            bound = np.maximum if self.side == "over" else np.minimum
            excess_gy = bound(excess_gy, np.float32(0))
        return excess_gy

    def value(self, dose_gy: Floats) -> float:
        """Half the weighted sum of squares."""
        return 0.5 * float(np.dot(self.weight, self.excess_gy(dose_gy).astype(np.float64) ** 2))


@dataclass(frozen=True, eq=False)
class Problem:
    """An optimisation.

    Attributes:
        influence: Dose at nodes by unit fluence, shape (nodes, bixels), CSR, float32, not negative.
        sampling: Dose at points from dose at nodes, shape (points, nodes), CSR, float32, not negative.
        terms: Terms of the objective.
    """

    influence: Any
    sampling: Any
    terms: Sequence[Term]

    def dose_gy(self, fluence: Floats) -> Floats:
        """Dose at the points, shape (points,), Gy."""
        return np.asarray(self.sampling @ (self.influence @ fluence))

    def back(self, at_points: Floats) -> Floats:
        """The adjoint of :meth:`dose_gy`: (points,) -> (bixels,)."""
        return np.asarray(self._back[1] @ (self._back[0] @ at_points))

    def objective(self, dose_gy: Floats) -> float:
        """The sum of all terms at doses of the points."""
        return sum(term.value(dose_gy) for term in self.terms)

    def values(self, fluence: Floats) -> dict[str, float]:
        """Each term by name; terms of one name are added."""
        dose_gy = self.dose_gy(fluence)
        found: dict[str, float] = {}
        for term in self.terms:
            found[term.name] = found.get(term.name, 0.0) + term.value(dose_gy)
        return found

    def slope(self, dose_gy: Floats) -> Floats:
        """Derivative of the objective by the dose at the points, shape (points,)."""
        slope = np.zeros_like(dose_gy)
        for term in self.terms:
            slope[term.points] += term.weight * term.excess_gy(dose_gy)
        return slope

    @cached_property
    def curvature(self) -> Floats:
        """Bound of the objective's curvature for each bixel, shape (bixels,); 0 if a bixel reaches no term."""
        weight = np.zeros(self.sampling.shape[0], np.float32)
        for term in self.terms:
            weight[term.points] += term.weight
        return self.back(weight * self.dose_gy(np.ones(self.influence.shape[1], np.float32)))

    @cached_property
    def _back(self) -> tuple[Any, Any]:
        return self.sampling.T, self.influence.T


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of the optimisation.

    Attributes:
        fluence: Shape (bixels,), float32, not negative.
        objective: Value of the objective.
        iterations: Number of steps.
    """

    fluence: Floats
    objective: float
    iterations: int


def minimise(problem: Problem, start: Floats, iterations: int, tolerance: float) -> Solution:
    """The non-negative fluence with the lowest objective.

    Args:
        problem: The optimisation.
        start: Initial fluence, shape (bixels,), not negative.
        iterations: Maximum number of steps.
        tolerance: The optimisation ends when ten steps lower the objective by less than this fraction.
    """
    curvature = problem.curvature
    step = np.divide(1, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    fluence = np.where(curvature > 0, start, 0).astype(np.float32)
    ahead, momentum, before = fluence, 1.0, np.inf
    done = 0
    while done < iterations:
        dose_gy = problem.dose_gy(ahead)
        if done % _CHECKED_EVERY == 0:
            now = problem.objective(dose_gy)
            if before - now <= tolerance * before and np.isfinite(before):
                break
            before = now
        stepped = np.maximum(ahead - step * problem.back(problem.slope(dose_gy)), 0)
        change = stepped - fluence
        if np.dot((ahead - stepped) * curvature, change) > 0:  # (momentum increases the objective: reset it)
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = (stepped + np.float32((momentum - 1) / following) * change).astype(np.float32)
        fluence, momentum, done = stepped, following, done + 1
    return Solution(fluence, problem.objective(problem.dose_gy(fluence)), done)
