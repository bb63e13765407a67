"""Records of the doses of a predictor, and the choice of cases that need not be predicted again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from cdm_nnunet.dataset import FILE_ENDING, case_of_image
from cdm_nnunet.documents import typed
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import weights_digest
from cdm_nnunet.nnunet.compute import bare
from cdm_nnunet.nnunet.model import TrainedModel, model_digest
from cdm_nnunet.prediction_record import Origin, PredictionRecord, Setting, digest_of, digests_of


@dataclass(frozen=True)
class Training:
    """Training information in the checkpoints of a model.

    Attributes:
        configuration: Such as ``3d_fullres``.
        settings: Settings of each fold; None if its checkpoint has none.
        package: Name of the model package; None for a model in nnU-Net's folders.
    """

    configuration: str
    settings: Mapping[str, dict[str, Setting] | None]
    package: str | None = None

    @classmethod
    def of(cls, model: TrainedModel) -> Training:
        """Training of a model's folds.

        Raises:
            InputError: If the settings in a checkpoint are invalid.
        """
        settings: dict[str, dict[str, Setting] | None] = {}
        for checkpoint in model.checkpoints:
            stored, where = checkpoint.settings, f"{checkpoint.path}: settings"
            settings[checkpoint.fold] = None if stored is None else typed(stored, dict[str, Setting], where)
        return cls(model.configuration, settings, model.name)


def origin_of(predictor: nnUNetPredictor, training: Training | None) -> Origin:
    """Origin of the doses of a predictor with a loaded model; without its training if that is not known."""
    manager, weights = predictor.plans_manager, predictor.list_of_parameters or [bare(predictor.network).state_dict()]
    return Origin(
        dataset=str(manager.dataset_name),
        trainer=str(predictor.trainer_name),
        plans=str(manager.plans_name),
        plans_sha256=model_digest(manager.plans, predictor.dataset_json),
        spacing_mm=[float(mm) for mm in predictor.configuration_manager.spacing],
        weights_sha256=[weights_digest(of_fold) for of_fold in weights],
        tile_step_size=float(predictor.tile_step_size),
        mirroring=bool(predictor.use_mirroring),
        gaussian=bool(predictor.use_gaussian),
        configuration=None if training is None else training.configuration,
        folds=None if training is None else list(training.settings),
        settings=None if training is None else dict(training.settings),
    )


def unfinished(
    cases: Sequence[list[str]], output: str | Sequence[str], origin: Origin
) -> tuple[list[list[str]], list[str]]:
    """The cases whose dose is missing, or was predicted from other input.

    Args:
        cases: For each case the files of its channels.
        output: Folder of the doses, or each dose's file without its extension.
        origin: Origin of the doses to predict.

    Returns:
        Their files, and the file of each dose without its extension.

    Raises:
        InputError: If there is a dose that another model predicted, or that was changed afterwards.
    """
    if isinstance(output, str):
        names = [case_of_image(files[0]) for files in cases]
        output = [str(Path(output) / name) for name in names]
    left = [(files, out) for files, out in zip(cases, output, strict=True) if not _is_finished(files, out, origin)]
    return [files for files, _ in left], [out for _, out in left]


def _is_finished(files: Sequence[str], output: str, origin: Origin) -> bool:
    dose = Path(output + FILE_ENDING)
    try:
        record = PredictionRecord.read(dose)
    except InputError:  # (interrupted, or of an earlier version: the origin of the dose is unknown)
        return False
    if not dose.is_file() or record.origin is None:
        return False
    mend = "choose another folder (-o), or leave out --continue_prediction to predict all cases again"
    if unlike := record.origin.unlike(origin):
        raise InputError(f"{dose} was predicted by another model or in another way ({unlike}); {mend}")
    if record.dose_sha256 != digest_of(dose):
        raise InputError(f"{dose} has changed since it was predicted; {mend}")
    return record.inputs_sha256 == digests_of(files)
