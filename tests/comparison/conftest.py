"""Evaluations built in memory: errors of each patient are given, everything else follows."""

from pathlib import Path

import pytest

from cdm_nnunet.comparison.models import Model
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.record import CaseResult, Evaluation
from cdm_nnunet.evaluation.roi_record import GoalResult, MetricResult, RoiResult

TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_High", "kind": "target", "prescription_gy": 70.0},
            {"name": "PTV_Low", "kind": "target", "prescription_gy": 56.0},
            {"name": "SpinalCord", "kind": "oar"},
        ],
        "goals": [
            {"roi": "PTV_High", "metric": "D95%", "relation": ">=", "value": 66.5, "unit": "Gy"},
            {"roi": "PTV_High", "metric": "V95%"},
            {"roi": "PTV_Low", "metric": "D95%"},
            {"roi": "SpinalCord", "metric": "D0.1cc", "relation": "<=", "value": 45.0, "unit": "Gy"},
        ],
    },
    "test",
)
REFERENCES = {"D95%": 68.0, "V95%": 97.0, "D0.1cc": 40.0}
PRESCRIPTIONS = {"PTV_High": 70.0, "PTV_Low": 56.0, "SpinalCord": None}


def roi_result(name, differences, references=REFERENCES):
    """An ROI whose metrics are off by the given differences."""
    kind = TEMPLATE.roi(name).kind
    goals = {str(goal.metric): goal for goal in TEMPLATE.goals_for("evaluation") if goal.roi == name}
    metrics = {
        key: MetricResult(reference=references[key], predicted=references[key] + d, unit=goals[key].metric.unit)
        for key, d in differences.items()
    }
    judged = tuple(
        GoalResult(
            metric=key,
            relation=goals[key].relation,
            limit=goals[key].limit(),
            variation=None,
            unit=metric.unit,
            priority=goals[key].priority,
            reference=goals[key].verdict(metric.reference),
            predicted=goals[key].verdict(metric.predicted),
        )
        for key, metric in metrics.items()
        if goals[key].has_limit
    )
    return RoiResult(
        kind=kind, n_voxels=1000, volume_cc=10.0, prescription_gy=PRESCRIPTIONS[name], metrics=metrics, goals=judged
    )


def case_result(name, dose_mae_gy, differences, references=REFERENCES):
    """A case; ``differences`` by ROI and metric, ROIs that are not in it are missing."""
    rois = {roi: roi_result(roi, by_metric, references) for roi, by_metric in differences.items()}
    missing = {roi.name: "not contoured" for roi in TEMPLATE.rois if roi.name not in rois}
    return CaseResult(case=name, dose_mae_gy=dose_mae_gy, rois=rois, missing=missing)


def evaluation(cases, dataset="Dataset501_Test", template=TEMPLATE):
    return Evaluation(
        dataset=dataset, template=template, dose_region="External", n_dataset_cases=99, cases=tuple(cases),
        scores=pooled_scores(cases),
    )  # fmt: skip


def model(name, cases, **kwargs):
    return Model(name, Path(name), evaluation(cases, **kwargs))


def uniform(name, errors, **kwargs):
    """A model whose every metric is off by the same number, which is each patient's dose error too."""
    cases = [
        case_result(
            f"pt_{i:02}",
            abs(e),
            {"PTV_High": {"D95%": e, "V95%": e}, "PTV_Low": {"D95%": e}, "SpinalCord": {"D0.1cc": e}},
        )
        for i, e in enumerate(errors)
    ]
    return model(name, cases, **kwargs)


@pytest.fixture
def two_models():
    """Seven patients; the candidate is better in all but the last."""
    return (
        uniform("MAE", [-2.0, -1.5, 2.5, 3.0, -1.0, 2.0, 0.5]),
        uniform("CDM", [-1.0, -1.0, 1.0, 0.5, 0.25, 1.5, 1.75]),
    )
