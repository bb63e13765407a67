"""The record ``model.json`` of a model package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from cdm_nnunet.documents import STRICT, parse_json, plain, typed
from cdm_nnunet.errors import InputError

FORMAT_VERSION = 1
Precision = Literal["single", "half"]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_CONFIG = ConfigDict(**STRICT, extra="forbid")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class FoldRecord:
    """One fold of a model.

    Attributes:
        fold: Its number, or ``all``.
        epochs: That it was trained for.
        weights_sha256: Digest of the weights that the export was given, single precision: see
            :func:`cdm_nnunet.nnunet.checkpoint.weights_digest`.
        settings: Of the training, by name; None if the checkpoint does not have them.
        weights_from: What gave the weights: the ``checkpoint``, or a ``file`` in its place (averaged weights).
    """

    fold: Annotated[str, Field(pattern=r"^(\d{1,3}|all)$")]
    epochs: Annotated[int, Field(ge=0)]
    weights_sha256: _Digest
    settings: Mapping[str, bool | int | float | str | None] | None
    weights_from: Literal["checkpoint", "file"]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Manifest:
    """What a model package says of itself: ``model.json``.

    Attributes:
        format_version: Version of this format.
        name: Of the model.
        made: Date of the export, as 2026-01-31.
        precision: Of the weights in the package; ``half`` are converted to single precision when they are read.
        dataset: Data set that the model was trained on, as its plans have it.
        trainer: Class of the trainer.
        plans: Name of the plans.
        configuration: Such as ``3d_fullres``.
        plans_sha256: Digest of plans and ``dataset.json``: see :func:`cdm_nnunet.nnunet.model.model_digest`.
        folds: In the order in which their doses are averaged.
        versions: Of this software, nnU-Net, torch and Python at the export.
    """

    format_version: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    made: str
    precision: Precision
    dataset: str
    trainer: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    plans: str
    configuration: str
    plans_sha256: _Digest
    folds: Annotated[tuple[FoldRecord, ...], Field(min_length=1, max_length=32)]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The content of ``model.json``."""
        content: dict[str, Any] = plain(self)
        return content


def parse_manifest(text: str, where: str) -> Manifest:
    """Check a ``model.json``.

    Raises:
        InputError: If it is of another format version, a key is missing or unknown, or a fold is duplicate.
    """
    content = parse_json(text, dict[str, Any], where)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{where} has format version {version}, this software reads {FORMAT_VERSION}; update it")
    manifest = typed(content, Manifest, where)
    folds = [one.fold for one in manifest.folds]
    if len(set(folds)) < len(folds):
        raise InputError(f"{where} names a fold twice")
    return manifest
