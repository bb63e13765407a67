"""Dose differences regardless of ROIs; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import isodose_dice
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.gamma import GammaRule, gamma_passes, judged_voxels
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.record import Band, DoseResult, GammaResult
from cdm_nnunet.roi import Catalogue

BODY_FROM_GY = 5.0
BAND_EDGES_PERCENT = (0.0, 20.0, 50.0, 80.0, 95.0)
ISODOSES_PERCENT = (20, 50, 80, 90, 95, 100)


def dose_region_name(catalogue: Catalogue) -> str | None:
    """ROI in which the dose error is averaged: the dose region, else the external, else None (the whole grid)."""
    return _first_of_kinds(catalogue, "dose_region", "external")


def compare_doses(pair: DosePair, *, gamma: Sequence[GammaRule] = ()) -> tuple[float, DoseResult]:
    """The mean absolute error in the dose region, and the differences of the doses.

    Args:
        pair: The doses and ROI masks of the case.
        gamma: Gamma criteria to compute.

    Returns:
        Dose MAE in Gy, and the rest.

    Raises:
        InputError: If the dose region, or the body, has no voxel.
    """
    error_gy = pair.predicted_dose_gy - pair.reference_dose_gy
    region = _mask(pair, dose_region_name(pair.catalogue))
    body = _mask(pair, _first_of_kinds(pair.catalogue, "external", "dose_region"))
    scale_gy = dose_scale_gy(pair)
    body_error_gy = error_gy[body & (pair.reference_dose_gy >= BODY_FROM_GY)]
    result = DoseResult(
        scale_gy=scale_gy,
        body_mae_gy=_mean(np.abs(body_error_gy)),
        body_n_voxels=int(body_error_gy.size),
        bands=_bands(error_gy[region], pair.reference_dose_gy[region], scale_gy),
        isodose_dice={
            str(percent): finite_or_none(
                isodose_dice(pair.reference_dose_gy, pair.predicted_dose_gy, percent * scale_gy / 100)
            )
            for percent in ISODOSES_PERCENT
        },
        gamma=tuple(gamma_result(pair, rule) for rule in gamma),
    )
    return dose_mae_gy(pair), result


def dose_mae_gy(pair: DosePair) -> float:
    """The mean absolute error in the dose region, Gy.

    Raises:
        InputError: If the dose region has no voxel.
    """
    region = _mask(pair, dose_region_name(pair.catalogue))
    error_gy = pair.predicted_dose_gy - pair.reference_dose_gy
    return float(np.abs(error_gy[region]).mean(dtype=np.float64))


def dose_scale_gy(pair: DosePair) -> float:
    """The dose of 100 %: the case's highest prescription, else its highest reference dose, Gy."""
    return float(max(pair.prescriptions_gy.values(), default=float(pair.reference_dose_gy.max())))


def finite_or_none(value: float) -> float | None:
    """None for NaN (undefined)."""
    return value if math.isfinite(value) else None


def _first_of_kinds(catalogue: Catalogue, *kinds: str) -> str | None:
    return next((roi.name for kind in kinds for roi in catalogue.rois if roi.kind == kind), None)


def _mask(pair: DosePair, name: str | None) -> NDArray[np.bool_]:
    if name is None:
        return np.ones(pair.reference_dose_gy.shape, bool)
    mask = pair.roi_mask(name)
    if not mask.any():
        raise InputError(f"case '{pair.case}': ROI '{name}', in which the dose error is averaged, has no voxel")
    return mask


def _bands(error_gy: NDArray[np.floating], reference_gy: NDArray[np.floating], scale_gy: float) -> tuple[Band, ...]:
    edges = [*BAND_EDGES_PERCENT, None]
    # (compared in the type of the doses, as in V_x)
    inner_gy = np.array([percent * scale_gy / 100 for percent in BAND_EDGES_PERCENT[1:]], reference_gy.dtype)
    band_of = np.searchsorted(inner_gy, reference_gy, side="right")
    bands = []
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = error_gy[band_of == number]
        bands.append(
            Band(
                from_percent=low or 0.0,
                to_percent=high,
                n_voxels=int(inside.size),
                mae_gy=_mean(np.abs(inside)),
                mean_signed_gy=_mean(inside),
            )
        )
    return tuple(bands)


def gamma_failures(pair: DosePair, rule: GammaRule) -> NDArray[np.bool_]:
    """Mask of gamma above 1, shape (Z, Y, X); voxels below the threshold have no gamma."""
    failed = np.zeros(pair.reference_dose_gy.shape, np.bool_)
    voxels = judged_voxels(pair.reference_dose_gy, rule, _gamma_scale_gy(pair, rule))
    failed.ravel()[voxels] = ~_passes(pair, rule)
    return failed


def gamma_result(pair: DosePair, rule: GammaRule) -> GammaResult:
    """The gamma pass rate of a case."""
    passes = _passes(pair, rule)
    percent = 100.0 * float(passes.mean()) if passes.size else None
    return GammaResult(**asdict(rule), n_voxels=int(passes.size), pass_percent=percent)


_found: WeakKeyDictionary[DosePair, dict[GammaRule, NDArray[np.bool_]]] = WeakKeyDictionary()


def _passes(pair: DosePair, rule: GammaRule) -> NDArray[np.bool_]:
    """As :func:`gamma_passes`, cached for a pair because it takes seconds."""
    known = _found.setdefault(pair, {})
    if rule not in known:
        known[rule] = gamma_passes(
            pair.reference_dose_gy,
            pair.predicted_dose_gy,
            rule,
            spacing_mm=pair.spacing_mm,
            scale_gy=_gamma_scale_gy(pair, rule),
        )
    return known[rule]


def _gamma_scale_gy(pair: DosePair, rule: GammaRule) -> float:
    return float(pair.reference_dose_gy.max()) if rule.normalisation == "maximum" else dose_scale_gy(pair)


def _mean(values: NDArray[np.floating]) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None
