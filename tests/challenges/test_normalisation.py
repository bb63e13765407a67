"""Doses scaled to a prescription, as the GDP-HMM challenge does."""

import numpy as np
import pytest

from cdm_nnunet.challenges.gdphmm import normalisation_factor
from cdm_nnunet.errors import InputError


def test_normalisation_makes_d97_the_prescription():
    dose_gy = np.linspace(40, 60, 1001)
    ptv = dose_gy >= 50
    factor = normalisation_factor(dose_gy, ptv, 70.0)
    assert np.percentile(factor * dose_gy[ptv], 3) == pytest.approx(70.0, rel=1e-6)
    assert factor < 70.0 / np.percentile(dose_gy[ptv], 3)  # by the challenge's offset of 1e-5 Gy
    assert normalisation_factor(1000 * dose_gy, ptv, 70.0) == pytest.approx(factor / 1000, rel=1e-6)


def test_a_dose_that_cannot_be_normalised_is_refused():
    dose_gy, mask = np.full(4, 60.0), np.ones(4, bool)
    with pytest.raises(InputError, match=r"the dose has shape \(4,\), the PTV \(3,\)"):
        normalisation_factor(dose_gy, mask[:3], 60.0)
    with pytest.raises(InputError, match="the high-dose PTV is empty"):
        normalisation_factor(dose_gy, ~mask, 60.0)
    with pytest.raises(InputError, match=r"D97% of the high-dose PTV is 0 Gy"):
        normalisation_factor(0 * dose_gy, mask, 60.0)
    with pytest.raises(InputError, match="a prescription is above zero, not 0"):
        normalisation_factor(dose_gy, mask, 0.0)
