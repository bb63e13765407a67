"""Augmentation that is compatible with the physics of dose.

Small rotations about the patient's long axis, mild noise on the CT, and left-right mirroring with the bits of paired
ROIs swapped. No scaling (dose falls off in mm), no change of CT contrast (HU are calibrated), no front-back or
head-feet flip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cdm_nnunet.losses.bits import permute_words
from cdm_nnunet.nnunet.facts import PatchFacts
from cdm_nnunet.nnunet.plans import CT, FIRST_WORD, LEFT_RIGHT_AXIS

MAX_ROTATION_DEGREES = 5.0
_P_ROTATION = 0.3
_P_MIRROR = 0.5
_P_NOISE = 0.2
_MAX_NOISE = 0.1  # standard deviations of the CT inside the dose region


@dataclass(frozen=True)
class Sample:
    """One sample of a batch.

    Attributes:
        data: Preprocessed channels, (2 + L, Z, Y, X).
        dose_gy: Dose, (1, Z, Y, X), Gy.
        facts: Facts of its patient.
    """

    data: Tensor
    dose_gy: Tensor
    facts: PatchFacts


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of one sample, applied alike to CT, prescription, ROI words, dose and facts.

    Attributes:
        angle: Rotation about the long axis, rad.
        mirror: Whether left and right are exchanged, in anatomy and in the names of ROIs.
        noise: Standard deviation of the noise on the normalised CT.
    """

    angle: float = 0.0
    mirror: bool = False
    noise: float = 0.0

    @classmethod
    def draw(cls) -> Augmentation:
        """Draw one from torch's generator: most samples are neither rotated nor noisy."""
        rotate, angle, mirror, noisy, noise = torch.rand(5).tolist()
        return cls(
            angle=math.radians(MAX_ROTATION_DEGREES) * (2 * angle - 1) if rotate < _P_ROTATION else 0.0,
            mirror=mirror < _P_MIRROR,
            noise=_MAX_NOISE * noise if noisy < _P_NOISE else 0.0,
        )

    def size_to_cut(self, patch_size: Sequence[int]) -> tuple[int, int, int]:
        """Size (z, y, x) of the patch that :meth:`apply` needs: it contains all that rotates into ``patch_size``.

        It differs from ``patch_size`` by an even number of voxels along each axis, so that both have the same centre.
        """
        z, y, x = patch_size
        if not self.angle:
            return z, y, x
        c, s = math.cos(self.angle), abs(math.sin(self.angle))
        return z, y + 2 * _margin(c * y + s * x - y), x + 2 * _margin(c * x + s * y - x)

    def apply(self, sample: Sample, patch_size: Sequence[int], permutation: Sequence[int] | None) -> Sample:
        """Augment a sample.

        Rotation interpolates CT and dose linearly; prescription and ROI words are taken from the nearest
        voxel.

        Args:
            sample: Sample with the size of :meth:`size_to_cut`; its data may be overwritten.
            patch_size: Size of the result, (z, y, x).
            permutation: :attr:`Catalogue.mirror_permutation`; None disables mirroring.

        Returns:
            The sample of the patch.
        """
        data, dose, facts = sample.data, sample.dose_gy, sample.facts
        if self.angle:
            ct = rotate(data[: CT + 1], self.angle, patch_size, "bilinear")
            data = torch.cat([ct, rotate(data[CT + 1 :], self.angle, patch_size, "nearest")])
            dose = rotate(dose, self.angle, patch_size, "bilinear")
        if self.mirror and permutation is not None:
            data = mirror_left_right(data[None], permutation)[0]
            dose = dose.flip(LEFT_RIGHT_AXIS + 1)
            facts = facts.mirrored(permutation)
        if self.noise:
            data[CT] += self.noise * torch.randn(data.shape[1:])
        return Sample(data, dose, facts)


def mirror_left_right(data: Tensor, permutation: Sequence[int]) -> Tensor:
    """Mirror inputs so that left becomes right, in anatomy and in names.

    Args:
        data: Preprocessed channels, (B, 2 + L, Z, Y, X).
        permutation: :attr:`Catalogue.mirror_permutation`.

    Returns:
        Same shape: flipped along x, with the bits of paired ROIs swapped.
    """
    flipped = data.flip(LEFT_RIGHT_AXIS + 2)
    flipped[:, FIRST_WORD:] = permute_words(flipped[:, FIRST_WORD:], permutation)
    return flipped


def rotate(volume: Tensor, angle: float, size: Sequence[int], mode: str) -> Tensor:
    """Rotate a volume about the long axis through its centre, and crop its middle.

    Every slice rotates by the same angle, so slices are the channels of one two-dimensional sampling: half the
    neighbours of a three-dimensional one, and one set of weights for all slices.

    Args:
        volume: (C, Z, Y, X).
        angle: In rad; positive turns +x towards +y.
        size: Size (z, y, x) of the result; z must be Z.
        mode: ``bilinear`` or ``nearest``.

    Returns:
        (C, *size). Outside the volume, its border values are repeated.
    """
    channels, z, y_in, x_in = volume.shape
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size[1:]), indexing="ij")  # relative to the centre
    c, s = math.cos(angle), math.sin(angle)
    grid = torch.stack([(c * x + s * y) * (2 / x_in), (c * y - s * x) * (2 / y_in)], -1)[None]
    slices = volume.reshape(1, channels * z, y_in, x_in)
    turned = grid_sample(slices, grid, mode=mode, padding_mode="border", align_corners=False)
    return turned.view(channels, z, *size[1:])


def _margin(excess: float) -> int:
    """Voxels to add on either side for an excess in size, plus one for interpolation."""
    return max(math.ceil(excess / 2) + 1, 0)
