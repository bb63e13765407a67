"""Doses scaled to a prescription."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh.metrics import Metric
from cdm_nnunet.dvh.values import evaluate
from cdm_nnunet.errors import InputError

GDPHMM_METRIC = Metric.parse("D97%[openkbp]")  # NumPy's percentile, as the challenge has it
GDPHMM_OFFSET_GY = 1e-5


def normalisation_factor(
    dose_gy: NDArray[np.floating], high_dose_ptv: NDArray[np.bool_], prescription_gy: float
) -> float:
    """What the GDP-HMM challenge multiplies a dose with: prescription over D97% of the high-dose PTV, plus 1e-5 Gy.

    The PTV is ``PTVHighOPT`` in the head and neck, ``PTV`` in the lung. The challenge scales its references; a
    prediction must be scaled in the same way before it is scored.

    Args:
        dose_gy: Dose, any shape and scale.
        high_dose_ptv: Its mask, same shape.
        prescription_gy: Its prescription in Gy (``PDose``).

    Raises:
        InputError: If shapes differ, the PTV is empty, gets no dose or one that is not finite, or the prescription is
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
    d97_gy = evaluate(GDPHMM_METRIC, doses_gy, voxel_volume_cc=1.0)
    if not d97_gy > 0:
        raise InputError(f"D97% of the high-dose PTV is {d97_gy:g} Gy: the dose can't be normalised to it")
    return prescription_gy / (d97_gy + GDPHMM_OFFSET_GY)
