"""The kinds of DVH metrics: one row each, with its grammar and its formulas.

A new metric is a row here, with its definition in ``docs/conventions.md``, "DVH metrics"; a loss
needs one more formula in :mod:`cdm_nnunet.losses.metrics`.
"""

from __future__ import annotations

from functools import partial

from cdm_nnunet.dvh.grammar import Number
from cdm_nnunet.dvh.indices import gradient_index, paddick_conformity, r50, rtog_conformity
from cdm_nnunet.dvh.metric import KINDS, Kind, Metric, RoiDoses, UndefinedMetricError, add_kind
from cdm_nnunet.dvh.protocols import Surface

__all__ = ["KINDS"]

_MM_PER_CM = 10.0
_ABOVE_ZERO = "asks for a {} that is not above zero"

PERCENT_OF_VOLUME = Number(
    unit="%", is_in_range=lambda x: 0 <= x <= 100, fault="asks for a volume outside 0 to 100 percent"
)
CC = Number(unit="cc", is_in_range=lambda x: x > 0, fault=_ABOVE_ZERO.format("volume"), other_units={"mm3": 1000})
GY = Number(unit="Gy", is_in_range=lambda x: x > 0, fault=_ABOVE_ZERO.format("dose"), other_units={"cGy": 100})
PERCENT_OF_PRESCRIPTION = Number(unit="%", is_in_range=lambda x: x > 0, fault=_ABOVE_ZERO.format("dose"))
CM = Number(unit="cm", is_in_range=lambda x: x > 0, fault=_ABOVE_ZERO.format("distance"))
EXPONENT = Number(unit="", is_in_range=lambda a: a != 0, fault="has the exponent 0, for which gEUD is not defined")


def _step_at_value(metric: Metric, value: float, surface: Surface, doses: RoiDoses) -> float:
    return surface.step_at(value)


def _volume(metric: Metric, doses: RoiDoses) -> float:
    count = doses.below if metric.is_cold else doses.reaching
    return doses.in_unit(count(metric.threshold_gy(doses.prescription_gy)), metric.unit)


def _volume_mask_error(metric: Metric, value: float, surface: Surface, doses: RoiDoses) -> float:
    threshold_gy = metric.threshold_gy(doses.prescription_gy)
    return doses.in_unit(0.5 * doses.near(threshold_gy, surface.step_at(threshold_gy)), metric.unit)


def _mean_mask_error(metric: Metric, value: float, surface: Surface, doses: RoiDoses) -> float:
    share = 0.5 * surface.dose_gy.size / doses.ascending_gy.size
    return float(share * abs(surface.dose_gy.mean() - doses.mean_gy()))


def _homogeneity(metric: Metric, doses: RoiDoses) -> float:
    near_maximum_gy, near_minimum_gy, median_gy = map(doses.order_statistic_gy, metric.order_statistics)
    if not median_gy > 0:
        raise UndefinedMetricError(metric, f"{metric} divides by D50%, which is {median_gy:g} Gy")
    return (near_maximum_gy - near_minimum_gy) / median_gy


def _homogeneity_mask_error(metric: Metric, value: float, surface: Surface, doses: RoiDoses) -> float:
    doses_gy = tuple(map(doses.order_statistic_gy, metric.order_statistics))
    high, low, median = map(surface.step_at, doses_gy)
    return float((high + low + abs(value) * median) / doses_gy[2])


_order_statistic = partial(
    Kind,
    is_order_statistic=True,
    formula=lambda metric, doses: doses.order_statistic_gy(metric),
    mask_error=_step_at_value,
)
_part = partial(Kind, is_volume=True, formula=_volume, mask_error=_volume_mask_error)
_part_at_gy = partial(_part, number=GY)
_part_at_percent = partial(_part, number=PERCENT_OF_PRESCRIPTION, needs_prescription=True)
_plan_index = partial(
    Kind, unit="", needs_prescription=True, undefined="a dose reaches the prescription nowhere", in_loss=False
)

for _kind in (
    _order_statistic(
        name="dose_at_percent",
        word="D",
        number=PERCENT_OF_VOLUME,
        reading="dose that the hottest {x} % of the volume reach",
    ),
    _order_statistic(
        name="dose_at_cc",
        word="D",
        number=CC,
        reading="dose that the hottest {x} cc reach",
        hint="or D<x>mm3",
    ),
    _order_statistic(
        name="cold_dose_at_percent",
        word="DC",
        number=PERCENT_OF_VOLUME,
        is_cold=True,
        reading="highest dose in the coldest {x} % of the volume",
        hint="in the coldest part",
    ),
    _order_statistic(
        name="cold_dose_at_cc",
        word="DC",
        number=CC,
        is_cold=True,
        reading="highest dose in the coldest {x} cc",
    ),
    Kind(
        name="mean",
        word="Dmean",
        formula=lambda metric, doses: doses.mean_gy(),
        mask_error=_mean_mask_error,
    ),
    _order_statistic(name="min", word="Dmin", is_cold=True),
    _order_statistic(name="max", word="Dmax"),
    Kind(
        name="geud",
        word="gEUD",
        number=EXPONENT,
        formula=lambda metric, doses: doses.power_mean_gy(metric.number),
    ),
    Kind(
        name="homogeneity",
        word="HI",
        unit="",
        parts=("D2%", "D98%", "D50%"),
        formula=_homogeneity,
        mask_error=_homogeneity_mask_error,
    ),
    _part_at_gy(name="volume_at_gy", word="V", unit="%", reading="volume that receives at least {x} Gy"),
    _part_at_percent(
        name="volume_at_percent",
        word="V",
        unit="%",
        reading="at least {x} % of the prescription",
        hint="percent of the prescription",
    ),
    _part_at_gy(name="cc_at_gy", word="V", bracket="cc", unit="cc"),
    _part_at_percent(name="cc_at_percent", word="V", bracket="cc", unit="cc"),
    _part_at_gy(
        name="cold_volume_at_gy",
        word="CV",
        unit="%",
        is_cold=True,
        reading="volume that receives less than {x} Gy",
        hint="what V leaves",
    ),
    _part_at_percent(
        name="cold_volume_at_percent",
        word="CV",
        unit="%",
        is_cold=True,
        reading="less than {x} % of the prescription",
    ),
    _part_at_gy(name="cold_cc_at_gy", word="CV", bracket="cc", unit="cc", is_cold=True),
    _part_at_percent(name="cold_cc_at_percent", word="CV", bracket="cc", unit="cc", is_cold=True),
    Kind(
        name="volume",
        word="Volume",
        bracket="cc",
        unit="cc",
        formula=lambda metric, doses: doses.volume_cc,
        in_loss=False,
    ),
    Kind(
        name="dose_beyond",
        word="D",
        number=CM,
        hint="x cm and more from the targets",
        plan_formula=lambda metric, plan: plan.highest_beyond_gy(_MM_PER_CM * metric.number),
        undefined="no voxel is as far",
        in_loss=False,
    ),
    _plan_index(
        name="paddick_conformity",
        word="PaddickCI",
        reading="Paddick conformity",
        plan_formula=lambda metric, plan: paddick_conformity(plan.dose_gy, plan.target, plan.prescription_gy),
    ),
    _plan_index(
        name="rtog_conformity",
        word="RTOGCI",
        reading="RTOG conformity",
        plan_formula=lambda metric, plan: rtog_conformity(plan.dose_gy, plan.target, plan.prescription_gy),
    ),
    _plan_index(
        name="gradient_index",
        word="GI",
        reading="gradient index",
        plan_formula=lambda metric, plan: gradient_index(plan.dose_gy, plan.prescription_gy),
    ),
    _plan_index(
        name="r50",
        word="R50%",
        reading="R50%",
        plan_formula=lambda metric, plan: r50(plan.dose_gy, plan.target, plan.prescription_gy),
    ),
):
    add_kind(_kind)
