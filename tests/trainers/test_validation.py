"""Errors of validation patches: exact, weighted by shares, pooled by adding."""

import math

import numpy as np
import pytest
import torch

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.terms import Term, Terms
from cdm_nnunet.nnunet.facts import PatchFacts
from cdm_nnunet.trainers.validation import PatchErrors, patch_errors

TERMS = Terms((
    Term(0, Metric.parse("Dmean"), 1.0, True),
    Term(0, Metric.parse("V95%"), 1.0, True),
    Term(1, Metric.parse("Dmax"), 1.0, False),
    Term(2, Metric.parse("Dmean"), 1.0, False),
))  # fmt: skip


def sample(seed: int):
    generator = np.random.default_rng(seed)
    masks = torch.from_numpy(generator.random((1, 3, 4, 5, 6)) < 0.5)
    masks[:, 2] = False  # absent
    dose, reference = (torch.from_numpy(generator.gamma(4, 10, (1, 1, 4, 5, 6))).float() for _ in range(2))
    return dose, reference, masks


def facts_of(masks, shares=(1.0, 1.0)) -> list[PatchFacts]:
    n = masks.sum((2, 3, 4))[0]
    whole = (round(int(n[0]) / shares[0]), round(int(n[1]) / shares[1]), 0)
    return [PatchFacts((50.0, math.nan, math.nan), whole, 0.03)]


def by_hand(dose, reference, masks):
    ptv, oar = (masks[0, k].numpy() for k in (0, 1))
    d, r = dose[0, 0].numpy(), reference[0, 0].numpy()
    volume = abs((d[ptv] >= 47.5).mean() - (r[ptv] >= 47.5).mean()) * 100
    return abs(float(d[ptv].mean()) - float(r[ptv].mean())), volume, abs(float(d[oar].max()) - float(r[oar].max()))


def test_the_errors_are_those_of_the_exact_metrics():
    dose, reference, masks = sample(0)
    region = torch.ones_like(dose)
    errors = patch_errors(dose, reference, region, pack_words(masks), TERMS, facts_of(masks))
    mean, volume, maximum = by_hand(dose, reference, masks)
    assert errors.mae_gy == pytest.approx(float((dose - reference).abs().mean()), rel=1e-5)
    assert errors.ptv == pytest.approx((mean + volume) / 2, rel=1e-4)
    assert errors.oar == pytest.approx(maximum, rel=1e-5)  # the absent ROI is excluded, not counted as zero
    assert errors.score == pytest.approx((errors.ptv + errors.oar) / 2)


def test_the_dose_error_is_that_of_the_region():
    dose, reference, masks = sample(1)
    region = (torch.rand(dose.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    errors = patch_errors(dose, reference, region, pack_words(masks), TERMS, facts_of(masks))
    assert errors.mae_gy == pytest.approx(float((dose - reference).abs()[region > 0].mean()), rel=1e-5)


def test_pooling_weighs_by_the_share_of_the_roi_in_the_patch():
    errors, maxima = [], []
    for seed, share in ((2, 1.0), (3, 0.25)):
        dose, reference, masks = sample(seed)
        errors.append(
            patch_errors(
                dose, reference, torch.ones_like(dose), pack_words(masks), TERMS, facts_of(masks, (1.0, share))
            )
        )
        maxima.append(by_hand(dose, reference, masks)[2])
    assert PatchErrors.pooled(errors).oar == pytest.approx((maxima[0] + 0.25 * maxima[1]) / 1.25, rel=0.02)
    assert PatchErrors.pooled(errors).mae_gy == pytest.approx((errors[0].mae_gy + errors[1].mae_gy) / 2)


def test_nothing_to_measure_is_nan_and_null_never_zero():
    nothing = PatchErrors.pooled([])
    assert all(math.isnan(value) for value in (nothing.mae_gy, nothing.ptv, nothing.oar, nothing.score))
    assert nothing.to_json() == {"dose_mae_gy": None, "ptv_error": None, "oar_error": None}
    only_dose = PatchErrors((10.0, 5.0))
    assert only_dose.score == only_dose.mae_gy == 2.0
    only_ptv = PatchErrors((10.0, 5.0), (3.0, 1.0))
    assert only_ptv.score == 3.0
