"""Terms of a loss: metrics of ROIs, and their smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from cdm_nnunet.dvh.goal import Use
from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import Catalogue

if TYPE_CHECKING:  # (training settings are read without torch)
    from cdm_nnunet.losses.roi_index import RoiIndex

VForm = Literal["sigmoid", "dose", "both"]
PartialRois = Literal["weighted", "whole", "all"]


@dataclass(frozen=True)
class Smoothing:
    """Smoothing of the differentiable metrics.

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
        metric: The metric.
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
        terms: One entry per metric.

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

        A metric of several goals of an ROI is included once, with the largest weight.

        Args:
            template: Clinical template.
            catalogue: The bit of each ROI.
            use: ``loss`` or ``evaluation``.

        Raises:
            InputError: If a goal names an ROI that the catalogue lacks, or there is no goal.
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
        self, index: RoiIndex, prescription_gy: Sequence[Sequence[float]], voxel_volume_cc: Sequence[float]
    ) -> tuple[Present, ...]:
        """The terms that can be computed.

        Their ROI has a voxel, a prescription if the metric needs one, and at least the volume in the metric's key.

        Args:
            index: Voxels of the ROIs :attr:`bits` of a batch.
            prescription_gy: Prescription of each ROI of the catalogue in Gy, (B, K); NaN or 0 without one.
            voxel_volume_cc: Volume of a voxel in cc, (B,).
        """
        found = []
        for sample, volume_cc in enumerate(voxel_volume_cc):
            for t, term in enumerate(self.terms):
                row = self.bits.index(term.bit) * len(voxel_volume_cc) + sample
                rx_gy = prescription_gy[sample][term.bit]
                n_voxels = index.counts[row]
                known = n_voxels and (rx_gy > 0 or not term.metric.needs_prescription)
                if known and term.metric.why_undefined(n_voxels * volume_cc) is None:
                    threshold_gy = term.metric.threshold_gy(rx_gy) if term.metric.is_volume else math.nan
                    found.append(Present(sample, t, row, n_voxels, term.metric, threshold_gy, volume_cc))
        return tuple(found)


@dataclass(frozen=True)
class Present:
    """A term that can be computed in a sample.

    Attributes:
        sample: Number of the sample.
        term: Number of the term.
        row: Row of the sample's ROI in :class:`RoiIndex`.
        n_voxels: Number of the ROI's voxels.
        metric: Its metric.
        threshold_gy: Threshold of a V-metric, Gy; NaN for others.
        voxel_volume_cc: Volume of a voxel, cc.
    """

    sample: int
    term: int
    row: int
    n_voxels: int
    metric: Metric
    threshold_gy: float
    voxel_volume_cc: float
