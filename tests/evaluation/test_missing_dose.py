"""Verdicts that would rest on dose that is missing outside the dose region."""

from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.scores import score_case
from cdm_nnunet.roi import Catalogue, Roi

from .conftest import Case
from .test_scores import as_pair

CATALOGUE = Catalogue((Roi("Organ", "oar"), Roi("Region", "dose_region")))
DOSES_GY = np.array([30, 30, 28, 28, 26, 26, 0, 0, 0, 0, 50, 10], np.float32).reshape(3, 2, 2)  # (50 Gy: elsewhere)


def template(metric, relation, value, unit="Gy"):
    goal = {"roi": "Organ", "metric": metric, "relation": relation, "value": value, "unit": unit}
    rois = [{"name": "Organ", "kind": "oar"}]
    return Template.from_json({"format_version": 1, "name": "t", "rois": rois, "goals": [goal]}, "here")


def judged(goal, n_outside, predicted=1.0):
    """The organ has the six voxels with dose, of mean 28 Gy, and ``n_outside`` of zero dose outside the region."""
    number = np.arange(12).reshape(3, 2, 2)
    region = (number < 6) | (number > 9)
    case = Case(DOSES_GY, {"Organ": number < 6 + n_outside, "Region": region}, {}, spacing_mm=(10.0, 10.0, 10.0))
    (result,) = (found := score_case(as_pair(case, case.dose_gy * predicted, CATALOGUE), goal)).rois["Organ"].goals
    return result, found


@pytest.mark.parametrize(
    ("goal", "n_outside", "verdict"),
    [
        (("Dmean", "<=", 26), 0, "fail"),  # 28 Gy
        (("Dmean", "<=", 26), 1, "not evaluable"),  # 24 Gy with the zero, 28 Gy inside
        (("Dmean", "<=", 22), 1, "fail"),  # missing dose can only add to it
        (("Dmean", "<=", 29), 1, "pass"),  # inside alone too
        (("Dmean", "<=", 29), 4, "pass"),  # four of ten are outside: 16.8 Gy
        (("D1cc", "<=", 35), 4, "pass"),
        (("D80%", ">=", 20), 4, "not evaluable"),  # 0 Gy with the zeros, 26 Gy inside
        (("D1cc", ">=", 25), 4, "pass"),
        (("V20Gy", ">=", 90, "%"), 4, "not evaluable"),
        (("CV20Gy", "<=", 10, "%"), 4, "not evaluable"),  # the coldest part looks from the other end
        (("D6cc", "<=", 40), 4, "pass"),
        (("D7cc", "<=", 40), 4, "not evaluable"),  # the part inside has 6 cc
    ],
)
def test_a_verdict_is_given_where_the_missing_dose_cannot_change_it(goal, n_outside, verdict):
    result, _ = judged(template(*goal), n_outside)
    assert (result.reference, result.predicted) == (verdict, verdict)
    assert result.agree is (None if verdict == "not evaluable" else True)
    if verdict == "not evaluable":
        assert "% of the ROI lie outside the dose region, where dose is missing" in result.reason
    else:
        assert result.reason is None


@pytest.mark.parametrize(("limit_gy", "verdict"), [(35, "not evaluable"), (29, "fail"), (55, "pass")])
def test_most_of_the_roi_outside_leaves_only_what_no_dose_could_change(limit_gy, verdict):
    """Two voxels inside at 30 Gy, four outside; the highest dose of the plan is 50 Gy."""
    number = np.arange(12).reshape(3, 2, 2)
    organ = (number < 2) | ((number > 5) & (number < 10))
    region = (number < 6) | (number > 9)
    case = Case(DOSES_GY, {"Organ": organ, "Region": region}, {}, spacing_mm=(10.0, 10.0, 10.0))
    result = score_case(as_pair(case, case.dose_gy, CATALOGUE), template("D1cc", "<=", limit_gy)).rois["Organ"]
    assert result.outside_region_percent == pytest.approx(100 * 4 / 6)
    assert (result.goals[0].reference, result.metrics["D1cc"].reference) == (verdict, 30.0)


def test_what_has_no_verdict_is_counted_apart():
    goal = template("Dmean", "<=", 26)
    _, without = judged(goal, 1)
    _, judged_case = judged(goal, 0)
    row = pooled_scores([without, replace(judged_case, case="b")]).goals["Organ Dmean"]
    assert (row.n, row.not_evaluable, row.agree) == (1, 1, 1)
    assert row.reference == {"pass": 0, "acceptable": 0, "fail": 1}
    assert pooled_scores([without]).goals["Organ Dmean"].reference_fails == 0


def test_an_external_is_no_dose_region():
    catalogue = Catalogue((Roi("Organ", "oar"), Roi("Body", "external")))
    number = np.arange(12).reshape(3, 2, 2)
    case = Case(DOSES_GY, {"Organ": number < 7, "Body": number != 6}, {}, spacing_mm=(10.0, 10.0, 10.0))
    found = score_case(as_pair(case, case.dose_gy, catalogue), template("Dmean", "<=", 26)).rois["Organ"]
    assert (found.goals[0].reference, found.outside_region_percent) == ("pass", pytest.approx(100 / 7))
