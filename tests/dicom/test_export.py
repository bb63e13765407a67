"""A predicted dose becomes an RTDOSE that reads back as it was, on the same points, in every patient orientation."""

import dataclasses
import json
import math
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.dicom.destination import find_destination
from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.export import export_dose
from cdm_nnunet.dicom.phantom import ORIENTATIONS, GaussianDose, LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box
from cdm_nnunet.dicom.predicted import is_prediction
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, write_image

PHANTOM = Phantom(
    {"PTV_6000": Box((0.0, 0.0, 0.0), (10.0, 10.0, 12.0))},
    GaussianDose((3.0, -4.0, 2.0), 25.0, 63.0),
    slices_z_mm=tuple(np.arange(-20.0, 21.0, 2.5)),
    pixels=(22, 26),
    prescriptions_gy={"PTV_6000": 60.0},
)
SHAPE, SPACING, ORIGIN = (9, 11, 13), (3.0, 2.0, 2.5), (-14.3, -9.1, -11.7)  # z, y, x; z, y, x; x, y, z
CHECKER = Path(sysconfig.get_path("scripts")) / "dciodvfy"


def prediction(
    folder: Path, values=None, *, origin=ORIGIN, spacing=SPACING, degrees: float = 0.0, axis: int = 2
) -> Path:
    """A dose on its own grid; all voxels differ, so that every flip is noticed."""
    if values is None:
        values = np.random.default_rng(0).permutation(math.prod(SHAPE)).reshape(SHAPE) / 20.0
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.eye(3)
    a, b = [k for k in range(3) if k != axis]
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prediction.nii.gz"
    write_image(Image(values.astype(np.float32), Grid.of_image(values.shape, spacing, origin, turn.ravel()), path))
    return path


def points_of(path: Path, dataset: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Dose and position of every voxel, straight from the standard's formulas; (n,), (n, 3)."""
    dose = dataset.pixel_array * float(dataset.DoseGridScaling)
    orientation = np.array(dataset.ImageOrientationPatient, float)
    rows, columns = np.meshgrid(range(dataset.Rows), range(dataset.Columns), indexing="ij")
    step_rows, step_columns = map(float, dataset.PixelSpacing)
    normal = np.cross(orientation[:3], orientation[3:])
    places = [
        np.array(dataset.ImagePositionPatient, float)
        + float(offset) * normal
        + columns[..., None] * step_columns * orientation[:3]
        + rows[..., None] * step_rows * orientation[3:]
        for offset in dataset.GridFrameOffsetVector
    ]
    return dose.ravel(), np.reshape(places, (-1, 3))


@pytest.fixture
def files(tmp_path):
    return write_phantom(PHANTOM, tmp_path / "patient")


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("position", ORIENTATIONS)
def test_the_dose_lands_on_the_same_points_in_every_orientation(tmp_path, position, bits):
    files = write_phantom(dataclasses.replace(PHANTOM, position=position), tmp_path / "patient")
    path = prediction(tmp_path)
    exported = export_dose(path, find_destination(files.folder), tmp_path / "out.dcm", bits=bits)
    dataset = pydicom.dcmread(exported.path)
    given = np.random.default_rng(0).permutation(math.prod(SHAPE)) / 20.0
    z, y, x = np.meshgrid(*(np.arange(n) * step for n, step in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    expected = dict(zip(np.round(given * 20).astype(int), np.stack([x, y, z], -1).reshape(-1, 3) + ORIGIN, strict=True))
    dose_gy, places_mm = points_of(exported.path, dataset)
    step_gy = float(dataset.DoseGridScaling)
    assert exported.step_gy == step_gy
    assert step_gy == pytest.approx(given.max() / (2**bits - 1), rel=1e-6)
    keys = np.round(dose_gy * 20).astype(int)
    assert np.abs(dose_gy - keys / 20).max() <= step_gy / 2 * 1.001 + 4e-6  # float32 of the prediction
    assert sorted(keys) == sorted(expected)
    assert np.abs(places_mm - np.array([expected[key] for key in keys])).max() <= 0.01
    assert list(dataset.ImageOrientationPatient) == pytest.approx(ORIENTATIONS[position])
    assert dataset.GridFrameOffsetVector[0] == 0
    assert (np.diff(np.array(dataset.GridFrameOffsetVector, float)) > 0).all()
    again = read_dose([exported.path]).volume
    np.testing.assert_allclose(again.values.ravel(), given, atol=step_gy)


@pytest.mark.parametrize("with_plan", [True, False])
@pytest.mark.parametrize("position", ORIENTATIONS)
def test_the_independent_checker_finds_no_error(tmp_path, position, with_plan):
    files = write_phantom(dataclasses.replace(PHANTOM, position=position), tmp_path / "patient")
    if not with_plan:
        files.plan.unlink()
    exported = export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm")
    done = subprocess.run([CHECKER, exported.path], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr, done.stderr
    assert done.returncode == 0
    if with_plan:
        assert "Warning" not in done.stderr, done.stderr


def test_the_independent_checker_finds_errors(tmp_path, files):
    exported = export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm")
    dataset = pydicom.dcmread(exported.path)
    del dataset.ReferencedRTPlanSequence
    dataset.save_as(exported.path)
    done = subprocess.run([CHECKER, exported.path], capture_output=True, text=True, check=False)
    assert "Error" in done.stderr


def test_it_belongs_to_the_patient_and_says_what_it_is(tmp_path, files):
    ct, plan = pydicom.dcmread(files.ct[3]), pydicom.dcmread(files.plan)
    exported = export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm")
    dataset = pydicom.dcmread(exported.path)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert dataset[keyword].value == ct[keyword].value
    assert dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert dataset.ReferencedRTPlanSequence[0].ReferencedSOPClassUID == plan.SOPClassUID
    assert (dataset.Modality, dataset.DoseUnits, dataset.DoseType) == ("RTDOSE", "GY", "PHYSICAL")
    assert dataset.DoseSummationType == "PLAN"
    assert "PREDICT" in dataset.SeriesDescription.upper()
    for text in (dataset.SeriesDescription, dataset.DoseComment):
        assert text.startswith("PREDICTED, NOT FOR TREATMENT")
        assert len(text) <= 64  # (of LO)
    assert exported.plan == "phantom"


def test_a_dose_on_a_ct_that_was_exported_again_belongs_to_the_structure_set(tmp_path, files, capfd):
    for k, file in enumerate(files.ct):
        dataset = pydicom.dcmread(file)
        dataset.FrameOfReferenceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.5", "1.2.6", "1.2.7"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.7.{k}"
        dataset.save_as(file)
    out = tmp_path / "out.dcm"
    command = ["export", "dicom", str(prediction(tmp_path)), "--source", str(files.folder), "-o", str(out)]
    assert main(command) == 2
    assert "--match-geometry takes it by its slices" in capfd.readouterr().err
    assert main([*command, "--match-geometry"]) == 0
    assert "the dose belongs to the study and the frame of reference of the structure set" in capfd.readouterr().out
    dose, plan = pydicom.dcmread(out), pydicom.dcmread(files.plan)
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert (dose.FrameOfReferenceUID, dose.StudyInstanceUID) == (plan.FrameOfReferenceUID, plan.StudyInstanceUID)


def test_every_export_is_a_new_object(tmp_path, files):
    path = prediction(tmp_path)
    first, second = (
        pydicom.dcmread(export_dose(path, find_destination(files.folder), tmp_path / f"{k}.dcm").path) for k in range(2)
    )
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        known = {
            pydicom.dcmread(file)[keyword].value for file in (*files.ct, files.structures, files.plan, *files.doses)
        }
        assert first[keyword].value not in known | {second[keyword].value}


def test_names_in_other_alphabets_survive(tmp_path, files):
    for file in files.ct:
        dataset = pydicom.dcmread(file)
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 192", "Grüße^Özlem"
        dataset.save_as(file)
    dataset = pydicom.dcmread(
        export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm").path
    )
    assert str(dataset.PatientName) == "Grüße^Özlem"


def test_without_a_plan_the_dose_is_of_a_plan_overview(tmp_path, files):
    files.plan.unlink()
    exported = export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm")
    dataset = pydicom.dcmread(exported.path)
    assert (exported.plan, dataset.DoseSummationType) == (None, "PLAN_OVERVIEW")
    assert "ReferencedRTPlanSequence" not in dataset
    overview = dataset.PlanOverviewSequence[0]
    structures = pydicom.dcmread(files.structures)
    assert overview.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == structures.SOPInstanceUID


def test_a_tilted_grid_keeps_its_tilt(tmp_path):
    phantom = dataclasses.replace(PHANTOM, tilt_degrees=8.0)
    files = write_phantom(phantom, tmp_path / "patient")
    path = prediction(tmp_path, degrees=8.0, axis=0)
    dataset = pydicom.dcmread(export_dose(path, find_destination(files.folder), tmp_path / "out.dcm").path)
    assert list(dataset.ImageOrientationPatient) == pytest.approx(
        list(pydicom.dcmread(files.ct[0]).ImageOrientationPatient), abs=1e-6
    )


def test_the_planned_dose_of_a_phantom_goes_there_and_back(tmp_path):
    files = write_phantom(dataclasses.replace(PHANTOM, dose=LinearDose(1, 0.3, 30.0), position="FFP"), tmp_path / "p")
    planned = read_dose(files.doses).volume
    path = tmp_path / "planned.nii.gz"
    write_image(Image(planned.values, planned.grid, path))
    exported = export_dose(path, find_destination(files.folder), tmp_path / "out.dcm")
    again = read_dose([exported.path]).volume
    assert planned.grid.same_as(again.grid)
    assert np.abs(again.values - planned.values).max() <= exported.step_gy


def spoiled(change):
    values = np.random.default_rng(0).permutation(math.prod(SHAPE)).reshape(SHAPE) / 20.0
    change(values)
    return {"values": values}


def set_one(value):
    def change(values):
        values[2, 3, 4] = value

    return change


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (spoiled(set_one(-0.5)), "has negative dose in 1 voxel"),
        ({"values": np.zeros(SHAPE)}, "the dose is zero everywhere"),
        (spoiled(lambda v: v.__imul__(100)), "which is not plausible; is it in cGy"),
        ({"origin": (900.0, 0.0, 0.0)}, "mm outside the patient's CT; is it this patient's prediction"),
        ({"origin": (-14.3, -9.1, 60.0)}, "mm outside the patient's CT"),
        ({"degrees": 10.0}, "is rotated relative to the patient's CT"),
    ],
)
def test_a_dose_that_can_not_be_the_patients_is_refused(tmp_path, files, given, message):
    with pytest.raises(InputError, match=message):
        export_dose(prediction(tmp_path, **given), find_destination(files.folder), tmp_path / "out.dcm")
    assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_dose_that_is_not_finite_is_refused(tmp_path, files, value):
    import SimpleITK as sitk

    values = np.ones(SHAPE, np.float32)
    values[0, 0, 0] = value
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.nii.gz"))
    with pytest.raises(InputError, match="is not finite in 1 voxel"):
        export_dose(tmp_path / "x.nii.gz", find_destination(files.folder), tmp_path / "out.dcm")


def test_low_dose_may_reach_out_of_the_ct(tmp_path, files):
    values = np.zeros((9, 40, 50))
    values[3:6, 16:22, 20:28] = 60
    values[:, 0, 0] = 1.0
    path = prediction(tmp_path, values, origin=(-60.0, -40.0, -12.0))
    assert export_dose(path, find_destination(files.folder), tmp_path / "out.dcm").maximum_gy == 60


def renamed(path, copy):
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(copy)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: [file.unlink() for file in f.ct], "patient: no CT$"),
        (lambda f: f.plan.write_bytes(f.plan.read_bytes()[:140]), "plan.dcm lacks Modality"),
        (lambda f: renamed(f.plan, f.folder / "plan2.dcm"), r"has 2 plans: .*plan.dcm, .*plan2.dcm; choose one"),
        (
            lambda f: write_phantom(dataclasses.replace(PHANTOM, seed=1), f.folder / "other"),
            "has 2 patients: phantom_000, phantom_001; give a folder with one",
        ),
    ],
)
def test_a_folder_that_leaves_a_choice_is_refused(tmp_path, files, spoil, message):
    spoil(files)
    with pytest.raises(InputError, match=message):
        export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm")


def test_a_plan_of_another_patient_is_refused(tmp_path, files):
    other = write_phantom(dataclasses.replace(PHANTOM, seed=1), tmp_path / "other")
    with pytest.raises(InputError, match="belongs to another patient"):
        find_destination(files.folder, other.plan)
    dataset = pydicom.dcmread(files.plan)
    dataset.FrameOfReferenceUID = "1.2.3"
    dataset.save_as(files.plan)
    with pytest.raises(InputError, match="CT, RTSTRUCT, RTPLAN lie in 2 different frames of reference"):
        find_destination(files.folder)


def test_of_two_ct_series_the_one_that_was_drawn_on_counts(tmp_path, files):
    for file in files.ct:
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "1.2.3", f"1.2.3.{dataset.InstanceNumber}"
        dataset.save_as(files.folder / f"b_{file.name}")
    assert find_destination(files.folder).header.SeriesInstanceUID == pydicom.dcmread(files.ct[0]).SeriesInstanceUID
    files.plan.unlink()
    files.structures.unlink()
    with pytest.raises(InputError, match="2 CT series: ambiguous, keep one"):
        find_destination(files.folder)


def test_of_two_plans_one_is_chosen(tmp_path, files):
    renamed(files.plan, files.folder / "plan2.dcm")
    assert find_destination(files.folder, files.folder / "plan2.dcm").plan.sop_uid == "1.2.3"
    assert find_destination(files.folder, files.plan).plan.sop_uid == pydicom.dcmread(files.plan).SOPInstanceUID


def test_other_files_and_missing_folders(tmp_path, files):
    (files.folder / "notes.txt").write_text("seen by Dr X")
    assert find_destination(files.folder).plan.label == "phantom"
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_destination(tmp_path / "nowhere")


def test_unknown_depths_are_refused(tmp_path, files):
    with pytest.raises(InputError, match="has 16 or 32 bits per voxel, not 8"):
        export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm", bits=8)


def test_a_file_that_reads_back_differently_does_not_stay(tmp_path, files, monkeypatch):
    from cdm_nnunet.dicom import export

    decimals = export._decimals
    monkeypatch.setattr(
        export, "_decimals", lambda values: decimals(np.asarray(values) + 0.02 * (np.size(values) == 3))
    )
    with pytest.raises(OSError, match=r"reads back 0\.02 mm and"):
        export_dose(prediction(tmp_path), find_destination(files.folder), tmp_path / "out.dcm")
    assert not list(tmp_path.glob("*out.dcm*"))


@pytest.mark.parametrize("n_bytes", [0, 700, 2500])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, files, file_size_limit, n_bytes):
    dose, out = prediction(tmp_path), tmp_path / "out" / "out.dcm"
    with file_size_limit(n_bytes), pytest.raises(OSError, match=rf"File too large: '{out}'"):
        export_dose(dose, find_destination(files.folder), out)
    assert list(out.parent.iterdir()) == []


def test_the_command(tmp_path, files, capfd):
    out = tmp_path / "new" / "out.dcm"
    command = ["export", "dicom", str(prediction(tmp_path)), "--source", str(files.folder), "-o", str(out)]
    assert main([*command, "--bits", "32", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["file"], record["bits"], record["plan"]) == (str(out), 32, "phantom")
    assert pydicom.dcmread(out).BitsAllocated == 32
    assert main(command) == 0
    assert "for plan 'phantom'; a prediction, not for treatment" in capfd.readouterr().out
    assert main([*command[:-1], str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("elements", "predicted"),
    [
        ({"SeriesDescription": "PREDICTED, NOT FOR TREATMENT (dose of a neural network)"}, True),
        ({"SeriesDescription": "PREDICTED dose - research only, not for treatment"}, True),  # of earlier versions
        ({"DoseComment": "Predicted by a neural network, not calculated; not for treatment"}, True),
        ({"DoseComment": "NOT FOR TREATMENT", "SeriesDescription": "Predicted", "Manufacturer": "x"}, False),
    ],
)
def test_predictions_are_recognised_by_any_mark(elements, predicted):
    header = pydicom.Dataset()
    header.update({pydicom.tag.Tag(k): pydicom.DataElement(k, "LO", v) for k, v in elements.items()})
    assert is_prediction(header, "test") == predicted
