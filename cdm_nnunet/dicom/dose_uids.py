"""New UIDs for a written RTDOSE: the same input gives the same UIDs in every prediction."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import UID

from cdm_nnunet.dicom.files import read_file
from cdm_nnunet.files import replacing


def set_dose_uids(path: Path, out: Path, sop_uid: str, series_uid: str) -> None:
    """Write a copy of an RTDOSE with other UIDs.

    Args:
        path: The file.
        out: The copy.
        sop_uid: SOPInstanceUID.
        series_uid: SeriesInstanceUID.

    Raises:
        OSError: If the copy reads back differently.
    """
    dataset = read_file(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    dataset.SeriesInstanceUID = series_uid
    with replacing(out) as partial:
        dataset.save_as(partial, enforce_file_format=True)
        if read_file(partial) != dataset:
            raise OSError(f"{out} was not read back as it was written")
