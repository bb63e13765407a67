"""Augmentation keeps bits, names and physics."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.losses.bits import pack_words, unpack_words
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.terms import Term, Terms
from cdm_nnunet.nnunet.augmentation import MAX_ROTATION_DEGREES, Augmentation, Sample, mirror_left_right, rotate
from cdm_nnunet.nnunet.facts import PatchFacts, loss_arguments

# left, right, midline over two words
PERMUTATION = (1, 0, *range(2, 16), 17, 16)


ANGLE = math.radians(MAX_ROTATION_DEGREES)
FACTS = PatchFacts(tuple(50.0 + k for k in range(18)), tuple(range(100, 118)), 0.1)


def sample(seed: int, shape=(6, 20, 20)):
    """Channels (CT, prescription, two words), dose, and the masks in the words."""
    generator = np.random.default_rng(seed)
    masks = torch.from_numpy(generator.random((len(PERMUTATION), *shape)) < 0.3)
    ct, dose = torch.from_numpy(generator.random((2, 1, *shape), np.float32))
    return torch.cat([ct, masks[:1].float() * 0.9, pack_words(masks[None])[0]]), dose * 70, masks


def augmented(drawn, data, dose, patch, permutation):
    out = drawn.apply(Sample(data.clone(), dose, FACTS), patch, permutation)
    return out.data, out.dose_gy


def test_mirroring_flips_left_right_and_swaps_names():
    data, _, masks = sample(0)
    mirrored = mirror_left_right(data[None], PERMUTATION)
    assert torch.equal(mirrored[:, :2], data[None, :2].flip(4))
    found = unpack_words(mirrored[:, 2:], len(PERMUTATION))[0]
    assert torch.equal(found, masks[list(PERMUTATION)].flip(3))
    assert torch.equal(mirror_left_right(mirrored, PERMUTATION), data[None])


def test_nothing_drawn_changes_nothing():
    data, dose, _ = sample(1)
    out, reference = augmented(Augmentation(), data, dose, data.shape[1:], PERMUTATION)
    assert torch.equal(out, data)
    assert torch.equal(reference, dose)
    assert Augmentation().size_to_cut((6, 20, 20)) == (6, 20, 20)


def test_a_mirrored_sample_is_consistent_over_image_bits_and_dose():
    data, dose, masks = sample(1)
    out, reference = augmented(Augmentation(mirror=True), data, dose, data.shape[1:], PERMUTATION)
    assert torch.equal(reference, dose.flip(3))
    assert torch.equal(out[:2], data[:2].flip(3))
    assert torch.equal(unpack_words(out[None, 2:], len(PERMUTATION))[0], masks[list(PERMUTATION)].flip(3))


PAIRED_TERMS = Terms(
    tuple(
        Term(bit, Metric.parse(key), weight, True)
        for bit in (0, 1)  # a left and a right target
        for key, weight in (("D95%", 1.0), ("V95%", 2.0), ("Dmean", 0.5))
    )
)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**16),
    prescriptions=st.lists(st.sampled_from([54.0, 60.0, 63.0, 70.0, math.nan]), min_size=2, max_size=2),
    missing=st.lists(st.integers(0, 50), min_size=18, max_size=18),
    partial=st.sampled_from(["weighted", "whole", "all"]),
)
def test_the_loss_of_a_mirrored_sample_is_the_loss_of_the_sample(seed, prescriptions, missing, partial):
    """Thresholds and shares belong to ROIs, so they move with their bits; mirrored twice is the sample again."""
    data, dose, masks = sample(seed, (3, 8, 8))
    sizes = tuple(int(mask.sum()) + extra for mask, extra in zip(masks, missing, strict=True))
    one = Sample(data, dose, PatchFacts((*prescriptions, *[math.nan] * 16), sizes, 0.05))
    other = torch.from_numpy(np.random.default_rng(seed + 1).random(dose.shape, np.float32)) * 70
    mirror, patch = Augmentation(mirror=True), data.shape[1:]
    mirrored = mirror.apply(one, patch, PERMUTATION)
    twice = mirror.apply(mirrored, patch, PERMUTATION)
    assert torch.equal(twice.data, one.data)
    assert torch.equal(twice.dose_gy, one.dose_gy)
    np.testing.assert_equal(dataclasses.astuple(twice.facts), dataclasses.astuple(one.facts))

    loss = CDMLoss(PAIRED_TERMS, 70.0, partial_rois=partial)

    def value(of: Sample, predicted) -> float:
        return float(loss(predicted[None], of.dose_gy[None], of.data[None, 2:], *loss_arguments([of.facts])))

    assert value(mirrored, other.flip(3)) == pytest.approx(value(one, other), rel=1e-5, abs=1e-7)


def test_nothing_is_mirrored_where_an_roi_has_no_partner():
    data, dose, _ = sample(1)
    out, reference = augmented(Augmentation(mirror=True), data, dose, data.shape[1:], None)
    assert torch.equal(out, data)
    assert torch.equal(reference, dose)


def test_noise_is_on_the_ct_alone():
    data, dose, _ = sample(1, (10, 40, 40))
    torch.manual_seed(0)
    out, reference = augmented(Augmentation(noise=0.1), data, dose, data.shape[1:], PERMUTATION)
    assert torch.equal(out[1:], data[1:])
    assert torch.equal(reference, dose)
    noise = out[0] - data[0]
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(noise.std()) == pytest.approx(0.1, abs=0.005)


def test_what_is_drawn():
    torch.manual_seed(0)
    drawn = [Augmentation.draw() for _ in range(4000)]
    shares = {
        field.name: np.mean([bool(getattr(d, field.name)) for d in drawn]) for field in dataclasses.fields(drawn[0])
    }
    assert shares == pytest.approx({"angle": 0.3, "mirror": 0.5, "noise": 0.2}, abs=0.03)
    angles = np.array([d.angle for d in drawn if d.angle])
    assert abs(angles).max() <= ANGLE
    assert abs(angles.mean()) < 0.005
    assert angles.std() == pytest.approx(ANGLE / math.sqrt(3), rel=0.05)  # uniform
    both = np.mean([bool(d.angle) and d.mirror and bool(d.noise) for d in drawn])
    assert both == pytest.approx(0.03, abs=0.01)  # independent of each other


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), angle=st.floats(-ANGLE, ANGLE), mirror=st.booleans(), noise=st.floats(0, 0.1))
def test_no_word_and_no_prescription_is_ever_invented(seed, angle, mirror, noise):
    drawn = Augmentation(angle, mirror, noise)
    patch = (4, 12, 16)
    data, dose, _ = sample(seed, drawn.size_to_cut(patch))
    out, reference = augmented(drawn, data, dose, patch, range(len(PERMUTATION)))
    assert out.shape == (4, *patch)
    assert reference.shape == (1, *patch)
    for channel in (1, 2, 3):
        assert set(out[channel].unique().tolist()) <= set(data[channel].unique().tolist())
    assert dose.min() <= reference.min() <= reference.max() <= dose.max()


@pytest.mark.parametrize("degrees", [-5.0, -1.0, 2.0, 5.0])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_rotation_of_a_linear_field_is_exact_up_to_interpolation(degrees, mode):
    """Every voxel of the turned volume has the field's value at the turned place; nothing comes from the border."""
    patch, angle = (3, 24, 40), math.radians(degrees)
    size = Augmentation(angle=angle).size_to_cut(patch)

    def places(shape):
        return np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")

    z, y, x = places(size)
    field = torch.from_numpy(2 * x - 3 * y + 100 * z).float()[None]
    turned = rotate(field, angle, patch, mode)[0].numpy()
    z, y, x = places(patch)
    c, s = math.cos(angle), math.sin(angle)
    expected = 2 * (c * x + s * y) - 3 * (c * y - s * x) + 100 * z
    np.testing.assert_allclose(turned, expected, atol=1e-3 if mode == "bilinear" else 2.501)


def test_words_turn_with_the_ct():
    """A bar along the left-right axis stays in its slice and turns by the angle, in every channel."""
    angle, patch = math.radians(4), (5, 61, 61)
    size = Augmentation(angle=angle).size_to_cut(patch)
    bar = torch.zeros(size)
    middle = [n // 2 for n in size]
    bar[2, middle[1] - 1 : middle[1] + 2, middle[2] - 25 : middle[2] + 26] = 1
    out, reference = augmented(Augmentation(angle=angle), torch.stack([bar, bar, bar]), bar[None] * 50, patch, (0,))
    mask = out[2] > 0
    assert not mask[[0, 1, 3, 4]].any()
    y, x = (t.float() - 30 for t in torch.nonzero(mask[2], as_tuple=True))
    found = math.degrees(math.atan2(float((x * y).sum()), float((x * x).sum())))
    assert abs(found) == pytest.approx(4, abs=0.3)
    assert torch.equal(out[1], out[2])
    for interpolated in (out[0] > 0.5, reference[0] > 25):
        assert (interpolated ^ mask).sum() <= 0.1 * mask.sum()


def test_the_patch_to_cut_keeps_its_centre_and_the_long_axis():
    patch = (32, 64, 96)
    for angle in (-ANGLE, 0.01, ANGLE):
        cut = Augmentation(angle=angle).size_to_cut(patch)
        assert cut[0] == patch[0]
        for before, after in zip(patch, cut, strict=True):
            assert after >= before
            assert (after - before) % 2 == 0
