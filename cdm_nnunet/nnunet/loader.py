"""Patches of dose cases for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blosc2
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.plans import CT, PRESCRIPTION, DosePlans


class DoseDataLoader(nnUNetDataLoader):
    """Draws batches of patches; what lies outside the image is air, no prescription, no ROI and no dose.

    A batch is a dictionary: ``data`` (B, 2 + L, Z, Y, X) float32, ``target`` (B, 1, Z, Y, X) float32, dose in Gy; lists
    of length B: ``prescription_gy`` and ``roi_voxels`` (K values each), ``voxel_volume_cc``, ``keys``.

    Args:
        data: Preprocessed cases.
        plans: The plans that they were made with.
        digest: :meth:`DosePlans.digest` of the configuration.
        batch_size: Samples in a batch.
        patch_size: Size to cut.
        final_patch_size: Size after augmentation.
        label_manager: Of the plans.
        target_share: Share of the samples whose patch is centred on a voxel of a target or OAR.
        transforms: Augmentation, see :mod:`cdm_nnunet.nnunet.augmentation`; None for none.
    """

    def __init__(
        self,
        data: nnUNetDatasetBlosc2,
        plans: DosePlans,
        digest: str,
        batch_size: int,
        patch_size: Sequence[int],
        final_patch_size: Sequence[int],
        label_manager: Any,
        target_share: float,
        transforms: BasicTransform | None,
    ):
        super().__init__(
            data,
            batch_size,
            patch_size,
            final_patch_size,
            label_manager,
            oversample_foreground_percent=target_share,
            probabilistic_oversampling=True,
            transforms=transforms,
        )
        self.plans = plans
        self.digest = digest

    def set_thread_id(self, thread_id: int) -> None:
        """Called once in each worker process, which inherits the parent's torch generator: give it its own state."""
        super().set_thread_id(thread_id)
        torch.manual_seed(np.random.randint(2**31))  # noqa: NPY002  # nnU-Net has seeded this generator

    def generate_train_batch(self) -> dict[str, Any]:
        """Draw one batch."""
        keys = list(self.get_indices())
        batch: dict[str, Any] = {"keys": keys, "prescription_gy": [], "roi_voxels": [], "voxel_volume_cc": []}
        samples = []
        with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
            for j, key in enumerate(keys):
                data, dose, _, properties = self._data.load_case(key)
                refuse_foreign_case(key, properties, self.digest, data.shape[0], self.plans)
                low, _ = self.get_bbox(data.shape[1:], self.get_do_oversample(j), properties["class_locations"])
                low = self._keep_inside(low, data.shape[1:])
                image = cut(data, low, self.patch_size, self.plans.padding)
                samples.append(self._augment(image, cut(dose, low, self.patch_size, (0.0,))))
                for name in ("prescription_gy", "roi_voxels", "voxel_volume_cc"):
                    batch[name].append(properties["cdm"][name])
            batch["data"] = torch.stack([image for image, _ in samples])
            batch["target"] = torch.stack([dose for _, dose in samples])
        return batch

    def _keep_inside(self, low: Sequence[int], shape: Sequence[int]) -> list[int]:
        """Shift a patch so that its final part, the middle, lies in the image; or centre it if the image is smaller.

        nnU-Net's own sampling lets patches that are centred on a voxel hang over the far end.
        """
        kept = []
        for start, size, final, length in zip(low, self.patch_size, self.final_patch_size, shape, strict=True):
            margin = size // 2 - final // 2
            spare = length - final
            kept.append(int(min(max(start + margin, 0), spare) if spare > 0 else -(-spare // 2)) - margin)
        return kept

    def _augment(self, image: NDArray[np.float32], dose: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        data, reference = torch.from_numpy(image), torch.from_numpy(dose)
        if self.transforms is None:
            return data, reference
        air = self.plans.padding[CT]
        sample = self.transforms(
            image=data[CT : CT + 1] - air, segmentation=data[PRESCRIPTION:], regression_target=reference
        )
        return torch.cat([sample["image"] + air, sample["segmentation"]]), sample["regression_target"]


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
    """Cut a patch that may hang over the border.

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
