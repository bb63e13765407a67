import gzip
from dataclasses import asdict, replace

import numpy as np
import pytest

from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.record import GammaResult
from cdm_nnunet.evaluation.scene import GammaMap, Scene
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.report.volumes import DOSE_STEP_GY, HU_TABLE, display_volume, hu_codes

SPACING_MM, ORIGIN_MM = (2.0, 3.0, 4.0), (-10.0, 20.0, 30.0)


def scene(shape=(20, 30, 26), highest_gy=70.0):
    rng = np.random.default_rng(3)
    reference = np.zeros(shape, np.float32)
    reference[6:14, 8:20, 9:18] = rng.uniform(5, highest_gy, (8, 12, 9))
    mask = np.zeros(shape, bool)
    mask[7:12, 9:15, 10:16] = rng.random((5, 6, 6)) > 0.4
    return Scene(
        "case",
        rng.uniform(-1200, 3300, shape).astype(np.float32),
        {"reference": reference, "predicted": (reference * 0.9).astype(np.float32)},
        {"PTV": mask, "Cord": np.roll(mask, 3, axis=2)},
        1,
        {"PTV": "#ff0000", "Cord": "#00ff00"},
        Grid(shape, SPACING_MM, np.array(ORIGIN_MM[::-1])),
        70.0,
    )


def unpack(volume):
    """The packed arrays, and the voxels of the scene that they are."""
    header = volume.header
    shape = header["shape"]
    n = int(np.prod(shape))
    content = gzip.decompress(volume.packed)
    doses = [np.frombuffer(content, "<u2", n, 2 * n * k).reshape(shape) * header["dose_step_gy"] for k in (0, 1)]
    hu = HU_TABLE[np.frombuffer(content, np.uint8, n, 4 * n)].reshape(shape)
    n_bytes = -(-n // 8)
    assert len(content) == 5 * n + n_bytes * len(header["rois"])
    masks = [
        np.unpackbits(np.frombuffer(content, np.uint8, n_bytes, 5 * n + k * n_bytes), count=n).reshape(shape) == 1
        for k in range(len(header["rois"]))
    ]
    places = []
    for axis in range(3):
        step = SPACING_MM[axis] * header["stride"][axis]
        assert header["spacing_mm"][axis] == step
        start = round((header["origin_mm"][axis] - ORIGIN_MM[axis]) / SPACING_MM[axis])
        places.append(start + header["stride"][axis] * np.arange(shape[axis]))
    return doses, hu, masks, np.ix_(*places)


@pytest.mark.parametrize("max_bytes", [10**9, 8000, 3000])
def test_what_is_shown_are_voxels_of_the_scene(max_bytes):
    made = scene()
    volume = display_volume(made, max_bytes)
    assert len(volume.packed) <= max_bytes
    assert (volume.header["stride"] == [1, 1, 1]) == (max_bytes == 10**9)
    doses, hu, masks, places = unpack(volume)
    for shown, dose in zip(doses, made.doses_gy.values(), strict=True):
        assert np.abs(shown - dose[places]).max() <= DOSE_STEP_GY / 2 + 1e-4
    for name, shown in zip(volume.header["rois"], masks, strict=True):
        np.testing.assert_array_equal(shown, made.masks[name][places])
    inside = made.ct_hu[places].clip(HU_TABLE[0], HU_TABLE[-1])
    assert np.abs(hu - inside).max() <= 18
    soft = (inside > -199) & (inside < 295)
    assert np.abs(hu - inside)[soft].max() <= 2.01


def test_everything_with_dose_or_an_roi_is_in_the_box():
    made = scene()
    *_, places = unpack(display_volume(made, 10**9))
    shown = np.zeros(made.ct_hu.shape, bool)
    shown[places] = True
    assert shown[made.doses_gy["reference"] > 0.05 * 70].all()
    assert all(shown[mask].all() for mask in made.masks.values())
    assert not shown.all()


def test_doses_above_the_range_of_the_codes_get_a_coarser_step():
    made = scene(highest_gy=5000.0)
    volume = display_volume(made, 10**9)
    assert volume.header["dose_step_gy"] > DOSE_STEP_GY
    doses, _, _, places = unpack(volume)
    reference = made.doses_gy["reference"][places]
    assert np.abs(doses[0] - reference).max() <= volume.header["dose_step_gy"] / 2 + 1e-2


def test_hu_codes_are_nearest():
    np.testing.assert_array_equal(hu_codes(HU_TABLE), np.arange(256))
    assert HU_TABLE[hu_codes(np.array([-5000.0, 1.0, 3.0, 9000.0]))].tolist() == [-1024.0, 0.0, 4.0, 3100.0]


def test_where_gamma_fails_is_one_more_mask():
    made = scene()
    failed = np.random.default_rng(1).random(made.ct_hu.shape) > 0.9
    rule = GammaRule(3.0, 3.0)
    result = GammaResult(**asdict(rule), n_voxels=100, pass_percent=90.0)
    volume = display_volume(replace(made, gamma=GammaMap(result, failed)), 10**9)
    plain = display_volume(made, 10**9)
    assert volume.header == {**plain.header, "gamma": {**asdict(rule), "n_voxels": 100, "pass_percent": 90.0}}
    whole, without = gzip.decompress(volume.packed), gzip.decompress(plain.packed)
    assert whole.startswith(without)
    n = int(np.prod(volume.header["shape"]))
    shown = np.unpackbits(np.frombuffer(whole[len(without) :], np.uint8), count=n).reshape(volume.header["shape"]) == 1
    starts = [
        round((o - first) / step)
        for o, first, step in zip(volume.header["origin_mm"], ORIGIN_MM, SPACING_MM, strict=True)
    ]
    box = tuple(slice(start, start + size) for start, size in zip(starts, volume.header["shape"], strict=True))
    np.testing.assert_array_equal(shown, failed[box])
