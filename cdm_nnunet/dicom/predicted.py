"""Marks that distinguish doses predicted by this software from planned doses."""

from __future__ import annotations

from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import text_of

WARNING = "PREDICTED, NOT FOR TREATMENT"
MANUFACTURER = "cdm_nnunet"
MODEL_NAME = "dose prediction"
SERIES_DESCRIPTION = f"{WARNING} (dose of a neural network)"  # (at most 64 characters, as the comment)
COMMENT = f"{WARNING}: by a network, not calculated"
KEYWORDS = ("Manufacturer", "SeriesDescription", "DoseComment")
_MARKS = (
    (MANUFACTURER,),
    (WARNING, "PREDICTED dose"),  # the second as earlier versions wrote it
    (WARNING, "Predicted by a neural network"),
)


def is_prediction(header: Dataset, where: object) -> bool:
    """Whether a dose is a prediction; one of three marks is enough, because an archive may change the others.

    Args:
        header: Header with the elements of :data:`KEYWORDS`, if present in the file.
        where: File, for messages.
    """
    found = (text_of(header, keyword, where, "").casefold() for keyword in KEYWORDS)
    return any(text.startswith(mark.casefold()) for text, marks in zip(found, _MARKS, strict=True) for mark in marks)
