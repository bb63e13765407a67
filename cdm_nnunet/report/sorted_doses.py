"""Doses of each ROI in ascending order, rounded down to 0.001 Gy: what the page computes any DVH metric from."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.evaluation.scene import Scene

STEP_GY = 0.001
_ESCAPE = 255


def sorted_doses(scene: Scene) -> tuple[dict[str, Any], bytes]:
    """Pack the doses of all ROIs.

    Args:
        scene: The case.

    Returns:
        For the page: ``step_gy``, ``voxel_cc``, and ``rois``, by ROI and dose the first code and the number of bytes;
        and gzip of the bytes, in the same order: how much each code is above the one before, in base 255 (as many
        bytes of 255 as fit, then the rest).
    """
    pieces = []
    rois: dict[str, Any] = {}
    for name, mask in scene.masks.items():
        rois[name] = {}
        for dose, dose_gy in scene.doses_gy.items():
            codes = dose_codes(np.sort(dose_gy[mask]))
            pieces.append(steps_as_bytes(np.diff(codes, prepend=codes[0])))
            rois[name][dose] = [int(codes[0]), pieces[-1].size]
    voxel_cc = float(np.prod(scene.grid.spacing_zyx_mm)) / 1000
    packed = gzip.compress(b"".join(piece.tobytes() for piece in pieces), compresslevel=6, mtime=0)
    return {"step_gy": STEP_GY, "voxel_cc": voxel_cc, "rois": rois}, packed


def dose_codes(dose_gy: NDArray[np.floating]) -> NDArray[np.int64]:
    """The highest multiple of the step that each dose reaches, in the type of the doses, as metrics compare them.

    Example:
        >>> dose_codes(np.array([33.1, 33.0999], np.float32)).tolist()
        [33100, 33099]
    """
    codes = np.floor(dose_gy.astype(np.float64) / STEP_GY).astype(np.int64)

    def reached(step: int) -> NDArray[np.bool_]:
        return np.asarray(((codes + step) * STEP_GY).astype(dose_gy.dtype) <= dose_gy)

    return codes + reached(1) - ~reached(0)


def steps_as_bytes(steps: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Numbers from 0 on as bytes: 255 as often as it fits, then the rest.

    Example:
        >>> steps_as_bytes(np.array([0, 3, 255, 511])).tolist()
        [0, 3, 255, 0, 255, 255, 1]
    """
    ends = np.cumsum(steps // _ESCAPE + 1) - 1
    bytes_ = np.full(int(ends[-1]) + 1, _ESCAPE, np.uint8)
    bytes_[ends] = steps % _ESCAPE
    return bytes_
