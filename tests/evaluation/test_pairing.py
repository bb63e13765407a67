import numpy as np
import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pairing import find_cases, load_pair

from .conftest import Case, synthetic_case, write_image


@pytest.fixture
def case() -> Case:
    return synthetic_case(1)


@pytest.fixture
def loaded(make_dataset, predict, case):
    """``loaded(prediction, ...)`` loads a case with that prediction."""
    dataset = make_dataset({"pt_1": case})

    def load(dose_gy, **kwargs):
        return load_pair(find_cases(dataset, predict({"pt_1": dose_gy}, **kwargs))[0])

    return load


def test_references_come_from_both_splits_and_partial_sets_are_allowed(make_dataset, predict, case):
    test_case = synthetic_case(2)
    test_case.split = "Ts"
    dataset = make_dataset({"a": case, "b": test_case, "c": case})
    folder = predict({"b": test_case.dose_gy * np.float32(0.9), "a": case.dose_gy})
    (folder / "plans.json").write_text("{}")  # nnU-Net leaves such files there
    found = find_cases(dataset, folder)
    assert [files.case for files in found] == ["a", "b"]
    assert [files.reference.parent.name for files in found] == ["labelsTr", "labelsTs"]
    pair = load_pair(found[1])
    np.testing.assert_array_equal(pair.reference_dose_gy, test_case.dose_gy)
    np.testing.assert_array_equal(pair.predicted_dose_gy, test_case.dose_gy * np.float32(0.9))
    for roi in ("PTV_5600", "DoseRegion"):
        np.testing.assert_array_equal(pair.roi_mask(roi), test_case.masks[roi])
    assert pair.voxel_volume_cc == pytest.approx(0.03)


def test_a_prediction_of_an_unknown_case_is_refused(make_dataset, predict, case):
    dataset = make_dataset({"pt_1": case})
    folder = predict({"pt_1": case.dose_gy, "pt_2": case.dose_gy})
    with pytest.raises(InputError, match=r"pt_2\.nii\.gz: Dataset501_Test has no case 'pt_2' \(1 of 2 predictions"):
        find_cases(dataset, folder)


def test_no_predictions_are_an_error(make_dataset, tmp_path, case):
    dataset = make_dataset({"pt_1": case})
    with pytest.raises(InputError, match=r"no folder .*predictions"):
        find_cases(dataset, tmp_path / "predictions")
    (tmp_path / "predictions").mkdir()
    with pytest.raises(InputError, match=r"no predictions in .*predictions: expected files named CASE\.nii\.gz"):
        find_cases(dataset, tmp_path / "predictions")


@pytest.mark.parametrize(("part", "what"), [("labelsTr/pt_1", "reference dose"), ("imagesTr/pt_1_0002", "ROI masks")])
def test_a_missing_reference_is_refused(make_dataset, predict, case, part, what):
    dataset = make_dataset({"pt_1": case})
    (dataset.folder / f"{part}.nii.gz").unlink()
    with pytest.raises(InputError, match=f"case 'pt_1' has a prediction but no {what}: .*{part}"):
        find_cases(dataset, predict({"pt_1": case.dose_gy}))


@pytest.mark.parametrize(
    ("geometry", "quantity"),
    [
        ({"spacing_mm": (2.5, 4.0, 3.01)}, r"spacing \(z, y, x\) \(2.5, 4, 3.01\)"),
        ({"origin": (-30.0, 10.0, 5.5)}, r"origin \(x, y, z\) \(-30, 10, 5.5\)"),
        ({"direction": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}, "direction"),
    ],
)
def test_another_geometry_is_refused(loaded, case, geometry, quantity):
    with pytest.raises(InputError, match=rf"case 'pt_1': .*predictions/pt_1\.nii\.gz has {quantity}.*labelsTr"):
        loaded(case.dose_gy, **geometry)


def test_another_size_is_refused(loaded, case):
    with pytest.raises(InputError, match=r"case 'pt_1': .* has size \(z, y, x\) \(13, 20, 18\)"):
        loaded(case.dose_gy[1:])


def test_rounding_of_nifti_headers_is_tolerated(loaded, case):
    loaded(case.dose_gy, spacing_mm=(2.50001, 4.0, 3.0), origin=(-30.001, 10.0, 5.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_a_segmentation_is_refused(loaded, case, dtype):
    with pytest.raises(InputError, match=rf"pt_1\.nii\.gz holds {np.dtype(dtype)}, expected .*is it a segmentation"):
        loaded(case.dose_gy.astype(dtype))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.nan, "is not finite in 1 voxel"),
        (np.inf, "is not finite in 1 voxel"),
        (-0.25, "has negative doses, down to -0.25 Gy"),
    ],
)
def test_values_that_are_no_dose_are_refused(loaded, case, bad, message):
    dose_gy = case.dose_gy.copy()
    dose_gy[3, 4, 5] = bad
    with pytest.raises(InputError, match=rf"case 'pt_1': .*pt_1\.nii\.gz {message}"):
        loaded(dose_gy)


@pytest.mark.parametrize(("factor", "unit"), [(100, "cGy"), (0.01, "Gy divided by 100"), (92, "cGy")])
def test_another_unit_is_refused(loaded, case, factor, unit):
    with pytest.raises(InputError, match=f"times its reference in the high-dose region: it looks like {unit}"):
        loaded(case.dose_gy * np.float32(factor))


@pytest.mark.parametrize("factor", [0, 0.1, 0.5, 2, 10])
def test_a_bad_prediction_is_not_a_wrong_unit(loaded, case, factor):
    assert loaded(case.dose_gy * np.float32(factor)).case == "pt_1"


def test_a_file_that_is_no_image_is_refused(make_dataset, predict, case):
    dataset = make_dataset({"pt_1": case})
    folder = predict({"pt_1": case.dose_gy})
    (folder / "pt_1.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"case 'pt_1': .*pt_1\.nii\.gz is damaged or cut off"):
        load_pair(find_cases(dataset, folder)[0])


def test_roi_masks_that_were_cast_are_refused(make_dataset, predict, case):
    dataset = make_dataset({"pt_1": case})
    write_image(dataset.folder / "imagesTr" / "pt_1_0002.nii.gz", np.zeros(case.dose_gy.shape, np.int16))
    with pytest.raises(InputError, match=r"pt_1_0002\.nii\.gz: a packed ROI channel must have an unsigned"):
        load_pair(find_cases(dataset, predict({"pt_1": case.dose_gy}))[0])


def test_the_recorded_spacing_must_be_the_images(make_dataset, predict, case):
    dataset = make_dataset({"pt_1": case})
    write_image(dataset.folder / "labelsTr" / "pt_1.nii.gz", case.dose_gy, spacing_mm=(2.0, 4.0, 3.0))
    with pytest.raises(
        InputError, match=r"has spacing \(2, 4, 3\) mm .* records \(2.5, 4, 3\); convert the data again"
    ):
        load_pair(find_cases(dataset, predict({"pt_1": case.dose_gy}))[0])


def test_template_of_the_fixture_is_openkbps(make_dataset, case):
    assert make_dataset({"pt_1": case}).template == Template.load("openkbp")
