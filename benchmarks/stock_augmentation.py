"""nnU-Net's own transforms, reduced to this package's augmentation."""

from __future__ import annotations

import math
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from cdm_nnunet.nnunet.augmentation import MAX_ROTATION_DEGREES

LIMIT = math.radians(MAX_ROTATION_DEGREES)


class CTNoise(ImageOnlyTransform):
    """Noise on the first channel of a fifth of the samples; nnU-Net's transform draws it for every channel."""

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        """Draw the standard deviation."""
        return {"sigma": 0.1 * float(torch.rand(())) if torch.rand(()) < 0.2 else 0.0}

    def _apply_to_image(self, img: torch.Tensor, *, sigma: float) -> torch.Tensor:
        if sigma:
            img[0] += sigma * torch.randn(img.shape[1:])
        return img


def _angle(*, dim: int, **_: Any) -> float:
    return float(torch.empty(()).uniform_(-LIMIT, LIMIT)) if dim == 0 else 0.0


def transforms(patch_size: tuple[int, ...]) -> BasicTransform:
    """Rotation about the long axis, left-right mirroring, noise on the CT."""
    return ComposeTransforms(
        [
            SpatialTransform(
                patch_size,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_rotation=0.3,
                rotation=_angle,
                mode_seg="nearest",
            ),
            MirrorTransform(allowed_axes=(2,)),
            CTNoise(),
        ]
    )
