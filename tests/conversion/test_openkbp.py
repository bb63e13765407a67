import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.openkbp import (
    OpenKbpPatient,
    find_openkbp,
    find_patients,
    write_prediction_csv,
    write_predictions,
)
from cdm_nnunet.dataset_conversion.openkbp_csv import from_grid, read_values, to_grid, write_values
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

CATALOGUE = template_catalogue(Template.load("openkbp"))


def index(back, left, feet):
    return (back * 128 + left) * 128 + feet


def patient(folder, split="Tr"):
    return OpenKbpPatient(folder, split, CATALOGUE)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize(
    ("back", "left", "feet", "zyx"),
    [(0, 0, 0, (127, 0, 0)), (0, 0, 127, (0, 0, 0)), (3, 5, 7, (120, 3, 5)), (127, 1, 2, (125, 127, 1))],
)
def test_axes(back, left, feet, zyx):
    volume = to_grid(np.array([index(back, left, feet)]), np.array([2.5]))
    assert np.argwhere(volume).tolist() == [list(zyx)]
    assert np.flatnonzero(from_grid(volume)).tolist() == [index(back, left, feet)]


def test_a_patient_is_read_as_published(openkbp):
    case = patient(openkbp.patient()).load()
    assert case.name == "pt_1"
    assert case.rois == ("PTV_7000", "Parotid_R", "Parotid_L", "DoseRegion")
    assert case.prescriptions_gy == {"PTV_7000": 70.0}
    assert case.grid.spacing_xyz_mm == (4.25, 3.5, 2.5)  # axis 0 runs to the back (y), axis 1 to the left (x)
    first = index(60, 50, 40)
    assert case.dose_gy[127 - 40, 60, 50] == np.float32(60 + (first % 151) / 10)
    assert case.ct_hu[127 - 40, 60, 50] == first % 90
    assert case.ct_hu[127 - 5, 0, 0] == 3 - 1024
    assert case.ct_hu[127 - 6, 0, 0] == 3071  # 9000 is clipped
    assert case.ct_hu[0, 0, 0] == -1024  # not in the file
    assert case.dose_gy[0, 0, 0] == 0
    left_x, right_x = (np.argwhere(case.mask(f"Parotid_{side}"))[:, 2].mean() for side in "LR")
    assert left_x > right_x  # LPS: x grows to the patient's left
    assert case.source["sha256 dose.csv"] == patient(openkbp.root / "train-pats" / "pt_1").checksums()["dose.csv"]


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def append(name, line):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + line)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "ct.csv").unlink(), "ct.csv is missing"),
        (lambda f: (f / "dose.csv").unlink(), "dose.csv is missing; only a test patient can do without it"),
        (lambda f: (f / "possible_dose_mask.csv").unlink(), "possible_dose_mask.csv is missing"),
        (lambda f: (f / "voxel_dimensions.csv").unlink(), "voxel_dimensions.csv is missing"),
        (lambda f: (f / "PTV70.csv").unlink(), "no target with a prescription; contoured are Parotid_R, Parotid_L"),
        (text("PTV70.csv", ",data\n"), "no target with a prescription"),
        (text("possible_dose_mask.csv", ",data\n"), "must have a dose for exactly the voxels"),
        (text("dose.csv", ""), "dose.csv is empty"),
        (text("dose.csv", ",data\n"), "dose.csv names no voxel; is the file cut off"),
        (text("ct.csv", "index,hu\n1,2\n"), "ct.csv: expected the header ',data', found 'index,hu'"),
        (text("ct.csv", "1,2\n3,4\n"), "expected the header ',data', found '1,2'"),
        (append("ct.csv", "2097152,7\n"), "ct.csv: index 2097152 is outside 0 to 2097151"),
        (append("ct.csv", "-1,7\n"), "ct.csv: index -1 is outside 0 to 2097151"),
        (append("ct.csv", "5,7\n"), "ct.csv: index 5 comes 2 times"),
        (append("ct.csv", "1.5,7\n"), r"ct.csv: line \d+ must be 'index,value', .* not '1.5,7'"),
        (append("ct.csv", "17,HU\n"), "ct.csv: below the header, could not convert string 'HU'"),
        (append("ct.csv", "17\n"), "ct.csv: line .* 'index,value', .* not '17'"),
        (append("ct.csv", "17,2,3\n"), "ct.csv: line .*, not '17,2,3'"),
        (append("ct.csv", "17,nan\n"), "ct.csv: the value of index 17 is NaN or infinite"),
        (append("ct.csv", "17,-20\n"), "the lowest value is -20, but the file holds HU \\+ 1024"),
        (append("ct.csv", "17,2"), "ct.csv ends in the middle of a line"),
        (append("PTV70.csv", f"{index(62, 52, 41)},\n"), "PTV70.csv: index .* comes 2 times"),
        (append("PTV70.csv", "2097152,\n"), "PTV70.csv: index 2097152 is outside"),
        (append("PTV70.csv", "seven,\n"), "PTV70.csv: line .* must be 'index,', .* not 'seven,'"),
        (append("PTV70.csv", "7,0\n"), "PTV70.csv: line .* must be 'index,', .* not '7,0'"),
        (append("PTV70.csv", "7,9,\n"), "PTV70.csv: line .* must be 'index,', .* not '7,9,'"),
        (append("dose.csv", "7,3.5\n"), "0 of them have none, and 1 other voxels have one"),
        (append("possible_dose_mask.csv", "7,\n"), "1 of them have none, and 0 other voxels have one"),
        (text("voxel_dimensions.csv", "3.5\n3.5\n"), "voxel_dimensions.csv: expected three lines"),
        (text("voxel_dimensions.csv", "3.5\n3.5\nthick\n"), "voxel_dimensions.csv: expected three lines"),
        (text("voxel_dimensions.csv", "3.5\n3.5\n0\n"), "voxel_dimensions.csv: expected three lines .*above zero"),
        (text("voxel_dimensions.csv", "3.5\n3.5\n25\n"), "voxel_dimensions.csv: voxel size .* is not plausible"),
        (text("Chiasm.csv", ",data\n7,\n"), "unknown files Chiasm.csv; known are ct, dose, voxel_dimensions, PTV70"),
    ],
)
def test_damaged_patients_are_refused(openkbp, spoil, message):
    folder = openkbp.patient()
    spoil(folder)
    with pytest.raises(InputError, match=message):
        patient(folder).load()


@pytest.mark.parametrize(
    ("factor", "message"),
    [(-1, "negative in"), (100, "is it in cGy"), (100 / 70, "looks like percent"), (1 / 35, "expected 35 to 210 Gy")],
)
def test_doses_in_wrong_units_are_refused(openkbp, factor, message):
    folder = openkbp.patient()
    at, dose = read_values(folder / "dose.csv")
    openkbp.values(folder / "dose.csv", dict(zip(at, dose * factor, strict=True)))
    with pytest.raises(InputError, match=message):
        patient(folder).load()


@pytest.mark.parametrize("kept", [0.4, 0.7])
def test_a_ct_that_was_cut_off_at_the_end_of_a_line_is_refused(openkbp, kept):
    folder = openkbp.patient()
    at, stored = read_values(folder / "ct.csv")
    last = np.quantile(at, kept)
    openkbp.values(folder / "ct.csv", {k: v for k, v in zip(at, stored, strict=True) if k <= last})
    with pytest.raises(InputError, match=r"ct.csv ends at index \d+ and lacks \d+ of the 192 voxels .* it was cut off"):
        patient(folder).load()


def shift(values, offset):
    return {index: value + offset for index, value in zip(*values, strict=True) if value + offset > 0}


def test_a_ct_with_its_offset_applied_twice_is_refused(openkbp):
    folder = openkbp.patient()
    stored = read_values(folder / "ct.csv")
    openkbp.values(folder / "ct.csv", shift(stored, 1024))
    with pytest.raises(InputError, match=r"ct.csv: the lowest value is 1027, but .* was the offset added twice"):
        patient(folder).load()
    openkbp.values(folder / "ct.csv", shift(stored, -1000))  # negative values were dropped
    with pytest.raises(InputError, match=r"no ROI lies in tissue: the median CT value of '.*' is -9"):
        patient(folder).load()


def test_an_roi_without_a_voxel_counts_as_absent_and_is_named(openkbp):
    folder = openkbp.patient()
    openkbp.mask(folder / "Larynx.csv", [])
    case = patient(folder).load()
    assert "Larynx" not in case.rois
    assert case.empty_rois == ("Larynx",)


def test_windows_line_ends_and_upper_case_endings_are_read(openkbp):
    folder = openkbp.patient()
    expected = patient(folder).load()
    for name in ("dose", "PTV70"):
        content = (folder / f"{name}.csv").read_bytes()
        (folder / f"{name}.csv").unlink()
        (folder / f"{name}.CSV").write_bytes(content.replace(b"\n", b"\r\n"))
    case = patient(folder).load()
    np.testing.assert_array_equal(case.roi_bits, expected.roi_bits)
    np.testing.assert_array_equal(case.dose_gy, expected.dose_gy)


def test_a_test_patient_may_lack_the_dose(openkbp):
    folder = openkbp.patient()
    (folder / "dose.csv").unlink()
    assert patient(folder, "Ts").load().dose_gy is None


@pytest.mark.parametrize("validation_folder", ["validation-pats", "valid-pats"])
def test_the_published_folders_give_the_splits(openkbp, tmp_path, validation_folder):
    for name, split in (("pt_10", "train-pats"), ("pt_9", "train-pats"), ("pt_201", validation_folder)):
        openkbp.patient(name, split)
    (openkbp.patient("pt_241", "test-pats") / "dose.csv").unlink()
    found = find_patients(openkbp.root, CATALOGUE)
    assert [(p.name, p.split) for p in found.patients] == [
        ("pt_9", "Tr"),
        ("pt_10", "Tr"),
        ("pt_201", "Tr"),
        ("pt_241", "Ts"),
    ]
    conversion = convert(find_openkbp(openkbp.root), DatasetPlace(tmp_path, 501, "OpenKBP"), exclude=["pt_9"])
    assert conversion.to_json()["without_reference_dose"] == ["pt_241"]
    dataset = RawDataset(conversion.folder)
    assert set(dataset.cases) == {"pt_10", "pt_201", "pt_241"}
    facts = dict(dataset.dataset_json["cdm"]["facts"])
    contoured = {roi: count for roi, count in facts.pop("training_cases_with_roi").items() if count}
    assert contoured == {"PTV_7000": 2, "Parotid_R": 2, "Parotid_L": 2, "DoseRegion": 2}  # pt_241 is for testing
    assert facts == {
        "source": "openkbp",
        "published_validation": ["pt_201"],
        "excluded": ["pt_9"],
        "without_reference_dose": ["pt_241"],
    }
    assert '"val": [\n      "pt_201"\n    ]' in (conversion.folder / "splits_final.json").read_text()


def test_a_plain_folder_and_test_only(openkbp):
    for name in ("pt_2", "pt_1"):
        openkbp.patient(name, None)
    (openkbp.root / "README.md").write_text("not a patient")
    assert [p.split for p in find_patients(openkbp.root, CATALOGUE).patients] == ["Tr", "Tr"]
    found = find_patients(openkbp.root, CATALOGUE, test_only=True)
    assert [(p.name, p.split) for p in found.patients] == [("pt_1", "Ts"), ("pt_2", "Ts")]
    assert found.validation == ()


def test_folders_that_are_no_patients_are_refused(openkbp, tmp_path):
    with pytest.raises(InputError, match="is not a folder; expected OpenKBP's"):
        find_patients(tmp_path / "nowhere", CATALOGUE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no patients in"):
        find_patients(tmp_path / "empty", CATALOGUE)
    openkbp.patient("pt_1")
    (openkbp.root / "train-pats" / "pt_2.tar.xz").write_bytes(b"")
    with pytest.raises(InputError, match=r"pt_2.tar.xz is not a patient folder \(pt_N\); unpack it"):
        find_patients(openkbp.root, CATALOGUE)
    (openkbp.root / "train-pats" / "pt_2.tar.xz").unlink()
    (openkbp.root / "train-pats" / "patient 3").mkdir()
    with pytest.raises(InputError, match="patient 3 is not a patient folder"):
        find_patients(openkbp.root, CATALOGUE)


def test_names_that_do_not_fit_are_refused(openkbp, tmp_path):
    openkbp.patient("pt_1")
    openkbp.patient("pt_2")
    with pytest.raises(InputError, match=r"to be excluded, but not in .*: pt_3"):
        convert(find_openkbp(openkbp.root), DatasetPlace(tmp_path, 501, "OpenKBP"), exclude=["pt_3"])
    with pytest.raises(InputError, match="template 'head_neck' needs an ROI"):
        convert(find_openkbp(openkbp.root, template=Template.load("head_neck")), DatasetPlace(tmp_path, 501, "OpenKBP"))
    openkbp.patient("pt_2", "test-pats")
    with pytest.raises(InputError, match="patient 'pt_2' is in the source 2 times"):
        convert(find_openkbp(openkbp.root), DatasetPlace(tmp_path, 501, "OpenKBP"))


def test_refused_patients_are_named_with_their_file(openkbp, tmp_path):
    for name in ("pt_1", "pt_2", "pt_3"):
        openkbp.patient(name)
    (openkbp.root / "train-pats" / "pt_2" / "ct.csv").write_text("")
    with pytest.raises(InputError, match=r"1 of 3 patients can't be used: \[pt_2\] .*pt_2/ct.csv is empty\."):
        convert(find_openkbp(openkbp.root), DatasetPlace(tmp_path, 501, "OpenKBP"))


@pytest.fixture
def converted(openkbp, tmp_path):
    """A data set of two small patients, and a folder with their reference doses as predictions."""
    folders = [openkbp.patient("pt_1"), openkbp.patient("pt_2")]
    dataset = RawDataset(convert(find_openkbp(openkbp.root), DatasetPlace(tmp_path / "raw", 501, "OpenKBP")).folder)
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for folder in folders:
        shutil.copy(dataset.dose_path(folder.name), predictions)
    return dataset, predictions, folders


def test_predictions_go_back_to_csv(converted, tmp_path):
    dataset, predictions, folders = converted
    (predictions / ".partial_77_pt_1.nii.gz").write_bytes(b"left by a run that was killed")
    assert write_predictions(predictions, tmp_path / "out", dataset) == ["pt_1", "pt_2"]
    for folder in folders:
        assert (tmp_path / "out" / f"{folder.name}.csv").read_text() == (folder / "dose.csv").read_text()


def rewrite(path, change):
    image = sitk.ReadImage(str(path))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.SetSpacing(image.GetSpacing())
    sitk.WriteImage(changed, str(path))


def with_value(value, *at):
    def change(dose_gy):
        dose_gy[at] = value
        return dose_gy

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(1.0, 0, 0, 0), "has dose in 1 voxel outside the patient's dose region"),
        (with_value(-1.0, 85, 61, 51), "has negative dose in 1 voxel"),
        (with_value(np.nan, 85, 61, 51), "is not finite in 1 voxel"),
        (lambda dose_gy: dose_gy[:64], "has size"),
    ],
)
def test_predictions_that_mean_nothing_are_refused(converted, tmp_path, change, message):
    dataset, predictions, _ = converted
    rewrite(predictions / "pt_2.nii.gz", change)
    with pytest.raises(InputError, match=f"pt_2.nii.gz {message}"):
        write_predictions(predictions, tmp_path / "out", dataset)


def test_predictions_of_unknown_cases_are_refused(converted, tmp_path):
    dataset, predictions, _ = converted
    (predictions / "pt_2.nii.gz").rename(predictions / "pt_7.nii.gz")
    with pytest.raises(InputError, match="case 'pt_7' is not in"):
        write_predictions(predictions, tmp_path / "out", dataset)
    with pytest.raises(InputError, match="no predicted doses"):
        write_predictions(tmp_path / "out", tmp_path / "out", dataset)


def test_without_a_dose_region_all_voxels_with_dose_are_written(converted, tmp_path):
    _, predictions, folders = converted
    n_voxels = write_prediction_csv(predictions / "pt_1.nii.gz", tmp_path / "all.csv")
    assert n_voxels == 6 * 8 * 4
    assert (tmp_path / "all.csv").read_text() == (folders[0] / "dose.csv").read_text()


def test_every_float32_is_written_so_that_it_comes_back(tmp_path):
    values = np.random.default_rng(0).uniform(0, 80, 2000).astype(np.float32)
    values[:3] = 0, np.float32(1e-7), np.float32(70)
    write_values(tmp_path / "dose.csv", np.arange(2000), values)
    at, back = read_values(tmp_path / "dose.csv")
    np.testing.assert_array_equal(at, np.arange(2000))
    np.testing.assert_array_equal(back.astype(np.float32), values)


def test_a_template_with_another_dose_than_the_plans_is_refused(openkbp, tmp_path):
    openkbp.patient("pt_1")
    template = Template.load("openkbp").to_json()
    template["rois"][0]["prescription_gy"] = 60
    with pytest.raises(InputError, match="prescribes 60 Gy to 'PTV_7000', but OpenKBP's patients were planned with 70"):
        convert(
            find_openkbp(openkbp.root, template=Template.from_json(template, "test")),
            DatasetPlace(tmp_path, 501, "OpenKBP"),
        )
