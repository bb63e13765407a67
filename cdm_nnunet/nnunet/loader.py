"""Patches of dose cases for training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.augmentation import Augmentation, Sample
from cdm_nnunet.nnunet.facts import PatchFacts
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.parallel import end_with_parent

_NONE = Augmentation()


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Settings for drawing patches of preprocessed cases.

    Attributes:
        plans: The plans that the cases were preprocessed with.
        digest: :meth:`DosePlans.digest` of the configuration.
        batch_size: Samples in a batch.
        patch_size: Size of a patch (z, y, x).
        label_manager: Label manager of the plans.
    """

    plans: DosePlans
    digest: str
    batch_size: int
    patch_size: Sequence[int]
    label_manager: Any

    def refuse_foreign_cases(self, cases: Any) -> None:
        """Check all preprocessed cases of nnU-Net's data set.

        Raises:
            InputError: If a case is not ours or is stale.
        """
        for case in cases.identifiers:
            data, _, _, properties = cases.load_case(case)
            refuse_foreign_case(case, properties, self.digest, data.shape[0], self.plans)


class DoseDataLoader(nnUNetDataLoader):
    """Draws batches of patches; outside the image there is air, no prescription, no ROI and no dose.

    A batch is a dictionary: ``data`` (B, 2 + L, Z, Y, X) float32, ``target`` (B, 1, Z, Y, X) float32, dose in Gy; lists
    of length B: ``facts`` (:class:`PatchFacts`) and ``keys``.

    Args:
        data: Preprocessed cases.
        patches: Settings of the patches.
        target_share: Share of the samples whose patch is centred on a voxel of a target or OAR.
        augment: Whether to augment, see :mod:`cdm_nnunet.nnunet.augmentation`.
    """

    def __init__(self, data: nnUNetDatasetBlosc2, patches: Patches, *, target_share: float, augment: bool):
        size = patches.patch_size
        super().__init__(data, patches.batch_size, size, size, patches.label_manager)
        self._made_in = os.getpid()
        self.plans = patches.plans
        self.digest = patches.digest
        self.target_share = target_share
        self.augment = augment

    def set_thread_id(self, thread_id: int) -> None:
        """Called once in each worker process: end it with its parent, and seed its torch generator differently."""
        if os.getpid() != self._made_in:
            end_with_parent(self._made_in)
        super().set_thread_id(thread_id)
        torch.manual_seed(np.random.randint(2**31))  # noqa: NPY002  # nnU-Net seeds this generator

    def generate_train_batch(self) -> dict[str, Any]:
        """Draw one batch."""
        keys = list(self.get_indices())
        batch: dict[str, Any] = {
            "keys": keys,
            "data": torch.empty(len(keys), self.plans.n_channels, *self.patch_size),
            "target": torch.empty(len(keys), 1, *self.patch_size),
            "facts": [],
        }
        permutation = self.plans.catalogue.mirror_permutation
        for j, key in enumerate(keys):
            data, dose, _, properties = self._data.load_case(key)
            refuse_foreign_case(key, properties, self.digest, data.shape[0], self.plans)
            drawn = Augmentation.draw() if self.augment else _NONE
            size = drawn.size_to_cut(self.patch_size)
            low = draw_corner(data.shape[1:], self.patch_size, properties["class_locations"], self.target_share)
            low = [start - (n - m) // 2 for start, n, m in zip(low, size, self.patch_size, strict=True)]
            sample = Sample(
                torch.from_numpy(cut(data, low, size, self.plans.padding)),
                torch.from_numpy(cut(dose, low, size, (0.0,))),
                PatchFacts.of_case(properties),
            )
            augmented = drawn.apply(sample, self.patch_size, permutation)
            batch["data"][j], batch["target"][j] = augmented.data, augmented.dose_gy
            batch["facts"].append(augmented.facts)
        return batch


def draw_corner(
    shape: Sequence[int], patch_size: Sequence[int], locations: Mapping[int, NDArray[np.integer]], target_share: float
) -> list[int]:
    """First voxel of a random patch inside the image; along an axis where the image is smaller, the patch is centred.

    Args:
        shape: Size of the image (z, y, x).
        patch_size: Size of the patch.
        locations: ``class_locations`` of the case: by bit, rows (0, z, y, x).
        target_share: Probability that the patch is centred on a voxel of a random target or OAR, as far as the
            border of the image allows; otherwise its position is uniform.
    """
    rng = np.random  # the generator that nnU-Net seeds
    centre = None
    present = [voxels for voxels in locations.values() if len(voxels)]
    if rng.random() < target_share and present:
        voxels = present[rng.randint(len(present))]
        centre = voxels[rng.randint(len(voxels))][1:]
    low = []
    for axis, (length, size) in enumerate(zip(shape, patch_size, strict=True)):
        spare = length - size
        if spare <= 0:
            low.append(-(-spare // 2))
        elif centre is None:
            low.append(int(rng.randint(spare + 1)))
        else:
            low.append(min(max(int(centre[axis]) - size // 2, 0), spare))
    return low


def refuse_foreign_case(case: str, properties: dict[str, Any], digest: str, n_channels: int, plans: DosePlans) -> None:
    """Check that a preprocessed case was made by our preprocessor with these plans.

    Raises:
        InputError: If not.
    """
    own = properties.get("cdm")
    if own is None:
        found = "nnU-Net's own preprocessor, which destroys ROI bits and cuts dose to integers"
    elif own.get("digest") != digest or n_channels != plans.n_channels:
        found = "other plans (another catalogue, spacing or normalisation)"
    else:
        return
    raise InputError(f"preprocessed case '{case}' was made with {found}; run 'cdm-nnunet plan' again")


def cut(
    volume: blosc2.NDArray | NDArray[np.float32], low: Sequence[int], size: Sequence[int], padding: Sequence[float]
) -> NDArray[np.float32]:
    """Cut a patch that may extend beyond the border.

    Args:
        volume: (C, Z, Y, X).
        low: First voxel (z, y, x) of the patch; may be negative.
        size: Size of the patch.
        padding: Value outside the volume for each channel.

    Returns:
        float32, (C, *size).
    """
    patch = np.empty((volume.shape[0], *size), np.float32)
    patch[:] = np.asarray(padding, np.float32).reshape(-1, 1, 1, 1)
    inside = [
        (max(start, 0), min(start + n, length)) for start, n, length in zip(low, size, volume.shape[1:], strict=True)
    ]
    if all(begin < end for begin, end in inside):
        target = tuple(slice(begin - start, end - start) for start, (begin, end) in zip(low, inside, strict=True))
        patch[(slice(None), *target)] = volume[(slice(None), *(slice(begin, end) for begin, end in inside))]
    return patch
