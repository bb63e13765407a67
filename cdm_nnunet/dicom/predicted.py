"""Marks of doses that this software predicted, by which they are recognised among planned doses."""

from __future__ import annotations

from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import text_of

MANUFACTURER = "cdm_nnunet"
MODEL_NAME = "dose prediction"
SERIES_DESCRIPTION = "PREDICTED dose - research only, not for treatment"
COMMENT = "Predicted by a neural network, not calculated; not for treatment"
KEYWORDS = ("Manufacturer", "SeriesDescription", "DoseComment")


def is_prediction(header: Dataset, where: object) -> bool:
    """Whether a dose is a prediction; one mark of three is enough, since an archive may change the others.

    Args:
        header: Has the elements of :data:`KEYWORDS` where the file has them.
        where: File, for messages.
    """
    marks = (MANUFACTURER, SERIES_DESCRIPTION[:14], COMMENT[:30])
    found = (text_of(header, keyword, where, "").casefold() for keyword in KEYWORDS)
    return any(text.startswith(mark.casefold()) for text, mark in zip(found, marks, strict=True))
