"""Preprocessing loses no bit, invents none, and can be undone for the dose."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import special
from skimage.transform import resize

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.export import dose_on_patient_grid
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.preprocessor import DosePreprocessor, crop_box, take_words
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.nnunet.resampling import resample_ct, resample_dose, resample_nearest
from cdm_nnunet.roi import from_words, pack, to_words, unpack

FULL, COARSE = "nnUNetPlans_3d_fullres", "nnUNetPlans_3d_coarse"
CASES = tuple(f"case_{k}" for k in range(5))


def plans_of(folders, plans_name: str = "nnUNetPlans") -> PlansManager:
    return PlansManager(str(folders.preprocessed / f"{plans_name}.json"))


def load(folders, configuration: str, case: str):
    dataset = nnUNetDatasetBlosc2(str(folders.preprocessed / configuration))
    data, dose, _, properties = dataset.load_case(case)
    return np.array(data[:]), np.array(dose[:]), properties


def raw_case(folders, case: str):
    images = [str(folders.raw.image_path(case, channel)) for channel in range(3)]
    return CDMReaderWriter().read_case(images, str(folders.raw.dose_path(case)))


def inside(properties) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])


@pytest.mark.parametrize("case", CASES)
def test_on_its_own_grid_a_case_keeps_every_bit_and_every_dose(planned, case):
    raw, raw_dose, _ = raw_case(planned, case)
    data, dose, properties = load(planned, FULL, case)
    box = inside(properties)
    n_rois = len(planned.raw.catalogue)
    assert data.dtype == dose.dtype == np.float32
    np.testing.assert_array_equal(from_words(data[2:], n_rois), from_words(raw[(slice(2, None), *box)], n_rois))
    np.testing.assert_array_equal(dose, raw_dose[(slice(None), *box)])
    np.testing.assert_allclose(data[1] * 70.0, raw[(1, *box)], rtol=1e-6)
    assert not np.delete(raw[2:].reshape(2, -1), np.flatnonzero(_in_box(box, raw.shape[1:])), 1).any()


def _in_box(box, shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[box] = True
    return mask


def test_ct_is_normalised_by_the_statistics_of_the_plans(planned):
    raw, _, _ = raw_case(planned, "case_0")
    data, _, properties = load(planned, FULL, "case_0")
    statistics = DosePlans(plans_of(planned).plans).ct_statistics
    ct = raw[(0, *inside(properties))].clip(statistics["percentile_00_5"], statistics["percentile_99_5"])
    np.testing.assert_allclose(data[0] * statistics["std"] + statistics["mean"], ct, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_on_another_grid_bits_come_from_the_nearest_voxel(planned, case):
    """Each word is an existing one, from the raw voxel that contains the centre of the new voxel."""
    raw, _, _ = raw_case(planned, case)
    data, dose, properties = load(planned, COARSE, case)
    words = raw[(slice(2, None), *inside(properties))]
    for zyx in np.ndindex(*data.shape[1:]):
        centre = [(i + 0.5) * n / m for i, n, m in zip(zyx, words.shape[1:], data.shape[1:], strict=True)]
        allowed = [{int(np.floor(c)), int(np.ceil(c)) - 1} if c == int(c) else {int(c)} for c in centre]
        candidates = {tuple(words[:, z, y, x]) for z in allowed[0] for y in allowed[1] for x in allowed[2]}
        assert tuple(data[(slice(2, None), *zyx)]) in candidates
    assert set(np.unique(data[1] * np.float32(70))) <= {0.0, 56.0, 70.0}
    assert dose.min() >= 0


def test_the_crop_box_holds_rois_beyond_the_dose_region(planned):
    """The spinal cord runs on below the region; planes without any ROI are cut off."""
    raw, _, _ = raw_case(planned, "case_0")
    box = crop_box(raw[2:], planned.raw.catalogue)
    masks = unpack(from_words(raw[2:], 20), 20)
    region, cord = masks[19], masks[18]
    assert np.argwhere(cord)[:, 0].min() < np.argwhere(region)[:, 0].min()
    expected = np.argwhere(masks.any(0))
    assert [s.start for s in box] == expected.min(0).tolist()
    assert [s.stop for s in box] == (expected.max(0) + 1).tolist()
    _, _, properties = load(planned, FULL, "case_0")
    assert properties["cdm"]["roi_voxels"] == masks.sum((1, 2, 3)).tolist()


def test_without_a_dose_region_nothing_is_cut_off(fresh, small_template):
    folders = fresh(2, small_template(dose_region=False))
    raw, _, _ = raw_case(folders, "case_0")
    assert crop_box(raw[2:], folders.raw.catalogue) == tuple(slice(0, n) for n in raw.shape[1:])


def test_an_empty_dose_region_is_refused(planned):
    words = np.zeros((2, 4, 4, 4), np.float32)
    with pytest.raises(InputError, match="the dose region 'Region' is empty"):
        crop_box(words, planned.raw.catalogue)


@pytest.mark.parametrize("case", CASES)
def test_the_dose_comes_back_exactly_where_the_grid_is_the_same(planned, case):
    _, raw_dose, _ = raw_case(planned, case)
    _, dose, properties = load(planned, FULL, case)
    plans = DosePlans(plans_of(planned).plans)
    back = dose_on_patient_grid(dose / plans.dose_scale_gy, properties, plans)
    assert back.dtype == np.float32
    assert back.shape == raw_dose.shape[1:]
    np.testing.assert_allclose(back, raw_dose[0], rtol=3e-7)


@pytest.mark.parametrize("case", CASES)
def test_the_dose_comes_back_close_where_it_was_resampled(planned, case):
    raw, raw_dose, _ = raw_case(planned, case)
    _, dose, properties = load(planned, COARSE, case)
    plans = DosePlans(plans_of(planned).plans)
    back = dose_on_patient_grid(dose / plans.dose_scale_gy, properties, plans)
    region = unpack(from_words(raw[2:], 20), 20)[19]
    assert back.shape == raw_dose.shape[1:]
    assert not back[~region].any()
    assert np.abs(back - raw_dose[0])[region].mean() < 1.5  # steps of 4 Gy from voxel to voxel
    assert abs((back - raw_dose[0])[region].mean()) < 0.4
    # no shift: the centres of dose agree to a tenth of a (raw) voxel inside an inner part, away from the border
    core = np.zeros_like(region)
    core[8:15, 8:16, 9:20] = True
    centre = [(np.argwhere(core) * d[core][:, None]).sum(0) / d[core].sum() for d in (back, raw_dose[0])]
    np.testing.assert_allclose(centre[0], centre[1], atol=0.1)


@pytest.mark.parametrize("outside", [0.0, 5.0, -5.0])
def test_resampling_does_not_pull_at_the_dose_at_the_border_of_the_region(planned, outside):
    """A uniform dose is uniform on the network's grid, and comes back so whatever the network says outside."""
    raw, raw_dose, properties = raw_case(planned, "case_0")
    region = unpack(from_words(raw[2:], 20), 20)[19]
    manager = plans_of(planned)
    configuration = manager.get_configuration("3d_coarse")
    uniform = np.where(region, np.float32(50), np.float32(0))[None]
    data, dose, properties = DosePreprocessor(verbose=False).run_case_npy(
        raw, uniform, properties, manager, configuration, {}
    )
    new_region = unpack(from_words(data[2:], 20), 20)[19]
    assert dose.shape[1:] != raw_dose.shape[1:]
    np.testing.assert_allclose(dose[0][new_region], 50.0, rtol=1e-4)
    assert not dose[0][~new_region].any()
    plans = DosePlans(manager.plans)
    output = np.where(new_region, dose / plans.dose_scale_gy, np.float32(outside))
    back = dose_on_patient_grid(output, properties, plans)
    checked = region[inside(properties)]
    np.testing.assert_allclose(back[inside(properties)][checked], 50.0, rtol=1e-3)


def test_negative_output_is_clipped_and_what_is_outside_the_region_is_zero(planned):
    raw, _, _ = raw_case(planned, "case_0")
    _, dose, properties = load(planned, FULL, "case_0")
    plans = DosePlans(plans_of(planned).plans)
    output = np.full_like(dose, 0.5)
    output[0, 5] = -0.1
    back = dose_on_patient_grid(output, properties, plans)
    region = unpack(from_words(raw[2:], 20), 20)[19]
    assert back.min() == 0
    assert set(np.unique(back[region])) == {0.0, np.float32(35.0)}
    assert not back[~region].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_not_finite_is_refused(planned, value):
    _, dose, properties = load(planned, FULL, "case_0")
    dose[0, 1, 2, 3] = value
    with pytest.raises(InputError, match="the network's output is not finite"):
        dose_on_patient_grid(dose, properties, DosePlans(plans_of(planned).plans))


@pytest.mark.parametrize("m", [20, 60])
def test_what_is_linear_stays_linear_when_it_is_resampled(m):
    """Both grids fill the same box: the value at a voxel's centre is that of the line there. Edges are held."""
    n = 30
    line = np.broadcast_to((np.arange(n) + 0.5) / n, (6, 6, n)).astype(np.float32)
    expected = ((np.arange(m) + 0.5) / m)[m // 5 : -m // 5]
    np.testing.assert_allclose(resample_dose(line, None, (6, 6, m))[3, 3, m // 5 : -m // 5], expected, atol=1e-3)
    np.testing.assert_allclose(resample_ct(line, (6, 6, m))[3, 3, m // 5 : -m // 5], expected, atol=1e-2)


@pytest.mark.parametrize("shape", [(9, 14, 30), (20, 9, 7), (1, 14, 9)])
def test_resampling_axis_by_axis_is_that_of_all_axes_at_once(shape):
    volume = np.random.default_rng(4).uniform(0, 70, (12, 14, 17)).astype(np.float32)
    how = {"order": 3, "mode": "edge", "clip": False, "preserve_range": True}
    for smooth, found in ((False, resample_dose(volume, None, shape)), (True, resample_ct(volume, shape))):
        expected = resize(volume.astype(np.float64), shape, anti_aliasing=smooth, **how)
        np.testing.assert_allclose(found, expected if smooth else np.maximum(expected, 0), rtol=1e-6, atol=1e-5)


def test_a_penumbra_survives_a_coarse_grid():
    """The shoulder of a field (an error function, 80 % to 20 % in 7 mm) from 2.5 mm to 6 mm and back."""
    x_mm = (np.arange(96) + 0.5) * 2.5
    field_gy = 35 * (special.erf((x_mm - 60) / 6) - special.erf((x_mm - 180) / 6))
    field_gy = np.broadcast_to(field_gy, (8, 8, 96)).astype(np.float32)
    coarse = resample_dose(field_gy, None, (8, 8, 40))
    back = resample_dose(coarse, None, field_gy.shape)
    assert np.abs(back - field_gy).max() < 2.5
    at_95_percent = np.abs(x_mm - 120) < 52.5  # the field's own 95 % is at 53 mm from the middle
    np.testing.assert_allclose(back[:, :, at_95_percent], field_gy[:, :, at_95_percent], atol=1.0)
    assert back.min() >= 0


def test_a_dose_beyond_its_region_has_no_influence():
    rng = np.random.default_rng(0)
    dose = rng.uniform(0, 70, (9, 10, 12)).astype(np.float32)
    region = np.zeros(dose.shape, bool)
    region[2:7, 3:8, 2:9] = True
    other = np.where(region, dose, np.float32(1e3))
    new_shape = (7, 13, 9)
    np.testing.assert_array_equal(resample_dose(dose, region, new_shape), resample_dose(other, region, new_shape))


def test_nearest_resampling_moves_every_channel_alike():
    words = np.random.default_rng(0).integers(0, 65536, (3, 7, 8, 9)).astype(np.float32)
    same = resample_nearest(words, (7, 8, 9))
    np.testing.assert_array_equal(same, words)
    finer = resample_nearest(words, (14, 16, 27))
    np.testing.assert_array_equal(finer, words.repeat(2, 1).repeat(2, 2).repeat(3, 3))


def test_patches_are_drawn_around_voxels_of_the_roi_itself(planned):
    data, _, properties = load(planned, FULL, "case_1")
    catalogue = planned.raw.catalogue
    masks = unpack(from_words(data[2:], 20), 20)
    locations = properties["class_locations"]
    assert set(locations) == set(catalogue.bits_of_kind("target", "oar"))
    for bit, rows in locations.items():
        assert rows.dtype == np.int32
        assert not rows[:, 0].any()
        assert masks[bit][tuple(rows[:, 1:].T)].all()
        assert len(np.unique(rows, axis=0)) == min(int(masks[bit].sum()), 1000)


def test_what_travels_with_a_case(planned):
    for configuration, voxel_cc in ((FULL, 0.048), (COARSE, 0.216)):
        data, _, properties = load(planned, configuration, "case_2")
        own = properties["cdm"]
        assert own["voxel_volume_cc"] == pytest.approx(voxel_cc, rel=0.15)
        assert own["roi_voxels"] == unpack(from_words(data[2:], 20), 20).sum((1, 2, 3)).tolist()
        assert own["prescription_gy"][:2] == [70.0, 56.0]
        assert np.isnan(own["prescription_gy"][2:]).all()


def test_bits_beyond_the_catalogue_are_refused(planned):
    catalogue = planned.raw.catalogue  # 20 ROIs, in uint32
    bits = np.zeros((3, 3, 3), np.uint32)
    bits[1, 1, 1] = 1 << 20
    with pytest.raises(InputError, match=r"bit 20 is set, but the catalogue has 20 ROIs"):
        take_words(to_words(bits, 32), catalogue)
    wide = np.zeros((3, 3, 3), np.uint64)
    wide[1, 1, 1] = 1 << 40
    with pytest.raises(InputError, match="bits beyond the 20 ROIs of the catalogue"):
        take_words(to_words(wide, 64), catalogue)
    with pytest.raises(InputError, match=r"holds 16 bits at most, .* has 20 ROIs: they belong to different data sets"):
        take_words(to_words(np.zeros((3, 3, 3), np.uint16), 16), catalogue)
    with pytest.raises(InputError, match="interpolated or normalised"):
        take_words(np.full((2, 3, 3, 3), 0.5, np.float32), catalogue)


def test_a_65th_roi_is_refused():
    with pytest.raises(InputError, match="1 to 64 ROIs, not 65"):
        pack(np.ones((65, 2, 2), bool))


def test_a_case_of_another_catalogue_is_refused_by_name(planned, tmp_path):
    raw, dose, properties = raw_case(planned, "case_0")
    raw[2:, 4, 4, 4] = (0, 1 << 15)
    manager = plans_of(planned)
    with pytest.raises(InputError, match="bit 31 is set"):
        DosePreprocessor(verbose=False).run_case_npy(
            raw, dose, properties, manager, manager.get_configuration("3d_fullres"), {}
        )
    images = [str(planned.raw.image_path("case_0", channel)) for channel in range(3)]
    with pytest.raises(InputError, match=r"case 'case_0': a case has 3 channels"):
        DosePreprocessor(verbose=False).run_case(images[:2], None, manager, manager.get_configuration("3d_fullres"), {})


def test_a_dose_that_was_moved_is_refused_by_case(fresh):
    """Same size and voxel size, another origin: only the header shows that the dose belongs elsewhere."""
    from cdm_nnunet.images import read_image, write_image
    from cdm_nnunet.nnunet.plan_choices import PlanChoices
    from cdm_nnunet.nnunet.planner import plan_and_preprocess

    folders = fresh(2)
    image = read_image(folders.raw.dose_path("case_1"))
    write_image(dataclasses.replace(image, grid=dataclasses.replace(image.grid, origin_xyz_mm=np.zeros(3))))
    with pytest.raises(InputError, match=r"case_1\.nii\.gz has origin \(x, y, z\) \(0, 0, 0\)"):
        plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)


def test_a_case_added_by_hand_is_refused(planned, tmp_path):
    manager = plans_of(planned)
    images = [str(planned.raw.image_path("case_0", channel)) for channel in range(3)]
    with pytest.raises(InputError, match=r"case 'stranger' is not in .*cdm_cases\.json; was it added by hand"):
        DosePreprocessor(verbose=False).run_case_save(
            str(tmp_path / "stranger"),
            images,
            str(planned.raw.dose_path("case_0")),
            manager,
            manager.get_configuration("3d_fullres"),
            {},
        )
    assert not any(tmp_path.iterdir())


class TestInterruption:
    """Whatever stops preprocessing, training finds complete data or none."""

    @pytest.fixture
    def folders(self, planned_once, tmp_path, monkeypatch, fresh):
        folders = fresh(3)
        shutil.copytree(planned_once.preprocessed, folders.preprocessed)
        for configuration in (FULL, COARSE):
            shutil.rmtree(folders.preprocessed / configuration)
        return folders

    def test_a_case_that_fails_leaves_nothing(self, folders):
        bits = folders.raw.image_path("case_1", 2)
        bits.write_bytes(bits.read_bytes()[:-30])
        with pytest.raises(InputError, match=r"case 'case_1': .*case_1_0002\.nii\.gz is damaged or cut off"):
            DosePreprocessor(verbose=False).run(531, "3d_fullres", "nnUNetPlans", 1)
        assert [path.name for path in folders.preprocessed.iterdir() if path.is_dir()] == []

    def test_a_run_that_fails_leaves_the_data_of_the_run_before(self, folders, monkeypatch):
        DosePreprocessor(verbose=False).run(531, "3d_fullres", "nnUNetPlans", 1)
        before = {path: path.read_bytes() for path in (folders.preprocessed / FULL).iterdir()}
        assert len(before) == 9

        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(nnUNetDatasetBlosc2, "save_case", stop)
        with pytest.raises(KeyboardInterrupt):
            DosePreprocessor(verbose=False).run(531, "3d_fullres", "nnUNetPlans", 1)
        assert {path: path.read_bytes() for path in (folders.preprocessed / FULL).iterdir()} == before
        assert [path.name for path in folders.preprocessed.iterdir() if path.is_dir()] == [FULL]

    def test_a_killed_run_leaves_nothing_that_training_takes_and_the_next_run_clears_up(self, folders):
        """The process dies, without a chance to clear up, while the third case is being written."""
        script = (
            "import os, signal\n"
            "from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2 as D\n"
            "from cdm_nnunet.nnunet.preprocessor import DosePreprocessor\n"
            "real, done = D.save_case, []\n"
            "def save(*args, **kwargs):\n"
            "    if len(done) == 2:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    done.append(real(*args, **kwargs))\n"
            "D.save_case = staticmethod(save)\n"
            "DosePreprocessor(verbose=False).run(531, '3d_fullres', 'nnUNetPlans', 1)\n"
        )
        killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300, check=False)
        assert killed.returncode == -9, killed.stderr.decode()
        left = [path.name for path in folders.preprocessed.iterdir() if path.is_dir()]
        assert left == [f".partial_{FULL}"]  # not a name that training looks for
        DosePreprocessor(verbose=False).run(531, "3d_fullres", "nnUNetPlans", 1)
        assert [path.name for path in folders.preprocessed.iterdir() if path.is_dir()] == [FULL]
        names = sorted(path.name for path in (folders.preprocessed / FULL).glob("*.pkl"))
        assert names == [f"case_{k}.pkl" for k in range(3)]

    def test_new_plans_make_old_data_stale_even_if_preprocessing_stops(self, folders):
        DosePreprocessor(verbose=False).run(531, "3d_fullres", "nnUNetPlans", 1)
        path = folders.preprocessed / "nnUNetPlans.json"
        plans = json.loads(path.read_text())
        plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
        _, _, properties = load(folders, FULL, "case_0")
        assert properties["cdm"]["digest"] != DosePlans(plans).digest("3d_fullres")
