"""Voxel-wise dose losses, also under deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdm_nnunet.errors import InputError


def region_mae(predicted_dose: Tensor, reference_dose: Tensor, region: Tensor) -> Tensor:
    """Mean absolute difference over a region; arguments as for :func:`region_mse`."""
    difference = (predicted_dose.float() - reference_dose.float()).abs() * region
    return difference.sum() / region.sum().clamp(min=1.0)


def region_mse(predicted_dose: Tensor, reference_dose: Tensor, region: Tensor) -> Tensor:
    """Mean squared difference over a region.

    Args:
        predicted_dose: Shape (B, 1, Z, Y, X), any unit.
        reference_dose: Same shape and unit.
        region: Same shape, weight of each voxel from 0 to 1.

    Returns:
        Scalar, in the square of the unit of the doses, float32; 0 for an empty region.
    """
    difference = (predicted_dose.float() - reference_dose.float()) ** 2 * region
    return difference.sum() / region.sum().clamp(min=1.0)


class DeepSupervisedLoss(nn.Module):
    """Error of the dose at every scale of a deeply supervised network.

    The reference of a coarser output is the mean dose of the part of each coarse voxel that lies in the region, and the
    voxel is weighted by that part, so that the border of the region is unbiased.

    Args:
        weights: Weight of each output, finest first. They are normalised to a sum of 1.
        error: :func:`region_mae` or :func:`region_mse`.

    Raises:
        InputError: If there is no weight above zero, or a negative one.
    """

    def __init__(self, weights: Sequence[float], error: Callable[[Tensor, Tensor, Tensor], Tensor] = region_mae):
        super().__init__()
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise InputError(f"deep supervision weights must not be negative and have a sum above 0, not {weights}")
        self.error = error
        self.weights = tuple(weight / sum(weights) for weight in weights)

    def forward(self, predicted_doses: Sequence[Tensor], reference_dose: Tensor, region: Tensor) -> Tensor:
        """The weighted sum over scales.

        Args:
            predicted_doses: One tensor per scale, finest first, (B, 1, Z_s, Y_s, X_s).
            reference_dose: (B, 1, Z, Y, X), in the same unit.
            region: (B, 1, Z, Y, X), boolean or 0 to 1.

        Returns:
            Scalar, float32.
        """
        region = region.float()
        reference_dose = reference_dose.float()
        total = reference_dose.new_zeros(())
        for weight, predicted_dose in zip(self.weights, predicted_doses, strict=True):
            if weight == 0:
                continue
            shape = (predicted_dose.shape[2], predicted_dose.shape[3], predicted_dose.shape[4])
            if shape == reference_dose.shape[2:]:
                reference_here, region_here = reference_dose, region
            else:
                region_here = functional.adaptive_avg_pool3d(region, shape)
                in_region = functional.adaptive_avg_pool3d(reference_dose * region, shape)
                reference_here = in_region / region_here.clamp(min=torch.finfo(torch.float32).tiny)
            total = total + weight * self.error(predicted_dose, reference_here, region_here)
        return total
