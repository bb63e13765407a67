"""The user's choices for the plans of a data set; the rest follows from the data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanChoices:
    """Choices with their defaults.

    Attributes:
        gpu_memory_gb: GPU memory that a training may use.
        spacing_mm: Voxel size (z, y, x) of ``3d_fullres``; None takes the median of the data.
        coarse_spacing_mm: Voxel size of ``3d_coarse``.
        base_features: Features of the finest stage.
        batch_size: Maximum batch size; None for no limit.
        plans_from: ``ID_OR_NAME[:PLANS]`` of another data set, whose plans determine voxel sizes, patch sizes,
            networks, CT statistics and dose scale here, so that its models can be fine-tuned. GPU memory, voxel sizes
            and features are then not used.
        dose_scale_gy: Dose that corresponds to a network output of 1; at least the highest prescription of the training
            cases. None takes that of ``plans_from``, or the highest prescription.
    """

    gpu_memory_gb: float = 8.0
    spacing_mm: tuple[float, float, float] | None = None
    coarse_spacing_mm: float = 6.0
    base_features: int = 32
    batch_size: int | None = None
    plans_from: str | None = None
    dose_scale_gy: float | None = None
