"""DVH metrics of a dose and a mask in one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.values import evaluate_all
from cdm_nnunet.errors import InputError
from cdm_nnunet.ranges import DOSE_MAXIMUM_GY, VOXEL_SIZE_MM

_MM3_PER_CC = 1000.0


def metrics(
    dose_gy: ArrayLike,
    mask: ArrayLike,
    spacing_mm: Sequence[float] | None,
    keys: Iterable[str] | str,
    *,
    prescription_gy: float | None = None,
) -> dict[str, float]:
    """DVH metrics of one ROI, from the dose and the mask of the ROI on one grid.

    Definitions: ``docs/conventions.md``, "DVH metrics". Keys may have the form of TG-263, such as ``D95%[Gy]``,
    ``Mean[Gy]`` and ``V20Gy[cc]``.

    Args:
        dose_gy: Dose in Gy, floats, of any shape, such as (Z, Y, X).
        mask: Mask of the ROI: booleans, or zeros and ones, of the shape of the dose.
        spacing_mm: Size of a voxel, one number for each axis. Only their product counts, so (z, y, x) and (x, y, z)
            are the same here. None if no metric needs a volume in cc.
        keys: Metrics, such as ``["D95%", "Dmean", "V20Gy", "D0.03cc"]``.
        prescription_gy: Prescription of the ROI in Gy, for metrics in percent of it, such as ``V95%``.

    Returns:
        Values by key as given, in the unit of the metric: Gy, percent of the ROI's volume, cc, or a plain number.

    Raises:
        InputError: If the shapes differ, the mask is empty or holds other values, a voxel size is not plausible in mm,
            the dose is not in Gy, a metric needs a voxel size or prescription that is not given, a key is not a metric,
            or as :func:`cdm_nnunet.dvh.evaluate`.

    Example:
        >>> dose_gy = np.linspace(0, 70, 1000).reshape(10, 10, 10)
        >>> metrics(dose_gy, dose_gy > 35, (3, 2, 2), ["D95%", "Dmean", "V60Gy", "V60Gy[cc]"])  # doctest: +ELLIPSIS
        {'D95%': 36.7..., 'Dmean': 52.5..., 'V60Gy': 28.6, 'V60Gy[cc]': 1.716}
    """
    parsed = {key: Metric.parse(key) for key in ([keys] if isinstance(keys, str) else keys)}
    dose, roi = np.asarray(dose_gy), _as_mask(mask)
    if dose.shape != roi.shape:
        raise InputError(f"dose and mask are on one grid: the dose has the shape {dose.shape}, the mask {roi.shape}")
    if dose.dtype.kind in "iu":
        dose = dose.astype(np.float64)
    roi_dose_gy = dose[roi]
    if roi_dose_gy.size and DOSE_MAXIMUM_GY.possible[1] < (highest := float(roi_dose_gy.max())) < math.inf:
        DOSE_MAXIMUM_GY.refuse_impossible(highest)
    found = evaluate_all(
        parsed.values(),
        roi_dose_gy,
        voxel_volume_cc=_voxel_volume_cc(spacing_mm, roi.ndim, parsed.values()),
        prescription_gy=prescription_gy,
    )
    return dict(zip(parsed, found, strict=True))


def _as_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    given = np.asarray(mask)
    if given.dtype == bool:
        return given
    values = np.unique(given)
    if given.dtype.kind not in "iuf" or not np.isin(values, (0, 1)).all():
        raise InputError(
            f"a mask holds booleans, or zeros and ones, not {given.dtype} with {values.size} values: pick an ROI by "
            "'labels == number'"
        )
    return given.astype(bool)


def _voxel_volume_cc(spacing_mm: Sequence[float] | None, n_axes: int, wanted: Iterable[Metric]) -> float:
    if spacing_mm is None:
        for metric in wanted:
            if metric.needs_volume:
                raise InputError(f"{metric} asks for a volume in cc: give the size of a voxel in mm (spacing_mm)")
        return 1.0  # (no metric uses it)
    sizes = [float(size) for size in spacing_mm]
    if len(sizes) != n_axes:
        raise InputError(f"spacing_mm has one number for each axis: {n_axes}, not {len(sizes)}")
    for size in sizes:
        VOXEL_SIZE_MM.refuse_impossible(size, "spacing_mm")
    return math.prod(sizes) / _MM3_PER_CC
