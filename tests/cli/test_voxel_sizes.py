"""Voxel sizes are written in one form and order, whatever verb takes them."""

import argparse

import pytest

from cdm_nnunet.cli import plan
from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset_conversion.dicom import DicomRules
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.voxel_size import voxel_size_zyx_mm


def arguments(*words):
    parser = argparse.ArgumentParser()
    plan.configure(parser)
    return parser.parse_args(["-d", "501", *words])


@pytest.mark.parametrize(("text", "zyx_mm"), [("3", (3, 3, 3)), ("2.5x3x4", (4, 3, 2.5))])
def test_plan_and_convert_read_one_order(text, zyx_mm):
    assert voxel_size_zyx_mm(text, "--grid takes") == zyx_mm
    assert plan._spacing_zyx_mm(arguments("--spacing", text).spacing) == zyx_mm


def test_the_order_of_earlier_versions_is_not_taken_for_the_new_one(capsys):
    assert main(["plan", "-d", "501", "--spacing", "4", "3", "2.5"]) == 2
    said = capsys.readouterr().err
    assert "for the z, y and x of earlier versions write --spacing 2.5x3x4" in said


@pytest.mark.parametrize("text", ["0", "-3", "3x3", "nan", "inf", "3,3,3", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=r"--spacing takes a voxel size above zero, as 3 or 2\.5x2\.5x2 \(x, y, z\)"):
        plan._check(arguments(f"--spacing={text}"))
    with pytest.raises(InputError, match=r"--grid takes 'dose', 'ct' or a voxel size of 0\.5 to 10 mm, as 3"):
        DicomRules(Template.load("head_neck"), DicomMapping({}), text).refuse_unfit()


def test_the_output_of_plan_says_its_order():
    configuration = {
        "data": "d",
        "spacing_mm": [3.0, 2.5, 2.0],
        "patch_size": [8, 16, 32],
        "median_shape": [10, 20, 40],
        "batch_size": 2,
        "n_stages": 3,
        "features_per_stage": [8, 16, 32],
        "cell": [1, 2, 2],
    }
    record = {
        **{"dataset": "D", "plans_from": None, "gpu_memory_gb": 8, "n_rois": 3, "dose_scale_gy": 70.0},
        **{"highest_prescription_gy": 70.0, "fall_off_mm": 9.0, "preprocessed": []},
        "configurations": {"3d_packed": configuration},
    }
    said = plan.render(record)
    assert "voxels 2.00 x 2.50 x 3.00 mm (all sizes: x, y, z); median patient 40 x 20 x 10 voxels" in said
    assert "patch 32 x 16 x 8 holds" in said
    assert "on cells of 2 x 2 x 1 voxels" in said
    assert "a fall-off with a width of 9 mm" in said
    assert "fall-off" not in plan.render(record | {"fall_off_mm": None})
