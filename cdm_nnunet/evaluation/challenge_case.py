"""A case for public challenges (:class:`cdm_nnunet.challenges.ScoredCase`), and its contribution to their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.challenges import CHALLENGES, Terms
from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.rois import CaseRois, RoiVoxels


def challenge_terms(pair: DosePair, rois: CaseRois | None = None) -> dict[str, Terms]:
    """Contribution of a case to the scores of its challenges, by the challenge's name."""
    case = ChallengeCase(pair, CaseRois(pair) if rois is None else rois)
    found = {challenge.name: challenge.terms(case) for challenge in CHALLENGES if challenge.applies(case)}
    return {name: terms for name, terms in found.items() if terms is not None}


@dataclass(frozen=True, eq=False)
class ChallengeCase:
    """A case for challenges.

    Attributes:
        pair: Its doses and ROI masks.
        rois: Its ROIs.
    """

    pair: DosePair
    rois: CaseRois

    @property
    def converted_from(self) -> str:
        """Name of the data set's conversion."""
        return self.pair.converted_from

    @property
    def roi_names(self) -> tuple[str, ...]:
        """Names of all ROIs of the data set."""
        return self.pair.catalogue.names

    @property
    def reference_dose_gy(self) -> NDArray[np.floating]:
        """Shape (Z, Y, X), Gy."""
        return self.pair.reference_dose_gy

    @property
    def predicted_dose_gy(self) -> NDArray[np.floating]:
        """Same shape, Gy."""
        return self.pair.predicted_dose_gy

    def name_of(self, kind: str) -> str | None:
        """Name of the first ROI of a kind; None if there is none."""
        return next((roi.name for roi in self.pair.catalogue.rois if roi.kind == kind), None)

    def roi(self, name: str) -> RoiVoxels | None:
        """An ROI of the data set; None if it has no voxel."""
        return self.rois.get(name)

    def metric_error(self, name: str, metric: str) -> float:
        """|predicted - reference| of a DVH metric of an ROI, in the metric's unit.

        Raises:
            ValueError: If the ROI has no voxel.
        """
        found = self.rois.get(name)
        if found is None:
            raise ValueError(f"ROI '{name}' has no voxel in case '{self.pair.case}'")
        parsed, volume_cc = Metric.parse(metric), self.pair.voxel_volume_cc
        reference, predicted = (
            evaluate(parsed, dose_gy, voxel_volume_cc=volume_cc) for dose_gy in (found.reference_gy, found.predicted_gy)
        )
        return abs(predicted - reference)
