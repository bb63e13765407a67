"""Augmentation that the physics of dose allows.

Small rotations about the patient's long axis, mild noise on the CT, and left-right mirroring with the bits of paired
ROIs swapped. No scaling (dose falls off in mm), no change of CT contrast (HU are calibrated), no front-back or
head-feet flip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from torch import Tensor

from cdm_nnunet.losses.bits import permute_words
from cdm_nnunet.nnunet.plans import CT, FIRST_WORD, HEAD_FEET_AXIS, LEFT_RIGHT_AXIS

MAX_ROTATION_DEGREES = 5.0
_P_ROTATION = 0.3
_P_NOISE = 0.2
_MAX_NOISE = 0.1  # standard deviations of the CT inside the dose region


def mirror_left_right(data: Tensor, permutation: Sequence[int]) -> Tensor:
    """Mirror inputs so that left becomes right, in anatomy and in names.

    Args:
        data: Preprocessed channels, (B, 2 + L, Z, Y, X).
        permutation: :attr:`Catalogue.mirror_permutation`.

    Returns:
        Same shape: flipped along x, with the bits of paired ROIs swapped.
    """
    flipped = data.flip(LEFT_RIGHT_AXIS + 2)
    words = permute_words(flipped[:, FIRST_WORD:], permutation)
    return torch.cat([flipped[:, :FIRST_WORD], words], 1)


class MirrorLeftRight(BasicTransform):
    """Mirror a sample with probability 0.5: image, words and dose.

    Args:
        permutation: :attr:`Catalogue.mirror_permutation`.
    """

    def __init__(self, permutation: Sequence[int]):
        super().__init__()
        self.permutation = tuple(permutation)

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        """Toss the coin."""
        return {"mirror": bool(torch.rand(()) < 0.5)}

    def _apply_to_image(self, img: Tensor, *, mirror: bool) -> Tensor:
        return img.flip(LEFT_RIGHT_AXIS + 1) if mirror else img

    def _apply_to_regr_target(self, regression_target: Tensor, *, mirror: bool) -> Tensor:
        return self._apply_to_image(regression_target, mirror=mirror)

    def _apply_to_segmentation(self, segmentation: Tensor, *, mirror: bool) -> Tensor:
        if not mirror:
            return segmentation
        flipped = segmentation.flip(LEFT_RIGHT_AXIS + 1)
        return torch.cat([flipped[:1], permute_words(flipped[None, 1:], self.permutation)[0]])


class CTNoise(BasicTransform):
    """Add mild Gaussian noise to the normalised CT, and to no other channel."""

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        """Draw the standard deviation; 0 for most samples."""
        return {"sigma": float(torch.rand(())) * _MAX_NOISE if torch.rand(()) < _P_NOISE else 0.0}

    def _apply_to_image(self, img: Tensor, *, sigma: float) -> Tensor:
        if sigma:
            img = img.clone()
            img[CT] += sigma * torch.randn(img.shape[1:])
        return img

    def _apply_to_regr_target(self, regression_target: Tensor, **_: Any) -> Tensor:
        return regression_target

    def _apply_to_segmentation(self, segmentation: Tensor, **_: Any) -> Tensor:
        return segmentation


def _rotation_angle(*, dim: int, **_: Any) -> float:
    limit = math.radians(MAX_ROTATION_DEGREES)
    return float(torch.empty(()).uniform_(-limit, limit)) if dim == HEAD_FEET_AXIS else 0.0


def initial_patch_size(patch_size: Sequence[int]) -> list[int]:
    """Size of the patch to cut so that the rotated patch of ``patch_size`` lies inside it."""
    limit = math.radians(MAX_ROTATION_DEGREES)
    size: list[int] = [int(n) for n in get_patch_size(patch_size, (-limit, limit), (0, 0), (0, 0), (1, 1))]
    return size


def training_transforms(patch_size: Sequence[int], permutation: Sequence[int]) -> BasicTransform:
    """The augmentation of a training sample.

    A sample has three float32 tensors: ``image`` (CT with air at 0, (1, Z, Y, X)), ``segmentation`` (prescription and
    ROI words, (1 + L, Z, Y, X)), which is only ever taken from the nearest voxel, and ``regression_target`` (dose,
    (1, Z, Y, X)). What rotates in from outside is zero: air, no prescription, no ROI, no dose.

    Args:
        patch_size: Size of the patch that comes out, cut from the centre of a larger one.
        permutation: :attr:`Catalogue.mirror_permutation`.
    """
    return ComposeTransforms(
        [
            SpatialTransform(
                tuple(patch_size),
                patch_center_dist_from_border=0,
                random_crop=False,
                p_rotation=_P_ROTATION,
                rotation=_rotation_angle,
                mode_seg="nearest",
                border_mode_seg="zeros",
                padding_mode_image="zeros",
            ),
            MirrorLeftRight(permutation),
            CTNoise(),
        ]
    )
