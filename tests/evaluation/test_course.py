"""The patient's course of treatment in the record."""

from dataclasses import replace

import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.reading import case_from_json
from cdm_nnunet.evaluation.scores import score_case

from .test_scores import SMALL_CATALOGUE, as_pair, small_case, small_template


@pytest.mark.parametrize(
    ("fractions", "verdicts", "note"),
    [
        (25, ("pass", "acceptable"), ()),
        (10, ("not evaluable", "not evaluable"), ()),
        (None, ("pass", "acceptable"), ("the dose per fraction is unknown; limits are for 1.8 to 2.2 Gy",)),
    ],
)
def test_a_case_in_another_fractionation_is_told(fractions, verdicts, note):
    content = {**small_template().to_json(), "regime": {"dose_per_fraction_gy": [1.8, 2.2]}}
    template = Template.from_json(content, "test")
    pair = replace(as_pair(case := small_case(), case.dose_gy + 2, SMALL_CATALOGUE), fractions=fractions, patient="p")
    result = score_case(pair, template)
    (cord,) = result.rois["Cord"].goals
    assert (cord.reference, cord.predicted) == verdicts
    assert cord.reason == ("made for 1.8 to 2.2 Gy a fraction, and the case has 5 Gy" if fractions == 10 else None)
    assert result.rois["PTV"].goals[0].reference == "fail"  # (V95% holds in every fractionation)
    assert (result.patient, result.prescription_gy, result.fractions, result.notes) == ("p", 50.0, fractions, note)
    assert case_from_json("pt_1", result.to_json(), template, "") == result


def test_a_limit_is_converted_and_read_back():
    content = {**small_template().to_json(), "regime": {"dose_per_fraction_gy": [1.8, 2.2]}}
    (goal,) = (goal for goal in content["goals"] if goal["metric"] == "Dmax")
    goal["alpha_beta_gy"] = 2.0
    template = Template.from_json(content, "test")
    pair = replace(as_pair(case := small_case(), case.dose_gy + 2, SMALL_CATALOGUE), fractions=10)
    result = score_case(pair, template)
    (cord,) = result.rois["Cord"].goals
    # D (1 + D / 10 / 2) = 20 (1 + 2 / 2): 20 Gy become 20; in 10 fractions of 2 Gy they are the same
    assert cord.limit == pytest.approx(20.0)
    assert cord.variation * (1 + cord.variation / 20) == pytest.approx(46.0)
    assert cord.is_converted
    assert (cord.reference, cord.predicted) == ("pass", "fail")  # (22 Gy are above the 21.94 Gy that 23 Gy become)
    assert case_from_json("pt_1", result.to_json(), template, "") == result
