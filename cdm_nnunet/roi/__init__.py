"""ROI masks as bits, and the catalogue that names them."""

from cdm_nnunet.roi.bits import (
    MAX_ROIS,
    WORD_BITS,
    add_mask,
    bit_dtype,
    from_words,
    mask_from_words,
    mask_of,
    n_words,
    pack,
    permute_bits,
    refuse_stray_bits,
    to_words,
    unpack,
    used_bits,
)
from cdm_nnunet.roi.catalogue import Catalogue, Roi, RoiKind

__all__ = [
    "MAX_ROIS",
    "WORD_BITS",
    "Catalogue",
    "Roi",
    "RoiKind",
    "add_mask",
    "bit_dtype",
    "from_words",
    "mask_from_words",
    "mask_of",
    "n_words",
    "pack",
    "permute_bits",
    "refuse_stray_bits",
    "to_words",
    "unpack",
    "used_bits",
]
