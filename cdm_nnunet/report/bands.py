"""DVH curves of a cohort: median and band of the cases' volumes at each dose, by ROI."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP_GY = 0.5
LEVELS_PERCENT = (5.0, 50.0, 95.0)
LEAST_CASES = 6
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""By ROI and dose: ascending doses (Gy) and volumes (percent) of a drawn curve."""


def cohort_bands(cases: Iterable[Curves], rois: Sequence[str]) -> dict[str, Any] | None:
    """Percentiles over cases of the volume at each dose.

    Args:
        cases: The drawn curves of each case.
        rois: Names of the ROIs in the displayed order.

    Returns:
        For the page: ``step_gy``, ``levels`` (percent), and by ROI with enough cases ``n`` and by dose one list
        per level, volumes in tenths of a percent from 0 Gy; None if no ROI has enough cases.
    """
    sampled: dict[str, dict[str, list[NDArray[np.float32]]]] = {}
    for curves in cases:
        for name, of_roi in curves.items():
            for dose, (dose_gy, volume_percent) in of_roi.items():
                volumes = _sampled(np.array(dose_gy), np.array(volume_percent))
                sampled.setdefault(name, {}).setdefault(dose, []).append(volumes)
    found = {
        name: {"n": len(next(iter(sampled[name].values()))), "volumes": _levels(sampled[name])}
        for name in rois
        if name in sampled and len(next(iter(sampled[name].values()))) >= LEAST_CASES
    }
    return {"step_gy": STEP_GY, "levels": LEVELS_PERCENT, "rois": found} if found else None


def packed_bands(bands: Mapping[str, Any]) -> bytes:
    """The bands as gzip of JSON."""
    return gzip.compress(json.dumps(bands).encode(), mtime=0)


def _sampled(dose_gy: NDArray[np.float64], volume_percent: NDArray[np.float64]) -> NDArray[np.float32]:
    """Volumes at multiples of the step, up to the first without volume."""
    grid_gy = np.arange(0.0, dose_gy[-1] + STEP_GY, STEP_GY)
    return np.interp(grid_gy, dose_gy, volume_percent, right=0.0).astype(np.float32)


def _levels(of_roi: Mapping[str, Sequence[NDArray[np.float32]]]) -> dict[str, list[list[int]]]:
    size = max(volumes.size for curves in of_roi.values() for volumes in curves)
    padded = {dose: [np.pad(one, (0, size - one.size)) for one in curves] for dose, curves in of_roi.items()}
    levels = {dose: np.percentile(curves, LEVELS_PERCENT, axis=0) for dose, curves in padded.items()}
    return {dose: (10 * volumes).round().astype(int).tolist() for dose, volumes in levels.items()}
