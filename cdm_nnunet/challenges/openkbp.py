"""OpenKBP: its ROIs, prescriptions, two scores, and the rounding of its official evaluator.

References:
    A. Babier et al., OpenKBP: The open-access knowledge-based planning grand challenge and dataset, Med. Phys. 48
    (2021) 5549-5561; https://github.com/ababier/open-kbp.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cdm_nnunet.challenges.challenge import Challenge, Rounding, Score, ScoredCase, Terms

DOSE_REGION_FILE = "possible_dose_mask"
ROI_FILES: Mapping[str, str] = {
    "PTV70": "PTV_7000",
    "PTV63": "PTV_6300",
    "PTV56": "PTV_5600",
    "Brainstem": "Brainstem",
    "SpinalCord": "SpinalCord",
    "RightParotid": "Parotid_R",
    "LeftParotid": "Parotid_L",
    "Esophagus": "Esophagus",
    "Larynx": "Larynx",
    "Mandible": "Bone_Mandible",
    DOSE_REGION_FILE: "DoseRegion",
}
"""TG-263's names by published file."""
PRESCRIPTIONS_GY: Mapping[str, float] = {"PTV_7000": 70.0, "PTV_6300": 63.0, "PTV_5600": 56.0}
FRACTIONS = 35  # of all plans (Babier et al. 2021)

OARS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
TARGET_METRICS = ("D99%[openkbp]", "D95%[openkbp]", "D1%[openkbp]")
OAR_METRICS = ("Dmean", "D0.1cc[openkbp]")


def _applies(case: ScoredCase) -> bool:
    return case.name_of("dose_region") is not None and {*PRESCRIPTIONS_GY, *OARS} <= set(case.roi_names)


def _terms(case: ScoredCase) -> Terms | None:
    """The dose error sums over the whole grid and divides by the voxels of the dose region."""
    region = case.roi(case.name_of("dose_region") or "")
    if region is None:
        return None
    error_gy = np.abs(case.predicted_dose_gy - case.reference_dose_gy)
    metrics = [(roi, metric) for roi in PRESCRIPTIONS_GY for metric in TARGET_METRICS]
    metrics += [(roi, metric) for roi in OARS for metric in OAR_METRICS]
    return {
        "dose_error_gy": float(error_gy.sum(dtype=np.float64)) / int(np.count_nonzero(region.mask)),
        "dvh_errors_gy": {
            f"{roi} {metric}": case.metric_error(roi, metric) for roi, metric in metrics if case.roi(roi) is not None
        },
    }


def _fraction_at_cc(value_cc: float, n_voxels: int, voxel_volume_cc: float) -> float:
    voxels = max(1.0, float(round((1000 * value_cc) / (1000 * voxel_volume_cc))))  # in mm3: ties round the same way
    return 1.0 - min(voxels, n_voxels) / n_voxels


OPENKBP = Challenge(
    name="openkbp",
    title="OpenKBP",
    definition=(
        "As the official evaluator computes them: the dose score sums |difference| over all voxels and divides by the "
        "number of voxels of the dose region; the DVH score is the mean over D99 %, D95 %, D1 % of the targets, Dmean "
        "and D0.1 cc of the OARs."
    ),
    scores=(
        Score(key="dose_score", terms="dose_error_gy", title="OpenKBP dose score", unit="Gy"),
        Score(key="dvh_score", terms="dvh_errors_gy", title="OpenKBP DVH score", unit="Gy"),
    ),
    applies=_applies,
    terms=_terms,
    rounding=Rounding(name="openkbp", at_percent=lambda x: (100.0 - x) / 100.0, at_cc=_fraction_at_cc),
)
