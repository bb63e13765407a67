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
        fold: Number of the fold, or ``all``.
        epochs: Epochs of its training.
        weights_sha256: Digest of the exported weights in single precision: see
            :func:`cdm_nnunet.nnunet.checkpoint.weights_digest`.
        settings: Settings of the training by name; None if the checkpoint has none.
        weights_from: Source of the weights: the ``checkpoint``, or a ``file`` instead (averaged weights).
    """

    fold: Annotated[str, Field(pattern=r"^(\d{1,3}|all)$")]
    epochs: Annotated[int, Field(ge=0)]
    weights_sha256: _Digest
    settings: Mapping[str, bool | int | float | str | None] | None
    weights_from: Literal["checkpoint", "file"]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Manifest:
    """Manifest of a model package: ``model.json``.

    Attributes:
        format_version: Version of the format.
        name: Name of the model.
        made: Date of the export, as 2026-01-31.
        precision: Precision of the stored weights; ``half`` is converted to single precision when read.
        dataset: Data set of the training, as in its plans.
        trainer: Class of the trainer.
        plans: Name of the plans.
        configuration: Such as ``3d_fullres``.
        plans_sha256: Digest of plans and ``dataset.json``: see :func:`cdm_nnunet.nnunet.model.model_digest`.
        folds: Folds in the order in which their doses are averaged.
        versions: Versions of this software, nnU-Net, torch and Python at the export.
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
        InputError: If it has another format version, a key is missing or unknown, or a fold is duplicate.
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
