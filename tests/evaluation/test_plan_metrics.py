"""Conformity, gradient and dose beyond a distance: several targets, and as goals of a template."""

import numpy as np
import pytest

from cdm_nnunet.documents import plain
from cdm_nnunet.dvh import Metric, Template, evaluate
from cdm_nnunet.dvh.values import evaluate_weighted
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.plan_metrics import PlanTarget, highest_dose_beyond
from cdm_nnunet.evaluation.record import CaseResult
from cdm_nnunet.evaluation.scores import score_case
from cdm_nnunet.roi import Catalogue, Roi

from .conftest import Case
from .test_scores import as_pair

SHAPE = (12, 24, 24)
CATALOGUE = Catalogue((Roi("A", "target"), Roi("B", "target"), Roi("Body", "external")))
PADDICK = Metric.parse("PaddickCI")


def box(z, y, x):
    mask = np.zeros(SHAPE, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def plan(a, b, levels_gy, dose_gy, spacing_mm=(5.0, 5.0, 5.0)):
    case = Case(
        dose_gy.astype(np.float32), {"A": a, "B": b, "Body": np.ones(SHAPE, bool)}, levels_gy, spacing_mm=spacing_mm
    )
    return as_pair(case, case.dose_gy, CATALOGUE)


def indices(pair, name):
    found = PlanTarget(pair, name, pair.prescriptions_gy[name]).indices()
    return {key: index.reference for key, index in found.items()}


APART = box((2, 6), (2, 8), (2, 8)), box((2, 6), (2, 8), (14, 20))
TOUCHING = box((2, 6), (2, 8), (2, 8)), box((2, 6), (2, 8), (8, 14))
NESTED = box((3, 5), (3, 7), (3, 7)), box((2, 6), (2, 8), (2, 8))
TWINS = APART[0], APART[0].copy()


@pytest.mark.parametrize("targets", [APART, TOUCHING, NESTED, TWINS], ids=["apart", "touching", "nested", "twins"])
@pytest.mark.parametrize("levels_gy", [(20.0, 20.0), (20.0, 20.005), (30.0, 20.0)], ids=["equal", "rounded", "boost"])
def test_perfectly_covered_targets_are_perfectly_conformal(targets, levels_gy):
    a, b = targets
    dose_gy = np.where(a, levels_gy[0] + 0.01, np.where(b, levels_gy[1] + 0.01, 1.0))
    pair = plan(a, b, {"A": levels_gy[0], "B": levels_gy[1]}, dose_gy)
    for name in ("A", "B"):
        found = indices(pair, name)
        assert found["paddick_conformity"] == pytest.approx(1.0), name
        assert found["rtog_conformity"] == pytest.approx(1.0), name


def test_a_missed_twin_counts_for_both():
    """Two of 20 Gy, one without dose: half of the volume with 20 Gy is covered."""
    a, b = APART
    pair = plan(a, b, {"A": 20.0, "B": 20.0}, np.where(a, 21.0, 1.0))
    for name in ("A", "B"):
        assert indices(pair, name)["paddick_conformity"] == pytest.approx(0.5)
        assert PlanTarget(pair, name, 20.0).joined == (name, "B" if name == "A" else "A")


def test_a_lower_target_is_not_joined():
    a, b = APART
    pair = plan(a, b, {"A": 30.0, "B": 20.0}, np.where(a, 31.0, np.where(b, 21.0, 1.0)))
    assert PlanTarget(pair, "A", 30.0).joined == ("A",)
    assert PlanTarget(pair, "B", 20.0).joined == ("B", "A")
    assert indices(pair, "A")["r50"] == pytest.approx(2.0)  # 15 Gy reach both


def template(goals):
    rois = [
        {"name": "A", "kind": "target", "prescription_gy": "patient"},
        {"name": "B", "kind": "target", "prescription_gy": "patient"},
        {"name": "Body", "kind": "external"},
    ]
    return Template.from_json({"format_version": 1, "name": "stereotactic", "rois": rois, "goals": goals}, "test")


GOALS = [
    {"roi": "A", "metric": "PaddickCI", "relation": ">=", "value": 0.8, "unit": ""},
    {"roi": "A", "metric": "R50%", "relation": "<=", "value": 3, "unit": "", "variation": 5},
    {"roi": "A", "metric": "D2cm", "relation": "<=", "value": 50, "unit": "% of prescription"},
    {"roi": "A", "metric": "GI"},
    {"roi": "A", "metric": "Volume[cc]", "relation": "<=", "value": 20, "unit": "cc"},
    {"roi": "A", "metric": "Dmean"},
]


def test_goals_of_the_whole_plan():
    a, b = APART
    far = box((8, 9), (20, 21), (2, 3))  # 13 voxels of 5 mm from A, more from B
    dose_gy = np.where(a, 21.0, np.where(b, 0.0, 1.0))
    dose_gy[far] = 9.0
    pair = plan(a, np.zeros(SHAPE, bool), {"A": 20.0}, dose_gy)
    result = score_case(pair, template(GOALS))
    roi = result.rois["A"]
    assert {key: metric.reference for key, metric in roi.metrics.items()} == pytest.approx(
        {"PaddickCI": 1.0, "R50%": 1.0, "D2cm": 9.0, "GI": 1.0, "Volume[cc]": 18.0, "Dmean": 21.0}
    )
    assert [(goal.metric, goal.reference, goal.limit) for goal in roi.goals] == [
        ("PaddickCI", "pass", 0.8),
        ("R50%", "pass", 3.0),
        ("D2cm", "pass", 10.0),
        ("Volume[cc]", "pass", 20.0),
    ]
    assert roi.index_targets == ("A",)
    assert result.undefined == {}
    assert plain(roi)["index_targets"] == ["A"]
    assert isinstance(result, CaseResult)


def test_what_a_plan_does_not_define_is_listed_and_never_met():
    pair = plan(*APART, {"A": 20.0, "B": 20.0}, np.full(SHAPE, 5.0), (1.0, 1.0, 1.0))
    goals = [goal for goal in GOALS if goal["roi"] == "A"]
    result = score_case(pair, template(goals))
    assert result.undefined == {
        "A PaddickCI": "a dose reaches the prescription nowhere",
        "A GI": "a dose reaches the prescription nowhere",
        "A D2cm": "no voxel is as far",
    }
    assert [goal.metric for goal in result.rois["A"].goals] == ["R50%", "Volume[cc]"]


def test_the_dose_beyond_is_in_the_patient_and_beyond_all_targets():
    a, b = APART
    body = np.ones(SHAPE, bool)
    body[:, 20:] = False
    dose_gy = np.where(b, 20.0, np.where(a, 30.0, 2.0))
    dose_gy[:, 22] = 99.0  # in air
    case = Case(
        dose_gy.astype(np.float32), {"A": a, "B": b, "Body": body}, {"A": 30.0, "B": 20.0}, spacing_mm=(5.0, 5.0, 5.0)
    )
    pair = as_pair(case, case.dose_gy, CATALOGUE)
    assert PlanTarget(pair, "A", 30.0).value(Metric.parse("D2cm"), pair.reference_dose_gy) == 2.0


@pytest.mark.parametrize(("spacing_mm", "slope"), [((1.0, 1.0, 1.0), 1.0), ((3.0, 2.0, 2.0), 0.5)])
def test_a_ball_in_a_radial_gradient(spacing_mm, slope):
    """The highest dose beyond 20 mm of a ball of 10 mm is that at 30 mm, to a voxel."""
    axes = [np.arange(-44.0, 45.0, step) for step in spacing_mm]
    radius_mm = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    dose_gy = 70.0 - slope * radius_mm
    found = highest_dose_beyond(dose_gy, radius_mm <= 10.0, 20.0, spacing_mm)
    assert found == pytest.approx(70 - 30 * slope, abs=max(spacing_mm) * slope)


@pytest.mark.parametrize("key", ["PaddickCI", "RTOGCI", "GI", "R50%", "D2cm"])
def test_the_dose_in_an_roi_alone_is_not_enough(key):
    for ask in (
        lambda metric: evaluate(metric, np.ones(3), voxel_volume_cc=1.0, prescription_gy=1.0),
        lambda metric: evaluate_weighted([metric], np.ones(3), np.ones(3), prescription_gy=1.0),
    ):
        with pytest.raises(InputError, match=f"{key} needs the whole dose, not only that in the ROI"):
            ask(Metric.parse(key))


def test_templates_refuse_what_makes_no_sense():
    for goal, message in (
        ({"roi": "Body", "metric": "D2cm"}, "goal Body D2cm: it is about a target"),
        ({"roi": "A", "metric": "GI", "use": ["loss"]}, "a loss can't train on this metric"),
        ({"roi": "A", "metric": "CI"}, "'CI' can be read in two ways: write 'PaddickCI'"),
    ):
        with pytest.raises(InputError, match=message):
            template([goal])
