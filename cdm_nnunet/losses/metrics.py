"""Differentiable DVH metrics: the formula of each kind, and all metrics of a batch or a patient.

Definitions: ``docs/conventions.md``, "DVH metrics" and "CDM loss".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.roi_index import RoiIndex
from cdm_nnunet.losses.sorted_doses import SortedDoses
from cdm_nnunet.losses.terms import EXACT, Present, Smoothing, Terms

LOWEST_MEDIAN_GY = 1.0  # HI divides by at least this, so that an untrained network has a finite loss
_STEEP_BELOW = 1e-6


class Formula(NamedTuple):
    """Differentiable formula of a kind of metric.

    Attributes:
        of_terms: Values of terms in their units, shape (n,). Kinds with the same function are computed in one call, to
            keep the number of device calls small.
        of_order_statistics: The value of one term from its order statistics, shape (m,), for ``of_terms`` =
            :func:`from_order_statistics` and a kind with several.
    """

    of_terms: Callable[[SortedDoses, Sequence[Present], Smoothing], Tensor]
    of_order_statistics: Callable[[Tensor], Tensor] | None = None


def dvh_metrics(
    dose_gy: Tensor,
    words: Tensor,
    terms: Terms,
    prescription_gy: Sequence[float],
    voxel_volume_cc: float,
    smoothing: Smoothing = EXACT,
) -> tuple[Tensor, Tensor]:
    """All metrics of one patient (or of the part of a patient inside a patch).

    Args:
        dose_gy: Shape (...), Gy; computed in float32 or float64.
        words: ROI words, shape (L, ...).
        terms: The metrics.
        prescription_gy: Prescription of each ROI of the catalogue in Gy; NaN or 0 without one.
        voxel_volume_cc: Volume of a voxel in cc.
        smoothing: Smoothing of the metrics.

    Returns:
        Values, shape (T,), in each metric's unit; 0 where not present.
        Number of voxels of each term's ROI, shape (T,), int64: 0 if the ROI is absent, lacks a prescription
        that the metric needs, or is smaller than the volume in the metric's key.

    Example:
        >>> from cdm_nnunet.dvh.metric import Metric
        >>> from cdm_nnunet.losses.terms import Term
        >>> dose = torch.arange(101.0)
        >>> words = torch.ones(1, 101)
        >>> terms = Terms((Term(0, Metric.parse("D95%"), 1.0, True), Term(0, Metric.parse("V60%"), 1.0, True)))
        >>> values, n_voxels = dvh_metrics(dose, words, terms, [50.0], 0.1)
        >>> [round(v, 3) for v in values.tolist()], n_voxels.tolist()
        ([5.0, 70.297], [101, 101])
    """
    index = RoiIndex.of(words[None], terms.bits)
    present = terms.present(index, [prescription_gy], [voxel_volume_cc])
    values = metric_values(SortedDoses.of(dose_gy, index), present, smoothing)
    n_voxels = [0] * len(terms)
    for part in present:
        n_voxels[part.term] = part.n_voxels
    where = torch.tensor([part.term for part in present], dtype=torch.int64, device=values.device)
    everywhere = values.new_zeros(len(terms)).index_copy(0, where, values)
    return everywhere, torch.tensor(n_voxels, device=dose_gy.device)


def metric_values(doses: SortedDoses, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
    """Values of metrics in their units, shape (len(present),); differentiable.

    Raises:
        InputError: If a kind of metric has no formula in :data:`DIFFERENTIABLE`.
    """
    for part in present:
        if part.metric.kind not in DIFFERENTIABLE:
            raise InputError(f"no loss can train on {part.metric}: its kind has no differentiable formula")
    pieces: list[Tensor] = []
    places: list[int] = []
    for of_terms in dict.fromkeys(formula.of_terms for formula in DIFFERENTIABLE.values()):
        chosen = [i for i, part in enumerate(present) if DIFFERENTIABLE[part.metric.kind].of_terms is of_terms]
        if chosen:
            pieces.append(of_terms(doses, [present[i] for i in chosen], smoothing).to(doses.voxels_gy.dtype))
            places.extend(chosen)
    if not pieces:
        return doses.voxels_gy.new_zeros(0)
    where = torch.tensor(places, device=doses.voxels_gy.device)
    return doses.voxels_gy.new_zeros(len(present)).index_copy(0, where, torch.cat(pieces))


def each(of_roi: Callable[[Tensor, Metric], Tensor]) -> Callable[[SortedDoses, Sequence[Present], Smoothing], Tensor]:
    """A formula of terms that computes one after the other.

    Args:
        of_roi: The metric of one ROI's doses, ascending, shape (n,), Gy.
    """

    def of_terms(doses: SortedDoses, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
        return torch.stack([of_roi(doses.roi_gy(part.row), part.metric) for part in present])

    return of_terms


def from_order_statistics(doses: SortedDoses, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
    """Order statistics, averaged over a window, and values derived from them."""
    parts = [(part, metric) for part in present for metric in part.metric.order_statistics]
    found = doses.order_statistics(
        [part.row for part, _ in parts],
        [metric.rank(part.n_voxels, part.voxel_volume_cc) for part, metric in parts],
        smoothing.window_percent / 100,
    )
    if len(parts) == len(present):
        return found
    values, at = [], 0
    for part in present:
        n = len(part.metric.order_statistics)
        combined = DIFFERENTIABLE[part.metric.kind].of_order_statistics
        values.append(found[at] if combined is None else combined(found[at : at + n]))
        at += n
    return torch.stack(values)


def _means(doses: SortedDoses, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
    return doses.means([part.row for part in present])


def _volumes(doses: SortedDoses, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
    rows, thresholds_gy = [part.row for part in present], [part.threshold_gy for part in present]
    fractions = doses.volume_fractions(rows, thresholds_gy, smoothing.threshold_width_gy)
    whole = [part.n_voxels * part.voxel_volume_cc if part.metric.unit == "cc" else 100.0 for part in present]
    is_cold = torch.tensor([part.metric.is_cold for part in present], device=fractions.device)
    return torch.where(is_cold, 1 - fractions, fractions) * fractions.new_tensor(whole)


def _homogeneity(order_statistics_gy: Tensor) -> Tensor:
    near_maximum_gy, near_minimum_gy, median_gy = order_statistics_gy.unbind()
    return (near_maximum_gy - near_minimum_gy) / median_gy.clamp(min=LOWEST_MEDIAN_GY)


def geud_gy(roi_gy: Tensor, a: float) -> Tensor:
    """The gEUD ((1/n) sum d^a)^(1/a), float64; the largest term is scaled to 1, so that no power overflows.

    A negative dose, which an untrained network may predict, counts as zero. If the gradient of a zero dose is infinite
    (a < 1), it is set to zero.

    Args:
        roi_gy: Doses of an ROI, ascending, shape (n,), Gy.
        a: Exponent, not 0.
    """
    dose_gy = roi_gy.clamp(min=0)
    scale_gy = (dose_gy[-1] if a > 0 else dose_gy[0]).detach()
    has_dose = scale_gy > 0
    ratio = dose_gy / torch.where(has_dose, scale_gy, torch.ones_like(scale_gy))
    steep = ratio < _STEEP_BELOW if a < 1 else torch.zeros_like(ratio, dtype=torch.bool)
    terms = torch.where(steep, ratio.detach() ** a, torch.where(steep, torch.ones_like(ratio), ratio) ** a)
    mean = torch.where(has_dose, terms.double(), torch.ones_like(terms, dtype=torch.float64)).mean()
    return torch.where(has_dose, scale_gy * mean ** (1 / a), torch.zeros_like(mean))


DIFFERENTIABLE: dict[str, Formula] = {
    "mean": Formula(_means),
    "volume_at_gy": Formula(_volumes),
    "volume_at_percent": Formula(_volumes),
    "cc_at_gy": Formula(_volumes),
    "cc_at_percent": Formula(_volumes),
    "cold_volume_at_gy": Formula(_volumes),
    "cold_volume_at_percent": Formula(_volumes),
    "cold_cc_at_gy": Formula(_volumes),
    "cold_cc_at_percent": Formula(_volumes),
    "dose_at_percent": Formula(from_order_statistics),
    "dose_at_cc": Formula(from_order_statistics),
    "cold_dose_at_percent": Formula(from_order_statistics),
    "cold_dose_at_cc": Formula(from_order_statistics),
    "min": Formula(from_order_statistics),
    "max": Formula(from_order_statistics),
    "homogeneity": Formula(from_order_statistics, _homogeneity),
    "geud": Formula(each(lambda roi_gy, metric: geud_gy(roi_gy, metric.number))),
}
"""By kind, for all kinds that a loss can train on (``in_loss`` in :mod:`cdm_nnunet.dvh.kinds`)."""
