"""DVH metrics, curves, plan indices and clinical templates, exact, in NumPy.

``docs/dvh_tutorial.md`` goes from voxel doses to a figure; ``docs/conventions.md`` defines every number.

Example:
    >>> import numpy as np
    >>> dose_gy = np.array([66.6, 69.0, 70.0, 70.5, 71.0, 73.0])  # of the voxels of a target
    >>> evaluate(Metric.parse("D95%"), dose_gy, voxel_volume_cc=0.027)
    66.6
    >>> metrics(dose_gy, dose_gy > 0, None, ["D95%", "Mean[Gy]", "V95%"], prescription_gy=70.0)
    {'D95%': 66.6, 'Mean[Gy]': 70.01666666666667, 'V95%': 100.0}
    >>> goal = Template.load("openkbp").goals[2]
    >>> str(goal.metric), goal.verdict(66.6, prescription_gy=70.0)
    ('D95%', 'pass')
"""

from cdm_nnunet.dvh.curves import DvhCurve, cumulative_dvh, dvh_distance_gy
from cdm_nnunet.dvh.goal import Goal, TemplateRoi, Use, Verdict
from cdm_nnunet.dvh.grammar import Grammar, MetricUnit, Number
from cdm_nnunet.dvh.indices import (
    gradient_index,
    isodose_dice,
    paddick_conformity,
    r50,
    rtog_conformity,
)
from cdm_nnunet.dvh.kinds import KINDS
from cdm_nnunet.dvh.matching import RoiMatch, match_rois
from cdm_nnunet.dvh.metric import Kind, Metric, add_kind
from cdm_nnunet.dvh.one_line import metrics
from cdm_nnunet.dvh.template import Template, check_template, shipped_templates
from cdm_nnunet.dvh.values import evaluate, evaluate_all, evaluate_weighted

__all__ = [
    "KINDS",
    "DvhCurve",
    "Goal",
    "Grammar",
    "Kind",
    "Metric",
    "MetricUnit",
    "Number",
    "RoiMatch",
    "Template",
    "TemplateRoi",
    "Use",
    "Verdict",
    "add_kind",
    "check_template",
    "cumulative_dvh",
    "dvh_distance_gy",
    "evaluate",
    "evaluate_all",
    "evaluate_weighted",
    "gradient_index",
    "isodose_dice",
    "match_rois",
    "metrics",
    "paddick_conformity",
    "r50",
    "rtog_conformity",
    "shipped_templates",
]
