"""Origin of the predictions in a folder: their model, from the records in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdm_nnunet.dataset import CHANNEL_NAMES, RawDataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import Refusals, fence_of
from cdm_nnunet.prediction_record import Made, PredictionRecord, digest_of, record_path

NO_RECORD = (
    "the predictions have no record ('cdm-nnunet predict' writes one): which model made them, and from which images, "
    "is not known"
)
NO_ORIGIN = "the records of the predictions do not say which model made them"
NO_INPUTS = "the records of the predictions do not say from which images they were made"


def origin_of_predictions(
    dataset: RawDataset, doses: Mapping[str, Path], refusals: Refusals | None = None
) -> tuple[Made | None, tuple[str, ...]]:
    """Read the records of predictions, and check that they belong to one model and to the data set's images.

    Args:
        dataset: The raw data set.
        doses: The predicted dose of each case.
        refusals: Collects cases whose dose can't be used; without it, such a case ends the check.

    Returns:
        The common origin, None if unknown; and sentences on unknown facts.

    Raises:
        InputError: If the doses belong to several models or options. For a case: if its record is damaged, or missing
            while others have one, or its dose does not match the record, or was predicted from other images than
            the data set's.
    """
    have_one = [case for case, dose in doses.items() if record_path(dose).exists()]
    if not have_one:
        return None, (NO_RECORD,)
    records: dict[str, PredictionRecord] = {}
    for case, dose in doses.items():
        with fence_of(case, refusals):
            if case not in have_one:
                raise InputError(_without_record(case, dose, have_one, len(doses)))
            record = PredictionRecord.of_dose(dose)
            _refuse_other_images(dataset, case, record)
            records[case] = record
    if not records:
        return None, ()
    origin = _common_origin(records, next(iter(doses.values())).parent)
    unknown_inputs = any(record.inputs_sha256 is None for record in records.values())
    return origin, (*((NO_ORIGIN,) if origin is None else ()), *((NO_INPUTS,) if unknown_inputs else ()))


def _without_record(case: str, dose: Path, have_one: Sequence[str], n_doses: int) -> str:
    return (
        f"{record_path(dose)} is missing, and case '{have_one[0]}' has its record ({n_doses - len(have_one)} of "
        f"{n_doses} predictions lack one): it is unknown which model predicted case '{case}'; predict it again "
        "(--continue_prediction keeps the others)"
    )


def _refuse_other_images(dataset: RawDataset, case: str, record: PredictionRecord) -> None:
    if record.inputs_sha256 is None:
        return
    # (by channel: the images may have had another name)
    predicted_from: Sequence[str] = [record.inputs_sha256[name] for name in sorted(record.inputs_sha256)]
    paths = [dataset.image_path(case, channel) for channel in range(len(CHANNEL_NAMES))]
    own = [digest_of(path) if path.is_file() else None for path in paths]
    others = [path for path, digest, used in zip(paths, own, predicted_from, strict=False) if digest != used]
    if others or len(own) != len(predicted_from):
        raise InputError(
            f"case '{case}' was predicted from other images than those of {dataset.folder.name} "
            f"({(others or paths)[0].name} differs); predict with the images of this data set"
        )


def _common_origin(records: Mapping[str, PredictionRecord], folder: Path) -> Made | None:
    (first, record), *others = records.items()
    for case, other in others:
        if (record.origin is None) != (other.origin is None):
            unlike = "one record names its model, the other does not"
        else:
            unlike = record.origin.unlike(other.origin) if record.origin and other.origin else ""
        if unlike:
            raise InputError(
                f"{folder} holds predictions of several models, or made in several ways: of cases '{first}' and "
                f"'{case}' {unlike}; keep one folder for each, or predict all cases again"
            )
    return record.origin
