"""Interface of a public challenge: its own scores and its own rounding of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Terms = Mapping[str, NonNegative | Mapping[str, NonNegative]]
"""Contributions of a case to scores: errors by name, one or several (by the key of each)."""


class RoiInCase(Protocol):
    """An ROI with voxels."""

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Bounding box."""
        ...

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask of the ROI within its box."""
        ...


class ScoredCase(Protocol):
    """Data of a case for a challenge: reference and predicted dose on one grid, and ROIs."""

    @property
    def converted_from(self) -> str:
        """Name of the data set's conversion."""
        ...

    @property
    def roi_names(self) -> tuple[str, ...]:
        """Names of all ROIs of the data set."""
        ...

    @property
    def reference_dose_gy(self) -> NDArray[np.floating]:
        """Shape (Z, Y, X), Gy."""
        ...

    @property
    def predicted_dose_gy(self) -> NDArray[np.floating]:
        """Same shape, Gy."""
        ...

    def name_of(self, kind: str) -> str | None:
        """Name of the first ROI of a kind, such as ``dose_region`` or ``external``; None if there is none."""
        ...

    def roi(self, name: str) -> RoiInCase | None:
        """An ROI of the data set; None if it has no voxel."""
        ...

    def metric_error(self, name: str, metric: str) -> float:
        """|predicted - reference| of a DVH metric of an ROI with voxels, in the metric's unit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score over cases: the mean over all terms of that name.

    Attributes:
        key: Its name in the record.
        terms: Name of its terms in each case.
        title: Its displayed name.
        unit: Its unit.
        of_cases: Whether tables list it per case.
        compared: Whether models are compared by it.
    """

    key: str
    terms: str
    title: str
    unit: str
    of_cases: bool = False
    compared: bool = True

    def errors_of(self, terms: Terms) -> tuple[float, ...]:
        """Contribution of a case."""
        found = terms.get(self.terms, {})
        return tuple(found.values()) if isinstance(found, Mapping) else (found,)

    def over(self, cases: Iterable[Terms]) -> float | None:
        """The score over cases; None without a term."""
        errors = [error for terms in cases for error in self.errors_of(terms)]
        return fmean(errors) if errors else None


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """A way to count the voxels of D<x>% and D<x>cc: ``D95%[NAME]``.

    Attributes:
        name: Text in brackets.
        at_percent: Position of x percent of the volume among the ascending doses, from 0 (minimum) to 1 (maximum).
        at_cc: The same for x cc, the number of voxels of the ROI, and the volume of a voxel in cc.
    """

    name: str
    at_percent: Callable[[float], float]
    at_cc: Callable[[float, int, float], float]


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """A public challenge.

    Attributes:
        name: Its name in the record.
        title: Its displayed name.
        definition: How its scores are computed, in a sentence or two.
        scores: Its scores; lower is better.
        applies: Whether a case is from its data.
        terms: Contribution of a case to the scores; None if it lacks the needed data.
        rounding: Its own rounding, if any.
    """

    name: str
    title: str
    definition: str
    scores: tuple[Score, ...]
    applies: Callable[[ScoredCase], bool]
    terms: Callable[[ScoredCase], Terms | None]
    rounding: Rounding | None = None

    @property
    def compared(self) -> tuple[Score, ...]:
        """Scores for comparing models."""
        return tuple(score for score in self.scores if score.compared)

    def over(self, cases: Iterable[Terms | None]) -> dict[str, float | None] | None:
        """Its scores over cases, by key; None if no case is from its data."""
        known = [terms for terms in cases if terms is not None]
        return {score.key: score.over(known) for score in self.scores} if known else None
