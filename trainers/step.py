"""The result of one pass over a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """Doses and losses of a batch.

    Attributes:
        dose_gy: Predicted dose, (B, 1, Z, Y, X), Gy, zero outside the dose region.
        reference_gy: Same shape, Gy.
        region: Same shape, 1 inside the dose region.
        words: ROI words, (B, L, Z, Y, X).
        voxel_error: The voxel-wise loss, a scalar.
        dvh_loss: The weighted DVH loss, a scalar; None while it is not active.
    """

    dose_gy: Tensor
    reference_gy: Tensor
    region: Tensor
    words: Tensor
    voxel_error: Tensor
    dvh_loss: Tensor | None

    @property
    def loss(self) -> Tensor:
        """The loss to minimise."""
        return self.voxel_error if self.dvh_loss is None else self.voxel_error + self.dvh_loss
