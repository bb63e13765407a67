from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.record import CaseResult, Evaluation, TermCalibration
from cdm_nnunet.evaluation.roi_record import GoalResult, MetricResult, RoiResult
from cdm_nnunet.evaluation.uncertainty import (
    cases_needed,
    conformal_quantile,
    coverage,
    fit_calibration,
    refuse_unfit,
    with_intervals,
)

TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "cord",
        "rois": [{"name": "Cord", "kind": "oar"}],
        "goals": [
            {"roi": "Cord", "metric": "Dmax", "relation": "<=", "value": 45, "unit": "Gy", "variation": 50},
            {"roi": "Cord", "metric": "V20Gy"},
        ],
    },
    "test",
)


def case(name, reference, predicted, spread, v20=None):
    goal = TEMPLATE.goals[0]
    judged = GoalResult(
        metric="Dmax", relation="<=", limit=45.0, variation=50.0, unit="Gy", priority=1,
        reference=goal.verdict(reference), predicted=goal.verdict(predicted),
    )  # fmt: skip
    metrics = {"Dmax": MetricResult(reference=reference, predicted=predicted, unit="Gy", spread=spread)}
    if v20 is not None:
        metrics["V20Gy"] = MetricResult(reference=v20[0], predicted=v20[1], unit="%", spread=1.0)
    roi = RoiResult(kind="oar", n_voxels=200, volume_cc=1.0, prescription_gy=None, metrics=metrics, goals=(judged,))
    return CaseResult(case=name, dose_mae_gy=1.0, rois={"Cord": roi})


def evaluation(cases, n_members=5, template=TEMPLATE, dataset="Dataset501_A"):
    cases = tuple(cases)
    return Evaluation(
        dataset=dataset, template=template, dose_region=None, n_dataset_cases=99, cases=cases,
        scores=pooled_scores(cases), n_members=n_members,
    )  # fmt: skip


def simulated(rng, n, name):
    """Errors that grow with the spread, heavy-tailed, as no normal distribution has them."""
    spreads = rng.uniform(0.2, 3.0, n)
    errors = spreads * rng.standard_t(3, n)
    return [case(f"{name}{i}", 40.0 + e, 40.0, s) for i, (e, s) in enumerate(zip(errors, spreads, strict=True))]


@pytest.mark.parametrize("nominal", [80.0, 90.0])
@pytest.mark.parametrize("n", [9, 30])
def test_intervals_cover_as_they_promise(nominal, n):
    """Over many calibrations: at least nominal, and at most nominal + 1 / (n + 1)."""
    rng = np.random.default_rng(0)
    observed = []
    for _ in range(120):
        calibration = fit_calibration(evaluation(simulated(rng, n, "v")), nominal)
        found = coverage([with_intervals(c, calibration) for c in simulated(rng, 20, "t")], nominal)
        assert found.n == 20
        observed.append(found.observed_percent)
    sem = np.std(observed) / np.sqrt(len(observed))
    assert nominal - 3 * sem <= np.mean(observed) <= nominal + 100 / (n + 1) + 3 * sem


def test_the_quantile_is_the_finite_sample_one():
    scores = [float(k) for k in range(1, 20)]  # 19 cases at 90 %: the 18th; at 95 %: the 19th; at 96 %: too few
    assert [conformal_quantile(scores, p) for p in (90, 95, 96)] == [18.0, 19.0, None]
    assert [cases_needed(p) for p in (50, 80, 90, 95, 99)] == [1, 4, 9, 19, 99]
    for percent in (50, 80, 90, 95, 99):
        n = cases_needed(percent)
        assert conformal_quantile([1.0] * n, percent) == 1.0
        assert conformal_quantile([1.0] * (n - 1), percent) is None
    with pytest.raises(InputError, match="coverage must lie above 0 and below 100 %, not 100"):
        cases_needed(100)


def test_an_interval_by_hand_and_the_certainty_of_a_goal():
    # |error| = 2 Gy at a spread of 0.9 + 0.1 Gy: 2 spreads; the new case is 2 * (1.4 + 0.1) = 3 Gy to both sides
    calibration = fit_calibration(evaluation(case(f"v{i}", 42.0, 40.0, 0.9) for i in range(9)))
    assert calibration.terms["Cord Dmax"].quantile == pytest.approx(2.0)
    certainties = {}
    for predicted in (41.9, 42.1, 48.0, 52.9, 53.1):
        roi = with_intervals(case("t", 40.0, predicted, 1.4), calibration).rois["Cord"]
        assert roi.metrics["Dmax"].interval == pytest.approx((predicted - 3, predicted + 3))
        certainties[predicted] = roi.goals[0].certainty
    assert certainties == {41.9: "pass", 42.1: "uncertain", 48.0: "uncertain", 52.9: "uncertain", 53.1: "fail"}
    narrow = with_intervals(case("t", 40.0, 47.5, 0.9), calibration).rois["Cord"].goals[0]
    assert narrow.certainty == "acceptable"


def test_intervals_stay_where_a_metric_can_be():
    cases = [case(f"v{i}", 42.0, 40.0, 0.0, v20=(60.0, 90.0)) for i in range(9)]
    calibration = fit_calibration(evaluation(cases))
    metrics = with_intervals(case("t", 1.0, 1.0, 0.0, v20=(100.0, 95.0)), calibration).rois["Cord"].metrics
    assert metrics["Dmax"].interval == pytest.approx((0.0, 3.0))  # members that agree may be wrong together
    assert metrics["V20Gy"].interval == pytest.approx((65.0, 100.0))


def test_a_metric_with_too_few_cases_gets_no_interval():
    cases = [case(f"v{i}", 42.0, 40.0, 0.9, v20=(60.0, 50.0) if i < 5 else None) for i in range(9)]
    calibration = fit_calibration(evaluation(cases))
    assert calibration.terms["Cord V20Gy"] == TermCalibration(n=5, quantile=None)
    roi = with_intervals(case("t", 40.0, 41.0, 1.0, v20=(60.0, 50.0)), calibration).rois["Cord"]
    assert roi.metrics["V20Gy"].interval is None
    assert roi.metrics["Dmax"].interval is not None


def test_what_cannot_be_calibrated_is_refused():
    cases = [case(f"v{i}", 42.0, 40.0, 0.9) for i in range(9)]
    with pytest.raises(InputError, match="intervals of 90 % need at least 9 cases to calibrate on, and there are 8"):
        fit_calibration(evaluation(cases[:8]))
    with pytest.raises(InputError, match="the evaluation to calibrate on has no spread; make it with --members"):
        fit_calibration(evaluation(cases, n_members=0))
    good = evaluation(cases)
    refuse_unfit(good, evaluation([case("t", 1.0, 1.0, 1.0)]))
    refuse_unfit(good, evaluation(cases, dataset="Dataset502_B"))  # equal names of other patients
    with pytest.raises(InputError, match=r"case 'v0' \(9 in all\) is among the cases of the calibration"):
        refuse_unfit(good, evaluation(cases))
    with pytest.raises(InputError, match="made with 5 members, this evaluation has 4"):
        refuse_unfit(good, evaluation([case("t", 1.0, 1.0, 1.0)], n_members=4))
    other = Template.from_json({**TEMPLATE.to_json(), "name": "other"}, "test")
    with pytest.raises(InputError, match=r"another template \('cord'\) than this evaluation \('other'\)"):
        refuse_unfit(good, replace(evaluation([case("t", 1.0, 1.0, 1.0)]), template=other))
