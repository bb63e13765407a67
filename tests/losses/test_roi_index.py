"""Which voxels belong to which ROI, and their order: the NumPy and the torch way against a plain loop."""

import numpy as np
import pytest
import torch

from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.roi_index import RoiIndex

SHAPE = (4, 5, 6)


N_SAMPLES = 3


def masks_of(n_rois: int) -> torch.Tensor:
    generator = np.random.default_rng(n_rois)
    shares = generator.uniform(0, 0.8, (N_SAMPLES, n_rois, 1, 1, 1))
    masks = torch.from_numpy(generator.random((N_SAMPLES, n_rois, *SHAPE)) < shares)
    masks[:, 0] = False
    masks[1] = False
    masks[:, -1, -1, -1, -1] = True
    return masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint16])
@pytest.mark.parametrize("n_rois", [1, 16, 17, 40, 64])
def test_members_are_the_voxels_of_each_mask(n_rois, dtype):
    masks = masks_of(n_rois)
    words = pack_words(masks).to(dtype)
    bits = [n_rois - 1, *range(0, n_rois - 1, 3)]  # not all, not in order
    n_voxels = masks[0, 0].numel()
    expected = [masks[b, bit].flatten().nonzero().squeeze(1) + b * n_voxels for bit in bits for b in range(N_SAMPLES)]
    for index in (RoiIndex.of(words, bits), RoiIndex._of_torch(words.flatten(2), bits)):
        assert index.counts == tuple(map(len, expected))
        assert torch.equal(index.index, torch.cat(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_roi_of_each_sample_ascends(dtype):
    masks = masks_of(20)
    generator = torch.Generator().manual_seed(0)
    n_voxels = masks[0, 0].numel()
    dose = torch.randint(-5, 6, (N_SAMPLES * n_voxels,), generator=generator).to(dtype) / 4  # negative doses and ties
    index = RoiIndex.of(pack_words(masks), range(20))
    for order in (index.ascending(dose), index._ascending_torch(dose)):
        for row, start in enumerate(index.starts[:-1]):
            k, b = divmod(row, N_SAMPLES)
            found = order[start : start + index.counts[row]].tolist()
            voxels = (masks[b, k].flatten().nonzero().squeeze(1) + b * n_voxels).tolist()
            assert found == sorted(voxels, key=lambda voxel: (float(dose[voxel]), voxel))


def test_negative_zero_and_extremes_have_their_place():
    values = [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, float("inf"), float("-inf")]
    dose = torch.tensor(values)
    order = RoiIndex(torch.arange(8), (8,)).ascending(dose)
    assert dose[order].tolist() == sorted(dose.tolist())
