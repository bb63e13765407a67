"""The exact cumulative dose-volume histogram, and the distance of two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh.values import checked_doses


@dataclass(frozen=True, eq=False)
class DvhCurve:
    """An exact cumulative DVH, a step function (``docs/conventions.md``, "DVH curve").

    Attributes:
        dose_gy: The distinct voxel doses, ascending, shape (m,), Gy.
        volume_percent: Volume that receives at least that dose, descending, shape (m,), percent of the ROI.
    """

    dose_gy: NDArray[np.float64]
    volume_percent: NDArray[np.float64]

    def volume_percent_at(self, dose_gy: NDArray[np.floating] | float) -> NDArray[np.float64]:
        """Volume that receives at least the given doses, in percent; same shape as ``dose_gy``."""
        steps = np.append(self.volume_percent, 0.0)
        return np.asarray(steps[np.searchsorted(self.dose_gy, dose_gy, side="left")])


def cumulative_dvh(roi_dose_gy: NDArray[np.floating]) -> DvhCurve:
    """The cumulative DVH of one region of interest, without binning.

    Args:
        roi_dose_gy: Doses of the ROI's voxels in Gy, shape (n_voxels,), in any order.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.values.checked_doses`.

    Example:
        >>> curve = cumulative_dvh(np.array([1.0, 2.0, 2.0, 4.0]))
        >>> curve.dose_gy, curve.volume_percent
        (array([1., 2., 4.]), array([100.,  75.,  25.]))
        >>> curve.volume_percent_at(np.array([0.0, 2.0, 2.5, 9.0]))
        array([100.,  75.,  25.,   0.])
    """
    dose_gy, first = np.unique(np.sort(checked_doses(roi_dose_gy).astype(np.float64)), return_index=True)
    n = np.size(roi_dose_gy)
    return DvhCurve(dose_gy, 100.0 * (n - first) / n)


def dvh_distance_gy(roi_dose_gy: NDArray[np.floating], other_dose_gy: NDArray[np.floating]) -> float:
    """Area between two cumulative DVHs, exact (``docs/conventions.md``, "DVH distance").

    ``integral |V(d) - W(d)| dd`` with V and W as fractions of the volume: the mean shift of voxel dose that turns one
    curve into the other. Usually the arguments are two doses of one ROI; the numbers of voxels may differ.

    Args:
        roi_dose_gy: Voxel doses in Gy, shape (n,), in any order.
        other_dose_gy: Voxel doses in Gy, shape (m,), in any order.

    Returns:
        The distance in Gy.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.values.checked_doses`.

    Example:
        >>> dvh_distance_gy(np.array([10.0, 20.0]), np.array([21.0, 12.0]))
        1.5

    References:
        The 1-Wasserstein distance of two one-dimensional distributions: S. S. Vallender, Theory Probab. Appl. 18 (1974)
        784-786.
    """
    first, second = (np.sort(checked_doses(dose).astype(np.float64)) for dose in (roi_dose_gy, other_dose_gy))
    if first.size == second.size:
        return float(np.abs(first - second).mean())
    dose_gy = np.sort(np.concatenate((first, second)))
    below = [np.searchsorted(part, dose_gy[:-1], side="right") / part.size for part in (first, second)]
    return float(np.abs(below[0] - below[1]) @ np.diff(dose_gy))
