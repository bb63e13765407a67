"""The published losses against their formulas, written out voxel by voxel."""

import math

import numpy as np
import pytest
import torch

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses import rivals
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.rivals import DVHCurveLoss, MomentLoss, SortedDoseLoss
from cdm_nnunet.losses.terms import Term, Terms

SCALE_GY = 70.0
SHAPE = (3, 4, 5)
TERMS = Terms(tuple(Term(bit, Metric.parse(key), 1.0, bit == 0) for bit in (0, 1, 17) for key in ("Dmean", "D95%")))
LOSSES = (SortedDoseLoss, MomentLoss, DVHCurveLoss)


def patients(seed=0, batch=2):
    generator = np.random.default_rng(seed)
    doses = generator.gamma(6, 7, (2, batch, 1, *SHAPE))
    masks = generator.random((batch, 18, *SHAPE)) < 0.4
    masks[1:, 1] = False  # absent in the second sample
    return doses, masks


def by_formula(name: str, predicted: np.ndarray, reference: np.ndarray, is_target: bool) -> float:
    n = len(predicted)
    if name == "SortedDoseLoss":
        return sum(abs(a - b) for a, b in zip(sorted(predicted), sorted(reference), strict=True)) / n / SCALE_GY
    if name == "MomentLoss":
        powers = (2, 4, 6) if is_target else (1, 2, 10)
        moments = [
            [(sum((d / SCALE_GY) ** a for d in dose) / n) ** (1 / a) for a in powers] for dose in (predicted, reference)
        ]
        return sum((a - b) ** 2 for a, b in zip(*moments, strict=True)) / 3
    bins = [float(t) for t in range(79)]  # 0 to 78 Gy: the first above 1.1 x 70
    curves = [[sum(1 / (1 + math.exp(t - d)) for d in dose) / n for t in bins] for dose in (predicted, reference)]
    return sum((a - b) ** 2 for a, b in zip(*curves, strict=True)) / len(bins)


def value_of(loss, doses, masks):
    predicted, reference = (torch.from_numpy(d) for d in doses)
    n = len(predicted)
    return loss(predicted, reference, pack_words(torch.from_numpy(masks)), [[60.0] * 18] * n, [0.03] * n)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_published_formula(loss):
    doses, masks = patients()
    expected = [
        by_formula(loss.__name__, doses[0, b, 0][masks[b, bit]], doses[1, b, 0][masks[b, bit]], bit == 0)
        for b in range(2)
        for bit in (0, 1, 17)
        if masks[b, bit].any()
    ]
    assert len(expected) == 5
    assert float(value_of(loss(TERMS, SCALE_GY), doses, masks)) == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chunk", [100, 4_000_000])
def test_gradient_matches_finite_differences(loss, chunk, monkeypatch):
    monkeypatch.setattr(rivals, "_CHUNK", chunk)
    doses, masks = patients(1, batch=1)
    reference, words = torch.from_numpy(doses[1]), pack_words(torch.from_numpy(masks))
    module = loss(TERMS, SCALE_GY)
    assert torch.autograd.gradcheck(
        lambda d: 1000 * module(d, reference, words, [[60.0] * 18], [0.03]),
        torch.from_numpy(doses[0]).requires_grad_(),
        eps=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_laws(loss):
    doses, masks = patients(2)
    module = loss(TERMS, SCALE_GY)
    assert float(value_of(module, (doses[1], doses[1]), masks)) == 0
    assert float(value_of(module, (doses[1] * 0.5, doses[1]), masks)) > float(
        value_of(module, (doses[1] * 0.9, doses[1]), masks)
    )
    assert float(value_of(module, doses, masks & False)) == 0
    one_voxel = masks & False
    one_voxel[:, 0, 1, 2, 3] = True
    assert np.isfinite(float(value_of(module, doses, one_voxel)))


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_under_autocast_and_no_power_overflows(loss):
    doses, masks = patients(3)
    doses = [d.astype(np.float32) for d in doses]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = value_of(loss(TERMS, SCALE_GY), doses, masks)
    assert value.dtype == torch.float32
    assert torch.equal(value, value_of(loss(TERMS, SCALE_GY), doses, masks))
    assert np.isfinite(float(value_of(loss(TERMS, SCALE_GY), [d * 1e4 for d in doses], masks)))


@pytest.mark.parametrize("loss", LOSSES)
def test_impossible_scales_are_refused(loss):
    with pytest.raises(InputError, match="dose_scale_gy must be above zero, not 0"):
        loss(TERMS, 0)
    with pytest.raises(InputError, match="bin_width_gy must be above zero"):
        DVHCurveLoss(TERMS, SCALE_GY, 0.0)
