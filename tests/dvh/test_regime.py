"""Limits and the course of treatment that they were made for."""

import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.dvh.course_limits import CourseLimits, limits_in_course
from cdm_nnunet.dvh.regime import Course, same_effect_dose_gy
from cdm_nnunet.errors import InputError

CORD = {"roi": "SpinalCord", "metric": "D0.03cc", "relation": "<=", "value": 45, "unit": "Gy", "variation": 48}


def template(regime, *goals):
    rois = [
        {"name": "PTV", "kind": "target", "prescription_gy": "patient"},
        {"name": "SpinalCord", "kind": "oar"},
    ]
    content = {"format_version": 1, "name": "clinic", "rois": rois, "goals": list(goals)}
    return Template.from_json(content if regime is None else {**content, "regime": regime}, "here")


def limits(regime, goal, course, prescription_gy=None):
    made = template(regime, goal)
    return limits_in_course(made.goals[0], made.regime, course, prescription_gy)


def test_a_hypofractionated_plan_does_not_meet_limits_made_for_2_gy():
    regime = {"dose_per_fraction_gy": [1.8, 2.25]}
    assert limits(regime, CORD, Course(70.0, 35)) == CourseLimits(45.0, 48.0)
    assert limits(regime, CORD, Course(67.5, 30)).misfit is None  # (2.25 Gy is in)
    found = limits(regime, CORD, Course(60.0, 20))
    assert found.misfit == "made for 1.8 to 2.25 Gy a fraction, and the case has 3 Gy"
    assert limits({"fractions": [5, 5]}, CORD, Course(35.0, 7)).misfit == "made for 5 fractions, and the case has 7"
    assert limits(None, CORD, Course(60.0, 20)).misfit is None
    assert limits(regime, CORD, Course(60.0, None)).misfit is None  # (unknown: the case gets a note)
    assert [*template(regime, CORD).regime.unknown(Course(60.0, None))] == [
        "the dose per fraction is unknown; limits are for 1.8 to 2.25 Gy"
    ]


def test_goals_relative_to_the_prescription_hold_in_every_fractionation():
    regime = {"dose_per_fraction_gy": [1.8, 2.25], "prescription_gy": [66, 70]}
    for metric, unit in (("D95%", "% of prescription"), ("V95%", "%"), ("HI", "")):
        goal = {"roi": "PTV", "metric": metric, "relation": ">=", "value": 0.5, "unit": unit}
        assert limits(regime, goal, Course(60.0, 20), 60.0).misfit is None
    for metric, unit in (("D95%", "Gy"), ("V20Gy", "%"), ("V20Gy[cc]", "cc"), ("Dmean", "Gy")):
        goal = {"roi": "PTV", "metric": metric, "relation": ">=", "value": 57, "unit": unit}
        assert limits(regime, goal, Course(60.0, 20), 60.0).misfit is not None


def test_a_goal_says_more_than_the_template():
    goal = {**CORD, "regime": {"prescription_gy": [69, 71]}}
    regime = {"dose_per_fraction_gy": [1.8, 2.25]}
    assert limits(regime, goal, Course(70.0, 35)).misfit is None
    assert (
        limits(regime, goal, Course(66.0, 33)).misfit
        == "made for a prescription of 69 to 71 Gy, and the case has 66 Gy"
    )
    assert (
        limits(regime, goal, Course(70.0, 20)).misfit == "made for 1.8 to 2.25 Gy a fraction, and the case has 3.5 Gy"
    )


def test_limits_are_converted_where_the_goal_says_so():
    regime, goal = {"dose_per_fraction_gy": [1.8, 2.25]}, {**CORD, "alpha_beta_gy": 2.0}
    found = limits(regime, goal, Course(60.0, 20))
    assert found.is_converted
    assert found.misfit is None
    for limit_gy, converted_gy in ((45.0, found.limit), (48.0, found.variation)):
        assert converted_gy < limit_gy
        # the same biologically effective dose, D (1 + d / (alpha/beta))
        assert converted_gy * (1 + converted_gy / 20 / 2.0) == pytest.approx(limit_gy * (1 + 2.0 / 2.0))
    assert limits(regime, goal, Course(70.0, 35)) == CourseLimits(45.0, 48.0)  # (the template's own: unchanged)
    few = limits({"fractions": [5, 5]}, goal, Course(35.0, 7))
    assert few.limit * (1 + few.limit / 7 / 2.0) == pytest.approx(45.0 * (1 + 9.0 / 2.0))
    assert same_effect_dose_gy(30.0, alpha_beta_gy=3.0, made_for=5, fractions=5) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regime": {}}, "goals.0.regime: give one of fractions, dose_per_fraction_gy, prescription_gy"),
        ({"regime": {"prescription_gy": [70, 60]}}, "goals.0.regime.prescription_gy: 70 is above 60"),
        ({"regime": {"fractions": 35}}, "goals.0.regime.fractions: "),
        ({"regime": {"fractions": [35.5, 36]}}, "goals.0.regime.fractions.0: "),
        ({"alpha_beta_gy": 0}, "goals.0.alpha_beta_gy: "),
        ({"metric": "Dmean", "alpha_beta_gy": 3}, "only limits in Gy of D-metrics, Dmin and Dmax can be converted"),
        ({"metric": "V20Gy", "unit": "%", "alpha_beta_gy": 3}, "only limits in Gy of D-metrics, Dmin and Dmax"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        template(None, {**CORD, **change})
    with pytest.raises(InputError, match="'regime' is about a limit, and the goal has none"):
        template(None, {"roi": "PTV", "metric": "Dmean", "regime": {"fractions": [1, 5]}})
