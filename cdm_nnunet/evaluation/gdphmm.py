"""The dose errors of the GDP-HMM challenge (AAPM, 2025), as its ``evaluation.ipynb`` computes them.

The notebook has two that share a name and differ: an example for one plan, and the "Metric 1" of the leaderboard. Both
sum ``|predicted - reference|`` over the voxels of the body where *either* dose is above 5 Gy. The example divides by
the number of these voxels, the leaderboard by the number of voxels of the body where the *reference* is above 5 Gy:
it punishes dose where there should be none harder. Over plans, the leaderboard takes the mean.

The challenge scores doses that are scaled to D97% = prescription of the high-dose PTV:
:func:`cdm_nnunet.dvh.normalisation.normalisation_factor`.
Its second metric judges the deliverable plan that Eclipse makes of a prediction, and can't be had from a dose.

References:
    R. Gao et al., Automating RT planning at scale: high quality data for AI training, arXiv 2501.11803 (2025);
    https://github.com/RiqiangGao/GDP-HMM_AAPMChallenge, ``evaluation.ipynb``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

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
        reference_dose_gy: Reference dose in Gy, normalised as the challenge does, any shape.
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
