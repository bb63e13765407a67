"""A CT image whose values are unlike those of both its neighbours is damaged, or was rescaled in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cdm_nnunet.dicom.grid import Volume
from cdm_nnunet.errors import InputError
from cdm_nnunet.ranges import NO_TISSUE_HU

MAX_STEP_HU = 300.0  # of the mean where both neighbours show tissue; anatomy and metal change it by far less
_MIN_TISSUE = 0.01  # of the pixels


def refuse_odd_images(volume: Volume, where: Path) -> None:
    """Compare each image with the two beside it.

    Args:
        volume: A CT in HU, planes along the first axis.
        where: A file of the series, for the message.

    Raises:
        InputError: If an image has one value everywhere and its neighbours have not, or its tissue is not theirs.
    """
    values_hu = volume.values
    varies = np.ptp(values_hu.reshape(len(values_hu), -1), axis=1) > 0
    for k in range(1, len(values_hu) - 1):
        said = f"CT series of {where}: the image at z = {volume.grid.origin_mm[2] + volume.grid.offsets_mm[2][k]:g} mm"
        below, above = values_hu[k - 1], values_hu[k + 1]
        if varies[k - 1] and varies[k + 1] and not varies[k]:
            raise InputError(f"{said} has one value everywhere, and those beside it have not; is it damaged?")
        tissue = (below > NO_TISSUE_HU) & (above > NO_TISSUE_HU)
        if np.count_nonzero(tissue) < _MIN_TISSUE * tissue.size:
            continue
        low_hu, mean_hu, high_hu = (float(image[tissue].mean()) for image in (below, values_hu[k], above))
        step_hu = max(mean_hu - max(low_hu, high_hu), min(low_hu, high_hu) - mean_hu)
        if step_hu > MAX_STEP_HU:
            raise InputError(
                f"{said} has {mean_hu:.0f} HU on average where those beside it have {low_hu:.0f} and {high_hu:.0f} HU; "
                "is its RescaleIntercept or RescaleSlope wrong, or is it damaged?"
            )
