"""The GDP-HMM challenge (AAPM, 2025): its targets, dose scaling and dose errors.

The errors are those of its ``evaluation.ipynb``.

The notebook has two different errors of one name: an example for one plan, and the "Metric 1" of the leaderboard. Both
sum ``|predicted - reference|`` over the voxels of the body where *either* dose is above 5 Gy. The example divides by
the number of these voxels, the leaderboard by the number of voxels of the body where the *reference* is above 5 Gy:
it penalises unwanted dose more. Over plans, the leaderboard takes the mean.

The challenge scores doses that are scaled to D97% = prescription of the high-dose PTV:
:func:`normalisation_factor`. So its errors are given only for data that its conversion scaled.
Its second metric judges the deliverable plan that Eclipse makes from a prediction, and can't be computed from a dose.

References:
    R. Gao et al., Automating RT planning at scale: high quality data for AI training, arXiv 2501.11803 (2025);
    https://github.com/RiqiangGao/GDP-HMM_AAPMChallenge, ``evaluation.ipynb``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.challenges.challenge import Challenge, Score, ScoredCase, Terms
from cdm_nnunet.errors import InputError

CONVERSION = "gdphmm"
TARGETS = ("PTV_High", "PTV_Mid", "PTV_Low")
HIGH_DOSE_TARGET = "PTV_High"
NORMALISED_PERCENT = 97.0  # D97% of the high-dose PTV is its prescription
OFFSET_GY = 1e-5
THRESHOLD_GY = 5.0


class GdpHmmError(NamedTuple):
    """Errors of one plan, Gy.

    Attributes:
        example_mae_gy: The notebook's example for one plan: a mean over the voxels where either dose is above 5 Gy.
        leaderboard_mae_gy: The leaderboard's "Metric 1" of one plan: the same sum, over the number of voxels where the
            reference is above 5 Gy.
    """

    example_mae_gy: float
    leaderboard_mae_gy: float


def gdphmm_error(
    reference_dose_gy: NDArray[np.floating], predicted_dose_gy: NDArray[np.floating], body: NDArray[np.bool_]
) -> GdpHmmError:
    """Both errors of one plan.

    Args:
        reference_dose_gy: Reference dose in Gy, normalised as in the challenge, any shape.
        predicted_dose_gy: Predicted dose in Gy, same shape.
        body: Mask of the body, same shape.

    Raises:
        InputError: If shapes differ, a dose is not finite, or the reference dose of the body is nowhere above 5 Gy.

    Example:
        >>> reference_gy, predicted_gy = np.array([60.0, 10.0, 0.0, 2.0]), np.array([57.0, 10.0, 6.0, 4.0])
        >>> gdphmm_error(reference_gy, predicted_gy, np.ones(4, bool))
        GdpHmmError(example_mae_gy=3.0, leaderboard_mae_gy=4.5)
    """
    reference_gy, predicted_gy = (np.asarray(dose, np.float64) for dose in (reference_dose_gy, predicted_dose_gy))
    if not reference_gy.shape == predicted_gy.shape == np.shape(body):
        shapes = f"{reference_gy.shape}, {predicted_gy.shape} and {np.shape(body)}"
        raise InputError(f"reference dose, predicted dose and body are on different grids: {shapes}")
    if not (np.isfinite(reference_gy).all() and np.isfinite(predicted_gy).all()):
        raise InputError("a dose is not finite")
    inside = np.asarray(body) != 0
    reference_high = (reference_gy > THRESHOLD_GY) & inside
    either_high = reference_high | ((predicted_gy > THRESHOLD_GY) & inside)
    if not reference_high.any():
        raise InputError(
            f"no voxel of the body has more than {THRESHOLD_GY:g} Gy of reference dose; is the dose in Gy?"
        )
    total_gy = float(np.abs(reference_gy - predicted_gy)[either_high].sum())
    return GdpHmmError(total_gy / int(either_high.sum()), total_gy / int(reference_high.sum()))


def normalisation_factor(
    dose_gy: NDArray[np.floating], high_dose_ptv: NDArray[np.bool_], prescription_gy: float
) -> float:
    """Dose factor of the GDP-HMM challenge: prescription over D97% of the high-dose PTV, plus 1e-5 Gy.

    The PTV is ``PTVHighOPT`` in the head and neck, ``PTV`` in the lung. The challenge scales its references; a
    prediction must be scaled in the same way before scoring.

    Args:
        dose_gy: Dose, any shape and scale.
        high_dose_ptv: Its mask, same shape.
        prescription_gy: Its prescription in Gy (``PDose``).

    Raises:
        InputError: If shapes differ, the PTV is empty or its dose is zero or not finite, or the prescription is
            not above zero.

    Example:
        >>> round(normalisation_factor(np.full(10, 50.0), np.ones(10, bool), 60.0), 6)
        1.2

    References:
        https://github.com/RiqiangGao/GDP-HMM_AAPMChallenge, ``data_loader.py`` and ``evaluation.ipynb``.
    """
    if np.shape(dose_gy) != np.shape(high_dose_ptv):
        raise InputError(f"the dose has shape {np.shape(dose_gy)}, the PTV {np.shape(high_dose_ptv)}")
    doses_gy = np.asarray(dose_gy, np.float64)[np.asarray(high_dose_ptv) != 0]
    if doses_gy.size == 0:
        raise InputError("the high-dose PTV is empty: the dose can't be normalised to it")
    if not (math.isfinite(prescription_gy) and prescription_gy > 0):
        raise InputError(f"a prescription is above zero, not {prescription_gy} Gy")
    if not np.isfinite(doses_gy).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(doses_gy))} of {doses_gy.size} voxel doses are not finite")
    d97_gy = float(np.percentile(doses_gy, 100.0 - NORMALISED_PERCENT))
    if not d97_gy > 0:
        raise InputError(f"D97% of the high-dose PTV is {d97_gy:g} Gy: the dose can't be normalised to it")
    return prescription_gy / (d97_gy + OFFSET_GY)


def _terms(case: ScoredCase) -> Terms | None:
    body = case.roi(case.name_of("external") or "") if case.name_of("external") is not None else None
    if body is None or not (case.reference_dose_gy[body.box][body.mask] > THRESHOLD_GY).any():
        return None
    doses_gy = (case.reference_dose_gy[body.box], case.predicted_dose_gy[body.box])
    return gdphmm_error(*doses_gy, body.mask)._asdict()


def _score(key: str, title: str) -> Score:
    # not compared: records of earlier versions have it for all data with an external
    return Score(key=key, terms=key, title=title, unit="Gy", of_cases=True, compared=False)


GDPHMM = Challenge(
    name="gdphmm",
    title="GDP-HMM",
    definition=(
        "As the challenge's notebook computes them, on doses scaled to D97 % = prescription of the high-dose PTV: the "
        "sum of |difference| over the voxels of the body where either dose is above 5 Gy, divided by their number "
        "(example), or by the number of voxels where the reference is (leaderboard)."
    ),
    scores=(
        _score("example_mae_gy", "GDP-HMM example"),
        _score("leaderboard_mae_gy", "GDP-HMM leaderboard"),
    ),
    applies=lambda case: case.converted_from == CONVERSION,
    terms=_terms,
)
