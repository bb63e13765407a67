"""Sums of logistic steps: the way for a CPU and the way for other devices against a plain sum."""

import pytest
import torch

from cdm_nnunet.losses.steps import _of_all, step_sums

FIRST, END = [0, 3, 40, 20, 10, 0], [50, 31, 60, 20, 12, 60]  # ranges overlap; one is empty
THRESHOLDS_GY = (20.0, 46.0, 66.5, 30.0, 5.0, 39.875)
WIDTH_GY = 1.5


def voxels(dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(60, dtype=torch.float64, generator=generator) * 75).to(dtype).requires_grad_()


@pytest.mark.parametrize("way", [step_sums, _of_all])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sums_and_gradients_are_those_of_a_plain_sum(way, dtype, tolerance):
    dose_gy = voxels(dtype)
    sums = way(dose_gy, torch.tensor(FIRST), torch.tensor(END), THRESHOLDS_GY, WIDTH_GY)
    plain_gy = voxels()
    expected = torch.stack(
        [
            (1 / (1 + torch.exp((x - plain_gy[a:b]) / WIDTH_GY))).sum()
            for a, b, x in zip(FIRST, END, THRESHOLDS_GY, strict=True)
        ]
    )
    weights = torch.linspace(-1, 2, len(FIRST), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(sums @ weights, dose_gy)
    (expected_gradient,) = torch.autograd.grad(expected @ weights, plain_gy)
    assert sums.dtype == torch.float64
    assert gradient.dtype == dtype
    torch.testing.assert_close(sums, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=tolerance)


def test_the_gradient_matches_finite_differences():
    def sums(dose_gy):
        return step_sums(dose_gy, torch.tensor(FIRST), torch.tensor(END), THRESHOLDS_GY, WIDTH_GY)

    assert torch.autograd.gradcheck(sums, voxels())


def test_a_second_derivative_is_refused_rather_than_wrong():
    dose_gy = voxels()
    sums = step_sums(dose_gy, torch.tensor(FIRST), torch.tensor(END), THRESHOLDS_GY, WIDTH_GY)
    (gradient,) = torch.autograd.grad(sums.square().sum(), dose_gy, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
