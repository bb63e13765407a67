"""UIDs of a written RTDOSE, set anew: a dose that is predicted again for the same input is the same object."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import UID

from cdm_nnunet.dicom.files import read_file
from cdm_nnunet.files import replacing


def set_dose_uids(path: Path, out: Path, sop_uid: str, series_uid: str) -> None:
    """Write a copy of an RTDOSE that differs in its UIDs alone.

    Args:
        path: The file.
        out: The copy.
        sop_uid: SOPInstanceUID.
        series_uid: SeriesInstanceUID.

    Raises:
        OSError: If the copy does not read back as it should.
    """
    dataset = read_file(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    dataset.SeriesInstanceUID = series_uid
    with replacing(out) as partial:
        dataset.save_as(partial, enforce_file_format=True)
        if read_file(partial) != dataset:
            raise OSError(f"{out} was not read back as it was written")
