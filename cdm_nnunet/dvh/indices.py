"""Plan quality indices of a 3D dose: conformity, gradient, and the overlap of isodose volumes.

Pure functions of arrays on one grid with voxels of equal volume, so that volumes are numbers of voxels. Definitions:
``docs/conventions.md``, "Plan indices". The homogeneity index is a DVH metric, key ``HI``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError


def paddick_conformity(
    dose_gy: NDArray[np.floating], target: NDArray[np.bool_], prescription_gy: float, isodose_percent: float = 100.0
) -> float:
    """Paddick's conformity index, ``TV_PIV^2 / (TV PIV)``.

    TV is the target volume, PIV the volume of the prescription isodose, TV_PIV their intersection. 1 is ideal.

    Args:
        dose_gy: Dose in Gy, any shape; give the whole dose, since PIV includes the volume outside the target.
        target: Mask of the target, same shape.
        prescription_gy: Prescription in Gy.
        isodose_percent: Isodose that should cover the target, percent of the prescription.

    Returns:
        From 0 to 1; NaN if no voxel reaches the isodose, for which the index is not defined.

    Raises:
        InputError: If shapes differ, the target is empty, a dose is not finite, or a level is not above zero.

    Example:
        >>> dose_gy = np.array([70.0, 70.0, 70.0, 20.0])
        >>> paddick_conformity(dose_gy, np.array([True, True, False, False]), 70.0)
        0.6666666666666666

    References:
        I. Paddick, J. Neurosurg. 93 Suppl. 3 (2000) 219-222.
    """
    volume, covered, isodose = _volumes(dose_gy, target, prescription_gy, isodose_percent)
    return covered**2 / (volume * isodose) if isodose else math.nan


def rtog_conformity(
    dose_gy: NDArray[np.floating], target: NDArray[np.bool_], prescription_gy: float, isodose_percent: float = 100.0
) -> float:
    """The RTOG conformity index, ``PIV / TV``; 1 is ideal, but does not depend on the isodose's position.

    Args and errors are those of :func:`paddick_conformity`.

    Returns:
        0 or more.

    Example:
        >>> dose_gy = np.array([70.0, 70.0, 70.0, 20.0])
        >>> rtog_conformity(dose_gy, np.array([True, True, False, False]), 70.0)
        1.5

    References:
        E. Shaw et al., Int. J. Radiat. Oncol. Biol. Phys. 27 (1993) 1231-1239.
    """
    volume, _, isodose = _volumes(dose_gy, target, prescription_gy, isodose_percent)
    return isodose / volume


def r50(dose_gy: NDArray[np.floating], target: NDArray[np.bool_], prescription_gy: float) -> float:
    """R50%, the volume of the isodose of half the prescription over the target volume.

    Args and errors are those of :func:`paddick_conformity`.

    Example:
        >>> r50(np.array([70.0, 40.0, 36.0, 20.0]), np.array([True, False, False, False]), 70.0)
        3.0

    References:
        RTOG 0813 and 0915 protocols; ICRU Report 91 (2017).
    """
    return rtog_conformity(dose_gy, target, prescription_gy, isodose_percent=50.0)


def gradient_index(dose_gy: NDArray[np.floating], prescription_gy: float) -> float:
    """Paddick's gradient index: volume of the isodose of half the prescription over that of the prescription.

    Args:
        dose_gy: Dose in Gy, any shape.
        prescription_gy: Prescription in Gy.

    Returns:
        1 or more, lower is steeper; NaN if no voxel reaches the prescription.

    Raises:
        InputError: If a dose is not finite, or the prescription is not above zero.

    Example:
        >>> gradient_index(np.array([70.0, 40.0, 36.0, 20.0]), 70.0)
        3.0

    References:
        I. Paddick and B. Lippitz, J. Neurosurg. 105 Suppl. (2006) 194-201.
    """
    half, full = (int(np.count_nonzero(_isodose(dose_gy, prescription_gy, percent))) for percent in (50.0, 100.0))
    return half / full if full else math.nan


def isodose_dice(
    reference_dose_gy: NDArray[np.floating], predicted_dose_gy: NDArray[np.floating], level_gy: float
) -> float:
    """Dice coefficient of the two volumes that receive at least a dose.

    Args:
        reference_dose_gy: Dose in Gy, any shape.
        predicted_dose_gy: Dose in Gy, same shape.
        level_gy: The isodose, Gy.

    Returns:
        From 0 to 1; NaN if neither dose reaches the level.

    Raises:
        InputError: If shapes differ, a dose is not finite, or the level is not above zero.

    Example:
        >>> isodose_dice(np.array([50.0, 60.0, 70.0]), np.array([40.0, 61.0, 64.0]), 60.0)
        1.0
    """
    if np.shape(reference_dose_gy) != np.shape(predicted_dose_gy):
        shapes = f"{np.shape(reference_dose_gy)} and {np.shape(predicted_dose_gy)}"
        raise InputError(f"the two doses are on different grids, {shapes}")
    first, second = (_isodose(dose_gy, level_gy, 100.0) for dose_gy in (reference_dose_gy, predicted_dose_gy))
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else math.nan


def _volumes(
    dose_gy: NDArray[np.floating], target: NDArray[np.bool_], prescription_gy: float, isodose_percent: float
) -> tuple[int, int, int]:
    """Numbers of voxels of the target, of the isodose in the target, and of the isodose."""
    if np.shape(dose_gy) != np.shape(target):
        raise InputError(f"the dose has shape {np.shape(dose_gy)}, the target {np.shape(target)}")
    if np.asarray(target).dtype != np.bool_:
        raise InputError(f"the target is a mask of booleans, not of {np.asarray(target).dtype}")
    volume = int(np.count_nonzero(target))
    if volume == 0:
        raise InputError("the target is empty: it has no conformity and must be left out")
    isodose = _isodose(dose_gy, prescription_gy, isodose_percent)
    return volume, int(np.count_nonzero(isodose & target)), int(np.count_nonzero(isodose))


def _isodose(dose_gy: NDArray[np.floating], prescription_gy: float, percent: float) -> NDArray[np.bool_]:
    """Mask of dose at or above a percentage of the prescription; the level is rounded to the type of the doses."""
    dose_gy = np.asarray(dose_gy)
    if dose_gy.dtype.kind != "f":
        raise InputError(f"expected doses as floats, not {dose_gy.dtype}")
    if not np.isfinite(dose_gy).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(dose_gy))} of {dose_gy.size} voxel doses are not finite")
    level_gy = prescription_gy * percent / 100.0
    if not (math.isfinite(level_gy) and level_gy > 0):
        raise InputError(f"an isodose is above zero and finite, not {level_gy} Gy")
    reached: NDArray[np.bool_] = dose_gy >= dose_gy.dtype.type(level_gy)
    return reached
