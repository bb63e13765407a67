"""The kinds of DVH metrics: one row each, with what is said of it.

How a kind is computed stands in :mod:`cdm_nnunet.dvh.values` (voxels), :mod:`cdm_nnunet.dvh.weighted` (samples),
:mod:`cdm_nnunet.losses.metrics` (differentiable) and :mod:`cdm_nnunet.evaluation.plan_metrics` (whole dose).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricKind = Literal[
    "dose_at_percent",
    "dose_at_cc",
    "cold_dose_at_percent",
    "cold_dose_at_cc",
    "mean",
    "min",
    "max",
    "geud",
    "homogeneity",
    "volume_at_gy",
    "volume_at_percent",
    "cc_at_gy",
    "cc_at_percent",
    "cold_volume_at_gy",
    "cold_volume_at_percent",
    "cold_cc_at_gy",
    "cold_cc_at_percent",
    "volume",
    "dose_beyond",
    "paddick_conformity",
    "rtog_conformity",
    "gradient_index",
    "r50",
]
MetricUnit = Literal["Gy", "%", "cc", ""]


@dataclass(frozen=True)
class Kind:
    """What is said of a kind of metric.

    Attributes:
        word: The key, or what stands before its number.
        number_unit: Unit of the number in the key, None where there is no number.
        bracket: What stands in brackets behind it.
        unit: Unit of the result.
        is_order_statistic: Whether it is the dose of one voxel in the order of doses.
        is_volume: Whether it is the part of the ROI on one side of a dose.
        is_cold: Whether it looks from the cold end.
        in_loss: Whether a loss can train on it.
        of_plan: Whether it needs the whole dose, not only that in the ROI.
    """

    word: str
    number_unit: str | None
    bracket: str
    unit: MetricUnit
    is_order_statistic: bool = False
    is_volume: bool = False
    is_cold: bool = False
    in_loss: bool = True
    of_plan: bool = False


KINDS: dict[MetricKind, Kind] = {
    "dose_at_percent": Kind("D", "%", "", "Gy", is_order_statistic=True),
    "dose_at_cc": Kind("D", "cc", "", "Gy", is_order_statistic=True),
    "cold_dose_at_percent": Kind("DC", "%", "", "Gy", is_order_statistic=True, is_cold=True),
    "cold_dose_at_cc": Kind("DC", "cc", "", "Gy", is_order_statistic=True, is_cold=True),
    "mean": Kind("Dmean", None, "", "Gy"),
    "min": Kind("Dmin", None, "", "Gy", is_order_statistic=True),
    "max": Kind("Dmax", None, "", "Gy", is_order_statistic=True),
    "geud": Kind("gEUD", "", "", "Gy"),
    "homogeneity": Kind("HI", None, "", ""),
    "volume_at_gy": Kind("V", "Gy", "", "%", is_volume=True),
    "volume_at_percent": Kind("V", "%", "", "%", is_volume=True),
    "cc_at_gy": Kind("V", "Gy", "cc", "cc", is_volume=True),
    "cc_at_percent": Kind("V", "%", "cc", "cc", is_volume=True),
    "cold_volume_at_gy": Kind("CV", "Gy", "", "%", is_volume=True, is_cold=True),
    "cold_volume_at_percent": Kind("CV", "%", "", "%", is_volume=True, is_cold=True),
    "cold_cc_at_gy": Kind("CV", "Gy", "cc", "cc", is_volume=True, is_cold=True),
    "cold_cc_at_percent": Kind("CV", "%", "cc", "cc", is_volume=True, is_cold=True),
    "volume": Kind("Volume", None, "cc", "cc", in_loss=False),
    "dose_beyond": Kind("D", "cm", "", "Gy", in_loss=False, of_plan=True),
    "paddick_conformity": Kind("PaddickCI", None, "", "", in_loss=False, of_plan=True),
    "rtog_conformity": Kind("RTOGCI", None, "", "", in_loss=False, of_plan=True),
    "gradient_index": Kind("GI", None, "", "", in_loss=False, of_plan=True),
    "r50": Kind("R50%", None, "", "", in_loss=False, of_plan=True),
}
