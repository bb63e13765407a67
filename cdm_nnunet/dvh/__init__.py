"""DVH metrics, curves and clinical templates, exact, in NumPy."""

from cdm_nnunet.dvh.curves import DvhCurve, cumulative_dvh
from cdm_nnunet.dvh.goal import Goal, TemplateRoi, Use, Verdict
from cdm_nnunet.dvh.metrics import CcRounding, Metric, MetricKind, MetricUnit
from cdm_nnunet.dvh.template import Template, check_template, shipped_templates
from cdm_nnunet.dvh.values import evaluate

__all__ = [
    "CcRounding",
    "DvhCurve",
    "Goal",
    "Metric",
    "MetricKind",
    "MetricUnit",
    "Template",
    "TemplateRoi",
    "Use",
    "Verdict",
    "check_template",
    "cumulative_dvh",
    "evaluate",
    "shipped_templates",
]
