"""Differentiable DVH metrics of all ROIs of patients, from the sorted doses of each ROI's own voxels.

No ROI needs a dense mask; order statistics are look-ups, windows and means are differences of a running sum, and
volumes need only the voxels near a threshold. Definitions: ``docs/conventions.md``, "DVH metrics" and "CDM loss".
"""

from __future__ import annotations

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
from cdm_nnunet.losses.members import Members
from cdm_nnunet.losses.steps import step_sums
from cdm_nnunet.roi import Catalogue

LOWEST_MEDIAN_GY = 1.0  # HI divides by at least this, so that an untrained network has a finite loss
_STEP_REACH = 20.0
_STEEP_BELOW = 1e-6


@dataclass(frozen=True)
class Smoothing:
    """How far the differentiable metrics are from the exact ones.

    Attributes:
        window_percent: D_x is the mean of the dose over this percentage of the ROI's volume around the exact order
            statistic, so that the gradient reaches all these voxels. 0 gives the exact metric, the dose of one voxel.
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
            if not goal.metric.in_loss:
                continue
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
        """Bits of the ROIs in use, ascending."""
        return tuple(sorted({term.bit for term in self.terms}))

    def present(
        self, members: Members, prescription_gy: Sequence[Sequence[float]], voxel_volume_cc: Sequence[float]
    ) -> tuple[Present, ...]:
        """The terms that can be measured.

        The ROI has a voxel, a prescription where the metric needs one, and no less volume than the metric asks for.

        Args:
            members: Voxels of the ROIs :attr:`bits` of a batch.
            prescription_gy: Prescription of each ROI of the catalogue in Gy, (B, K); NaN or 0 where it has none.
            voxel_volume_cc: Volume of a voxel in cc, (B,).
        """
        found = []
        for sample, volume_cc in enumerate(voxel_volume_cc):
            for t, term in enumerate(self.terms):
                row = self.bits.index(term.bit) * len(voxel_volume_cc) + sample
                rx_gy = prescription_gy[sample][term.bit]
                n_voxels = members.counts[row]
                known = n_voxels and (rx_gy > 0 or not term.metric.needs_prescription)
                if known and term.metric.why_undefined(n_voxels * volume_cc) is None:
                    threshold_gy = term.metric.threshold_gy(rx_gy) if term.metric.is_volume else math.nan
                    found.append(Present(sample, t, row, n_voxels, term.metric, threshold_gy, volume_cc))
        return tuple(found)


@dataclass(frozen=True)
class Present:
    """A term that can be measured in a sample.

    Attributes:
        sample: Number of the sample.
        term: Number of the term.
        row: Row of the sample's ROI in :class:`Members`.
        n_voxels: Number of the ROI's voxels.
        metric: What is measured.
        threshold_gy: Threshold of a V-metric, Gy; else NaN.
        voxel_volume_cc: Volume of a voxel, cc.
    """

    sample: int
    term: int
    row: int
    n_voxels: int
    metric: Metric
    threshold_gy: float
    voxel_volume_cc: float


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
        Values, shape (T,), in each metric's unit; 0 where not present.
        Number of voxels of each term's ROI, shape (T,), int64: 0 where the ROI is absent, the metric needs a
        prescription that the ROI does not have, or the ROI is smaller than the volume that the metric asks for.

    Example:
        >>> from cdm_nnunet.dvh.metrics import Metric
        >>> dose = torch.arange(101.0)
        >>> words = torch.ones(1, 101)
        >>> terms = Terms((Term(0, Metric.parse("D95%"), 1.0, True), Term(0, Metric.parse("V60%"), 1.0, True)))
        >>> values, n_voxels = dvh_metrics(dose, words, terms, [50.0], 0.1)
        >>> [round(v, 3) for v in values.tolist()], n_voxels.tolist()
        ([5.0, 70.297], [101, 101])
    """
    members = Members.of(words[None], terms.bits)
    present = terms.present(members, [prescription_gy], [voxel_volume_cc])
    values = SortedDoses.of(dose_gy, members).metrics(present, smoothing)
    n_voxels = [0] * len(terms)
    for part in present:
        n_voxels[part.term] = part.n_voxels
    where = torch.tensor([part.term for part in present], dtype=torch.int64, device=values.device)
    everywhere = values.new_zeros(len(terms)).index_copy(0, where, values)
    return everywhere, torch.tensor(n_voxels, device=dose_gy.device)


@dataclass(frozen=True)
class SortedDoses:
    """The voxel doses of some ROIs of a batch, ascending within each row.

    Attributes:
        voxels_gy: Shape (M,), row after row as in :class:`Members`; differentiable.
        starts: Place of each row's first voxel.
        counts: Number of voxels of each row.
    """

    voxels_gy: Tensor
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, dose_gy: Tensor, members: Members) -> SortedDoses:
        """Sort a dose.

        Args:
            dose_gy: Dose of the batch, shape (B, ...), Gy; a half-precision dose is taken to float32.
            members: Voxels of the ROIs.
        """
        if dose_gy.dtype not in (torch.float32, torch.float64):
            dose_gy = dose_gy.float()
        flat_gy = dose_gy.flatten()
        return cls(flat_gy.index_select(0, members.ascending(flat_gy)), members.starts, members.counts)

    def roi_gy(self, row: int) -> Tensor:
        """Doses of one row, ascending."""
        return self.voxels_gy.narrow(0, self.starts[row], self.counts[row])

    def metrics(self, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
        """Values of metrics in their units, shape (len(present),)."""
        pieces: list[Tensor] = []
        places: list[int] = []

        def put(found: Tensor, of: Sequence[int]) -> None:
            pieces.append(found.to(self.voxels_gy.dtype))
            places.extend(of)

        def choose(*kinds: str) -> list[int]:
            return [i for i, part in enumerate(present) if part.metric.kind in kinds]

        if chosen := choose("mean"):
            put(self._means([present[i].row for i in chosen]), chosen)
        if chosen := [i for i, part in enumerate(present) if part.metric.is_volume]:
            rows = [present[i].row for i in chosen]
            fractions = self.volume_fractions(
                rows, [present[i].threshold_gy for i in chosen], smoothing.threshold_width_gy
            )
            whole = [
                present[i].n_voxels * present[i].voxel_volume_cc if present[i].metric.unit == "cc" else 100.0
                for i in chosen
            ]
            is_cold = torch.tensor([present[i].metric.is_cold for i in chosen], device=fractions.device)
            put(torch.where(is_cold, 1 - fractions, fractions) * fractions.new_tensor(whole), chosen)
        if chosen := [i for i, part in enumerate(present) if part.metric.order_statistics]:
            put(self._from_order_statistics([present[i] for i in chosen], smoothing), chosen)
        if chosen := choose("geud"):
            put(torch.stack([geud_gy(self.roi_gy(present[i].row), present[i].metric.value) for i in chosen]), chosen)
        if not pieces:
            return self.voxels_gy.new_zeros(0)
        where = torch.tensor(places, device=self.voxels_gy.device)
        return self.voxels_gy.new_zeros(len(present)).index_copy(0, where, torch.cat(pieces))

    def volume_fractions(self, rows: Sequence[int], thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
        """Share of each row's voxels at or above a threshold, float64; by a logistic or a sharp step.

        Beyond ``_STEP_REACH`` widths a step is 0 or 1 to 2e-9, so only the voxels between are looked at.
        """
        n = torch.tensor([self.counts[row] for row in rows], dtype=torch.float64, device=self.voxels_gy.device)
        reach_gy = _STEP_REACH * width_gy
        with torch.no_grad():
            limits = self.voxels_gy.new_tensor([[t - reach_gy, t + reach_gy] for t in thresholds_gy])
            found = [torch.searchsorted(self.roi_gy(row), limit) for row, limit in zip(rows, limits, strict=True)]
            first, end = torch.stack(found).unbind(1)
        if width_gy == 0:
            return (n - first) / n
        start = torch.tensor([self.starts[row] for row in rows], device=first.device)
        return (n - end + step_sums(self.voxels_gy, start + first, start + end, thresholds_gy, width_gy)) / n

    def order_statistics(self, rows: Sequence[int], ranks: Sequence[float], window_fraction: float) -> Tensor:
        """The ascending doses of rows at ranks, linear between whole ones, or their mean over a window around those.

        Args:
            rows: Which rows.
            ranks: For each, from 0 (minimum) to the number of voxels less 1 (maximum).
            window_fraction: Width of the window as a share of the ranks.

        Returns:
            Shape (len(rows),), Gy.
        """
        voxels_gy, device = self.voxels_gy, self.voxels_gy.device
        start = torch.tensor([self.starts[row] for row in rows], device=device)
        last = torch.tensor([self.counts[row] - 1 for row in rows], device=device)
        rank = torch.tensor(ranks, dtype=torch.float64, device=device)[None]
        if window_fraction > 0:
            half = window_fraction / 2 * last
            rank = torch.cat([rank, (rank - half).clamp(min=0), (rank + half).minimum(last)])  # centre, low, high
        j = rank.long().minimum(last - 1).clamp(min=0)
        s = rank - j  # a rank is at order j, plus the share s of the way to order j + 1
        places = torch.stack([start + j, start + (j + 1).minimum(last)])
        d, d_next = voxels_gy.index_select(0, places.flatten()).double().view(places.shape)
        exact = torch.lerp(d[0], d_next[0], s[0]).to(voxels_gy.dtype)
        if window_fraction == 0:
            return exact
        # the integral of the quantile function, linear between order statistics, up to each end of the window
        to_j = self._sum_to((start + j[1:] + 1).flatten()).view(j[1:].shape)
        low, high = to_j + (s * d - d / 2 + s**2 * (d_next - d) / 2)[1:]
        width = rank[2] - rank[1]
        mean = (high - low) / width.clamp(min=1e-6)
        return torch.where(width > 1e-6, mean.to(voxels_gy.dtype), exact)

    @cached_property
    def _prefix(self) -> Tensor:
        return functional.pad(self.voxels_gy.double().cumsum(0), (1, 0))

    def _sum_to(self, place: Tensor) -> Tensor:
        """Sum of all voxels before a place, float64."""
        return self._prefix.index_select(0, place)

    def _means(self, rows: Sequence[int]) -> Tensor:
        device = self.voxels_gy.device
        start = torch.tensor([self.starts[row] for row in rows], device=device)
        n = torch.tensor([self.counts[row] for row in rows], device=device)
        before, with_it = self._sum_to(torch.cat([start, start + n])).chunk(2)
        return (with_it - before) / n

    def _from_order_statistics(self, present: Sequence[Present], smoothing: Smoothing) -> Tensor:
        parts = [(part, metric) for part in present for metric in part.metric.order_statistics]
        found = self.order_statistics(
            [part.row for part, _ in parts],
            [metric.rank(part.n_voxels, part.voxel_volume_cc) for part, metric in parts],
            smoothing.window_percent / 100,
        )
        if len(parts) == len(present):
            return found
        values, at = [], 0
        for part in present:
            if part.metric.kind == "homogeneity":
                near_maximum_gy, near_minimum_gy, median_gy = found[at : at + 3]
                values.append((near_maximum_gy - near_minimum_gy) / median_gy.clamp(min=LOWEST_MEDIAN_GY))
            else:
                values.append(found[at])
            at += len(part.metric.order_statistics)
        return torch.stack(values)


def geud_gy(roi_gy: Tensor, a: float | None) -> Tensor:
    """The gEUD ((1/n) sum d^a)^(1/a), float64; the largest term is scaled to 1, so that no power overflows.

    A negative dose, which an untrained network may predict, counts as zero. Where the gradient of a dose of zero would
    be infinite (a < 1), that dose gets none.

    Args:
        roi_gy: Doses of an ROI, ascending, shape (n,), Gy.
        a: Exponent, not 0.
    """
    if a is None:
        raise ValueError("gEUD needs an exponent")
    dose_gy = roi_gy.clamp(min=0)
    scale_gy = (dose_gy[-1] if a > 0 else dose_gy[0]).detach()
    has_dose = scale_gy > 0
    ratio = dose_gy / torch.where(has_dose, scale_gy, torch.ones_like(scale_gy))
    steep = ratio < _STEEP_BELOW if a < 1 else torch.zeros_like(ratio, dtype=torch.bool)
    terms = torch.where(steep, ratio.detach() ** a, torch.where(steep, torch.ones_like(ratio), ratio) ** a)
    mean = torch.where(has_dose, terms.double(), torch.ones_like(terms, dtype=torch.float64)).mean()
    return torch.where(has_dose, scale_gy * mean ** (1 / a), torch.zeros_like(mean))
