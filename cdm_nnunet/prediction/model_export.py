"""Export of a trained model as a package, and checks of packages."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cdm_nnunet import __version__
from cdm_nnunet.documents import plain, read_json, read_text
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.models.card import model_card
from cdm_nnunet.models.describe import describe_model
from cdm_nnunet.models.manifest import FoldRecord, Manifest, Precision
from cdm_nnunet.models.members import CARD, DATASET, MANIFEST, PLANS, SCORES, limit_of, more_name, weights_name
from cdm_nnunet.models.package import Package, json_bytes, refuse_existing, write_package
from cdm_nnunet.nnunet.checkpoint import Checkpoint
from cdm_nnunet.nnunet.model import TrainedModel, model_digest
from cdm_nnunet.nnunet.packaged import checkpoint_with, model_of_package, packed_weights, read_given_weights
from cdm_nnunet.prediction.model import Model
from cdm_nnunet.prediction.models import Found, PackageFound
from cdm_nnunet.prediction.spread import LoadedModel
from cdm_nnunet.prediction_record import Origin

_OF_PATIENTS = ("patients", "published_validation", "excluded", "without_reference_dose")  # facts with case names
_NOT_CARRIED = (PLANS, DATASET, "predict_from_raw_data_args.json")


@dataclass(frozen=True, kw_only=True)
class ModelExport:
    """Contents and options of a package.

    Attributes:
        out: A new ZIP file (``.zip``) or folder.
        name: Name of the model; None for the name of the file or folder.
        precision: Precision of the weights; None keeps that of an exported package, else single.
        weights: A file with weights that replace the checkpoint's (one fold); None for the checkpoint's.
        result: ``result.json`` of the model's evaluation, or its folder; None for no scores.
        card: A completed model card; None for one made from the records.
        more: Further JSON files to include.
    """

    out: Path
    name: str | None = None
    precision: Precision | None = None
    weights: Path | None = None
    result: Path | None = None
    card: Path | None = None
    more: tuple[Path, ...] = ()

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self.name or self.out.name.removesuffix(".zip")


def export_model(found: Found, request: ModelExport) -> dict[str, Any]:
    """Write a model package, read it back, and check that it predicts with the intended weights.

    Args:
        found: A model in nnU-Net's folders, or another package: with a completed card, or in half precision.
        request: Contents and options.

    Returns:
        The record shown by ``model info``.

    Raises:
        InputError: If the model, the weights, the result or the card do not fit, or the package exists already.
        OSError: If it can't be written.
    """
    refuse_existing(request.out)
    model = found.read()
    earlier = Package.read(found.path) if isinstance(found, PackageFound) else None
    if request.weights is not None:
        model = _with_weights(model, request.weights)
    plans, dataset_json = model.plans, _without_patients(model.dataset_json)
    manifest = _manifest(model, earlier, request)
    scores = None if earlier is None or request.weights is not None else earlier.scores
    if request.result is not None:
        scores = _scores(request.result, model, halved=manifest.precision == "half" and not _is_half(earlier))
    contents = {
        MANIFEST: json_bytes(manifest.to_json()),
        PLANS: json_bytes(plans),
        DATASET: json_bytes(dataset_json),
        CARD: (_given_card(request, earlier) or model_card(manifest, plans, dataset_json, scores)).encode(),
        **({} if scores is None else {SCORES: json_bytes(scores)}),
        **{more_name(name): json_bytes(content) for name, content in _more(found, earlier, request.more).items()},
        **{weights_name(one.fold): packed_weights(one.weights, manifest.precision) for one in model.checkpoints},
    }
    write_package(request.out, contents)
    return verify_model(request.out)


def verify_model(path: Path) -> dict[str, Any]:
    """Read everything in a package, build its network and load the weights.

    Returns:
        As :func:`describe_model`.

    Raises:
        InputError: If a member is damaged or does not fit the others.
    """
    package = Package.read(path)
    package.verify()
    Model.of(model_of_package(package), LoadedModel(PackageFound(path), "cpu"))
    return describe_model(package)


def _with_weights(model: TrainedModel, file: Path) -> TrainedModel:
    if len(model.checkpoints) != 1:
        raise InputError(f"--weights replaces the weights of one fold, not of {len(model.checkpoints)}: give one -f")
    (checkpoint,) = model.checkpoints
    return replace(model, checkpoints=(checkpoint_with(checkpoint, read_given_weights(file, checkpoint.weights)),))


def _without_patients(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """``dataset.json`` without data of single patients, because packages are passed on."""
    section = dict(dataset_json["cdm"])
    if isinstance(facts := section.get("facts"), Mapping):
        section["facts"] = {key: value for key, value in facts.items() if key not in _OF_PATIENTS}
    return {**dataset_json, "cdm": section}


def _manifest(model: TrainedModel, earlier: Package | None, request: ModelExport) -> Manifest:
    known = {} if earlier is None else {one.fold: one for one in earlier.manifest.folds}
    versions = {name: version(name) for name in ("nnunetv2", "torch", "safetensors")}
    try:
        return Manifest(
            format_version=1,
            name=request.model_name if request.name or earlier is None else earlier.manifest.name,
            made=date.today().isoformat(),
            precision=request.precision or ("single" if earlier is None else earlier.manifest.precision),
            dataset=str(model.plans["dataset_name"]),
            trainer=model.trainer_name,
            plans=str(model.plans["plans_name"]),
            configuration=model.configuration,
            plans_sha256=model_digest(model.plans, model.dataset_json),
            folds=tuple(_fold(one, known.get(one.fold), request.weights is not None) for one in model.checkpoints),
            versions={"cdm_nnunet": __version__, **versions, "python": platform.python_version()},
        )
    except ValueError as error:
        raise InputError(
            f"'{request.model_name}' (--name) is not a valid model name: letters, digits, '.', '_' and '-', up to 64"
        ) from error


def _fold(checkpoint: Checkpoint, earlier: FoldRecord | None, given: bool) -> FoldRecord:
    return FoldRecord(
        fold=checkpoint.fold,
        epochs=checkpoint.epoch,
        weights_sha256=checkpoint.digest if given or earlier is None else earlier.weights_sha256,
        settings=checkpoint.settings,
        weights_from="file" if given else "checkpoint" if earlier is None else earlier.weights_from,
    )


def _given_card(request: ModelExport, earlier: Package | None) -> str | None:
    """The given card, or the completed card of an exported package; None for neither."""
    if request.card is not None:
        return read_text(request.card, "it is the model card, Markdown", max_bytes=limit_of(CARD))
    if earlier is None:
        return None
    made = model_card(earlier.manifest, earlier.plans, earlier.dataset_json, earlier.scores)
    return None if earlier.card == made else earlier.card


def _more(found: Found, earlier: Package | None, given: tuple[Path, ...]) -> dict[str, Any]:
    """JSON files from the training in the model's folder, and others."""
    carried = {} if earlier is None else earlier.more
    left = [] if earlier is not None else [path for path in sorted(found.path.glob("*.json")) if path.is_file()]
    for path in [*(path for path in left if path.name not in _NOT_CARRIED), *given]:
        if not limit_of(more_name(path.name)):
            raise InputError(f"{path} can't be carried: its name is not of letters, digits, '.', '_' and '-'")
        carried[path.name] = read_json(path, dict[str, Any])
    return carried


def _is_half(earlier: Package | None) -> bool:
    return earlier is not None and earlier.manifest.precision == "half"


def _scores(result: Path, model: TrainedModel, *, halved: bool) -> dict[str, Any]:
    """The scores of an evaluation, without its cases.

    Args:
        result: ``result.json``.
        model: The model to export.
        halved: Whether the export converts its weights to half precision.

    Raises:
        InputError: If the evaluation belongs to another model.
    """
    evaluation = load_evaluation(result)
    notes = [*evaluation.notes, *(["the scores are of the weights in single precision"] if halved else [])]
    if isinstance(evaluation.model, Origin):
        _refuse_other_model(result, evaluation.model, model)
    elif evaluation.model is not None:
        raise InputError(f"{result} (--result) is of a mean of several models, not of this one")
    return {
        "dataset": evaluation.dataset,
        "template": evaluation.template.name,
        "n_cases": len(evaluation.cases),
        "n_left_out": len(evaluation.left_out),
        "notes": notes,
        "model": None if evaluation.model is None else plain(evaluation.model),
        "calibration": None if evaluation.calibration is None else plain(evaluation.calibration),
        "scores": evaluation.scores.to_json(),
    }


def _refuse_other_model(result: Path, origin: Origin, model: TrainedModel) -> None:
    mend = "predict and evaluate with this model, or leave --result out"
    if origin.plans_sha256 != model_digest(model.plans, model.dataset_json) or origin.trainer != model.trainer_name:
        raise InputError(f"{result} (--result) is of a model with other plans or of another trainer; {mend}")
    if sorted(origin.weights_sha256) != sorted(one.digest for one in model.checkpoints):
        raise InputError(f"{result} (--result) is of other weights than those to export; {mend}")
