"""Prescriptions: every level of the plan is used or reported, and nothing contradicts it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from phantoms import change

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, PatientMapping, mapping_from
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.inspection import inspect_index
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dicom.plan import Plan, Prescription, read_plan
from cdm_nnunet.dicom.prescriptions import GivenLevels, prescribe, stated_levels
from cdm_nnunet.dicom.structures import StructureSet
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.roi_contours import RoiContours

SQUARE = np.array([[0.0, 0, 0], [9, 0, 0], [9, 9, 0]])


def roi(number, name, *, drawn=True, marker=False):
    return RoiContours(number, name, "", (SQUARE,) if drawn else (), {"POINT contours": 1} if marker else {}, "")


STRUCTURES = StructureSet(
    Path("rs"),
    (
        roi(1, "PTV_7000"),
        roi(2, "PTV_5600"),
        roi(3, "CTV"),
        roi(4, "PTV_6300", drawn=False),
        roi(5, "ISO", drawn=False, marker=True),
    ),
    *("", "", {}),
    frozenset(),
)
BOTH, HIGH = {"High": 1, "Low": 2}, {"High": 1}


def plan(*levels, label="A"):
    """Levels as (Gy, ROINumber, description, type)."""
    stated = [Prescription(gy, *(rest or (None, "", "SITE"))) for gy, *rest in levels]
    return Plan(Path(label), label, tuple(stated), 30, (1,), "", label, "", "")


def volume(gy, number):
    return (gy, number, "", "VOLUME")


def site(gy, description="", kind="SITE"):
    return (gy, None, description, kind)


def decide(plans, targets=BOTH, mapping=None, own=None, template=None, **options):
    given = (
        GivenLevels("given", own or {}),
        GivenLevels("mapping", mapping or {}),
        GivenLevels("template", template or {}, binding=False),
    )
    plans = [plans] if isinstance(plans, Plan) else plans
    return prescribe(stated_levels(plans, STRUCTURES), targets, given, **options)


@pytest.mark.parametrize(
    ("of_plan", "targets", "mapping", "expected", "note"),
    [
        (plan(volume(70, 1), volume(56, 2)), BOTH, {}, {"High": 70, "Low": 56}, ""),
        (plan(site(66)), HIGH, {}, {"High": 66}, "'High', the only target, has the plan's 66 Gy, stated without an"),
        (plan(site(66, kind="COORDINATES")), HIGH, {}, {"High": 66}, "the only target"),
        (plan((66, None, "", "VOLUME")), HIGH, {"High": 66}, {"High": 66}, "the only target"),
        (plan((66, 5, "", "POINT")), HIGH, {}, {"High": 66}, "the only target"),
        (plan((66, 5, "", "VOLUME")), HIGH, {}, {"High": 66}, "the only target"),  # (a marker has no volume)
        (plan((66, None, "ISO", "COORDINATES")), HIGH, {}, {"High": 66}, "the only target"),
        (plan(site(70, " ptv_7000 "), site(56, "PTV_5600")), BOTH, {}, {"High": 70, "Low": 56}, ""),
        (plan((70, 5, "PTV_7000", "POINT")), BOTH, {"Low": 56}, {"High": 70, "Low": 56}, "'Low' 56 Gy (mapping)"),
        (plan(site(70)), BOTH, {"High": 70, "Low": 56}, {"High": 70, "Low": 56}, "'Low' 56 Gy (mapping)"),
        (plan(site(70), site(56)), BOTH, {"High": 70, "Low": 56}, {"High": 70, "Low": 56}, ""),
        (plan(site(70), site(56)), HIGH, {"High": 70}, {"High": 70}, "not the prescription of a target: 56 Gy"),
        (plan(site(70), volume(70, 1)), BOTH, {"Low": 56}, {"High": 70, "Low": 56}, "'Low' 56 Gy (mapping)"),
        (plan(volume(70, 1), volume(70.004, 1)), HIGH, {}, {"High": 70}, ""),
        (plan(volume(69.96, 1)), HIGH, {"High": 70}, {"High": 69.96}, "plan's 69.96 Gy are used, not 70 Gy (mapping)"),
        (
            plan(volume(70, 1), volume(70, 3)),
            HIGH,
            {},
            {"High": 70},
            "'CTV', which is not a contoured target; a target",
        ),
        (plan(volume(70, 1), volume(56, 3)), HIGH, {}, {"High": 70}, "prescribes 56 Gy to ROI 'CTV', which is not a"),
        (plan(volume(70, 1), volume(63, 4)), HIGH, {}, {"High": 70}, "prescribes 63 Gy to ROI 'PTV_6300', which is no"),
        (plan(volume(70, 1), volume(80, 1)), HIGH, {"High": 80}, {"High": 80}, "70 and 80 Gy to 'High' (ROI 'PTV_7"),
        (plan(), HIGH, {"High": 70}, {"High": 70}, ""),
    ],
)
def test_levels_of_the_plan_are_used_or_named(of_plan, targets, mapping, expected, note):
    found = decide(of_plan, targets, mapping)
    assert dict(found.levels_gy) == pytest.approx(expected)
    if note:
        assert any(note in text for text in found.notes), found.notes
    else:
        assert found.notes == ()


def test_a_level_whose_number_and_description_are_of_two_rois_is_left_open():
    swapped = plan((70, 2, "PTV_7000", "VOLUME"), (56, 1, "PTV_5600", "VOLUME"))
    message = r"70 Gy are for ROI number 2, 'PTV_5600', and called 'PTV_7000'; .*say under 'patients' of the mapping"
    with pytest.raises(InputError, match=message):
        decide(swapped)
    found = decide(swapped, own={"High": 70, "Low": 56})
    assert dict(found.levels_gy) == {"High": 70, "Low": 56}
    unresolved = "names in two ways is not resolved: 56 Gy are for ROI number 1, 'PTV_7000'"
    assert any(unresolved in note for note in found.notes)
    assert dict(decide(plan((70, 1, "boost", "VOLUME")), HIGH).levels_gy) == {"High": 70}


@pytest.mark.parametrize(
    ("of_plan", "targets", "mapping", "message"),
    [
        (plan(site(66)), HIGH, {"High": 70}, r"the plan prescribes 66 Gy to 'High', and 70 Gy are given \(mapping\)"),
        (
            plan(site(66)),
            BOTH,
            {"High": 70, "Low": 56},
            r"states 66 Gy without an ROI, and the targets are given 'High' 70",
        ),
        (
            plan(site(66)),
            BOTH,
            {"High": 70, "Low": 66},
            r"states 66 Gy without an ROI, and the targets are given 'High' 70",
        ),
        (
            plan(site(70), site(56)),
            BOTH,
            {"High": 70, "Low": 54},
            r"70 Gy without an ROI, and the targets are given 'Low' 54",
        ),
        (plan(site(70)), BOTH, {}, "states 70 Gy without an ROI, and the targets are given none: say under 'patients'"),
        (
            plan(site(70), volume(56, 2)),
            {"Low": 2},
            {},
            "states 70 Gy without an ROI, and the targets are given 'Low' 56 Gy",
        ),
        (plan(volume(66, 1)), HIGH, {"High": 70}, r"66 Gy to 'High', and 70 Gy are given \(mapping\); leave one out"),
        (plan(volume(70, 1), volume(80, 1)), HIGH, {}, r"prescribes 70 and 80 Gy to 'High' \(ROI 'PTV_7000'\): ambig"),
        (plan(volume(70, 1), volume(80, 1)), HIGH, {"High": 75}, "prescribes 70 and 80 Gy to 'High'"),
        (plan(volume(71.4, 1), site(70, "PTV_7000")), HIGH, {}, "prescribes 70 and 71.4 Gy to 'High'"),
        (
            plan(volume(70, 4), volume(56, 2)),
            {"Low": 2},
            {},
            "70 Gy to ROI 'PTV_6300', which is not a contoured target, and",
        ),
        (
            plan(volume(70, 3)),
            {"Low": 2},
            {"Low": 56},
            "70 Gy to ROI 'CTV', which is not a contoured target, and no target",
        ),
        (plan(volume(70, 9)), HIGH, {"High": 60}, "70 Gy to ROI 'ROI number 9, which is not in the structure set'"),
    ],
)
def test_what_contradicts_the_plan_is_refused(of_plan, targets, mapping, message):
    with pytest.raises(InputError, match=message):
        decide(of_plan, targets, mapping)


def test_the_plan_comes_before_the_template_with_a_note():
    found = decide(plan(volume(66, 1)), HIGH, template={"High": 70.0})
    assert dict(found.levels_gy) == {"High": 66}
    assert found.notes == ("'High': the plan's 66 Gy are used, not 70 Gy (template)",)
    with pytest.raises(
        InputError, match=r"states 66 Gy without an ROI, and the targets are given 'High' 70 Gy \(template\)"
    ):
        decide(plan(site(66)), BOTH, template={"High": 70.0, "Low": 56.0})


def test_a_level_left_out_on_purpose_is_not_missed():
    of_plan = plan(volume(77, 1), volume(95, 3))
    with pytest.raises(InputError, match="95 Gy to ROI 'CTV', which is not a contoured target"):
        decide(of_plan, HIGH)
    assert dict(decide(of_plan, HIGH, left_out_gy=[95]).levels_gy) == {"High": 77}


def test_levels_of_a_course_add_up():
    both = [plan(volume(50, 1), label="A"), plan(volume(16, 1), label="B")]
    assert dict(decide(both, HIGH).levels_gy) == {"High": 66}
    assert dict(decide([plan(site(50), label="A"), plan(site(16), label="B")], HIGH).levels_gy) == {"High": 66}
    part = [plan(volume(50, 1), label="A"), plan(site(16), label="B")]
    found = decide(part, HIGH, {"High": 66})
    assert found.notes == (
        "ROI 'PTV_7000' is prescribed 50 Gy, and not at all by 'B': its total is unknown",
        "dose levels without an ROI, not summed: 'B' 16 Gy",
    )
    with pytest.raises(
        InputError, match=r"40 Gy are given for 'High' .*, and some of the summed plans alone prescribe 50"
    ):
        decide(part, HIGH, {"High": 40})
    with pytest.raises(InputError, match="plan 'A' prescribes 50 and 52 Gy to ROI 'PTV_7000'"):
        decide([plan(volume(50, 1), volume(52, 1)), plan(volume(16, 1), label="B")], HIGH)


TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_High", "kind": "target", "prescription_gy": "patient"},
            {"name": "PTV_Mid", "kind": "target", "prescription_gy": "patient"},
            {"name": "External", "kind": "external"},
        ],
        "goals": [{"roi": "PTV_High", "metric": "D95%"}],
    },
    "test",
)
PHANTOM = Phantom(
    {
        "BODY": Cylinder((0.0, 0.0, 0.0), 22.0, 24.0),
        "PTV_70": Sphere((6.0, 0.0, 0.0), 5.0),
        "PTV_60": Sphere((-6.0, 0.0, 0.0), 5.0),
    },
    LinearDose(0, 0.2, 66.0),
    slices_z_mm=tuple(np.arange(-12.0, 13.0, 2.0)),
    pixels=(26, 26),
    prescriptions_gy={"PTV_70": 70.0, "PTV_60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV_70": "PTV", "PTV_60": "PTV"},
)
MAPPING = DicomMapping({"BODY": "External", "PTV_70": "PTV_High", "PTV_60": "PTV_Mid"})


@pytest.fixture
def exports(tmp_path):
    return [
        write_phantom(dataclasses.replace(PHANTOM, seed=seed), tmp_path / "exports" / str(seed)) for seed in range(2)
    ]


def convert(tmp_path, mapping=MAPPING):
    conversion = convert_dicom(
        tmp_path / "exports",
        DatasetPlace(tmp_path / "raw", 502, "C"),
        DicomRules(TEMPLATE, mapping),
        tmp_path / "local",
    )
    return RawDataset(conversion.folder).cases


def name_of(tmp_path, seed):
    from cdm_nnunet.dicom.pseudonyms import read_pseudonyms

    return read_pseudonyms(tmp_path / "local").patient(f"phantom_{seed:03d}")


def as_site(dataset):
    for item in dataset.DoseReferenceSequence:
        item.DoseReferenceStructureType = "SITE"
        del item.ReferencedROINumber
        item.DoseReferenceDescription = ""


def test_a_plan_without_rois_is_compared_with_the_mapping(exports, tmp_path):
    change(exports[0].plan, as_site)
    change(exports[1].plan, as_site)
    change(exports[1].plan, lambda d: setattr(d.DoseReferenceSequence[0], "TargetPrescriptionDose", 66))
    levels = {"PTV_High": 70.0, "PTV_Mid": 60.0}
    name = name_of(tmp_path, 1)
    with pytest.raises(
        InputError, match=rf"1 of 2 patients .*\[{name}\] the plan states 60 and 66 Gy without an ROI, and"
    ):
        convert(tmp_path, dataclasses.replace(MAPPING, prescriptions_gy=levels))
    own = {name: PatientMapping(prescriptions_gy={"PTV_High": 66.0})}
    records = convert(tmp_path, dataclasses.replace(MAPPING, prescriptions_gy=levels, patients=own))
    assert records[name].prescriptions_gy == {"PTV_High": 66.0, "PTV_Mid": 60.0}
    assert records[name_of(tmp_path, 0)].prescriptions_gy == levels


def test_the_mapping_must_not_contradict_the_plan(exports, tmp_path):
    mapping = dataclasses.replace(MAPPING, prescriptions_gy={"PTV_High": 66.0})
    with pytest.raises(InputError, match=r"2 of 2 .*the plan prescribes 70 Gy to 'PTV_High', and 66 Gy are given"):
        convert(tmp_path, mapping)
    own = {name_of(tmp_path, seed): PatientMapping(prescriptions_gy={"PTV_High": None}) for seed in range(2)}
    records = convert(tmp_path, dataclasses.replace(mapping, patients=own))
    assert {record.prescriptions_gy["PTV_High"] for record in records.values()} == {70.0}


def test_a_name_may_mean_something_else_in_one_patient(exports, tmp_path):
    name = name_of(tmp_path, 0)
    mapping = mapping_from(
        {
            "rois": dict(MAPPING.rois),
            "patients": {name: {"rois": {"PTV_70": "PTV_Mid", "PTV_60": "PTV_High"}}},
        },
        "rois.yaml",
    )
    records = convert(tmp_path, mapping)
    assert records[name].prescriptions_gy == {"PTV_High": 60.0, "PTV_Mid": 70.0}
    assert records[name_of(tmp_path, 1)].prescriptions_gy == {"PTV_High": 70.0, "PTV_Mid": 60.0}
    assert mapping.to_json()["rois"] == {"BODY": "External"}  # a new patient's PTV_70 is not guessed
    section = json.loads((tmp_path / "raw" / "Dataset502_C" / "dataset.json").read_text())["cdm"]
    assert section["mapping"] == mapping.to_json()
    assert name not in json.dumps(section)
    with pytest.raises(InputError, match=r"named under 'patients' of the mapping, but not in .*: case_x"):
        convert(tmp_path, dataclasses.replace(MAPPING, patients={"case_x": PatientMapping()}))
    with pytest.raises(InputError, match="has a prescription of 'External', which is not a target"):
        convert(tmp_path, dataclasses.replace(MAPPING, patients={name: PatientMapping({}, {"External": 3.0})}))


def test_a_target_that_is_left_out_is_missed(exports, tmp_path):
    mapping = dataclasses.replace(MAPPING, rois={**MAPPING.rois, "PTV_70": None})
    with pytest.raises(
        InputError, match="70 Gy to ROI 'PTV_70', which is not a contoured target, and no target has that"
    ):
        convert(tmp_path, mapping)
    for files in exports:
        change(files.structures, lambda d: d.ROIContourSequence[1].ContourSequence.clear())
    with pytest.raises(
        InputError, match="70 Gy to ROI 'PTV_70', which is not a contoured target, and no target has that"
    ):
        convert(tmp_path)


def test_inspection_and_conversion_derive_the_same(exports, tmp_path):
    def site_of_71(dataset):
        item = pydicom.Dataset()
        item.DoseReferenceNumber, item.DoseReferenceStructureType, item.DoseReferenceType = 9, "SITE", "TARGET"
        item.DoseReferenceDescription, item.TargetPrescriptionDose = "PTV_60", 61.2
        dataset.DoseReferenceSequence.append(item)

    change(exports[0].plan, site_of_71)
    with pytest.raises(InputError, match=r"prescribes 60 and 61.2 Gy to 'PTV_Mid' \(ROI 'PTV_60'\): ambiguous"):
        convert(tmp_path)
    rows = inspect_index(index_folder(tmp_path / "exports"))["patients"].values()
    assert sorted(row["prescriptions_gy"]["PTV_60"] for row in rows) == [60.0, 61.2]
    doubts = [note for row in rows for note in row["notes"] if note.startswith("the plan prescribes")]
    assert doubts == ["the plan prescribes 60 and 61.2 Gy to ROI 'PTV_60'"]


def test_the_fraction_group_may_state_the_level(exports):
    def move(dataset):
        items = []
        for reference in dataset.DoseReferenceSequence:
            item = pydicom.Dataset()
            item.ReferencedDoseReferenceNumber = reference.DoseReferenceNumber
            item.TargetPrescriptionDose = reference.TargetPrescriptionDose
            items.append(item)
            del reference.TargetPrescriptionDose
        dataset.FractionGroupSequence[0].ReferencedDoseReferenceSequence = items

    before = read_plan(exports[0].plan).prescriptions
    change(exports[0].plan, move)
    assert read_plan(exports[0].plan).prescriptions == before
    change(exports[0].plan, lambda d: setattr(d.DoseReferenceSequence[0], "TargetPrescriptionDose", 66))
    assert [level.dose_gy for level in read_plan(exports[0].plan).prescriptions] == [66, 70, 60]


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (
            lambda item: setattr(item, "DoseReferenceType", "ORGAN_AT_RISK"),
            "is not a prescription: 70 Gy for type ORGAN_AT",
        ),
        (
            lambda item: (delattr(item, "TargetPrescriptionDose"), setattr(item, "TargetMinimumDose", 66)),
            "dose reference 'PTV_70' of the plan is not a prescription: TargetMinimumDose 66 Gy alone",
        ),
    ],
)
def test_what_is_no_prescription_is_named(exports, edit, note):
    change(exports[0].plan, lambda d: edit(d.DoseReferenceSequence[0]))
    found = read_plan(exports[0].plan)
    assert [level.dose_gy for level in found.prescriptions] == [60.0]
    assert note in found.notes[0]


def test_a_level_without_a_type_is_a_targets(exports):
    change(exports[0].plan, lambda d: delattr(d.DoseReferenceSequence[0], "DoseReferenceType"))
    assert [level.dose_gy for level in read_plan(exports[0].plan).prescriptions] == [70.0, 60.0]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_codes_in_mixed_case_are_read(exports):
    before = read_plan(exports[0].plan).prescriptions
    change(exports[0].plan, lambda d: setattr(d.DoseReferenceSequence[0], "DoseReferenceType", "Target"))
    change(exports[0].plan, lambda d: setattr(d.DoseReferenceSequence[0], "DoseReferenceStructureType", "Volume"))
    assert read_plan(exports[0].plan).prescriptions == before


def test_a_negative_level_is_named(exports):
    change(exports[0].plan, lambda d: setattr(d.DoseReferenceSequence[0], "TargetPrescriptionDose", -50))
    with pytest.raises(
        InputError, match=r"dose reference '.*' states a prescription of -50 Gy, not above zero; export"
    ):
        read_plan(exports[0].plan)
