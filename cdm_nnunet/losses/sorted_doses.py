"""Sorted voxel doses of each ROI, the basis of all differentiable DVH metrics.

No ROI needs a dense mask; order statistics are look-ups, windows and means are differences of a running sum, and
volumes need only the voxels near a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from cdm_nnunet.losses.roi_index import RoiIndex
from cdm_nnunet.losses.steps import step_sums

_STEP_REACH = 20.0


@dataclass(frozen=True)
class SortedDoses:
    """The voxel doses of some ROIs of a batch, ascending within each row.

    Attributes:
        voxels_gy: Shape (M,), row after row as in :class:`RoiIndex`; differentiable.
        starts: Position of each row's first voxel.
        counts: Number of voxels of each row.
    """

    voxels_gy: Tensor
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, dose_gy: Tensor, index: RoiIndex) -> SortedDoses:
        """Sort a dose.

        Args:
            dose_gy: Dose of the batch, shape (B, ...), Gy; a half-precision dose is converted to float32.
            index: Voxels of the ROIs.
        """
        if dose_gy.dtype not in (torch.float32, torch.float64):
            dose_gy = dose_gy.float()
        flat_gy = dose_gy.flatten()
        return cls(flat_gy.index_select(0, index.ascending(flat_gy)), index.starts, index.counts)

    def roi_gy(self, row: int) -> Tensor:
        """Doses of one row, ascending."""
        return self.voxels_gy.narrow(0, self.starts[row], self.counts[row])

    def volume_fractions(self, rows: Sequence[int], thresholds_gy: Sequence[float], width_gy: float) -> Tensor:
        """Share of each row's voxels at or above a threshold, float64; by a logistic or a sharp step.

        Beyond ``_STEP_REACH`` widths a step is 0 or 1 to 2e-9, so only the voxels between are evaluated.
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
        """The ascending doses of rows at ranks, linear between integer ranks, or averaged over a window.

        Args:
            rows: Indices of the rows.
            ranks: Rank in each row, from 0 (minimum) to the number of voxels minus 1 (maximum).
            window_fraction: Width of the window as a share of the ranks.

        Returns:
            Shape (len(rows),), Gy.
        """
        device = self.voxels_gy.device
        start = torch.tensor([self.starts[row] for row in rows], device=device)
        last = torch.tensor([self.counts[row] - 1 for row in rows], device=device)
        rank = torch.tensor(ranks, dtype=torch.float64, device=device)
        return windowed_order_statistics(self.voxels_gy, self._prefix, start, last, rank, window_fraction)

    @cached_property
    def _prefix(self) -> Tensor:
        return sums_before(self.voxels_gy)

    def means(self, rows: Sequence[int]) -> Tensor:
        """Mean dose of rows, shape (len(rows),), Gy, float64."""
        device = self.voxels_gy.device
        start = torch.tensor([self.starts[row] for row in rows], device=device)
        n = torch.tensor([self.counts[row] for row in rows], device=device)
        return means_of_ranges(self._prefix, start, n)


def sums_before(values: Tensor) -> Tensor:
    """Running sums before each position and at the end: shape (M,) -> (M + 1,), float64."""
    return functional.pad(values.double().cumsum(0), (1, 0))


def means_of_ranges(prefix: Tensor, start: Tensor, n: Tensor) -> Tensor:
    """Mean over ranges of values.

    Args:
        prefix: From :func:`sums_before`, shape (M + 1,).
        start: Position of each range's first value, shape (k,), int64.
        n: Number of its values, shape (k,), int64.

    Returns:
        Shape (k,), float64.
    """
    before, with_it = prefix.index_select(0, torch.cat([start, start + n])).chunk(2)
    return (with_it - before) / n


def windowed_order_statistics(
    voxels_gy: Tensor, prefix: Tensor, start: Tensor, last: Tensor, ranks: Tensor, window_fraction: float
) -> Tensor:
    """Ascending doses at ranks, linear between integer ranks, or averaged over a window.

    Args:
        voxels_gy: Doses, ascending within each row, shape (M,), Gy.
        prefix: From :func:`sums_before`, shape (M + 1,).
        start: Position of the first voxel of each rank's row, shape (k,), int64.
        last: Number of that row's voxels minus 1, shape (k,), int64.
        ranks: From 0 to ``last``, shape (k,), float64.
        window_fraction: Width of the window as a share of the ranks.

    Returns:
        Shape (k,), Gy.
    """
    rank = ranks[None]
    if window_fraction > 0:
        half = window_fraction / 2 * last
        rank = torch.cat([rank, (rank - half).clamp(min=0), (rank + half).minimum(last)])  # centre, low, high
    j = rank.long().minimum(last - 1).clamp(min=0)
    s = rank - j  # a rank is the order j plus the fraction s
    places = torch.stack([start + j, start + (j + 1).minimum(last)])
    d, d_next = voxels_gy.index_select(0, places.flatten()).double().view(places.shape)
    exact = torch.lerp(d[0], d_next[0], s[0]).to(voxels_gy.dtype)
    if window_fraction == 0:
        return exact
    # the integral of the quantile function, linear between order statistics, up to each end of the window
    to_j = prefix.index_select(0, (start + j[1:] + 1).flatten()).view(j[1:].shape)
    low, high = to_j + (s * d - d / 2 + s**2 * (d_next - d) / 2)[1:]
    width = rank[2] - rank[1]
    mean = (high - low) / width.clamp(min=1e-6)
    return torch.where(width > 1e-6, mean.to(voxels_gy.dtype), exact)
