"""The CDM loss as one graph: fixed shapes, and no synchronisation of host and device.

:class:`CDMLoss` reads from the device how many voxels each ROI has, and makes lists of that length. Here the lists
have one length for all batches and the numbers stay on the device, so that the whole loss can be compiled and recorded
as a CUDA graph. Formulas are shared with :class:`CDMLoss`, which is the reference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdm_nnunet.dvh.metric import EXACT, Metric
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.cdm import WHOLE_FROM, CDMLoss, error_at_volume
from cdm_nnunet.losses.metrics import DIFFERENTIABLE
from cdm_nnunet.losses.sorted_doses import means_of_ranges, sums_before, windowed_order_statistics
from cdm_nnunet.roi import WORD_BITS

_TURNED, _FEW = 1.1, 64  # an ROI rotated on a voxel grid may gain some


class Rows(NamedTuple):
    """The voxels of R ROIs in B samples in one list of fixed length C; row r * B + b is ROI r in sample b.

    Attributes:
        place: Index of each voxel's dose in the batch, shape (C,), int64.
        row: Its row, shape (C,), int64; R * B in unused entries.
        counts: Number of voxels of each row, shape (R, B), int64.
        first: Index of each row's first voxel, shape (R, B), int64; always inside the list.
        n: Number of voxels from there, shape (R, B), int64; at least 1, and always inside the list.
    """

    place: Tensor
    row: Tensor
    counts: Tensor
    first: Tensor
    n: Tensor

    @classmethod
    def of(cls, words: Tensor, bits: Sequence[int], capacity: int) -> Rows:
        """Find the voxels of ROIs.

        Args:
            words: ROI words, shape (B, L, ...).
            bits: Bits of the ROIs.
            capacity: Length of the list.
        """
        flat = words.detach().flatten(2).to(torch.int32)
        member = torch.stack([((flat[:, bit // WORD_BITS] >> (bit % WORD_BITS)) & 1).bool() for bit in bits])
        n_batch = member[0].numel()
        found = member.flatten().nonzero_static(size=capacity, fill_value=member.numel()).squeeze(1)
        counts = member.sum(2)
        first = (counts.flatten().cumsum(0).view(counts.shape) - counts).clamp(max=capacity - 1)
        return cls(
            found % n_batch, found // member.shape[2], counts, first, counts.clamp(min=1).minimum(capacity - first)
        )


class Sorted(NamedTuple):
    """Doses of :class:`Rows`, ascending within each row.

    Attributes:
        voxels_gy: Shape (C,), Gy; 0 in unused entries.
        prefix: Running sums before each entry, shape (C + 1,), float64.
    """

    voxels_gy: Tensor
    prefix: Tensor

    @classmethod
    def of(cls, dose_gy: Tensor, rows: Rows) -> Sorted:
        """Sort a dose, shape (B, ...), Gy; a half-precision dose is converted to float32."""
        flat = dose_gy.flatten()
        flat = flat if flat.dtype == torch.float64 else flat.float()
        with torch.no_grad():
            by_dose = flat.index_select(0, rows.place).argsort(stable=True)
            by_row = rows.row.index_select(0, by_dose).argsort(stable=True)
            place = rows.place.index_select(0, by_dose.index_select(0, by_row))
        voxels_gy = torch.where(rows.row < rows.counts.numel(), flat.index_select(0, place), 0.0)
        return cls(voxels_gy, sums_before(voxels_gy))

    def means(self, rows: Rows) -> Tensor:
        """Mean dose of each row, (R, B), Gy, float64."""
        return means_of_ranges(self.prefix, rows.first.flatten(), rows.n.flatten()).view(rows.n.shape)

    def at_ranks(self, first: Tensor, n: Tensor, ranks: Tensor, window_fraction: float) -> Tensor:
        """Order statistics as in :func:`windowed_order_statistics`, all of shape (k, B)."""
        places = (first.flatten(), n.flatten() - 1, ranks.flatten().double())
        return windowed_order_statistics(self.voxels_gy, self.prefix, *places, window_fraction).view(first.shape)

    def shares_above(self, rows: Rows, threshold_gy: Tensor, width_gy: float) -> Tensor:
        """Share of each row's voxels at or above its threshold, (R, B), float64; by a logistic or a sharp step."""
        by_row = torch.cat([threshold_gy.flatten(), threshold_gy.new_zeros(1)]).to(self.voxels_gy.dtype)
        above_gy = self.voxels_gy - by_row.index_select(0, rows.row)
        step = torch.sigmoid(above_gy / width_gy) if width_gy > 0 else (above_gy >= 0).double()
        return means_of_ranges(sums_before(step), rows.first.flatten(), rows.n.flatten()).view(rows.n.shape)


class CapturedCDMLoss(nn.Module):
    """:class:`CDMLoss` in fixed shapes; called in the same way.

    Args:
        loss: Loss with the terms and options.
        compiled: Whether it is compiled by ``torch.compile`` as a whole.

    Raises:
        InputError: If a metric has no formula here (gEUD, a challenge's rounding, kinds of other packages).
    """

    def __init__(self, loss: CDMLoss, *, compiled: bool = False):
        super().__init__()
        for term in loss.terms.terms:
            if not _has_formula(term.metric):
                raise InputError(
                    f"the loss in fixed shapes can't train on {term.metric}; train with CDM_LOSS_SHAPES=free"
                )
        self.loss = loss
        self.parts = _parts(loss)
        self.graph = _Graph(loss)
        self.run: Callable[..., Tensor] = self.graph
        if compiled:
            self.run = torch.compile(self.graph, fullgraph=True, dynamic=False)

    def forward(
        self,
        predicted_dose_gy: Tensor,
        reference_dose_gy: Tensor,
        words: Tensor,
        prescription_gy: Sequence[Sequence[float]],
        voxel_volume_cc: Sequence[float],
        roi_voxels: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """The loss of a batch; arguments as for :meth:`CDMLoss.forward`. The last three need one copy."""
        self.graph.capacity = max(self.graph.capacity, self._room(words, roi_voxels))
        facts = self.facts(prescription_gy, voxel_volume_cc, roi_voxels)
        if words.device.type == "cuda":
            facts = facts.pin_memory()
        return self.run(predicted_dose_gy, reference_dose_gy, words, facts.to(words.device, non_blocking=True))

    def _room(self, words: Tensor, roi_voxels: Sequence[Sequence[int]] | None) -> int:
        """A power of two that the voxels of all ROIs in a batch can't exceed; few lengths occur."""
        in_patch = words[0, 0].numel()
        if roi_voxels is None:
            room = len(words) * len(self.loss.terms.bits) * in_patch
        else:
            most = [math.ceil(whole[bit] * _TURNED) for whole in roi_voxels for bit in self.loss.terms.bits]
            room = sum(min(n + _FEW, in_patch) for n in most)
        return 1 << max(room - 1, 1).bit_length()

    def facts(
        self,
        prescription_gy: Sequence[Sequence[float]],
        voxel_volume_cc: Sequence[float],
        roi_voxels: Sequence[Sequence[int]] | None,
    ) -> Tensor:
        """Facts of a batch on the host: one row per sample, the columns of :class:`_Facts` concatenated, float64."""
        rows = []
        for sample, volume_cc in enumerate(voxel_volume_cc):
            weights, thresholds_gy, whole = [], [], []
            for term in self.loss.terms.terms:
                rx_gy = prescription_gy[sample][term.bit]
                known = rx_gy > 0 or not term.metric.needs_prescription
                weights.append(term.weight if known else 0.0)
                thresholds_gy.append(term.metric.threshold_gy(rx_gy) if known and term.metric.is_volume else 0.0)
                whole.append(0 if roi_voxels is None else roi_voxels[sample][term.bit])
            fixed = [_fixed_number(part, volume_cc) for part in self.parts]
            rows.append([*weights, *thresholds_gy, *whole, *fixed, volume_cc])
        return torch.tensor(rows, dtype=torch.float64)


def _has_formula(metric: Metric) -> bool:
    known = metric.is_volume or metric.kind == "mean" or bool(metric.order_statistics)
    return known and metric.kind in DIFFERENTIABLE and metric.counting == EXACT


def _parts(loss: CDMLoss) -> list[Metric]:
    return [part for term in loss.terms.terms for part in term.metric.order_statistics]


def _fixed_number(part: Metric, voxel_volume_cc: float) -> int:
    found = part.voxels_from_end(voxel_volume_cc)
    return 0 if isinstance(found, Fraction) else found


def _share(part: Metric) -> Fraction:
    found = part.voxels_from_end(1.0)
    return found if isinstance(found, Fraction) else Fraction(0)


class _Facts(NamedTuple):
    """Facts of a batch, (B, T) or (B, parts), float64.

    Attributes:
        weight: Weight of each term; 0 if its prescription is missing.
        threshold_gy: Threshold of V-metrics; 0 for others.
        whole_voxels: Voxels of the term's ROI in the whole patient; 0 if unknown.
        fixed_number: Voxels from the end of each order statistic; 0 if they are a share.
        voxel_volume_cc: (B, 1).
    """

    weight: Tensor
    threshold_gy: Tensor
    whole_voxels: Tensor
    fixed_number: Tensor
    voxel_volume_cc: Tensor


class _Graph(nn.Module):
    """The loss of a batch from tensors alone.

    Attributes:
        capacity: Length of the list of voxels. If a batch has more, the loss is NaN.
    """

    least_cc: Tensor
    numerator: Tensor
    denominator: Tensor
    part_is_cold: Tensor
    term_row: Tensor
    part_row: Tensor
    slots: Tensor

    def __init__(self, loss: CDMLoss):
        super().__init__()
        self.capacity = 1
        terms = loss.terms.terms
        self.metrics = [term.metric for term in terms]
        self.parts = _parts(loss)
        self.bits = loss.terms.bits
        self.rows = [self.bits.index(term.bit) for term in terms]
        self.dose_scale_gy, self.smoothing = loss.dose_scale_gy, loss.smoothing
        self.v_form, self.partial_rois = loss.v_form, loss.partial_rois
        slots = self._share_out_volumes()
        of_parts = [row for row, metric in zip(self.rows, self.metrics, strict=True) for _ in metric.order_statistics]
        for name, values in (
            ("least_cc", [metric.least_volume_cc for metric in self.metrics]),
            ("numerator", [[_share(part).numerator] for part in self.parts]),
            ("denominator", [[_share(part).denominator] for part in self.parts]),
            ("part_is_cold", [[part.is_cold] for part in self.parts]),
            ("term_row", self.rows),
            ("part_row", of_parts),
            ("slots", slots),
        ):
            kind = torch.float64 if name == "least_cc" else torch.bool if name == "part_is_cold" else torch.int64
            self.register_buffer(name, torch.tensor(values, dtype=kind), persistent=False)

    def _share_out_volumes(self) -> list[list[int]]:
        """Distribute V-metrics over slots with at most one per ROI: each slot lists every ROI's term, or T for none."""
        n_terms = len(self.metrics)
        slots: list[list[int]] = []
        self.slot_of: dict[int, int] = {}
        for t, metric in enumerate(self.metrics):
            if metric.is_volume:
                slot = sum(self.rows[other] == self.rows[t] for other in self.slot_of)
                if slot == len(slots):
                    slots.append([n_terms] * len(self.bits))
                slots[slot][self.rows[t]] = t
                self.slot_of[t] = slot
        return slots

    def forward(self, predicted_dose_gy: Tensor, reference_dose_gy: Tensor, words: Tensor, facts: Tensor) -> Tensor:
        """Scalar, float32; arguments as for :meth:`CDMLoss.forward`, and :meth:`CapturedCDMLoss.facts`."""
        n_terms = len(self.metrics)
        given = _Facts(*facts.split([n_terms, n_terms, n_terms, len(self.parts), 1], 1))
        with torch.autocast(predicted_dose_gy.device.type, enabled=False):
            rows = Rows.of(words, self.bits, self.capacity)
            predicted = Sorted.of(predicted_dose_gy, rows)
            with torch.no_grad():
                reference = Sorted.of(reference_dose_gy, rows)
            errors = self._errors(predicted, reference, rows, given)
            weight = self._weight(rows, given)
            loss = torch.where(weight > 0, errors * weight, 0.0).sum() / weight.sum().clamp(min=1e-6)
            return torch.where(rows.counts.sum() > self.capacity, math.nan, loss).float()

    def _weight(self, rows: Rows, given: _Facts) -> Tensor:
        """Weight of each term, (B, T); 0 where it is absent."""
        n = rows.counts.index_select(0, self.term_row).T
        weight = given.weight * ((n > 0) & (n * given.voxel_volume_cc >= self.least_cc))
        if self.partial_rois == "all":
            return weight
        share = torch.where(given.whole_voxels > 0, (n / given.whole_voxels.clamp(min=1)).clamp(max=1), 1.0)
        return weight * ((share >= WHOLE_FROM) if self.partial_rois == "whole" else share)

    def _errors(self, predicted: Sorted, reference: Sorted, rows: Rows, given: _Facts) -> Tensor:
        """|M(predicted) - M(reference)| without a unit, (B, T); some finite number for absent terms."""
        values = self._values(predicted, rows, given)
        with torch.no_grad():
            aims = self._values(reference, rows, given)
        errors = [
            (value - aim).abs() * self._unit(t, rows, given)
            for t, (value, aim) in enumerate(zip(values, aims, strict=True))
        ]
        share = {"sigmoid": 0.0, "both": 0.5, "dose": 1.0}[self.v_form]
        if share:
            with torch.no_grad():
                shares = [
                    reference.shares_above(rows, self._thresholds_gy(i, given), 0.0) for i in range(len(self.slots))
                ]
            for t, slot in self.slot_of.items():
                volumes = shares[slot][self.rows[t]]
                by_dose = self._volume_error_gy(t, volumes, predicted, reference, rows, given) / self.dose_scale_gy
                errors[t] = share * by_dose + (1 - share) * errors[t] if share < 1 else by_dose
        return torch.stack([error.double() for error in errors], 1)

    def _unit(self, t: int, rows: Rows, given: _Facts) -> Tensor | float:
        unit = self.metrics[t].unit
        if unit == "cc":
            return 1 / (rows.n[self.rows[t]] * given.voxel_volume_cc[:, 0])
        return {"Gy": 1 / self.dose_scale_gy, "%": 0.01, "": 1.0}[unit]

    def _values(self, doses: Sorted, rows: Rows, given: _Facts) -> list[Tensor]:
        """Value of each metric, (B,), in its unit and the type of the doses."""
        means = doses.means(rows)
        width_gy = self.smoothing.threshold_width_gy
        shares = [doses.shares_above(rows, self._thresholds_gy(i, given), width_gy) for i in range(len(self.slots))]
        of_parts = iter(self._order_statistics(doses, rows, given))
        values = []
        for t, (metric, row) in enumerate(zip(self.metrics, self.rows, strict=True)):
            if metric.kind == "mean":
                value = means[row]
            elif metric.is_volume:
                share = shares[self.slot_of[t]][row]
                whole = rows.n[row] * given.voxel_volume_cc[:, 0] if metric.unit == "cc" else 100.0
                value = (1 - share if metric.is_cold else share) * whole
            else:
                found = list(itertools.islice(of_parts, len(metric.order_statistics)))
                combined = DIFFERENTIABLE[metric.kind].of_order_statistics
                value = found[0] if combined is None else combined(torch.stack(found))
            values.append(value.to(doses.voxels_gy.dtype))
        return values

    def _thresholds_gy(self, slot: int, given: _Facts) -> Tensor:
        """Threshold of each ROI's V-metric in a slot, (R, B), Gy; 0 without one."""
        return functional.pad(given.threshold_gy, (0, 1)).index_select(1, self.slots[slot]).T

    def _order_statistics(self, doses: Sorted, rows: Rows, given: _Facts) -> Tensor:
        """Order statistic of each part, (parts, B), Gy."""
        first, n = rows.first.index_select(0, self.part_row), rows.n.index_select(0, self.part_row)
        of_share = -torch.div(-n * self.numerator, self.denominator, rounding_mode="floor")
        voxels = (of_share + given.fixed_number.T.long()).clamp(min=1).minimum(n)
        ranks = torch.where(self.part_is_cold, voxels - 1, n - voxels)
        return doses.at_ranks(first, n, ranks, self.smoothing.window_percent / 100)

    def _volume_error_gy(
        self, t: int, volumes: Tensor, predicted: Sorted, reference: Sorted, rows: Rows, given: _Facts
    ) -> Tensor:
        """A V-metric as a dose, (B,), Gy, at the reference's volumes, (B,): see :func:`error_at_volume`."""
        row, window = self.rows[t], self.smoothing.window_percent / 100
        first, n = rows.first[row], rows.n[row]
        with torch.no_grad():
            ranks = (1 - volumes) * (n - 1)
            reference_gy = reference.at_ranks(first, n, ranks, window)
        predicted_gy = predicted.at_ranks(first, n, ranks, window)
        kind = predicted_gy.dtype
        return error_at_volume(volumes.to(kind), given.threshold_gy[:, t].to(kind), predicted_gy, reference_gy)
