"""Differentiable DVH metrics of all ROIs of a patient, from one sort of the dose.

The doses of all voxels that belong to any ROI are sorted once. An ROI's voxels, picked along that order, are sorted
too, so no ROI needs a dense mask or a sort of its own, and all order statistics are look-ups. Definitions:
``docs/conventions.md``, "DVH metrics".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from cdm_nnunet.dvh.goal import Use
from cdm_nnunet.dvh.metrics import Metric
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import WORD_BITS, Catalogue


@dataclass(frozen=True)
class Smoothing:
    """How far the differentiable metrics are from the exact ones.

    Attributes:
        window_percent: D_x is the mean of the dose over this percentage of the ROI's volume around the exact order
            statistic, so that the gradient reaches all these voxels. 0 gives the exact metric.
        threshold_width_gy: V_x counts a voxel with sigmoid((dose - x) / width) instead of a step. 0 gives the exact
            metric, which has no gradient.

    Raises:
        InputError: If a value is out of range.
    """

    window_percent: float = 5.0
    threshold_width_gy: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.window_percent <= 100:
            raise InputError(f"window_percent must be from 0 to 100, not {self.window_percent}")
        if not 0 <= self.threshold_width_gy < math.inf:
            raise InputError(f"threshold_width_gy must be finite and not negative, not {self.threshold_width_gy}")


EXACT = Smoothing(window_percent=0.0, threshold_width_gy=0.0)


@dataclass(frozen=True)
class Term:
    """One metric of one ROI.

    Attributes:
        bit: Bit of the ROI in the catalogue.
        metric: What is measured.
        weight: Weight in a mean over terms.
        is_target: Whether the ROI is a target.
    """

    bit: int
    metric: Metric
    weight: float
    is_target: bool


@dataclass(frozen=True)
class Terms:
    """The metrics that a template names, in a fixed order t = 0 .. T - 1.

    Attributes:
        terms: One entry a metric.

    Raises:
        InputError: If there are none.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("the template has no metric of a ROI that the catalogue knows")

    @classmethod
    def of(cls, template: Template, catalogue: Catalogue, use: Use) -> Terms:
        """The metrics of a template's goals.

        A metric that several goals of an ROI name is taken once, with the largest weight.

        Args:
            template: Clinical template.
            catalogue: Which ROI is which bit.
            use: ``loss`` or ``evaluation``.

        Raises:
            InputError: If a goal names a ROI that the catalogue lacks, or there is no goal.
        """
        weights: dict[tuple[int, Metric], float] = {}
        for goal in template.goals_for(use):
            key = (catalogue.bit(goal.roi), goal.metric)
            weights[key] = max(goal.weight, weights.get(key, 0.0))
        return cls(
            tuple(
                Term(bit, metric, weight, catalogue.rois[bit].kind == "target")
                for (bit, metric), weight in weights.items()
            )
        )

    def __len__(self) -> int:
        return len(self.terms)

    @cached_property
    def bits(self) -> tuple[int, ...]:
        """Bits of the ROIs in use, ascending; row r of the tables below is ROI ``bits[r]``."""
        return tuple(sorted({term.bit for term in self.terms}))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Row of each term."""
        return tuple(self.bits.index(term.bit) for term in self.terms)


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
        terms: Which metrics.
        prescription_gy: Prescription of each ROI of the catalogue in Gy; NaN or 0 where it has none.
        voxel_volume_cc: Volume of a voxel in cc.
        smoothing: How far from exact.

    Returns:
        Values, shape (T,): Gy for D-metrics, percent of the ROI's volume for V-metrics; 0 where not present.
        Number of voxels of each term's ROI, shape (T,), int64: 0 where the ROI is absent, or the metric needs a
        prescription that the ROI does not have.

    Example:
        >>> from cdm_nnunet.dvh.metrics import Metric
        >>> dose = torch.arange(101.0)
        >>> words = torch.ones(1, 101)
        >>> terms = Terms((Term(0, Metric.parse("D95%"), 1.0, True), Term(0, Metric.parse("V60%"), 1.0, True)))
        >>> values, n_voxels = dvh_metrics(dose, words, terms, [50.0], 0.1)
        >>> [round(v, 3) for v in values.tolist()], n_voxels.tolist()
        ([5.0, 70.297], [101, 101])
    """
    if dose_gy.dtype not in (torch.float32, torch.float64):
        dose_gy = dose_gy.float()
    voxels_gy, n_of_row = _ascending_by_roi(dose_gy, words, terms)
    starts = [0, *itertools.accumulate(n_of_row)]
    prefix = functional.pad(voxels_gy.double().cumsum(0), (1, 0))  # sum of the first i voxels at index i

    values = voxels_gy.new_zeros(len(terms))
    n_voxels = [0] * len(terms)
    of_kind: dict[str, list[int]] = {"mean": [], "volume": [], "order": []}
    for t, (term, row) in enumerate(zip(terms.terms, terms.rows, strict=True)):
        if term.metric.needs_prescription and not prescription_gy[term.bit] > 0:
            continue
        n_voxels[t] = n_of_row[row]
        if n_voxels[t]:
            kind = "mean" if term.metric.kind == "mean" else "volume" if term.metric.is_volume else "order"
            of_kind[kind].append(t)

    def segments(chosen: Sequence[int]) -> tuple[list[int], list[int]]:
        """First voxel and number of voxels of each term's ROI."""
        return [starts[terms.rows[t]] for t in chosen], [n_voxels[t] for t in chosen]

    results = {}
    if chosen := of_kind["mean"]:
        results["mean"] = _means(prefix, *segments(chosen))
    if chosen := of_kind["volume"]:
        thresholds = [terms.terms[t].metric.threshold_gy(prescription_gy[terms.terms[t].bit]) for t in chosen]
        of_row = voxels_gy.split(n_of_row)
        rois_gy = [of_row[terms.rows[t]] for t in chosen]
        results["volume"] = _volumes_percent(rois_gy, thresholds, smoothing.threshold_width_gy)
    if chosen := of_kind["order"]:
        fractions = [terms.terms[t].metric.rank_fraction(n_voxels[t], voxel_volume_cc) for t in chosen]
        results["order"] = _order_statistics(
            voxels_gy, prefix, *segments(chosen), fractions, smoothing.window_percent / 100
        )
    for kind, result in results.items():
        where = torch.tensor(of_kind[kind], device=values.device)
        values = values.index_copy(0, where, result.to(values.dtype))
    return values, torch.tensor(n_voxels, device=dose_gy.device)


def _ascending_by_roi(dose_gy: Tensor, words: Tensor, terms: Terms) -> tuple[Tensor, list[int]]:
    """The doses of each ROI in ascending order, one ROI after the other, and the number of voxels of each.

    The voxels of all ROIs are sorted once; picking an ROI's voxels along that order leaves them sorted.
    """
    flat_words = words.flatten(1).to(torch.int32)  # (L, V)
    used = [0] * len(flat_words)
    for bit in terms.bits:
        used[bit // WORD_BITS] |= 1 << (bit % WORD_BITS)
    used_bits = torch.tensor(used, dtype=torch.int32, device=words.device)[:, None]
    union = ((flat_words & used_bits) != 0).any(0).nonzero().squeeze(1)
    sorted_gy, order = dose_gy.flatten().index_select(0, union).sort()
    sorted_words = flat_words[:, union[order]]
    members = torch.stack([((sorted_words[bit // WORD_BITS] >> (bit % WORD_BITS)) & 1).bool() for bit in terms.bits])
    places = members.nonzero()[:, 1]  # row after row
    return sorted_gy.index_select(0, places), members.sum(1).tolist()


def _means(prefix: Tensor, starts: Sequence[int], counts: Sequence[int]) -> Tensor:
    first = torch.tensor(starts, device=prefix.device)
    n = torch.tensor(counts, device=prefix.device)
    return (prefix[first + n] - prefix[first]) / n


def _volumes_percent(rois_gy: Sequence[Tensor], thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
    volumes = []
    for roi_gy, threshold_gy in zip(rois_gy, thresholds_gy, strict=True):
        if width_gy == 0:
            inside = (roi_gy >= threshold_gy).to(roi_gy.dtype)
        else:
            inside = torch.sigmoid((roi_gy - threshold_gy) / width_gy)
        volumes.append(100 * inside.mean())
    return torch.stack(volumes)


def _order_statistics(
    voxels_gy: Tensor,
    prefix: Tensor,
    starts: Sequence[int],
    counts: Sequence[int],
    fractions: Sequence[float],
    window_fraction: float,
) -> Tensor:
    """The quantile function of each segment at a fraction of its ranks, or its mean over a window around that."""
    device = voxels_gy.device
    start = torch.tensor(starts, device=device)
    last = torch.tensor(counts, device=device) - 1
    centre = torch.tensor(fractions, dtype=torch.float64, device=device) * last

    def around(rank: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Order j below a rank, the share s of order j + 1 in it, and the doses of both."""
        j = rank.long().minimum(last - 1).clamp(min=0)
        doses = voxels_gy.index_select(0, torch.cat([start + j, start + (j + 1).minimum(last)]))
        below_gy, above_gy = doses.chunk(2)
        return j, rank - j, below_gy, above_gy

    _, share, below_gy, above_gy = around(centre)
    exact = torch.lerp(below_gy, above_gy, share.to(voxels_gy.dtype))
    if window_fraction == 0:
        return exact

    first_gy = voxels_gy.index_select(0, start)

    def integral(rank: Tensor) -> Tensor:
        """Of the quantile function from rank 0; linear between order statistics. float64, for differences of sums."""
        j, s, d, d_next = around(rank)
        to_j = prefix[start + j + 1] - prefix[start] - (first_gy.double() + d) / 2
        return to_j + s * d + s**2 * (d_next.double() - d) / 2

    half = window_fraction / 2 * last
    low, high = (centre - half).clamp(min=0), (centre + half).minimum(last)
    width = high - low
    mean = (integral(high) - integral(low)) / width.clamp(min=1e-6)
    return torch.where(width > 1e-6, mean.to(voxels_gy.dtype), exact)
