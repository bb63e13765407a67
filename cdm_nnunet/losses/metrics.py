"""Differentiable DVH metrics of all ROIs of a patient, from one sort of the dose.

The doses of all voxels that belong to any ROI are sorted once. Along that order, a running count of each ROI's bit tells
where each of its order statistics lies, so no ROI needs a mask or a sort of its own. Definitions:
``docs/conventions.md``, "DVH metrics".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

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
    def of(cls, template: Template, catalogue: Catalogue, use: str) -> Terms:
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
    sorted_gy, members = _sorted_union(dose_gy, words, terms)
    counts = members.cumsum(1, dtype=torch.int32)  # (R, N): members among the first i + 1 voxels of the order
    n_of_row = counts[:, -1].tolist() if counts.shape[1] else [0] * len(terms.bits)

    values: list[Tensor] = [sorted_gy.new_zeros(())] * len(terms)
    n_voxels = [0] * len(terms)
    ranks: list[tuple[int, int, float]] = []  # (term, row, rank) of the order statistics
    for t, (term, row) in enumerate(zip(terms.terms, terms.rows, strict=True)):
        n = n_of_row[row]
        if n == 0 or (term.metric.needs_prescription and not prescription_gy[term.bit] > 0):
            continue
        n_voxels[t] = n
        if term.metric.kind == "mean":
            values[t] = sorted_gy[members[row]].mean()
        elif term.metric.is_volume:
            threshold_gy = term.metric.threshold_gy(prescription_gy[term.bit])
            values[t] = _volume_percent(sorted_gy[members[row]], threshold_gy, smoothing.threshold_width_gy)
        else:
            ranks.append((t, row, term.metric.rank_fraction(n, voxel_volume_cc) * (n - 1)))
    if ranks:
        picked = _order_statistics(sorted_gy, members, counts, n_of_row, ranks, smoothing.window_percent / 100)
        for (t, _, _), value in zip(ranks, picked.unbind(), strict=True):
            values[t] = value
    return torch.stack(values), torch.tensor(n_voxels, device=dose_gy.device)


def _sorted_union(dose_gy: Tensor, words: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Ascending doses of the voxels of any ROI in use, (N,), and which ROI each belongs to, (R, N) boolean."""
    flat_words = words.flatten(1).to(torch.int32)  # (L, V)
    used = [0] * len(flat_words)
    for bit in terms.bits:
        used[bit // WORD_BITS] |= 1 << (bit % WORD_BITS)
    used_bits = torch.tensor(used, dtype=torch.int32, device=words.device)[:, None]
    union = ((flat_words & used_bits) != 0).any(0).nonzero().squeeze(1)
    sorted_gy, order = dose_gy.flatten()[union].sort()
    sorted_words = flat_words[:, union[order]]
    members = torch.stack([((sorted_words[bit // WORD_BITS] >> (bit % WORD_BITS)) & 1).bool() for bit in terms.bits])
    return sorted_gy, members


def _volume_percent(roi_dose_gy: Tensor, threshold_gy: float, width_gy: float) -> Tensor:
    if width_gy == 0:
        return 100 * (roi_dose_gy >= threshold_gy).to(roi_dose_gy.dtype).mean()
    return 100 * torch.sigmoid((roi_dose_gy - threshold_gy) / width_gy).mean()


def _order_statistics(
    sorted_gy: Tensor,
    members: Tensor,
    counts: Tensor,
    n_of_row: Sequence[int],
    ranks: Sequence[tuple[int, int, float]],
    window_fraction: float,
) -> Tensor:
    """Quantile function of each row at each rank, or its mean over a window of ranks around it; (len(ranks),)."""
    device = sorted_gy.device
    rows = [row for _, row, _ in ranks]
    last = [n_of_row[row] - 1 for row in rows]
    centre = [rank for _, _, rank in ranks]
    half = [window_fraction / 2 * end for end in last]
    low = [max(rank - h, 0.0) for rank, h in zip(centre, half, strict=True)]
    high = [min(rank + h, float(end)) for rank, h, end in zip(centre, half, last, strict=True)]

    positions = [centre] if window_fraction == 0 else [centre, low, high, [0.0] * len(ranks)]
    lower = [[min(int(p), max(end - 1, 0)) for p, end in zip(position, last, strict=True)] for position in positions]
    wanted = [
        (row, order)
        for below in lower
        for row, j, end in zip(rows, below, last, strict=True)
        for order in (j, min(j + 1, end))
    ]
    places = _places(counts, wanted).view(len(positions), len(ranks), 2)
    share = torch.tensor(positions, dtype=torch.float64, device=device) - torch.tensor(lower, device=device)

    below_gy, above_gy = sorted_gy[places[0, :, 0]], sorted_gy[places[0, :, 1]]
    exact = torch.lerp(below_gy, above_gy, share[0].to(sorted_gy.dtype))
    if window_fraction == 0:
        return exact

    # The quantile function is linear between order statistics; its integral from rank 0 to rank j + s is
    # S_j - (d_0 + d_j) / 2 + s d_j + s^2 (d_{j+1} - d_j) / 2 with S_j = d_0 + ... + d_j. The differences of sums over
    # many voxels want float64.
    wide = sorted_gy.double()
    prefix = (members * wide).cumsum(1)  # (R, N)
    row = torch.tensor(rows, device=device)
    first = wide[places[3, :, 0]]

    def integral(which: int) -> Tensor:
        j, j_next = places[which].unbind(1)
        d, d_next, s = wide[j], wide[j_next], share[which]
        return prefix[row, j] - (first + d) / 2 + s * d + s**2 * (d_next - d) / 2

    width = torch.tensor([b - a for a, b in zip(low, high, strict=True)], dtype=torch.float64, device=device)
    mean = (integral(2) - integral(1)) / width.clamp(min=1e-6)
    return torch.where(width > 1e-6, mean.to(sorted_gy.dtype), exact)


def _places(counts: Tensor, wanted: Sequence[tuple[int, int]]) -> Tensor:
    """Where order statistics lie in the union.

    Args:
        counts: Running count of each row's members along the union, (R, N).
        wanted: Pairs of row and order, counted from 0.

    Returns:
        Places in the union, (len(wanted),).
    """
    queries: list[list[int]] = [[] for _ in range(len(counts))]
    columns = []
    for row, order in wanted:
        columns.append(len(queries[row]))
        queries[row].append(order + 1)
    longest = max(map(len, queries))
    table = torch.tensor(
        [row + [1] * (longest - len(row)) for row in queries], dtype=counts.dtype, device=counts.device
    )
    found = torch.searchsorted(counts, table)
    return found[[row for row, _ in wanted], columns]
