"""ROI bits in torch against the NumPy functions, for every number of ROIs."""

import numpy as np
import pytest
import torch

from cdm_nnunet import roi
from cdm_nnunet.losses.bits import pack_words, permute_words, roi_mask, unpack_words

SHAPE = (3, 4, 5)


def random_masks(n_rois: int, *leading: int) -> torch.Tensor:
    generator = np.random.default_rng(n_rois)
    masks = torch.from_numpy(generator.random((*leading, n_rois, *SHAPE)) < 0.4)
    masks[..., -1, 0, 0, 0] = True  # the highest bit is in use
    return masks


@pytest.mark.parametrize("n_rois", range(1, 65))
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_words_equal_numpy_and_come_back(n_rois, dtype):
    masks = random_masks(n_rois, 2)
    words = pack_words(masks)
    assert words.dtype == torch.float32
    for b in range(2):
        expected = roi.to_words(roi.pack(masks[b].numpy()), n_rois)
        np.testing.assert_array_equal(words[b].numpy(), expected)
        np.testing.assert_array_equal(roi.from_words(words[b].numpy(), n_rois), roi.pack(masks[b].numpy()))
    assert torch.equal(unpack_words(words.to(dtype), n_rois), masks)
    for bit in {0, n_rois // 2, n_rois - 1}:
        assert torch.equal(roi_mask(words.to(dtype), bit), masks[:, bit])


@pytest.mark.parametrize("n_rois", [1, 2, 8, 16, 17, 33, 63, 64])
def test_permuting_words_equals_numpy(n_rois):
    masks = random_masks(n_rois, 2)
    permutation = np.random.default_rng(n_rois).permutation(n_rois).tolist()
    moved = permute_words(pack_words(masks), permutation)
    assert moved.dtype == torch.float32
    assert torch.equal(unpack_words(moved, n_rois), masks[:, permutation])
    for b in range(2):
        expected = roi.permute_bits(roi.pack(masks[b].numpy()), permutation)
        np.testing.assert_array_equal(roi.from_words(moved[b].numpy(), n_rois), expected)


def test_permuting_leaves_its_input_alone():
    words = pack_words(random_masks(20, 1))
    before = words.clone()
    permute_words(words, [*range(10, 20), *range(10)])
    assert torch.equal(words, before)
