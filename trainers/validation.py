"""Dose and DVH metric errors of validation patches or cases, pooled over an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cdm_nnunet.losses.metrics import dvh_metrics
from cdm_nnunet.losses.terms import Terms
from cdm_nnunet.nnunet.facts import PatchFacts


@dataclass(frozen=True)
class PatchErrors:
    """Sums of absolute errors and of their weights; pooling adds them.

    Attributes:
        dose: Sum over voxels of |predicted - reference| in Gy, and number of voxels of the dose region.
        ptv_metrics: Sum over target metrics of share x |predicted - reference| (Gy, or % of volume), and sum of the
            shares: each metric is weighted by the share of its ROI in the patch.
        oar_metrics: The same for organs at risk and other ROIs.
    """

    dose: tuple[float, float] = (0.0, 0.0)
    ptv_metrics: tuple[float, float] = (0.0, 0.0)
    oar_metrics: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def pooled(cls, errors: Sequence[PatchErrors]) -> PatchErrors:
        """All errors together."""

        def add(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
            return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

        return cls(
            add([e.dose for e in errors]), add([e.ptv_metrics for e in errors]), add([e.oar_metrics for e in errors])
        )

    @property
    def mae_gy(self) -> float:
        """Mean absolute dose error in the dose region, Gy; NaN if there was no voxel."""
        return _ratio(self.dose)

    @property
    def ptv(self) -> float:
        """Mean absolute error of target metrics; NaN if no patch held a target."""
        return _ratio(self.ptv_metrics)

    @property
    def oar(self) -> float:
        """Mean absolute error of OAR metrics; NaN if no patch held an OAR."""
        return _ratio(self.oar_metrics)

    @property
    def score(self) -> float:
        """The score of checkpoints, lower is better: mean of PTV and OAR error, or the dose MAE if there is neither."""
        known = [value for value in (self.ptv, self.oar) if value == value]  # NaN differs from itself
        return sum(known) / len(known) if known else self.mae_gy

    def to_json(self) -> dict[str, float | None]:
        """The means; None if there was nothing to measure."""
        means = {"dose_mae_gy": self.mae_gy, "ptv_error": self.ptv, "oar_error": self.oar}
        return {name: value if value == value else None for name, value in means.items()}  # NaN


def patch_errors(
    dose_gy: Tensor, reference_gy: Tensor, region: Tensor, words: Tensor, terms: Terms, facts: Sequence[PatchFacts]
) -> PatchErrors:
    """Errors of a batch, from exact metrics.

    Args:
        dose_gy: Predicted dose, (B, 1, Z, Y, X), Gy.
        reference_gy: Same shape, Gy.
        region: Same shape, 1 inside the dose region.
        words: ROI words, (B, L, Z, Y, X).
        terms: Metrics to compare.
        facts: Facts of the B samples.
    """
    difference = ((dose_gy - reference_gy).abs() * region).sum(dtype=torch.float64)
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for b, fact in enumerate(facts):
        arguments = (words[b], terms, fact.prescription_gy, fact.voxel_volume_cc)
        predicted, n_voxels = dvh_metrics(dose_gy[b, 0], *arguments)
        reference, _ = dvh_metrics(reference_gy[b, 0], *arguments)
        error = (predicted - reference).abs().tolist()
        for term, value, n in zip(terms.terms, error, n_voxels.tolist(), strict=True):
            share = min(n / max(fact.roi_voxels[term.bit], 1), 1.0)
            sums[term.is_target][0] += share * value
            sums[term.is_target][1] += share
    ptv, oar = sums[True], sums[False]
    return PatchErrors((float(difference), float(region.sum(dtype=torch.float64))), (ptv[0], ptv[1]), (oar[0], oar[1]))


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] > 0 else float("nan")
