"""A trained model: the checkpoints of its folds, and the plans of their training, which determine its prediction.

Every checkpoint holds the plans and the ``dataset.json`` of its training, and its weights a digest of both. The copies
in the model's folder are for nnU-Net's own commands; if they differ from a checkpoint's, the model is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from cdm_nnunet.documents import differences, read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import FINAL, Checkpoint, read_checkpoint
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.trainer_class import trainer_class

_PLANS, _DATASET = "plans.json", "dataset.json"
_NOT_PLANNED = ("continue_training", "label_manager")  # set by nnU-Net's command; replaced by ours
_DATASET_KEYS = ("channel_names", "labels", "file_ending", "overwrite_image_reader_writer")
_SECTION_KEYS = ("format_version", "units", "catalogue")
_MARK = "cdm"


@dataclass(frozen=True)
class TrainedModel:
    """Folds of one model.

    Attributes:
        folder: ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``, or the model package.
        checkpoints: One per fold, all of the same trainer, configuration, plans and ``dataset.json``.
        name: Name of the model package; None for a model in nnU-Net's folders.
    """

    folder: Path
    checkpoints: tuple[Checkpoint, ...]
    name: str | None = None

    @property
    def plans(self) -> dict[str, Any]:
        """Plans of the training."""
        return self.checkpoints[0].plans

    @property
    def dataset_json(self) -> dict[str, Any]:
        """The ``dataset.json`` of the training."""
        return self.checkpoints[0].dataset_json

    @property
    def configuration(self) -> str:
        """Such as ``3d_fullres``."""
        return self.checkpoints[0].configuration

    @property
    def trainer_name(self) -> str:
        """Class of the trainer."""
        return self.checkpoints[0].trainer_name

    def network(self, manager: PlansManager) -> nn.Module:
        """The network of the plans, without deep supervision, with the weights of the first fold.

        Raises:
            InputError: If the trainer is missing, the plans do not define a network, or weights do not fit it.
        """
        configuration = manager.get_configuration(self.configuration)
        try:
            trainer = trainer_class(self.trainer_name)
        except InputError as error:
            raise InputError(f"{self.folder} was trained by '{self.trainer_name}', which is not installed") from error
        channels = DosePlans(self.plans).n_channels
        try:
            network: nn.Module = trainer.build_network_architecture(
                manager, configuration, channels, 1, enable_deep_supervision=False
            )
        except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
            raise InputError(f"the plans of {self.folder} make no network: {error}") from None
        for checkpoint in self.checkpoints:
            if unlike := unlike_weights(network, checkpoint.weights):
                raise InputError(f"{checkpoint.path} does not fit its plans: {unlike}")
        network.load_state_dict(self.checkpoints[0].weights)
        return network


def read_model(folder: Path, folds: Sequence[int | str], checkpoint_name: str = FINAL) -> TrainedModel:
    """Read the folds of a model.

    Args:
        folder: Folder of the model.
        folds: Numbers of folds, or ``all``.
        checkpoint_name: The file in each fold's folder.

    Raises:
        InputError: If a checkpoint is missing, damaged or of another fold, the folds were not trained alike, or the
            plans or ``dataset.json`` in the folder are not those of the training.
    """
    if not folds:
        raise InputError(f"no fold of {folder} has a {checkpoint_name}")
    checkpoints = tuple(read_checkpoint(folder / f"fold_{fold}" / checkpoint_name) for fold in folds)
    for fold, checkpoint in zip(folds, checkpoints, strict=True):
        if checkpoint.fold != str(fold):
            raise InputError(f"{checkpoint.path} is of fold {checkpoint.fold}; was it copied there by hand?")
    model = model_of(folder, checkpoints)
    _refuse_other_copies(model)
    return model


def model_of(folder: Path, checkpoints: tuple[Checkpoint, ...]) -> TrainedModel:
    """A model from checkpoints that have been read.

    Args:
        folder: Their folder, for messages.
        checkpoints: One per fold, at least one.

    Raises:
        InputError: If the plans are not ours, or the folds were not trained alike.
    """
    first = checkpoints[0]
    DosePlans(first.plans)
    if first.configuration not in first.plans["configurations"]:
        raise InputError(f"{first.path}: its plans have no configuration '{first.configuration}'")
    for other in checkpoints[1:]:
        alike = (first.trainer_name, first.configuration) == (other.trainer_name, other.configuration)
        unlike = "" if alike else "another trainer or configuration"
        if unlike := unlike or differences(facts_of(first), facts_of(other)):
            raise InputError(
                f"{first.path.parent.name} and {other.path.parent.name} of {folder} were not trained alike ({unlike}): "
                "the mean of their doses belongs to no model; predict with folds that were"
            )
    return TrainedModel(folder, checkpoints)


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """:func:`model_facts` of the training that wrote a checkpoint."""
    return model_facts(checkpoint.plans, checkpoint.dataset_json)


def model_facts(plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's doses depend on besides its weights: the plans, and the images in ``dataset.json``."""
    section = dataset_json.get("cdm", {})
    return {
        "plans": {key: value for key, value in plans.items() if key not in _NOT_PLANNED},
        "dataset": {
            **{key: dataset_json.get(key) for key in _DATASET_KEYS},
            "cdm": {key: section.get(key) for key in _SECTION_KEYS} if isinstance(section, Mapping) else section,
        },
    }


def model_digest(plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> str:
    """SHA-256 of :func:`model_facts`."""
    return hashlib.sha256(json.dumps(model_facts(plans, dataset_json), sort_keys=True).encode()).hexdigest()


def mark(weights: Mapping[str, Tensor], plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of weights, with the digest of their training plans."""
    return {**getattr(weights, "_metadata", {}), _MARK: {"model": model_digest(plans, dataset_json)}}


def refuse_other_plans(
    weights_of_folds: Sequence[Mapping[str, Tensor]] | None, plans: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> None:
    """Check that weights were trained with these plans, also if nnU-Net's own command loaded both.

    Raises:
        InputError: If they were not. Weights of earlier versions have no digest and pass.
    """
    here = model_digest(plans, dataset_json) if weights_of_folds else None
    for weights in weights_of_folds or ():
        trained = getattr(weights, "_metadata", {}).get(_MARK, {}).get("model", here)
        if trained != here:
            raise InputError(
                "the plans.json or dataset.json in the model's folder is not that of its training; "
                "'cdm-nnunet predict' names the differences"
            )


def unlike_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Number of weights that do not fit a network, and an example; empty if all fit."""
    own = network.state_dict()
    unlike = [key for key in sorted({*own, *weights}) if key not in own or key not in weights]
    unlike += [key for key in own if key in weights and own[key].shape != weights[key].shape]
    return f"{len(unlike)} of {len(own)} weights do not fit, such as {unlike[0]}" if unlike else ""


def facts_in(folder: Path) -> dict[str, Any] | None:
    """:func:`model_facts` of the folds in a model's folder; None if there is no fold."""
    checkpoints = sorted(folder.glob("fold_*/checkpoint_*.pth"))
    if checkpoints and (folder / _PLANS).is_file() and (folder / _DATASET).is_file():
        with contextlib.suppress(InputError):  # (then a checkpoint has them)
            return model_facts(_read(folder / _PLANS), _read(folder / _DATASET))
    for path in checkpoints:
        with contextlib.suppress(InputError):
            return facts_of(read_checkpoint(path))
    return None


def refuse_other_folds(folder: Path, plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> None:
    """Check that a training fits the existing folds in a model's folder.

    Args:
        folder: Folder of the model.
        plans: Plans of the training.
        dataset_json: ``dataset.json`` of the training.

    Raises:
        InputError: If another fold was trained with other plans.
    """
    trained = facts_in(folder)
    if trained is not None and (unlike := differences(trained, model_facts(plans, dataset_json))):
        raise InputError(
            f"{folder} holds folds that were trained with other plans ({unlike}): give the new plans another name "
            "('cdm-nnunet plan -p NAME', then train with -p NAME)"
        )


def _refuse_other_copies(model: TrainedModel) -> None:
    mend = "delete it: the checkpoint has its own copy, which 'cdm-nnunet predict' uses"
    for name, trained in ((_PLANS, model.plans), (_DATASET, model.dataset_json)):
        path = model.folder / name
        if not path.exists():
            continue
        pair = ({k: v for k, v in one.items() if k not in _NOT_PLANNED} for one in (trained, _read(path, mend)))
        if unlike := differences(*pair):
            raise InputError(f"{path} is not the one that the model was trained with ({unlike}); {mend}")


def _read(path: Path, mend: str = "") -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, dict[str, Any], mend)
    return content
