"""Batches have the right contents: padding, bits, doses, keys, and patches that cover every voxel of a patient."""

import json
import os
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.bits import unpack_words
from cdm_nnunet.nnunet.augmentation import Augmentation
from cdm_nnunet.nnunet.loader import DoseDataLoader, Patches, cut, draw_corner, refuse_foreign_case
from cdm_nnunet.nnunet.plans import DosePlans

CONFIGURATION = "3d_fullres"


def loader(folders, patch, *, share=0.5, augment=False, batch_size=2, cases=None, digest=None):
    plans = DosePlans(json.loads((folders.preprocessed / "nnUNetPlans.json").read_text()))
    dataset = nnUNetDatasetBlosc2(str(folders.preprocessed / f"nnUNetPlans_{CONFIGURATION}"), cases)
    manager = PlansManager(dict(plans.plans)).get_label_manager({"labels": {"background": 0}})
    patches = Patches(
        plans=plans,
        digest=digest or plans.digest(CONFIGURATION),
        batch_size=batch_size,
        patch_size=patch,
        label_manager=manager,
    )
    return DoseDataLoader(dataset, patches, target_share=share, augment=augment)


KILLED = """
import os, sys, time
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from test_loader import loader
from types import SimpleNamespace
from pathlib import Path
source = loader(SimpleNamespace(preprocessed=Path(sys.argv[1])), (8, 8, 8))
workers = NonDetMultiThreadedAugmenter(source, None, 2, 2, None, False)
next(workers)
print(*(process.pid for process in workers._processes), flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_loader_processes_end_with_a_killed_training(planned, tmp_path):
    (tmp_path / "script.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(planned.preprocessed)],
        env=environment,
        stdout=subprocess.PIPE,
    ) as training:
        workers = [Path("/proc", text) for text in training.stdout.readline().decode().split()]
        assert len(workers) == 2
        assert all(worker.exists() for worker in workers)
        training.kill()
    end = time.monotonic() + 60
    while any(worker.exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    running = [w for w in workers if w.exists() and "State:\tZ" not in (w / "status").read_text()]
    assert not running


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
    assert len(batch["facts"]) == 2
    for name in ("prescription_gy", "roi_voxels", "voxel_volume_cc"):
        np.testing.assert_equal(getattr(batch["facts"][0], name), properties["cdm"][name])
    inside = tuple(slice((32 - n) // 2, (32 - n) // 2 + n) for n in data.shape[1:])
    np.testing.assert_array_equal(batch["data"][0][(slice(None), *inside)], data)
    np.testing.assert_array_equal(batch["target"][0][(slice(None), *inside)], dose)
    outside = np.ones((32, 32, 32), bool)
    outside[inside] = False
    assert (batch["data"][0].numpy()[0][outside] == np.float32(one.plans.padding[0])).all()
    assert not batch["data"][0].numpy()[1:][:, outside].any()
    assert not batch["target"][0].numpy()[0][outside].any()


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 12, 14), (16, 16, 16), (20, 24, 28)])
def test_a_patch_stays_in_the_image_and_every_voxel_is_drawn(planned, patch):
    """Where the patient is larger than the patch, it reaches both ends; where not, the patient is in its middle."""
    np.random.seed(1)  # noqa: NPY002  # the generator that the loader draws from
    data, _, properties = whole(planned, "case_0")
    shape = data.shape[1:]
    starts = [Counter() for _ in range(3)]
    for _ in range(600):
        for counted, start in zip(starts, draw_corner(shape, patch, properties["class_locations"], 0.5), strict=True):
            counted[start] += 1
    for counted, n, p in zip(starts, shape, patch, strict=True):
        assert set(counted) == (set(range(n - p + 1)) if n > p else {-((p - n) // 2)})


def test_the_share_of_patches_around_an_roi(planned):
    """With a share of 1, the centre of the patch is in a target or OAR, if the border allows it."""
    np.random.seed(3)  # noqa: NPY002  # as above
    data, _, properties = whole(planned, "case_2")
    masks = unpack_words(torch.from_numpy(data[None, 2:]), 20)[0].numpy()
    relevant = masks[list(planned.raw.catalogue.bits_of_kind("target", "oar"))].any(0)
    hits = {}
    for share in (0.0, 0.5, 1.0):
        corners = [draw_corner(data.shape[1:], (3, 3, 3), properties["class_locations"], share) for _ in range(300)]
        hits[share] = np.mean([relevant[tuple(a + 1 for a in low)] for low in corners])
    assert hits[1.0] > 0.95
    assert hits[0.0] == pytest.approx(relevant[1:-1, 1:-1, 1:-1].mean(), abs=0.1)
    assert hits[0.5] == pytest.approx((hits[0.0] + hits[1.0]) / 2, abs=0.1)


def test_every_roi_has_the_same_share_and_an_absent_one_none():
    np.random.seed(4)  # noqa: NPY002  # as above
    large = np.stack(np.broadcast_arrays(0, 5, 5, np.arange(10, 90)), 1)
    locations = {0: large, 3: np.zeros((0, 4), int), 7: np.array([[0, 5, 80, 5]])}
    corners = [tuple(draw_corner((11, 91, 100), (3, 3, 3), locations, 1.0)) for _ in range(1000)]
    assert corners.count((4, 79, 4)) == pytest.approx(500, abs=60)
    assert {low[:2] for low in corners} == {(4, 79), (4, 4)}
    assert len(set(draw_corner((9, 9, 9), (3, 3, 3), {3: locations[3]}, 1.0))) >= 1  # no ROI: anywhere


@pytest.mark.parametrize("low_share", [0.0, 1.0])
def test_a_turned_sample_has_the_centre_of_the_patch(planned, monkeypatch, low_share):
    """The larger patch that is cut for it has the same centre."""
    patch = (8, 12, 14)
    one = loader(planned, patch, share=low_share, augment=True, cases=["case_1"], batch_size=1)
    samples = []
    for drawn in (Augmentation(), Augmentation(angle=1e-6)):
        monkeypatch.setattr(Augmentation, "draw", lambda drawn=drawn: drawn)
        np.random.seed(5)  # noqa: NPY002  # as above
        samples.append(next(one))
    assert drawn.size_to_cut(patch) != patch
    torch.testing.assert_close(samples[0]["data"][:, 1:], samples[1]["data"][:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(samples[0]["data"][:, 0], samples[1]["data"][:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(samples[0]["target"], samples[1]["target"], rtol=0, atol=1e-2)


def test_a_mirrored_sample_has_its_words_mirrored(planned, monkeypatch):
    """Bits, CT, prescription and dose move together: the right parotid is where the left one was, with its dose."""
    catalogue = planned.raw.catalogue
    data, dose, _ = whole(planned, "case_1")
    one = loader(planned, data.shape[1:], cases=["case_1"], augment=True, batch_size=1)
    seen = set()
    for mirror in (True, False):
        monkeypatch.setattr(Augmentation, "draw", lambda mirror=mirror: Augmentation(mirror=mirror))
        batch = next(one)
        sample, reference = batch["data"][0].numpy(), batch["target"][0].numpy()
        flipped = not np.array_equal(reference, dose)
        seen.add(flipped)
        side = slice(None, None, -1) if flipped else slice(None)
        np.testing.assert_array_equal(reference, dose[..., side])
        np.testing.assert_array_equal(sample[:2], data[:2][..., side])
        found = unpack_words(torch.from_numpy(sample[None, 2:]), 20)[0].numpy()
        masks = unpack_words(torch.from_numpy(data[None, 2:]), 20)[0].numpy()
        order = list(catalogue.mirror_permutation) if flipped else list(range(20))
        np.testing.assert_array_equal(found, masks[order][..., side])
        assert batch["facts"][0].roi_voxels == tuple(int(mask.sum()) for mask in found)
    assert seen == {True, False}


def test_augmented_batches_hold_whole_words_and_air(planned):
    patch = (8, 12, 14)
    one = loader(planned, patch, augment=True, batch_size=4)
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
    source = loader(planned, patch, augment=True, batch_size=1)
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
        torch.manual_seed(0)  # inherited by a fork
        np.random.seed(seed)  # noqa: NPY002  # what batchgenerators does in each worker
        source.set_thread_id(0)
        draws.append(float(torch.rand(())))
    assert draws[0] != draws[1]
    assert draws[0] == draws[2]
    assert isinstance(source.set_thread_id, types.MethodType)
