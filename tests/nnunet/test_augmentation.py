"""Augmentation keeps bits, names and physics."""

import math

import numpy as np
import pytest
import torch

from cdm_nnunet.losses.bits import pack_words, unpack_words
from cdm_nnunet.nnunet.augmentation import (
    MAX_ROTATION_DEGREES,
    MirrorLeftRight,
    initial_patch_size,
    mirror_left_right,
    training_transforms,
)

# left, right, midline over two words
PERMUTATION = (1, 0, *range(2, 16), 17, 16)


def sample(seed: int, shape=(6, 20, 20)):
    generator = np.random.default_rng(seed)
    masks = torch.from_numpy(generator.random((len(PERMUTATION), *shape)) < 0.3)
    return {
        "image": torch.from_numpy(generator.random((1, *shape), np.float32)),
        "segmentation": torch.cat([masks[:1].float() * 0.9, pack_words(masks[None])[0]]),
        "regression_target": torch.from_numpy(generator.random((1, *shape), np.float32)) * 70,
    }, masks


def test_mirroring_flips_left_right_and_swaps_names():
    data, masks = sample(0)
    network_input = torch.cat([data["image"], data["segmentation"]])[None]
    mirrored = mirror_left_right(network_input, PERMUTATION)
    assert torch.equal(mirrored[:, :2], network_input[:, :2].flip(4))
    found = unpack_words(mirrored[:, 2:], len(PERMUTATION))[0]
    assert torch.equal(found, masks[list(PERMUTATION)].flip(3))
    assert torch.equal(mirror_left_right(mirrored, PERMUTATION), network_input)


def test_mirror_transform_is_consistent_over_image_bits_and_dose():
    outcomes = set()
    for seed in range(20):
        data, masks = sample(1)
        torch.manual_seed(seed)
        out = MirrorLeftRight(PERMUTATION)(**dict(data))
        flipped = torch.equal(out["regression_target"], data["regression_target"].flip(3))
        assert flipped or torch.equal(out["regression_target"], data["regression_target"])
        assert torch.equal(out["image"], data["image"].flip(3) if flipped else data["image"])
        expected = masks[list(PERMUTATION)].flip(3) if flipped else masks
        assert torch.equal(unpack_words(out["segmentation"][None, 1:], len(PERMUTATION))[0], expected)
        assert torch.equal(
            out["segmentation"][0], data["segmentation"][0].flip(2) if flipped else data["segmentation"][0]
        )
        outcomes.add(flipped)
    assert outcomes == {True, False}


@pytest.mark.parametrize("seed", range(8))
def test_training_transforms_never_invent_a_word_or_a_prescription(seed):
    data, _ = sample(2, shape=(8, 24, 24))
    np.random.seed(seed)  # noqa: NPY002  # the generator that the transforms draw from
    torch.manual_seed(seed)
    out = training_transforms((6, 20, 20), range(len(PERMUTATION)))(**dict(data))
    assert out["segmentation"].shape == (3, 6, 20, 20)
    for channel in range(3):
        allowed = set(data["segmentation"][channel].unique().tolist()) | {0.0}
        assert set(out["segmentation"][channel].unique().tolist()) <= allowed
    assert out["regression_target"].min() >= 0


def test_rotation_is_small_in_plane_and_moves_all_tensors_alike():
    """A bar along the left-right axis, turned: it stays in its slice and turns by at most the stated angle."""
    shape = (5, 61, 61)
    bar = torch.zeros(shape)
    bar[2, 29:32, 5:56] = 1
    angles = []
    for seed in range(40):
        np.random.seed(seed)  # noqa: NPY002  # the generator that the transforms draw from
        torch.manual_seed(seed)
        out = training_transforms(shape, (0,))(
            image=bar[None].clone(), segmentation=torch.stack([bar, bar]), regression_target=bar[None] * 50
        )
        mask = out["segmentation"][1] > 0
        assert not mask[[0, 1, 3, 4]].any()
        y, x = (t.float() for t in torch.nonzero(mask[2], as_tuple=True))
        angles.append(
            math.degrees(math.atan2(float(((x - x.mean()) * (y - y.mean())).sum()), float((x - x.mean()).pow(2).sum())))
        )
        dose_mask = out["regression_target"][0] > 25
        assert (dose_mask ^ mask).sum() <= 0.15 * mask.sum()
    assert max(abs(a) for a in angles) <= MAX_ROTATION_DEGREES + 0.5
    assert max(abs(a) for a in angles) > 1
    assert sum(abs(a) < 0.05 for a in angles) > 10  # most samples are not rotated


def test_the_patch_to_cut_holds_the_rotated_patch():
    patch = (32, 64, 96)
    cut = initial_patch_size(patch)
    angle = math.radians(MAX_ROTATION_DEGREES)
    assert cut[0] == patch[0]
    assert cut[1] >= patch[1] * math.cos(angle) + patch[2] * math.sin(angle) - 1
    assert cut[2] >= patch[2]
