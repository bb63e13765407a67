"""ROI masks as bits, and the catalogue that names them."""

from cdm_nnunet.roi.bits import (
    MAX_ROIS,
    WORD_BITS,
    bit_dtype,
    from_words,
    mask_from_words,
    n_words,
    pack,
    permute_bits,
    refuse_stray_bits,
    to_words,
    unpack,
)
from cdm_nnunet.roi.catalogue import Catalogue, Roi, RoiKind

__all__ = [
    "MAX_ROIS",
    "WORD_BITS",
    "Catalogue",
    "Roi",
    "RoiKind",
    "bit_dtype",
    "from_words",
    "mask_from_words",
    "n_words",
    "pack",
    "permute_bits",
    "refuse_stray_bits",
    "to_words",
    "unpack",
]
