"""Plans fit the data and the budget, name our classes, and other plans and data are refused."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked
from cdm_nnunet.nnunet.first_guess import best_width_mm, misfits_gy
from cdm_nnunet.nnunet.plan_choices import PlanChoices
from cdm_nnunet.nnunet.planner import DosePlanner, plan_and_preprocess
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.roi import Catalogue, Roi

ARCHITECTURE = {
    "n_stages": 3,
    "features_per_stage": (8, 16, 32),
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": ((3, 3, 3),) * 3,
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "n_conv_per_stage": (2, 2, 2),
    "n_conv_per_stage_decoder": (2, 2),
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def read(folders, name: str = "nnUNetPlans") -> dict:
    return json.loads((folders.preprocessed / f"{name}.json").read_text())


@pytest.fixture
def large(planned, tmp_path, monkeypatch):
    """The same data set with the fingerprint of patients of a usual size, to plan but not to train."""
    for name in ("raw", "preprocessed"):
        shutil.copytree(planned.root / name, tmp_path / name)
    folders = type(planned)(tmp_path, type(planned.raw)(tmp_path / "raw" / planned.raw.folder.name))
    folders.use(monkeypatch)
    path = folders.preprocessed / "dataset_fingerprint.json"
    fingerprint = json.loads(path.read_text())
    fingerprint["spacings_mm"] = [[3.0, 2.5, 2.5]] * 5
    fingerprint["shapes_after_crop"] = [
        [100, 120, 180],
        [110, 130, 190],
        [120, 140, 200],
        [90, 110, 170],
        [100, 130, 190],
    ]
    path.write_text(json.dumps(fingerprint))
    return folders


def test_the_fingerprint_takes_the_fall_off_from_all_plans(planned):
    misfits = []
    for case in (case for case, record in planned.raw.cases.items() if record.split == "Tr"):
        prescription, dose = (
            sitk.ReadImage(planned.raw.folder / name)
            for name in (f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz")
        )
        values = (sitk.GetArrayFromImage(image) for image in (prescription, dose))
        misfits.append(misfits_gy(*values, prescription.GetSpacing()[::-1]))
    found = read(planned, "dataset_fingerprint")["fall_off_mm"]
    assert found == best_width_mm(misfits) != best_width_mm([])


def test_the_fall_off_of_the_first_guess_is_that_of_the_data_sets_own_plans(large):
    path = large.preprocessed / "dataset_fingerprint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fall_off_mm": 9.0}))
    for configuration in DosePlanner(large.raw.folder.name).plan_experiment()["configurations"].values():
        fall_off = configuration["architecture"]["arch_kwargs"]["fall_off"]
        assert fall_off == pytest.approx([mm / 9 for mm in configuration["spacing"]])  # of its own voxels, not cells


def test_plans_name_our_classes_and_carry_what_training_needs(planned):
    plans = read(planned)
    assert plans["image_reader_writer"] == "CDMReaderWriter"
    assert plans["label_manager"] == "DoseLabelManager"
    assert plans["experiment_planner_used"] == "DosePlanner"
    assert plans["transpose_forward"] == plans["transpose_backward"] == [0, 1, 2]
    assert set(plans["configurations"]) == {"3d_fullres", "3d_packed", "3d_coarse"}
    for configuration in plans["configurations"].values():
        assert configuration["preprocessor_name"] == "DosePreprocessor"
        assert configuration["architecture"]["network_class_name"] == "cdm_nnunet.nnunet.network.BitDecodeUNet"
        assert configuration["architecture"]["arch_kwargs"]["n_rois"] == 20
        assert configuration["batch_size"] >= 2
    parsed = DosePlans(plans)
    assert parsed.catalogue == planned.raw.catalogue
    assert parsed.template == planned.raw.template
    assert parsed.dose_scale_gy == 70.0
    assert parsed.n_channels == 4
    assert len(parsed.padding) == 4
    assert parsed.padding[1:] == (0.0, 0.0, 0.0)
    assert parsed.padding[0] < -2  # air, in standard deviations of the CT in the dose region


def test_spacings(planned, large):
    configurations = read(planned)["configurations"]
    assert configurations["3d_fullres"]["spacing"] == [3.0, 4.0, 4.0]
    assert configurations["3d_coarse"]["spacing"] == [6.0, 6.0, 6.0]
    plans = DosePlanner(531, 8, plans_name="other", overwrite_target_spacing=[3.0, 2.0, 7.0]).plan_experiment()
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3.0, 2.0, 7.0]
    assert plans["configurations"]["3d_coarse"]["spacing"] == [6.0, 6.0, 7.0]  # never finer than the other
    assert read(large, "other") == json.loads(json.dumps(plans))


def thin(n_planes):
    planner = DosePlanner(531, 1, plans_name="thin")
    planner.dataset_fingerprint = {
        **planner.dataset_fingerprint,
        "spacings": [[3.0, 3.0, 3.0]] * 3,
        "shapes_after_crop": [[n_planes, 40, 44]] * 3,
    }
    return planner


@pytest.mark.parametrize("n_planes", [8, 11, 13])
def test_what_is_too_thin_for_one_configuration_is_planned_without_it(large, n_planes, capfd):
    planner = thin(n_planes)
    planner.required = ["3d_fullres"]
    plans = planner.plan_experiment()
    assert plans["configurations"]["3d_fullres"]["patch_size"][0] <= 16
    told = capfd.readouterr().err
    for name in {"3d_packed", "3d_coarse"} - set(plans["configurations"]):
        assert f"left out of the plans: {name}: at a voxel size of" in told
    planner.required = ["3d_coarse"]
    with pytest.raises(InputError, match=r"3d_coarse: .* mm the median case has .* too few for a U-Net; choose a smal"):
        planner.plan_experiment()


def test_a_required_configuration_of_too_few_voxels_is_refused(large):
    with pytest.raises(InputError, match=r"3d_fullres: .* \[7\.0, 40\.0, 44\.0\] voxels .* choose a smaller --spacing"):
        thin(7).plan_experiment()
    planner = thin(11)
    planner.required = ["3d_packed"]
    with pytest.raises(InputError, match=r"3d_packed: .* too few for a U-Net; take 3d_fullres"):
        planner.plan_experiment()


def test_a_second_plan_of_a_data_set_is_refused_while_one_runs(planned):
    with (
        locked(planned.preprocessed / ".plan_lock", "busy"),
        pytest.raises(InputError, match=r"another 'cdm-nnunet plan' is writing to .*Dataset531.*; wait until it has"),
    ):
        plan_and_preprocess(531)


def test_the_folded_configuration_shares_the_data_of_full_resolution(planned):
    plans = read(planned)
    full, packed = (plans["configurations"][name] for name in ("3d_fullres", "3d_packed"))
    for key in ("spacing", "data_identifier", "median_image_size_in_voxels"):
        assert full[key] == packed[key], key
    assert DosePlans(plans).digest("3d_fullres") == DosePlans(plans).digest("3d_packed")
    assert not {"cell", "details"} & set(full["architecture"]["arch_kwargs"])
    assert packed["architecture"]["arch_kwargs"]["cell"] == [2, 2, 2]
    assert packed["architecture"]["arch_kwargs"]["details"] is True
    strides = 2 * np.array(_strides(packed)).prod(1)
    assert all(n % stride == 0 for n, stride in zip(packed["patch_size"], strides, strict=True))


@pytest.mark.parametrize(
    ("spacing", "cell"), [((3.0, 2.5, 2.5), [2, 2, 2]), ((3.0, 1.5, 1.5), [1, 2, 2]), ((2.0, 3.0, 5.0), [2, 2, 1])]
)
def test_long_voxels_are_not_packed(large, spacing, cell):
    plans = DosePlanner(531, 4, plans_name="cells", overwrite_target_spacing=spacing).plan_experiment()
    full, packed = (plans["configurations"][name] for name in ("3d_fullres", "3d_packed"))
    assert packed["architecture"]["arch_kwargs"]["cell"] == cell
    assert packed["spacing"] == full["spacing"]
    # the same budget holds more of the patient
    held = [np.prod(np.minimum(c["patch_size"], c["median_image_size_in_voxels"])) for c in (full, packed)]
    assert held[1] > 1.5 * held[0]


def test_the_statistics_are_those_of_the_ct_where_there_is_dose(planned):
    from cdm_nnunet.nnunet.reader import CDMReaderWriter

    inside = []
    for case in [f"case_{k}" for k in range(5)]:
        images = [str(planned.raw.image_path(case, channel)) for channel in range(3)]
        data, dose, _ = CDMReaderWriter().read_case(images, str(planned.raw.dose_path(case)))
        inside.append(data[0][dose[0] > 0])
    expected = np.concatenate(inside)
    statistics = DosePlans(read(planned)).ct_statistics
    assert statistics["mean"] == pytest.approx(expected.mean(), abs=0.5)
    assert statistics["std"] == pytest.approx(expected.std(), rel=0.02)
    assert statistics["percentile_00_5"] == pytest.approx(np.percentile(expected, 0.5), abs=5)


def test_the_memory_estimate_grows_with_the_rois(large):
    planner = DosePlanner(531, 8)
    estimates = []
    for n in (1, 16, 32, 64):
        planner.catalogue = Catalogue(tuple(Roi(f"ROI_{k}", "oar") for k in range(n)))
        estimates.append(
            planner.static_estimate_VRAM_usage(
                (64, 64, 64),
                3,
                1,
                "cdm_nnunet.nnunet.network.BitDecodeUNet",
                ARCHITECTURE,
                ("conv_op", "norm_op", "dropout_op", "nonlin"),
            )
        )
    assert estimates == sorted(estimates)
    # each decoded mask is kept in half the precision of the estimate's unit, and the loss comes on top
    assert estimates[-1] - estimates[0] >= 0.5 * 63 * 64**3


def test_a_smaller_budget_gives_smaller_patches_or_batches(large):
    sizes = []
    for gigabytes in (4, 40):
        chosen = DosePlanner(531, gigabytes, plans_name="budget").plan_experiment()["configurations"]["3d_fullres"]
        assert all(patch % np.prod(s) == 0 for patch, s in zip(chosen["patch_size"], _strides(chosen), strict=True))
        sizes.append(int(np.prod(chosen["patch_size"])) * chosen["batch_size"])
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("limit", [1, 3, 10_000])
def test_the_batch_size_can_be_limited_and_not_raised(large, limit):
    def batch_sizes(planner):
        return {name: c["batch_size"] for name, c in planner.plan_experiment()["configurations"].items()}

    free = batch_sizes(DosePlanner(531, 40, plans_name="free"))
    limited = batch_sizes(DosePlanner(531, 40, plans_name="limited", batch_size=limit))
    assert max(free.values()) > 1
    assert limited == {name: min(size, limit) for name, size in free.items()}


def _strides(configuration) -> np.ndarray:
    return np.array(configuration["architecture"]["arch_kwargs"]["strides"]).T


def test_more_rois_do_not_overrun_the_budget(large):
    """With 64 ROIs the same budget allows less: the choice follows the estimate."""
    few, many = [], []
    for gigabytes in (6, 7):  # patches grow in steps: at one budget both may have the same
        for sizes, catalogue in ((few, None), (many, Catalogue(tuple(Roi(f"ROI_{k}", "oar") for k in range(64))))):
            planner = DosePlanner(531, gigabytes, plans_name="budget")
            planner.catalogue = catalogue or planner.catalogue
            chosen = planner.get_plans_for_configuration(
                np.array([3.0, 2.5, 2.5]), np.array([100, 130, 190]), "x", 100 * 130 * 190 * 100.0, {}
            )
            assert chosen["architecture"]["arch_kwargs"]["n_rois"] == len(planner.catalogue)
            sizes.append(int(np.prod(chosen["patch_size"])) * chosen["batch_size"])
    assert all(b <= a for a, b in zip(few, many, strict=True))
    assert sum(many) < sum(few)


def test_planning_works_without_loader_processes(large, monkeypatch):
    """nnUNet_n_proc_DA=0, nnU-Net's way to load in the main process, breaks nnU-Net's own memory estimate."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    threads = torch.get_num_threads()
    DosePlanner(531, 8, plans_name="alone").plan_experiment()
    assert torch.get_num_threads() == threads


def test_voxels_too_large_for_the_patients_are_refused(large):
    planner = DosePlanner(531, 8, coarse_spacing_mm=60.0, plans_name="never")
    with pytest.raises(
        InputError, match=r"voxel size of \[60\.0, 60\.0, 60\.0\] mm .* choose a smaller --coarse-spacing"
    ):
        planner.plan_experiment()
    assert not (large.preprocessed / "never.json").exists()


def test_an_unknown_configuration_is_refused(planned):
    with pytest.raises(
        InputError, match="unknown configuration '3d_lowres'; there are 3d_fullres, 3d_packed, 3d_coarse"
    ):
        plan_and_preprocess(531, configurations=("3d_lowres",))


def test_a_split_of_the_users_stays_and_is_told(fresh, capsys):
    folders = fresh(5)
    folders.preprocessed.mkdir(parents=True)
    mine = [{"train": ["case_0", "case_1"], "val": ["case_2"]}, {"train": ["case_2"], "val": ["case_0"]}]
    (folders.preprocessed / "splits_final.json").write_text(json.dumps(mine))
    plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)
    plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)
    assert json.loads((folders.preprocessed / "splits_final.json").read_text()) == mine
    assert capsys.readouterr().err.count("your own: 2; 2 cases in no fold: case_3, case_4") == 2


def test_a_split_that_can_not_be_trained_on_is_refused_before_any_work(fresh):
    folders = fresh(5)
    folders.preprocessed.mkdir(parents=True)
    path = folders.preprocessed / "splits_final.json"
    path.write_text(json.dumps([{"train": ["case_0", "case_9"], "val": ["case_2"]}]))
    with pytest.raises(InputError, match="fold 0 has 1 training case not in the data set"):
        plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)
    assert {file.name for file in folders.preprocessed.iterdir()} <= {"splits_final.json", ".plan_lock"}


def test_fewer_than_five_cases(fresh):
    folders = fresh(2)
    plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)
    splits = json.loads((folders.preprocessed / "splits_final.json").read_text())
    assert all(fold["train"] and fold["val"] for fold in splits)
    assert len(list((folders.preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl"))) == 2


def test_files_and_records_that_disagree_are_refused(fresh):
    folders = fresh(3)
    path = folders.raw.folder / "cdm_cases.json"
    cases = json.loads(path.read_text())
    del cases["case_1"]
    path.write_text(json.dumps(cases))
    with pytest.raises(InputError, match=r"imagesTr and cdm_cases\.json of .* disagree about case_1; convert the data"):
        plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)


def test_a_dose_of_zero_is_refused(fresh):
    from cdm_nnunet.images import read_image, write_image

    folders = fresh(2)
    image = read_image(folders.raw.dose_path("case_1"))
    write_image(dataclasses.replace(image, values=image.values * 0))
    with pytest.raises(InputError, match=r"case_1\.nii\.gz is zero everywhere"):
        plan_and_preprocess(531, PlanChoices(base_features=4), n_processes=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cdm": None}, r"were not made by this software .* run: cdm-nnunet plan -d 531"),
        ({"image_reader_writer": "SimpleITKIO"}, "have image_reader_writer = SimpleITKIO, expected CDMReaderWriter"),
        ({"label_manager": "Another"}, "have label_manager = Another, expected DoseLabelManager"),
        ({"transpose_forward": [1, 0, 2]}, r"have transpose_forward = \[1, 0, 2\]"),
    ],
)
def test_plans_that_were_changed_are_refused(planned, change, message):
    plans = {key: value for key, value in {**read(planned), **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        DosePlans(plans)


def test_a_configuration_of_another_preprocessor_is_refused(planned):
    plans = read(planned)
    plans["configurations"]["2d"] = {
        **plans["configurations"]["3d_fullres"],
        "preprocessor_name": "DefaultPreprocessor",
    }
    with pytest.raises(InputError, match="configuration '2d' of plans 'nnUNetPlans' is not for dose prediction"):
        DosePlans(plans)


@pytest.mark.parametrize("key", ["catalogue", "dose_scale_gy"])
def test_the_digest_follows_what_data_depend_on(planned, key):
    plans = read(planned)
    before = DosePlans(plans).digest("3d_fullres")
    assert DosePlans(read(planned)).digest("3d_fullres") == before
    assert DosePlans(plans).digest("3d_coarse") != before
    plans["cdm"][key] = plans["cdm"][key][:-1] if key == "catalogue" else 60.0
    assert DosePlans(plans).digest("3d_fullres") != before


def test_without_the_plugin_nothing_trains(planned):
    """In a process that knows nothing of this package: nnU-Net's default trainer and ours, with our plans."""
    script = (
        "import torch\n"
        "from nnunetv2.run.run_training import get_trainer_from_args\n"
        "for name in ('nnUNetTrainer', 'nnUNetTrainerCDM'):\n"
        "    try:\n"
        "        get_trainer_from_args('531', '3d_fullres', 0, name, device=torch.device('cpu'))\n"
        "    except BaseException as error:\n"
        "        print('REFUSED', name, type(error).__name__, error)\n"
    )
    import os

    environment = {k: v for k, v in os.environ.items() if k != "nnUNet_extTrainer"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300, check=True
    )
    refusals = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert refusals == ["nnUNetTrainer", "nnUNetTrainerCDM"], done.stdout
    assert "Could not find requested nnunet trainer nnUNetTrainerCDM" in done.stdout
