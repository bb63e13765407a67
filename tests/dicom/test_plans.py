"""Patients with several plans: choice, sums, and beams on separate grids."""

import dataclasses
import json

import numpy as np
import pydicom
import pytest

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dicom.dose import read_dose, sum_doses
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.inspection import inspect_index
from cdm_nnunet.dicom.phantom import GaussianDose, LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dicom.plan import read_plan
from cdm_nnunet.dicom.plan_choice import Choice
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image

FIRST = Phantom(
    {"BODY": Cylinder((0.0, 0.0, 0.0), 22.0, 32.0), "PTV": Sphere((0.0, 0.0, 0.0), 8.0)},
    LinearDose(0, 0.2, 50.0),
    slices_z_mm=tuple(np.arange(-16.0, 17.0, 2.0)),
    pixels=(28, 28),
    prescriptions_gy={"PTV": 50.0},
    kinds={"BODY": "EXTERNAL", "PTV": "PTV"},
)
BOOST = dataclasses.replace(FIRST, dose=GaussianDose((0.0, 0.0, 0.0), 7.0, 20.0), prescriptions_gy={"PTV": 16.0})


@pytest.fixture
def exports(tmp_path, add_plan):
    """Two patients; the first has a boost, planned two months later."""
    files = write_phantom(FIRST, tmp_path / "exports" / "a")
    add_plan(files, BOOST, "Boost")
    write_phantom(dataclasses.replace(FIRST, seed=1), tmp_path / "exports" / "b")
    return tmp_path / "exports"


def patients(exports, **plans):
    return index_folder(exports).patients(choice=Choice(plans))


def doses(conversion):
    dataset = RawDataset(conversion.folder)
    return {name: read_image(dataset.dose_path(name)) for name in dataset.cases}


def points(image):
    z, y, x = np.indices(image.values.shape)
    steps = np.array(image.grid.spacing_xyz_mm)
    return image.grid.origin_xyz_mm + np.stack([x, y, z], -1) * steps


def test_several_plans_are_refused_with_their_names(exports, tmp_path, clinic):
    (first, second) = patients(exports)
    assert first.problems == (
        "2 plans: 'phantom' of 20260101, 'Boost' of 20260301; choose in the mapping, under 'plans': one by its label "
        "or UID, or a rule (latest, sum, each)",
    )
    assert second.problems == ()
    with pytest.raises(
        InputError, match=r"1 of 2 patients can't be used: \[case_.*2 plans: 'phantom' of 20260101, 'Boo"
    ):
        clinic.convert()


def test_plans_of_one_label_are_told_apart_by_their_uids(exports):
    path = exports / "a" / "Boost" / "plan.dcm"
    plan = pydicom.dcmread(path)
    plan.RTPlanLabel = "phantom"
    plan.save_as(path)
    assert f"'phantom' of 20260301 ({plan.SOPInstanceUID})" in patients(exports)[0].problems[0]
    name = patients(exports)[0].patient_name
    assert "is the label of 2 plans; give the UID" in patients(exports, **{name: "phantom"})[0].problems[0]
    assert patients(exports, **{name: str(plan.SOPInstanceUID)})[0].plans == (path,)


def test_one_plan_is_chosen_by_rule_or_by_name(exports):
    name = patients(exports)[0].patient_name
    for plans, folder in (({"default": "latest"}, "Boost"), ({name: "Boost"}, "Boost"), ({name: "phantom"}, "a")):
        files = patients(exports, **plans)[0]
        assert files.problems == ()
        assert (files.case_name, {path.parent.name for path in (*files.plans, *files.doses)}) == (name, {folder})
    assert (
        "'Bost', which is not a plan with a dose: there are 'phantom'"
        in patients(exports, **{name: "Bost"})[0].problems[0]
    )


def test_the_latest_of_plans_without_a_date_is_not_guessed(exports):
    path = exports / "a" / "plan.dcm"
    plan = pydicom.dcmread(path)
    for date, time in (("", ""), ("20260301", "120000")):
        plan.RTPlanDate, plan.RTPlanTime = date, time
        plan.save_as(path)
        assert "it is unclear which plan is the latest" in patients(exports, default="latest")[0].problems[0]


def test_a_plan_without_a_dose_is_no_candidate(exports):
    (exports / "a" / "dose.dcm").unlink()
    (files, _) = patients(exports)
    assert (files.problems, files.plans) == ((), (exports / "a" / "Boost" / "plan.dcm",))
    assert files.notes == ("plans without a dose ignored: 1",)


def test_the_dose_of_a_course_is_the_sum_of_its_plans(exports, tmp_path, clinic):
    conversion = clinic.convert(dataclasses.replace(clinic.mapping, plans={"default": "sum"}))
    course, single = sorted(doses(conversion).items(), key=lambda item: -item[1].values.max())
    for (_, image), expected in ((course, (FIRST.dose, BOOST.dose)), (single, (FIRST.dose,))):
        there = image.values > 0
        total = sum(dose(points(image)) for dose in expected)
        assert np.abs(image.values - total)[there].max() < 2e-3  # steps of 16 bits
    records = RawDataset(conversion.folder).cases
    assert records[course[0]].prescriptions_gy == {"PTV_High": 66.0}
    assert records[single[0]].prescriptions_gy == {"PTV_High": 50.0}
    assert json.loads(records[course[0]].source["notes"])[0] == "dose summed over 2 plans"


def test_a_prescription_that_only_one_plan_of_a_course_states_is_open(exports, tmp_path, clinic):
    path = exports / "a" / "Boost" / "plan.dcm"
    plan = pydicom.dcmread(path)
    del plan.DoseReferenceSequence
    plan.save_as(path)
    with pytest.raises(InputError, match="target 'PTV_High' is contoured and has no prescription; give it in Gy"):
        clinic.convert(dataclasses.replace(clinic.mapping, plans={"default": "sum"}))
    rows = inspect_index(index_folder(exports), choice=Choice({"default": "sum"}))["patients"].values()
    assert sorted((len(row["plans"]), row["prescriptions_gy"]) for row in rows) == [(1, {"PTV": 50.0}), (2, {})]


def of_both(exports, path="a/dose.dcm", other="a/Boost/plan.dcm"):
    """Make a dose one of both plans."""
    path = exports / path
    dose, plan = pydicom.dcmread(path), pydicom.dcmread(exports / other)
    dose.DoseSummationType = "MULTI_PLAN"
    other = pydicom.Dataset()
    other.ReferencedSOPClassUID, other.ReferencedSOPInstanceUID = plan.SOPClassUID, plan.SOPInstanceUID
    dose.ReferencedRTPlanSequence.append(other)
    dose.save_as(path)
    return path


def test_a_dose_of_several_plans_comes_before_a_sum(exports, tmp_path, clinic):
    path = of_both(exports)
    dose = pydicom.dcmread(path)
    dose.DoseGridScaling = float(dose.DoseGridScaling) * 66 / 50  # of both plans
    dose.save_as(path)
    (exports / "a" / "Boost" / "dose.dcm").unlink()
    files = patients(exports)[0]
    assert (files.problems, files.doses, len(files.plans)) == ((), (path,), 2)  # the one dose there is
    records = RawDataset(clinic.convert().folder).cases
    assert {record.prescriptions_gy["PTV_High"] for record in records.values()} == {66.0, 50.0}
    (exports / "a" / "plan.dcm").unlink()
    assert patients(exports)[0].problems == ("the dose is of 2 plans, of which 1 are not in the folder",)


def test_a_dose_of_several_plans_is_not_that_of_one(exports, add_plan):
    path = of_both(exports, "a/Boost/dose.dcm", "a/plan.dcm")
    name = patients(exports)[0].patient_name
    assert patients(exports, **{name: "phantom"})[0].doses == (exports / "a" / "dose.dcm",)
    assert "'Boost', which is not a plan with a dose" in patients(exports, **{name: "Boost"})[0].problems[0]
    with pytest.raises(InputError, match="is the dose of 2 plans, not of"):
        read_dose([path], read_plan(exports / "a" / "Boost" / "plan.dcm"))


def test_every_plan_a_case_keeps_patients_together(exports, tmp_path, clinic):
    write_phantom(dataclasses.replace(FIRST, seed=2), exports / "c")
    conversion = clinic.convert(dataclasses.replace(clinic.mapping, plans={"default": "each"}))
    names = list(RawDataset(conversion.folder).cases)
    assert len(names) == 4
    groups = {name.rsplit("_", 1)[0] for name in names}
    assert len(groups) == 3
    for fold in json.loads((conversion.folder / "splits_final.json").read_text()):
        sides = [{name.rsplit("_", 1)[0] for name in fold[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == groups
    assert clinic.convert(dataclasses.replace(clinic.mapping, plans={"default": "each"})).converted == ()


def test_a_chosen_patient_must_be_there(exports, tmp_path, clinic):
    with pytest.raises(InputError, match=r"named under 'plans' of the mapping, but not in .*exports: case_x"):
        clinic.convert(dataclasses.replace(clinic.mapping, plans={"case_x": "Boost"}))


def test_a_dose_without_a_plan_is_ambiguous_among_several(exports):
    path = exports / "a" / "dose.dcm"
    dose = pydicom.dcmread(path)
    del dose.ReferencedRTPlanSequence
    dose.save_as(path)
    assert patients(exports)[0].problems == ("1 dose without a plan, and there are 2 plans: ambiguous, keep one",)


def test_the_dose_of_the_plan_comes_before_those_of_its_beams(tmp_path):
    phantom = dataclasses.replace(FIRST, beams=2)
    files = write_phantom(phantom, tmp_path)
    write_phantom(dataclasses.replace(phantom, dose_per_beam=True), tmp_path)
    (found,) = index_folder(tmp_path).patients()
    assert (found.problems, found.doses, found.notes) == ((), files.doses, ("doses of BEAM ignored: 2",))


def test_the_command_takes_the_choice_from_the_mapping(exports, tmp_path, monkeypatch, capfd, clinic):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    out = tmp_path / "inspection"
    assert cli.main(["inspect", "dicom", str(exports), "-o", str(out)]) == 0
    assert "2 patients in 42 DICOM files; 1 can be converted" in capfd.readouterr().out
    text = (
        (out / "rois.yaml").read_text().replace('"PTV": "PTV"', '"PTV": "PTV_High"').replace("plans: {}", "plans: sum")
    )
    (out / "rois.yaml").write_text(text)
    assert cli.main(["inspect", "dicom", str(exports), "-o", str(out)]) == 0
    shown = capfd.readouterr().out
    assert "2 can be converted" in shown
    assert "PTV 66 Gy" in shown
    (tmp_path / "small.json").write_text(json.dumps(clinic.template.to_json()))
    options = ["--template", str(tmp_path / "small.json"), "--mapping", str(out / "rois.yaml"), "-np", "1"]
    assert cli.main(["convert", "dicom", str(exports), "-d", "502", "-n", "Clinic", *options]) == 0
    assert "2 converted" in capfd.readouterr().out


def beams(tmp_path, grids, dose=FIRST.dose):
    """A plan whose beams each have half of the dose, each on its own grid: step and margin in mm."""
    phantom = dataclasses.replace(FIRST, dose=dose, beams=2, dose_per_beam=True)
    chosen = []
    for k, (step, margin_mm) in enumerate(grids):
        changed = dataclasses.replace(phantom, dose_spacing_mm=(step, step, step), dose_margin_mm=margin_mm)
        files = write_phantom(changed, tmp_path / str(k))
        chosen.append(files.doses[k])
    return chosen, read_plan(files.plan)


def places_of(volume):
    z, y, x = np.meshgrid(*(volume.grid.offsets_xyz_mm[axis] for axis in (2, 1, 0)), indexing="ij")
    return volume.grid.origin_xyz_mm + np.stack([x, y, z], -1) @ volume.grid.axes


def test_beams_on_different_grids_are_summed_in_space(tmp_path):
    files, plan = beams(tmp_path, [(2.0, 0.0), (3.0, 0.0)])
    summed = read_dose(files, plan)
    assert np.abs(summed.volume.values - FIRST.dose(places_of(summed.volume))).max() < 2e-3  # two steps of 16 bits
    assert summed.volume.grid.spacing_xyz_mm == (2.0, 2.0, 2.0)
    reach = summed.volume.grid.corners_mm()
    assert (reach[0] <= -12).all()  # a rim of less than a voxel is gone
    assert (reach[-1] >= 12).all()
    assert summed.notes == (
        "dose summed over 2 beams on 2 different grids, on voxels of 2 x 2 x 2 mm; up to 0 Gy where a grid ends",
    )


@pytest.mark.parametrize("fine_first", [True, False])
def test_a_small_grid_is_zero_beyond_its_edge(tmp_path, fine_first):
    dose = GaussianDose((1.0, 0.0, 0.0), 3.0, 60.0)
    grids = [(1.0, 5.0), (1.5, 0.0)]
    files, plan = beams(tmp_path, grids if fine_first else grids[::-1], dose)
    summed = read_dose(files, plan).volume
    assert summed.grid.spacing_xyz_mm == pytest.approx((1.0, 1.0, 1.0))
    assert (summed.grid.corners_mm()[0] <= -15).all()
    assert (summed.grid.corners_mm()[-1] >= 15).all()
    assert np.abs(summed.values - dose(places_of(summed))).max() < 3 * 1.5**2 / 8 * 40 / 3**2  # h^2 f" / 8 an axis
    (note,) = read_dose(files, plan).notes
    assert 0.001 < float(note.split("up to ")[1].split()[0]) < 0.6


def test_a_grid_that_ends_within_the_dose_is_refused(tmp_path):
    files, plan = beams(tmp_path, [(2.0, 0.0), (2.0, 6.0)])
    message = r"dose_2.dcm: the dose is 3\d\.\d\d Gy where its grid ends, \d\.\d mm short of the other"
    with pytest.raises(InputError, match=message):
        read_dose(files, plan)


def test_plans_on_different_grids_are_summed_in_space(tmp_path, add_plan):
    files = write_phantom(FIRST, tmp_path)
    boost = add_plan(files, dataclasses.replace(BOOST, dose_spacing_mm=(2.0, 2.0, 2.0)), "Boost")
    summed = sum_doses([read_dose(files.doses), read_dose(boost.doses)])
    assert summed.notes[0].startswith("dose summed over 2 plans on 2 different grids, on voxels of 2 x 2 x 2 mm")
    grid = summed.volume.grid
    middle = grid.index(np.zeros(3))
    value = summed.volume.values[tuple(np.round(middle).astype(int)[::-1])]
    assert value == pytest.approx(70.0, abs=0.7)  # (half a voxel off the peak)
