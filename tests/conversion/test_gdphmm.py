"""Plans of the GDP-HMM challenge: targets, spellings, prescriptions, and doses normalised as the challenge does."""

import json

import numpy as np
import pytest

from cdm_nnunet.dataset_conversion.gdphmm import find_plans
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

SHAPE = (7, 9, 8)


def test_a_plan_of_the_head_and_neck(challenge):
    challenge.plan()
    case = challenge.only().load()
    given = challenge.content()
    assert case.name == "HNC_001__9Ag__MOS_1"
    assert case.rois == ("PTV_High", "PTV_Mid", "PTV_MidOPT", "External", "OpticChiasm")
    assert case.empty_rois == ("Brainstem_PRV03", "Lens_L")
    assert case.prescriptions_gy == {"PTV_High": 70.0, "PTV_Mid": 59.4, "PTV_MidOPT": 59.4}
    np.testing.assert_array_equal(case.ct_hu, given["img"])
    np.testing.assert_array_equal(case.mask("PTV_High"), given["PTVHighOPT"] == 1)
    np.testing.assert_array_equal(case.mask("OpticChiasm"), given["Chiasim"] == 1)
    assert case.grid.spacing_xyz_mm == (2.5, 2.5, 2.0)
    # The challenge's own formula (data_loader.py, evaluation.ipynb).
    dose = given["dose"] * given["dose_scale"]
    dose = dose * (70 / (np.percentile(dose[given["PTVHighOPT"].astype(bool)], 3) + 1e-5))
    np.testing.assert_allclose(case.dose_gy, dose, rtol=1e-6)
    assert np.percentile(case.dose_gy[case.mask("PTV_High")], 3) == pytest.approx(70, abs=1e-4)
    factor = float(case.source["dose factor (D97% = prescription)"])
    np.testing.assert_allclose(case.dose_gy / factor, given["dose"] * 0.0025, rtol=1e-5)
    assert json.loads(case.source["unused masks"]) == ["Zahn 3", "CTV 70"]
    assert (case.source["vmat"], case.source["patient"]) == ("True", "HNC_001")


def test_a_plan_of_the_lung(challenge):
    challenge.plan("LUNG1-001+2Ac+MOS_9", "Lung", seed=1)
    case = challenge.only().load()
    assert case.rois == ("PTV_High", "External")
    assert case.empty_rois == ("Lungs-GTV", "Ring_PTV_High")
    assert (case.prescriptions_gy, case.source["vmat"]) == ({"PTV_High": 70.0}, "False")


@pytest.mark.parametrize("spelling", ["Chiasm", "Chiasim"])
@pytest.mark.parametrize("body", ["Body", "BODY"])
def test_the_chiasm_and_the_body_are_spelled_in_two_ways(challenge, spelling, body):
    mask = challenge.content()["Chiasim"]
    challenge.plan(**{"Chiasim": None, "Body": None, spelling: mask, body: challenge.content()["Body"]})
    case = challenge.only().load()
    np.testing.assert_array_equal(case.mask("OpticChiasm"), mask == 1)
    np.testing.assert_array_equal(case.mask("External"), challenge.content()["Body"] == 1)


def test_of_two_spellings_the_one_that_was_optimised_counts(challenge):
    other = challenge.content()["PTVMid"]
    challenge.plan(Chiasm=other)
    case = challenge.only().load()
    np.testing.assert_array_equal(case.mask("OpticChiasm"), challenge.content()["Chiasim"] == 1)
    assert "Chiasm" in json.loads(case.source["unused masks"])
    challenge.objectives = {}
    challenge.write()
    with pytest.raises(InputError, match="'OpticChiasm' may be any of 'Chiasim', 'Chiasm'"):
        challenge.only().load()


def test_one_list_of_structures_a_plan_is_understood(challenge):
    challenge.plan()
    challenge.objectives = {"HNC_001": {"9Ag": ["Lens_L"]}}
    challenge.write()
    assert challenge.only().optimised == ("Lens_L",)


def test_spacing_and_origin_in_the_file_are_used(challenge):
    challenge.plan(spacing=(1.25, 1.5, 3.0), origin=(-10.0, 5.0, np.float64(7.0)))
    grid = challenge.only().load().grid
    assert (grid.spacing_zyx_mm, grid.origin_zyx_mm) == ((3.0, 1.5, 1.25), (7.0, 5.0, -10.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img": None}, "'img' is missing or no three-dimensional array"),
        ({"img": np.zeros((3, 3))}, "'img' is missing or no three-dimensional array"),
        (lambda content: {"img": content["img"] + 1024}, "no air anywhere; is it stored as HU \\+ 1024"),
        ({"dose": None}, "has no dose; only a test plan can do without it"),
        (lambda content: {"dose": content["dose"][1:]}, r"'dose' has shape \(6, 9, 8\), the CT has \(7, 9, 8\)"),
        ({"dose": np.zeros(SHAPE)}, "D97% of the high-dose PTV is 0 Gy: the dose can't be normalised"),
        ({"dose": np.full(SHAPE, np.nan)}, "27 of 27 voxel doses are not finite"),
        ({"dose_scale": None}, "dose_scale is None, expected a number above zero"),
        ({"dose_scale": -1.0}, "dose_scale is -1.0, expected a number above zero"),
        ({"dose_scale": float("nan")}, "dose_scale is nan, expected a number above zero"),
        ({"PTVHighOPT": None}, "PTV_High is 'PTVHighOPT' in PTV_DICT.json, which is missing"),
        ({"PTVMid": None}, "PTV_Mid is 'PTVMid' in PTV_DICT.json, which is missing"),
        (
            {"PTVHighOPT": np.zeros(SHAPE, np.uint8)},
            "'PTVHighOPT': the high-dose PTV is empty: the dose can't be normalised to it",
        ),
        (lambda content: {"PTVMid": content["PTVMid"] * 3}, r"'PTVMid' has the values \(0, 3\); a mask has 0 and 1"),
        ({"Body": np.ones((2, 2, 2))}, r"'Body' has shape \(2, 2, 2\)"),
        (
            {"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)},
            "its x, y and z axes do not run to the patient's left, back and head",
        ),
        ({"spacing": (2.5, 2.5)}, r"'spacing' is \(2.5, 2.5\), expected 3 numbers"),
        ({"spacing": 2.5}, "'spacing' is 2.5, expected 3 numbers"),
        ({"spacing": (2.5, 0.0, 2.0)}, r"voxel size \(2.5, 0, 2\) mm is not plausible"),
        ({"origin": (0.0, 0.0)}, "'origin' is .*, expected 3 numbers"),
        ({"origin": ("a", "b", "c")}, "'origin' is .*, expected 3 numbers"),
        ({"direction": (1.0, 0.0, 0.0, 1.0)}, "'direction' is .*, expected 9 numbers"),
    ],
)
def test_damaged_plans_are_refused(challenge, changes, message):
    challenge.plan(**(changes(challenge.content()) if callable(changes) else changes))
    with pytest.raises(InputError, match=message):
        challenge.only().load()


@pytest.mark.parametrize(
    ("level", "dose", "message"),
    [
        ("PTV_High", 11, "PTV_High of HNC_001 is prescribed 11 Gy, under 20 Gy; it looks like a number in a name"),
        ("PTV_Mid", 15, "PTV_Mid of HNC_001 is prescribed 15 Gy"),
        ("PTV_High", "70", "PDose of PTV_High of HNC_001 is '70', not Gy"),
        ("PTV_High", None, "PDose of PTV_High of HNC_001 is None, not Gy"),
    ],
)
def test_suspicious_prescriptions_are_refused(challenge, level, dose, message):
    challenge.plan()
    challenge.targets["HNC_001"][level]["PDose"] = dose
    challenge.write()
    with pytest.raises(InputError, match=message):
        challenge.only().load()


def test_a_patient_without_a_high_dose_target_is_refused(challenge):
    challenge.plan()
    del challenge.targets["HNC_001"]["PTV_High"]
    challenge.write()
    with pytest.raises(InputError, match=r"PTV_DICT\.json has no PTV_High of HNC_001"):
        challenge.only().load()


def test_a_fixed_prescription_of_the_template_must_be_the_plans(challenge):
    challenge.plan()
    template = Template.load("gdphmm").to_json()
    (high,) = [roi for roi in template["rois"] if roi["name"] == "PTV_High"]
    for high["prescription_gy"], refused in ((70, False), (60, True)):
        plan = find_plans(challenge.root, challenge.meta, Template.from_json(template, "test")).plans[0]
        if refused:
            with pytest.raises(
                InputError, match=r"'PTV_High' of HNC_001 is prescribed 70 Gy, but template .* has 60 Gy"
            ):
                plan.load()
        else:
            assert plan.load().prescriptions_gy["PTV_High"] == 70.0
