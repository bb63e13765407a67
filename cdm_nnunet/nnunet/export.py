"""Conversion of the network's output to a dose on the patient's grid."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.resampling import resample_dose, resample_nearest


def dose_on_patient_grid(
    output: NDArray[np.floating], properties: Mapping[str, Any], plans: DosePlans
) -> NDArray[np.float32]:
    """Undo scaling, resampling and cropping.

    Args:
        output: Network output on its grid, (1, Z', Y', X'), in units of the dose scale.
        properties: Properties from :class:`DosePreprocessor`.
        plans: The plans of the model.

    Returns:
        float32, (Z, Y, X), Gy: not negative, and zero outside the dose region if the catalogue has one.

    Raises:
        InputError: If the output is not finite: the model is broken, and none of its numbers can be trusted.
    """
    if not np.isfinite(output).all():
        raise InputError("the network's output is not finite; the model diverged in training and can't be used")
    shape = tuple(properties["shape_after_cropping_and_before_resampling"])
    packed = properties["cdm"]["dose_region"]
    if packed is None:
        dose_gy = resample_dose(output[0], None, shape)
    else:
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        region = np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)
        trained_on = resample_nearest(region[None], output.shape[1:])[0]  # beyond this the output is arbitrary
        dose_gy = resample_dose(output[0], trained_on, shape) * region
    dose_gy *= np.float32(plans.dose_scale_gy)
    whole = np.zeros(properties["shape_before_cropping"], np.float32)
    whole[tuple(slice(begin, end) for begin, end in properties["bbox_used_for_cropping"])] = dose_gy
    return whole
