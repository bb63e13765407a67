"""Batches hold what they say: padding, bits, doses, keys, and patches that cover every voxel of a patient."""

import json
import types
from collections import Counter

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.bits import unpack_words
from cdm_nnunet.nnunet.augmentation import MirrorLeftRight, initial_patch_size, training_transforms
from cdm_nnunet.nnunet.loader import DoseDataLoader, cut, refuse_foreign_case
from cdm_nnunet.nnunet.plans import DosePlans

CONFIGURATION = "3d_fullres"


def loader(folders, patch, *, cut_size=None, share=0.5, transforms=None, batch_size=2, cases=None, digest=None):
    plans = DosePlans(json.loads((folders.preprocessed / "nnUNetPlans.json").read_text()))
    dataset = nnUNetDatasetBlosc2(str(folders.preprocessed / f"nnUNetPlans_{CONFIGURATION}"), cases)
    manager = PlansManager(dict(plans.plans)).get_label_manager({"labels": {"background": 0}})
    return DoseDataLoader(
        dataset,
        plans,
        digest or plans.digest(CONFIGURATION),
        batch_size,
        cut_size or patch,
        patch,
        manager,
        share,
        transforms,
    )


def whole(folders, case: str):
    dataset = nnUNetDatasetBlosc2(str(folders.preprocessed / f"nnUNetPlans_{CONFIGURATION}"))
    data, dose, _, properties = dataset.load_case(case)
    return np.array(data[:]), np.array(dose[:]), properties


def test_cutting_pads_each_channel_with_its_own_value():
    volume = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    patch = cut(volume, (-1, 2, 0), (3, 4, 5), (-7.0, 0.5))
    assert patch.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(patch[:, 1:, :2], volume[:, :2, 2:])
    for channel, value in enumerate((-7.0, 0.5)):
        assert (patch[channel, 0] == value).all()
        assert (patch[channel, :, 2:] == value).all()
    np.testing.assert_array_equal(cut(volume, (0, 0, 0), (3, 4, 5), (0, 0)), volume)
    assert (cut(volume, (9, 0, 0), (2, 2, 2), (1.0, 2.0)) == np.array([1, 2])[:, None, None, None]).all()


def test_a_batch_and_what_lies_outside_the_image(planned):
    """A patch larger than the patient: the patient in its middle, around it air, no prescription, no ROI, no dose."""
    np.random.seed(0)  # noqa: NPY002  # the generator that nnU-Net's sampling draws from
    one = loader(planned, (32, 32, 32), cases=["case_3"], batch_size=2)
    batch = next(one)
    data, dose, properties = whole(planned, "case_3")
    assert list(batch["keys"]) == ["case_3", "case_3"]
    assert batch["data"].shape == (2, 4, 32, 32, 32)
    assert batch["target"].shape == (2, 1, 32, 32, 32)
    assert batch["data"].dtype == batch["target"].dtype == torch.float32
    for name in ("prescription_gy", "roi_voxels", "voxel_volume_cc"):
        assert len(batch[name]) == 2
        np.testing.assert_equal(batch[name][0], properties["cdm"][name])
    inside = tuple(slice((32 - n) // 2, (32 - n) // 2 + n) for n in data.shape[1:])
    np.testing.assert_array_equal(batch["data"][0][(slice(None), *inside)], data)
    np.testing.assert_array_equal(batch["target"][0][(slice(None), *inside)], dose)
    outside = np.ones((32, 32, 32), bool)
    outside[inside] = False
    assert (batch["data"][0].numpy()[0][outside] == np.float32(one.plans.padding[0])).all()
    assert not batch["data"][0].numpy()[1:][:, outside].any()
    assert not batch["target"][0].numpy()[0][outside].any()


def test_a_patch_stays_in_the_image_and_every_voxel_is_drawn(planned):
    """Where the patient is larger than the patch, no patch hangs over, and none of its voxels is out of reach."""
    np.random.seed(1)  # noqa: NPY002  # as above
    patch = (8, 8, 8)
    one = loader(planned, patch, cases=["case_0"], share=0.5, batch_size=1)
    data, _, properties = whole(planned, "case_0")
    drawn = [np.zeros(n, int) for n in data.shape[1:]]
    for _ in range(400):
        low, _ = one.get_bbox(data.shape[1:], one.get_do_oversample(0), properties["class_locations"])
        low = one._keep_inside(low, data.shape[1:])
        assert all(0 <= a <= n - p for a, n, p in zip(low, data.shape[1:], patch, strict=True))
        for line, a, p in zip(drawn, low, patch, strict=True):
            line[a : a + p] += 1
    assert all(line.min() > 0 for line in drawn)


@pytest.mark.parametrize("patch", [(8, 12, 14), (16, 16, 16), (20, 24, 28)])
def test_the_margin_for_rotation_takes_no_voxel_out_of_reach(planned, patch):
    """A larger patch is cut and its middle used: the middle must reach both ends of the patient, not only one."""
    np.random.seed(2)  # noqa: NPY002  # as above
    cut_size = tuple(n + 4 for n in patch)
    one = loader(planned, patch, cut_size=cut_size, cases=["case_0"], share=0.5, batch_size=1)
    shape = whole(planned, "case_0")[0].shape[1:]
    properties = whole(planned, "case_0")[2]
    starts = [Counter() for _ in range(3)]
    for _ in range(600):
        low, _ = one.get_bbox(shape, one.get_do_oversample(0), properties["class_locations"])
        for axis, start in enumerate(one._keep_inside(low, shape)):
            starts[axis][start + 2] += 1  # where the middle begins
    for counted, n, p in zip(starts, shape, patch, strict=True):
        if n > p:
            assert min(counted) == 0
            assert max(counted) == n - p
        else:
            assert set(counted) == {-((p - n) // 2)}  # centred


def test_the_share_of_patches_around_an_roi(planned):
    """With a share of 1, the centre of the patch lies in a target or OAR, wherever the border lets it."""
    np.random.seed(3)  # noqa: NPY002  # as above
    data, _, properties = whole(planned, "case_2")
    masks = unpack_words(torch.from_numpy(data[None, 2:]), 20)[0].numpy()
    relevant = masks[list(planned.raw.catalogue.bits_of_kind("target", "oar"))].any(0)
    hits = {}
    for share in (0.0, 0.5, 1.0):
        one = loader(planned, (3, 3, 3), cases=["case_2"], share=share, batch_size=1)
        n = 0
        for _ in range(300):
            low, _ = one.get_bbox(data.shape[1:], one.get_do_oversample(0), properties["class_locations"])
            n += relevant[tuple(a + 1 for a in one._keep_inside(low, data.shape[1:]))]
        hits[share] = n / 300
    assert hits[1.0] > 0.95
    assert hits[0.0] == pytest.approx(relevant[1:-1, 1:-1, 1:-1].mean(), abs=0.1)
    assert hits[0.5] == pytest.approx((hits[0.0] + hits[1.0]) / 2, abs=0.1)


def test_a_mirrored_sample_has_its_words_mirrored(planned):
    """Bits, CT, prescription and dose move together: the right parotid is where the left one was, with its dose."""
    catalogue = planned.raw.catalogue
    data, dose, _ = whole(planned, "case_1")
    mirror = MirrorLeftRight(catalogue.mirror_permutation)
    one = loader(planned, data.shape[1:], cases=["case_1"], transforms=mirror, batch_size=1)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        batch = next(one)
        sample, reference = batch["data"][0].numpy(), batch["target"][0].numpy()
        flipped = not np.array_equal(reference, dose)
        seen.add(flipped)
        side = slice(None, None, -1) if flipped else slice(None)
        np.testing.assert_array_equal(reference, dose[..., side])
        np.testing.assert_allclose(sample[0], data[0][..., side], atol=1e-5)
        np.testing.assert_array_equal(sample[1], data[1][..., side])
        found = unpack_words(torch.from_numpy(sample[None, 2:]), 20)[0].numpy()
        masks = unpack_words(torch.from_numpy(data[None, 2:]), 20)[0].numpy()
        order = list(catalogue.mirror_permutation) if flipped else list(range(20))
        np.testing.assert_array_equal(found, masks[order][..., side])
    assert seen == {True, False}


def test_augmented_batches_hold_whole_words_and_air(planned):
    patch = (8, 12, 14)
    catalogue = planned.raw.catalogue
    one = loader(
        planned,
        patch,
        cut_size=initial_patch_size(patch),
        transforms=training_transforms(patch, catalogue.mirror_permutation),
        batch_size=4,
    )
    np.random.seed(4)  # noqa: NPY002  # as above
    torch.manual_seed(4)
    for _ in range(5):
        batch = next(one)
        assert batch["data"].shape == (4, 4, *patch)
        words = batch["data"][:, 2:]
        assert torch.equal(words, words.round())
        assert float(words.min()) >= 0
        assert float(words.max()) < 2**16
        assert not (words[:, 1] >= 2**4).any()  # 20 ROIs: the second word has four bits
        assert set((batch["data"][:, 1] * 70).round().unique().tolist()) <= {0.0, 56.0, 70.0}
        assert batch["target"].min() >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "0123456789abcdef"}, r"made with other plans \(another catalogue, spacing or normalisation\)"),
        ({"n_channels": 3}, "made with other plans"),
        ({"properties": {}}, "made with nnU-Net's own preprocessor, which destroys ROI bits"),
    ],
)
def test_a_foreign_case_is_refused(planned, change, message):
    one = loader(planned, (8, 8, 8))
    properties = change.get("properties", whole(planned, "case_0")[2])
    with pytest.raises(InputError, match=rf"preprocessed case 'X' was {message}.*; run 'cdm-nnunet plan' again"):
        refuse_foreign_case("X", properties, change.get("digest", one.digest), change.get("n_channels", 4), one.plans)
    refuse_foreign_case("X", whole(planned, "case_0")[2], one.digest, 4, one.plans)


def test_a_stale_case_stops_the_loader(planned):
    with pytest.raises(InputError, match=r"preprocessed case 'case_\d' was made with other plans"):
        next(loader(planned, (8, 8, 8), digest="0123456789abcdef"))


# (batchgenerators' own thread may still read from a worker that is being stopped)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_worker_processes_draw_different_patches_and_augmentations(planned):
    """A forked worker inherits its parent's generators: two of them must not draw the same."""
    patch = (6, 10, 10)
    source = loader(
        planned,
        patch,
        cut_size=initial_patch_size(patch),
        transforms=training_transforms(patch, planned.raw.catalogue.mirror_permutation),
        batch_size=1,
    )
    workers = NonDetMultiThreadedAugmenter(source, None, 2, 2, [11, 12], False, wait_time=0.01)
    try:
        batches = [next(workers) for _ in range(8)]
    finally:
        workers._finish()
    prints = {batch["data"].numpy().tobytes() for batch in batches}
    assert len(prints) == len(batches)
    assert len({tuple(batch["keys"]) for batch in batches}) > 1


def test_a_worker_has_its_own_torch_generator(planned, monkeypatch):
    source = loader(planned, (8, 8, 8))
    draws = []
    for seed in (1, 2, 1):
        torch.manual_seed(0)  # what a fork inherits
        np.random.seed(seed)  # noqa: NPY002  # what batchgenerators does in each worker
        source.set_thread_id(0)
        draws.append(float(torch.rand(())))
    assert draws[0] != draws[1]
    assert draws[0] == draws[2]
    assert isinstance(source.set_thread_id, types.MethodType)
