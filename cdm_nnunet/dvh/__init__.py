"""DVH metrics, curves and clinical templates, exact, in NumPy."""

from cdm_nnunet.dvh.curves import DvhCurve, cumulative_dvh
from cdm_nnunet.dvh.metrics import CcRounding, Metric, MetricKind, MetricUnit
from cdm_nnunet.dvh.template import Goal, Template, TemplateRoi, Use, Verdict, shipped_templates
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
    "cumulative_dvh",
    "evaluate",
    "shipped_templates",
]
