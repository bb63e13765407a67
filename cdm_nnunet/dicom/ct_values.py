"""Checks of CT values between neighbouring images: damaged or rescaled images, and two merged scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Volume
from cdm_nnunet.ranges import NO_TISSUE_HU

MAX_STEP_HU = 300.0  # change of the mean if both neighbours show tissue; anatomy and metal change it far less
_MIN_TISSUE = 0.01  # of the pixels
_UNLIKE = 1.1  # an image is of another scan if it differs this many times as much as its two neighbours do, ...
_UNLIKE_PART = 0.9  # ... if this share of the images agrees, ...
_FEWEST = 10  # ... among this many images
_PIXEL_STEP = 4  # along rows and columns


def refuse_odd_images(volume: Volume, where: Path) -> None:
    """Compare each image with its two neighbours.

    Args:
        volume: A CT in HU, planes along the first axis.
        where: A file of the series, for messages.

    Raises:
        InputError: If an image is constant and its neighbours are not, or its tissue has other HU than theirs.
    """
    values_hu = volume.values
    varies = np.ptp(values_hu.reshape(len(values_hu), -1), axis=1) > 0
    z_mm = volume.grid.origin_xyz_mm[2] + volume.grid.offsets_xyz_mm[2]
    for k in range(1, len(values_hu) - 1):
        said = f"CT series of {where}: the image at z = {z_mm[k]:g} mm"
        below, above = values_hu[k - 1], values_hu[k + 1]
        if varies[k - 1] and varies[k + 1] and not varies[k]:
            raise InputError(f"{said} has one value everywhere, unlike its neighbours; is it damaged?")
        tissue = (below > NO_TISSUE_HU) & (above > NO_TISSUE_HU)
        if np.count_nonzero(tissue) < _MIN_TISSUE * tissue.size:
            continue
        low_hu, mean_hu, high_hu = (float(image[tissue].mean()) for image in (below, values_hu[k], above))
        step_hu = max(mean_hu - max(low_hu, high_hu), min(low_hu, high_hu) - mean_hu)
        if step_hu > MAX_STEP_HU:
            raise InputError(
                f"{said} has {mean_hu:.0f} HU on average, but its neighbours have {low_hu:.0f} and {high_hu:.0f} HU; "
                "is its RescaleIntercept or RescaleSlope wrong, or is it damaged?"
            )


def refuse_two_scans(volume: Volume, where: Path) -> None:
    """Check that neighbouring images are more alike than those two apart; in two merged scans they are not.

    Args:
        volume: A CT in HU, planes along the first axis.
        where: A file of the series, for messages.

    Raises:
        InputError: If every other image of the series, or of a long stretch of it, is of another scan.
    """
    values_hu = np.clip(volume.values[:, ::_PIXEL_STEP, ::_PIXEL_STEP], NO_TISSUE_HU, MAX_STEP_HU)
    near, far = (np.abs(values_hu[k:] - values_hu[:-k]).mean((1, 2)) for k in (1, 2))
    unlike = np.minimum(near[:-1], near[1:]) > _UNLIKE * far
    if unlike.size < _FEWEST or np.lib.stride_tricks.sliding_window_view(unlike, _FEWEST).mean(1).max() < _UNLIKE_PART:
        return
    at = int(np.lib.stride_tricks.sliding_window_view(unlike, _FEWEST).mean(1).argmax())
    z_mm = volume.grid.origin_xyz_mm[2] + volume.grid.offsets_xyz_mm[2]
    raise InputError(
        f"CT series of {where}: from z = {z_mm[at]:g} mm on, images resemble those two places away more than "
        "their neighbours: two scans are interleaved; keep the images of one"
    )
