"""Voxel-wise dose losses against naive loops over voxels."""

import itertools

import numpy as np
import pytest
import torch

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.dose import DeepSupervisedLoss, region_mae

SHAPE = (4, 8, 12)
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 4, 4))


def case(seed: int, batch: int = 2):
    generator = np.random.default_rng(seed)
    reference = generator.gamma(4, 10, (batch, 1, *SHAPE))
    region = generator.random((batch, 1, *SHAPE)) < 0.6
    region[:, :, :2, :4, :4] = False  # a coarse voxel without any region
    predicted = [
        generator.gamma(4, 10, (batch, 1, *(n // s for n, s in zip(SHAPE, stride, strict=True)))) for stride in STRIDES
    ]
    return (
        [torch.from_numpy(p).float() for p in predicted],
        torch.from_numpy(reference).float(),
        torch.from_numpy(region),
    )


def naive(predicted, reference, region, weights):
    """Coarse voxel by coarse voxel: the mean reference of its voxels in the region, weighted by how many they are."""
    total = 0.0
    for weight, coarse, stride in zip(weights, predicted, STRIDES, strict=True):
        error = count = 0.0
        for b, *zyx in itertools.product(range(len(coarse)), *(range(n) for n in coarse.shape[2:])):
            block = tuple(slice(i * s, (i + 1) * s) for i, s in zip(zyx, stride, strict=True))
            inside = region[(b, 0, *block)]
            if inside.any():
                mean = reference[(b, 0, *block)][inside].double().mean()
                share = float(inside.double().mean())
                error += share * abs(float(coarse[(b, 0, *zyx)]) - float(mean))
                count += share
        total += weight * error / count
    return total / sum(weights)


@pytest.mark.parametrize("weights", [(1.0, 0.5, 0.25), (1.0, 0.5, 0.0), (2.0, 0.0, 1.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_deep_supervision_equals_the_naive_loop(weights, seed):
    predicted, reference, region = case(seed)
    found = DeepSupervisedLoss(weights)(predicted, reference, region)
    assert float(found) == pytest.approx(naive(predicted, reference, region, weights), rel=1e-5)


def test_the_border_of_the_region_is_unbiased():
    """A coarse voxel that is cut by the border owes the dose of its inner part, not a mean with the zeros outside."""
    region = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    region[..., :5] = True
    reference = 60.0 * region
    predicted = [torch.full((1, 1, *(n // s for n, s in zip(SHAPE, stride, strict=True))), 60.0) for stride in STRIDES]
    assert float(DeepSupervisedLoss((1, 1, 1))(predicted, reference, region)) == pytest.approx(0.0, abs=1e-5)


def test_what_lies_outside_the_region_counts_nothing_and_gets_no_gradient():
    predicted, reference, region = case(3)
    loss = DeepSupervisedLoss((1.0,))
    inside = predicted[0].requires_grad_()
    value = loss([inside], reference, region)
    value.backward()
    assert not inside.grad[~region].any()
    assert (inside.grad[region] != 0).all()
    changed = torch.where(region, inside.detach(), 1e4)
    assert float(loss([changed], torch.where(region, reference, 7.0), region)) == pytest.approx(
        float(value.detach()), rel=1e-6
    )


def test_zero_for_equal_doses_only():
    _, reference, region = case(4)
    loss = DeepSupervisedLoss((1.0,))
    assert float(loss([reference], reference, region)) == 0
    voxel = tuple(region.nonzero()[0].tolist())
    other = reference.clone()
    other[voxel] += 1.0
    assert float(loss([other], reference, region)) == pytest.approx(1 / float(region.sum()), rel=1e-4)


def test_region_mae_of_an_empty_region_is_zero_without_nan():
    dose = torch.rand(1, 1, *SHAPE, requires_grad=True)
    value = region_mae(dose, torch.rand(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE))
    value.backward()
    assert float(value.detach()) == 0
    assert not dose.grad.any()
    predicted, reference, region = case(5)
    assert float(DeepSupervisedLoss((1, 1, 1))(predicted, reference, region & False)) == 0


def test_float32_under_autocast_and_from_half():
    predicted, reference, region = case(6)
    loss = DeepSupervisedLoss((1, 0.5, 0.25))
    plain = loss(predicted, reference, region)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = loss(predicted, reference, region)
    assert autocast.dtype == torch.float32
    assert torch.equal(plain, autocast)
    rounded = [p.bfloat16() for p in predicted]
    half = loss(rounded, reference, region)
    assert half.dtype == torch.float32
    assert torch.equal(half, loss([p.float() for p in rounded], reference, region))


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -0.5)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(InputError, match="deep supervision weights must not be negative"):
        DeepSupervisedLoss(weights)


def test_a_number_of_outputs_unlike_the_weights_is_an_error():
    predicted, reference, region = case(7)
    with pytest.raises(ValueError, match="zip"):
        DeepSupervisedLoss((1.0, 0.5))(predicted, reference, region)
