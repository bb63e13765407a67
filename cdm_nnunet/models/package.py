"""A model package: a trained model in one folder or ZIP file, without pickle. The format: ``docs/models.md``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cdm_nnunet.documents import parse_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import passing_folder, replacing
from cdm_nnunet.models.manifest import NAME, Manifest, parse_manifest
from cdm_nnunet.models.members import (
    CARD,
    DATASET,
    MANIFEST,
    MAX_TOTAL_BYTES,
    PLANS,
    SCORES,
    SUMS,
    Members,
    limit_of,
    weights_name,
)

_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # of members of a ZIP file: the same model gives an identical file


@dataclass(frozen=True)
class Package:
    """A complete model package; contents are read and checked when needed.

    Attributes:
        members: Members of the folder or ZIP file.
        manifest: Its manifest.
    """

    members: Members
    manifest: Manifest

    @classmethod
    def read(cls, path: Path) -> Package:
        """Read a package.

        Raises:
            InputError: If it is not a package, is damaged, or has another format version.
        """
        members = Members.of(path)
        manifest = parse_manifest(_text(members, MANIFEST), f"{MANIFEST} in {path}")
        wanted, there = {weights_name(one.fold) for one in manifest.folds}, {*members.sums}
        if strays := {name for name in there if name.startswith("weights/")} ^ wanted:
            raise InputError(f"{path}: {MANIFEST} and the members disagree about {', '.join(sorted(strays))}")
        return cls(members, manifest)

    @property
    def path(self) -> Path:
        """The folder or ZIP file."""
        return self.members.path

    @cached_property
    def plans(self) -> dict[str, Any]:
        """The plans of the training."""
        return self._json(PLANS)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """The ``dataset.json`` of the training, without data of single patients."""
        return self._json(DATASET)

    @property
    def scores(self) -> dict[str, Any] | None:
        """Scores of an evaluation, if one was exported."""
        return self._json(SCORES) if SCORES in self.members.sums else None

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return _text(self.members, CARD)

    @property
    def more(self) -> dict[str, Any]:
        """JSON files from the training, by file name."""
        return {name.removeprefix("more/"): self._json(name) for name in self.members.sums if name.startswith("more/")}

    def weights(self, fold: str) -> bytes:
        """The weights of a fold, safetensors.

        Raises:
            InputError: If they are damaged.
        """
        return self.members.read(weights_name(fold))

    def verify(self) -> dict[str, int]:
        """Read everything and compare it with its SHA-256.

        Returns:
            Size of each member in bytes.

        Raises:
            InputError: If a member is damaged.
        """
        for name in self.members.sums:
            content = self.members.read(name)
            if name.endswith(".json"):
                self._parsed(name, content)
        return dict(self.members.sizes)

    def _json(self, name: str) -> dict[str, Any]:
        return self._parsed(name, self.members.read(name))

    def _parsed(self, name: str, content: bytes) -> dict[str, Any]:
        where = f"{name} in {self.path}"
        parsed: dict[str, Any] = parse_json(_decoded(content, where), dict[str, Any], where)
        return parsed


def _text(members: Members, name: str) -> str:
    return _decoded(members.read(name), f"{name} in {members.path}")


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not text in UTF-8 ({error.reason}, byte {error.start})") from None


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Encode a JSON member.

    Raises:
        ValueError: If a number is not finite.
    """
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def write_package(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a package; it appears under its name only when complete.

    Args:
        path: A ZIP file (``.zip``), or a folder.
        contents: Content of all members by name, without ``SHA256SUMS``.

    Raises:
        InputError: If it exists already, or a member would be too large.
        OSError: If it can't be written.
    """
    refuse_existing(path)
    for name, content in contents.items():
        if len(content) > limit_of(name):
            raise InputError(f"{name} would have {len(content):,} bytes; a model holds at most {limit_of(name):,}")
    if sum(map(len, contents.values())) > MAX_TOTAL_BYTES:
        raise InputError("the model would have more than 4 GiB: export fewer folds, or half precision (--half)")
    sums = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    whole = {**contents, SUMS: sums.encode()}
    if path.suffix == ".zip":
        _write_zip(path, whole)
    else:
        _write_folder(path, whole)


def refuse_existing(path: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        InputError: If the path exists already.
    """
    if path.exists():
        raise InputError(f"{path} exists already; choose another -o, or move it away")


def _write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    # (inside a folder, so that unpacking does not mix its files with others)
    inside = path.name.removesuffix(".zip")
    inside = inside if re.fullmatch(NAME, inside) else "model"
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{inside}/{name}", _FIRST_DATE)
            entry.external_attr = 0o100644 << 16
            # (weights hardly compress)
            entry.compress_type = zipfile.ZIP_STORED if name.startswith("weights/") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def _write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    with passing_folder(path.absolute().parent, f".{path.name}_") as work:
        made = work / "model"
        for name, content in contents.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        os.replace(made, path)
