"""Batches with overlapping, absent and tiny ROIs, and terms on them, for tests of the losses."""

import numpy as np
import torch

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.terms import Term, Terms

N_ROIS = 20  # more than one word
SHAPE = (5, 6, 7)
VOXEL_CC = 0.03
SCALE_GY = 70.0
KEYS = ("D99%", "D95%", "D50%", "D2%", "D0.1cc", "Dmean", "Dmax", "V20Gy", "V95%")
ABSENT, ONE_VOXEL, UNPRESCRIBED = 3, 5, 7


def terms_of(*pairs: tuple[int, str], weights: tuple[float, ...] | None = None) -> Terms:
    return Terms(
        tuple(
            Term(bit, Metric.parse(key), weight, bit == 0)
            for (bit, key), weight in zip(pairs, weights or [1.0] * len(pairs), strict=True)
        )
    )


ALL_TERMS = Terms(
    tuple(
        Term(bit, Metric.parse(key), 0.5 + (bit + t) % 3, bit == 0)
        for bit in range(N_ROIS)
        for t, key in enumerate(KEYS)
    )
)


def patients(seed: int, batch: int = 1, dtype=torch.float32):
    """Predicted and reference dose, words, masks and prescriptions of a batch."""
    generator = np.random.default_rng(seed)
    predicted, reference = generator.gamma(6.0, 6.0, (2, batch, 1, *SHAPE))
    masks = generator.random((batch, N_ROIS, *SHAPE)) < generator.uniform(0.05, 0.9, (batch, N_ROIS, 1, 1, 1))
    masks[:, ABSENT] = masks[:, ONE_VOXEL] = False
    masks[:, ONE_VOXEL, 1, 2, 3] = True
    prescription = generator.uniform(30, 70, (batch, N_ROIS))
    prescription[:, UNPRESCRIBED] = np.nan
    to = lambda array: torch.from_numpy(array).to(dtype)  # noqa: E731
    return to(predicted), to(reference), pack_words(torch.from_numpy(masks)), masks, prescription.tolist()
