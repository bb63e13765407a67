"""Choice of plan and dose: approval, type of dose, own predictions, and other doses next to that of a plan."""

import dataclasses
import json

import pydicom
import pytest
from phantoms import change

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dicom.destination import find_destination
from cdm_nnunet.dicom.dose import read_dose, sum_doses
from cdm_nnunet.dicom.export import export_dose
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.dicom.plan import ION_PLAN_CLASS, read_plan
from cdm_nnunet.dicom.plan_choice import Choice
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import Image, write_image


@pytest.fixture
def files(tmp_path, clinic):
    return write_phantom(clinic.phantom, tmp_path / "exports" / "a")


def setting(**values):
    def edit(dataset):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return edit


def patient(files, **plans):
    (found,) = index_folder(files.folder).patients(choice=Choice(plans))
    return found


def copy_of(path, name, **values):
    """A copy under another UID, changed."""
    other = path.with_name(name)
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{sum(name.encode())}"
    setting(**values)(dataset)
    dataset.save_as(other)
    return other


def facts(conversion):
    return json.loads((conversion.folder / "dataset.json").read_text())["cdm"]["facts"]


def notes(conversion):
    return [note for case in RawDataset(conversion.folder).cases.values() for note in json.loads(case.source["notes"])]


@pytest.fixture
def replanned(files, add_plan, clinic):
    """A patient with a plan of January and one of March."""
    return add_plan(files, clinic.phantom, "March", "20260301")


@pytest.mark.parametrize(
    ("january", "march", "chosen", "note"),
    [
        ("", "REJECTED", "phantom", "rejected plans ignored: 'March' of 20260301, REJECTED"),
        ("APPROVED", "UNAPPROVED", "phantom", "not the latest, ignored: 'March' of 20260301, UNAPPROVED"),
        ("APPROVED", "APPROVED", "March", "not the latest, ignored: 'phantom' of 20260101, APPROVED"),
        ("UNAPPROVED", "UNAPPROVED", "March", "not approved: 'March' of 20260301, UNAPPROVED"),
        ("", "", "March", "not the latest, ignored: 'phantom' of 20260101"),
        ("REJECTED", "UNAPPROVED", "March", "not approved: 'March' of 20260301, UNAPPROVED"),
    ],
)
def test_the_latest_plan_is_not_a_rejected_one(files, replanned, january, march, chosen, note):
    change(files.plan, setting(ApprovalStatus=january))
    change(replanned.plan, setting(ApprovalStatus=march))
    found = patient(files, default="latest")
    assert found.problems == ()
    assert [read_plan(path).label for path in found.plans] == [chosen]
    assert note in found.notes
    (new,) = index_folder(files.folder).patients(choice=Choice({"default": "latest"}), needed=("RTSTRUCT",))
    assert [read_plan(path).label for path in new.plans] == [chosen]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_the_latest_plan_is_not_guessed_where_its_approval_is_not_known(files, replanned):
    change(files.plan, setting(ApprovalStatus="Approved"))
    change(replanned.plan, setting(ApprovalStatus=""))
    (problem,) = patient(files, default="latest").problems
    assert problem == (
        "the latest plan has no ApprovalStatus, and an earlier one is approved: 'phantom' of 20260101, APPROVED, "
        "'March' of 20260301; choose one by name"
    )
    assert patient(files, default="March").plans == (replanned.plan,)
    change(files.plan, setting(RTPlanDate="20260401"))
    assert patient(files, default="latest").plans == (files.plan,)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_relative_dose_beside_one_in_gy_is_left_aside(files):
    relative = copy_of(files.doses[0], "relative.dcm", DoseUnits="Relative")
    found = patient(files)
    assert found.doses == files.doses
    assert "doses ignored: 1 in relative units next to others in Gy" in found.notes
    files.doses[0].unlink()
    with pytest.raises(InputError, match="RELATIVE; export the absolute dose"):
        read_dose(patient(files).doses)
    assert patient(files).doses == (relative,)


@pytest.mark.parametrize(
    ("january", "march"),
    [
        (("20260301", "120000"), ("20260301", "")),
        (("20260301", "09"), ("20260301", "090000.00")),
        (("", "120000"), ("20260301", "120000")),
        (("", ""), ("20260301", "")),
    ],
)
def test_the_latest_plan_is_not_guessed_from_half_a_date(files, replanned, january, march):
    for path, (date, time) in ((files.plan, january), (replanned.plan, march)):
        change(path, setting(RTPlanDate=date, RTPlanTime=time, ApprovalStatus="APPROVED"))
    (problem,) = patient(files, default="latest").problems
    assert problem.startswith("it is unclear which plan is the latest: ")
    change(replanned.plan, setting(RTPlanDate="20260302", RTPlanTime=""))
    change(files.plan, setting(RTPlanDate="20260301"))
    found = patient(files, default="latest")
    assert (found.problems, found.plans) == ((), (replanned.plan,))


def test_without_a_rule_a_rejected_plan_is_no_choice(files, replanned):
    change(replanned.plan, setting(ApprovalStatus="REJECTED"))
    assert patient(files).problems == ()
    change(files.plan, setting(ApprovalStatus="REJECTED"))
    assert patient(files).problems == (
        "all plans are rejected: 'phantom' of 20260101, REJECTED, 'March' of 20260301, REJECTED; name one under "
        "'plans' of the mapping to use it nevertheless",
    )
    found = patient(files, default="March")
    assert (found.problems, found.plans) == ((), (replanned.plan,))
    assert "not approved: 'March' of 20260301, REJECTED" in found.notes
    change(replanned.plan, setting(RTPlanLabel="phantom", ApprovalStatus=""))
    assert patient(files, default="phantom").plans == (replanned.plan,)


def test_a_sum_is_of_approved_plans(files, replanned):
    change(files.plan, setting(ApprovalStatus="APPROVED"))
    change(replanned.plan, setting(ApprovalStatus="UNAPPROVED"))
    (problem,) = patient(files, default="sum").problems
    assert "a course is summed of approved plans, or of plans without an approval: there are 'phantom'" in problem
    change(replanned.plan, setting(ApprovalStatus="REJECTED"))
    assert len(patient(files, default="sum").plans) == 1
    assert len(patient(files, default="each").plans) == 1


def test_a_dose_of_several_plans_must_not_be_of_a_rejected_one(files, replanned):
    dose = pydicom.dcmread(files.doses[0])
    dose.ReferencedRTPlanSequence.append(pydicom.dcmread(replanned.doses[0]).ReferencedRTPlanSequence[0])
    dose.DoseSummationType = "MULTI_PLAN"
    dose.save_as(files.doses[0])
    replanned.doses[0].unlink()
    assert patient(files).problems == ()
    change(replanned.plan, setting(ApprovalStatus="REJECTED"))
    assert "the dose is of 2 plans, of which some are rejected: 'March'" in patient(files).problems[0]


def test_types_of_dose_are_not_summed(tmp_path, files, replanned, clinic):
    change(replanned.doses[0], setting(DoseType="EFFECTIVE"))
    assert patient(files, default="sum").problems == ("doses of type EFFECTIVE and PHYSICAL can't be summed",)
    with pytest.raises(InputError, match=r"is of DoseType .* EFFECTIVE, .* of PHYSICAL; they can't be summed"):
        sum_doses([read_dose(files.doses), read_dose(replanned.doses)])
    beams = write_phantom(dataclasses.replace(clinic.phantom, beams=2, dose_per_beam=True), tmp_path / "beams")
    change(beams.doses[1], setting(DoseType="EFFECTIVE"))
    with pytest.raises(InputError, match="they can't be summed"):
        read_dose(beams.doses, read_plan(beams.plan))
    assert "of type EFFECTIVE and PHYSICAL; choose one" in patient(beams).problems[0]


def test_an_effective_dose_and_ions_leave_a_trace(tmp_path, files, clinic):
    change(files.doses[0], setting(DoseType="EFFECTIVE"))

    def of_ions(dataset):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ION_PLAN_CLASS
        dataset.IonBeamSequence = dataset.BeamSequence
        del dataset.BeamSequence

    change(files.plan, of_ions)
    second = write_phantom(dataclasses.replace(clinic.phantom, seed=1), tmp_path / "exports" / "b")
    change(second.doses[0], setting(DoseType="EFFECTIVE"))
    conversion = clinic.convert()
    assert (facts(conversion)["dose_type"], facts(conversion)["ion_plans"]) == ("EFFECTIVE", 1)
    effective = "the dose is EFFECTIVE: weighted by biological effectiveness"
    told = notes(conversion)
    assert (told.count("a plan of ions (RT Ion Plan)"), told.count(effective)) == (1, 2)
    dose = read_dose(files.doses)
    path = tmp_path / "dose.nii.gz"
    write_image(Image(dose.volume.values, dose.volume.grid, path))
    with pytest.raises(InputError, match=r"is an ion plan, whose dose may be PHYSICAL or EFFECTIVE"):
        export_dose(path, find_destination(files.folder), tmp_path / "out.dcm")
    for kind in ("PHYSICAL", "EFFECTIVE"):
        export_dose(path, find_destination(files.folder), tmp_path / "out.dcm", dose_type=kind)
        assert pydicom.dcmread(tmp_path / "out.dcm").DoseType == kind


def test_a_data_set_has_one_type_of_dose(tmp_path, files, clinic):
    second = write_phantom(dataclasses.replace(clinic.phantom, seed=1), tmp_path / "exports" / "b")
    change(second.doses[0], setting(DoseType="EFFECTIVE"))
    with pytest.raises(InputError, match=r"doses are PHYSICAL in 1 case and EFFECTIVE in 1 case .*and a model learns"):
        clinic.convert()
    mapping = dataclasses.replace(clinic.mapping, dose_type="PHYSICAL")
    with pytest.raises(
        InputError, match=r"1 of 2 .*no dose of type PHYSICAL, which the mapping chooses, but EFFECTIVE"
    ):
        clinic.convert(mapping)
    copy_of(second.doses[0], "physical.dcm", DoseType="PHYSICAL")
    with pytest.raises(InputError, match=r"1 of 2 .*2 doses of the plan, of type EFFECTIVE and PHYSICAL; choose one"):
        clinic.convert()
    conversion = clinic.convert(mapping)
    assert (facts(conversion)["dose_type"], len(conversion.cases)) == ("PHYSICAL", 2)
    assert "doses of another type than PHYSICAL ignored: 1" in notes(conversion)


def test_a_missing_type_is_told(files):
    change(files.doses[0], lambda d: delattr(d, "DoseType"))
    found = patient(files)
    assert (found.problems, found.notes, found.dose_type) == ((), ("no DoseType: taken for PHYSICAL",), "PHYSICAL")


def test_own_predictions_are_left_aside(tmp_path, files):
    dose = read_dose(files.doses)
    path = tmp_path / "dose.nii.gz"
    write_image(Image(dose.volume.values, dose.volume.grid, path))
    own = files.folder / "RD.1.2.3.dcm"
    export_dose(path, find_destination(files.folder), own)
    for edit in (
        lambda d: None,
        setting(Manufacturer="", SeriesDescription="Dose"),
        setting(Manufacturer="PACS", DoseComment=""),
        setting(Manufacturer="CDM_NNUNET", DoseComment="", SeriesDescription=""),
    ):
        export_dose(path, find_destination(files.folder), own)
        change(own, edit)
        found = patient(files)
        assert (found.problems, found.doses) == ((), files.doses)
        assert found.notes == ("doses ignored: 1 predicted by this software",)
    assert export_dose(path, find_destination(files.folder), own).plan == "phantom"
    files.doses[0].unlink()
    assert patient(files).problems == ("no dose (RTDOSE) but 1 predicted by this software",)
    files.plan.unlink()
    assert patient(files).problems == ("no dose (RTDOSE) but 1 predicted by this software",)


@pytest.mark.parametrize("label", ["BEAM", "FRACTION", "CONTROL_POINT", "RECORD", "FRACTION_SESSION"])
def test_the_dose_of_the_plan_comes_before_others(files, label):
    for k in range(2):
        copy_of(files.doses[0], f"part_{k}.dcm", DoseSummationType=label)
    found = patient(files)
    assert (found.problems, found.doses) == ((), files.doses)
    assert found.notes == (f"doses of {label} ignored: 2",)


def test_beams_come_before_fractions_and_control_points(tmp_path, clinic):
    beams = write_phantom(dataclasses.replace(clinic.phantom, beams=2, dose_per_beam=True), tmp_path / "beams")
    copy_of(beams.doses[0], "a.dcm", DoseSummationType="FRACTION")
    copy_of(beams.doses[0], "b.dcm", DoseSummationType="CONTROL_POINT")
    found = patient(beams)
    assert (found.problems, found.doses) == ((), beams.doses)
    assert found.notes == ("doses of CONTROL_POINT, FRACTION ignored: 2",)


def without_voxels(dataset):
    for keyword in ("Rows", "Columns", "PixelData", "NumberOfFrames", "PixelSpacing", "DoseGridScaling"):
        delattr(dataset, keyword)


def test_a_dose_of_dvhs_alone_is_left_aside(files):
    change(copy_of(files.doses[0], "dvh.dcm"), without_voxels)
    change(copy_of(files.doses[0], "difference.dcm"), setting(DoseType="ERROR"))
    found = patient(files)
    assert (found.problems, found.doses) == ((), files.doses)
    assert found.notes == (
        "doses ignored: 1 of DVHs without voxels",
        "doses ignored: 1 of differences (DoseType ERROR)",
    )
    files.doses[0].unlink()
    assert patient(files).problems == (
        "no dose (RTDOSE) but 1 of DVHs without voxels and 1 of differences (DoseType ERROR)",
    )
