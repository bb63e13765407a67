"""Trained models from packages, and their weights as safetensors."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from cdm_nnunet.documents import parse_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.models.manifest import FoldRecord, Precision
from cdm_nnunet.models.members import weights_name
from cdm_nnunet.models.package import Package
from cdm_nnunet.nnunet.checkpoint import Checkpoint, weights_digest
from cdm_nnunet.nnunet.model import TrainedModel, mark, model_digest, model_of

_ALIASES = "same_as"  # in the header: names that share the values of others
_MAX_HEADER_BYTES = 2**20
_KINDS = (torch.float32, torch.float16, torch.int64)


def packed_weights(weights: Mapping[str, Tensor], precision: Precision) -> bytes:
    """Weights as safetensors; values with several names are stored once.

    Raises:
        InputError: If a value is not finite, or exceeds half precision.
    """
    stored: dict[str, Tensor] = {}
    same_as: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, value in weights.items():
        one = value.detach().cpu().contiguous()
        if one.is_floating_point():
            one = _in_precision(name, one.float(), precision)
        digest = weights_digest({"": one})
        if digest in first:
            same_as[name] = first[digest]
        else:
            first[digest], stored[name] = name, one.clone()
    return save(stored, {_ALIASES: json.dumps(same_as)})


def _in_precision(name: str, value: Tensor, precision: Precision) -> Tensor:
    if not torch.isfinite(value).all():
        raise InputError(f"weight {name} is not finite: the training has diverged")
    if precision == "single":
        return value
    halved = value.half()
    if not torch.isfinite(halved).all():
        raise InputError(f"weight {name} has values up to {value.abs().max():g}, which half precision can't hold")
    return halved


def unpacked_weights(content: bytes, where: str) -> dict[str, Tensor]:
    """The inverse of :func:`packed_weights`, in single precision.

    Raises:
        InputError: If it is damaged, not safetensors, or contains anything but finite numbers of known types.
    """
    same_as = _same_as(content, where)
    try:
        stored = load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{where} is not in the format safetensors: {' '.join(str(error).split())[:160]}") from None
    for name, value in stored.items():
        if value.dtype not in _KINDS or (value.is_floating_point() and not torch.isfinite(value).all()):
            raise InputError(f"{where}: weight {name} is not finite, or of type {value.dtype}")
    single = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    if unknown := {*same_as.values()} - {*single} or {*same_as} & {*single}:
        raise InputError(f"{where}: the names of weights contradict each other, such as {min(unknown)}")
    return {**single, **{name: single[other] for name, other in same_as.items()}}


def _same_as(content: bytes, where: str) -> dict[str, str]:
    n_bytes = int.from_bytes(content[:8], "little")
    if len(content) < 8 or n_bytes > min(_MAX_HEADER_BYTES, len(content) - 8):
        raise InputError(
            f"{where} is not in the format safetensors: its header is cut, or larger than {_MAX_HEADER_BYTES:,} bytes"
        )
    text = content[8 : 8 + n_bytes].decode("utf-8", errors="replace")
    header = parse_json(text, dict[str, Any], where)
    metadata = header.get("__metadata__")
    names = metadata.get(_ALIASES, "{}") if isinstance(metadata, dict) else "{}"
    return parse_json(str(names), dict[str, str], f"{where}: {_ALIASES}")


def read_package(path: Path, folds: Sequence[str] = ()) -> TrainedModel:
    """The trained model in a package.

    Args:
        path: The folder or ZIP file.
        folds: Folds to read; empty for all.

    Raises:
        InputError: If the package is damaged, plans, weights and manifest contradict each other, or a fold is missing.
    """
    return model_of_package(Package.read(path), folds)


def model_of_package(package: Package, folds: Sequence[str] = ()) -> TrainedModel:
    """As :func:`read_package`, from an open package."""
    manifest = package.manifest
    there = {one.fold: one for one in manifest.folds}
    if missing := set(folds) - {*there}:
        raise InputError(f"{package.path} has no fold {min(missing)}; it has {', '.join(there)}")
    if model_digest(package.plans, package.dataset_json) != manifest.plans_sha256:
        raise InputError(f"{package.path}: plans.json or dataset.json is not that of the training")
    model = model_of(package.path, tuple(_checkpoint(package, there[fold]) for fold in folds or there))
    said, is_so = (manifest.dataset, manifest.plans), (package.plans["dataset_name"], package.plans["plans_name"])
    if said != is_so:
        raise InputError(f"{package.path}: model.json says {', '.join(said)}, and plans.json {', '.join(is_so)}")
    return replace(model, name=manifest.name)


def _checkpoint(package: Package, fold: FoldRecord) -> Checkpoint:
    """A fold as a checkpoint of a finished training."""
    where = f"{weights_name(fold.fold)} in {package.path}"
    plans, dataset_json, manifest = package.plans, package.dataset_json, package.manifest
    weights = OrderedDict(unpacked_weights(package.weights(fold.fold), where))
    if manifest.precision == "single" and weights_digest(weights) != fold.weights_sha256:
        raise InputError(f"{where} are not the weights that model.json names")
    vars(weights)["_metadata"] = mark(weights, plans, dataset_json)
    content = {
        "network_weights": weights,
        "init_args": {
            "plans": plans,
            "dataset_json": dataset_json,
            "configuration": manifest.configuration,
            "fold": fold.fold,
        },
        "trainer_name": manifest.trainer,
        "current_epoch": fold.epochs,
        "logging": {},
        "cdm": {} if fold.settings is None else {"settings": dict(fold.settings)},
    }
    return Checkpoint(package.path, content)


def read_given_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read weights that replace a checkpoint's, such as their average over the training.

    Args:
        path: safetensors, or a state dict written by ``torch.save`` (also as ``network_weights`` or ``state_dict``
            of a dictionary, or of an ``AveragedModel``). Nothing named in the file is imported or called.
        expected: The checkpoint's weights: names and shapes must be the same.

    Raises:
        InputError: If it is not such a file, or names or shapes differ.
    """
    if not path.is_file():
        raise InputError(f"no file {path} (--weights)")
    weights = _bare_names(_state_dict(path))
    unlike = [name for name in sorted({*weights, *expected}) if name not in weights or name not in expected]
    unlike += [name for name, value in expected.items() if name in weights and weights[name].shape != value.shape]
    if unlike:
        raise InputError(
            f"{path} (--weights) is of another network: {len(unlike)} of {len(expected)} weights do not fit, such as "
            f"{unlike[0]}"
        )
    return {name: weights[name].to(value.dtype) for name, value in expected.items()}


def _state_dict(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return unpacked_weights(path.read_bytes(), str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # torch may raise anything for a foreign file
        raise InputError(f"{path} (--weights) is not a state dict: {' '.join(str(error).split())[:160]}") from None
    for key in ("network_weights", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} (--weights) is not a state dict: it holds other things than tensors by name")
    return {str(name): value.detach().clone() for name, value in content.items()}


def _bare_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes of torch's averaging, DDP and compilation."""
    weights = {name: value for name, value in weights.items() if name != "n_averaged"}
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def checkpoint_with(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> Checkpoint:
    """Replace the weights of a checkpoint."""
    return Checkpoint(checkpoint.path, {**checkpoint.content, "network_weights": dict(weights)})
