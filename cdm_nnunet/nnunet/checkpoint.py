"""Checkpoints: atomic writes, checks on reading, and no execution of anything named in a file.

The layout is nnU-Net's, so that its own predictor reads them. They contain only plain numbers, text and tensors, and
our entry ``cdm``. A file is a ZIP archive: its CRC-32 sums reveal cut files and changed bytes before decoding.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import raise_write_error, replacing

FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Attributes:
        path: The file.
        content: Content as given to :func:`write_checkpoint`, with Python's numbers and tensors on the CPU.
    """

    path: Path
    content: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights of the network by name."""
        weights: dict[str, Tensor] = self.content["network_weights"]
        return weights

    @property
    def plans(self) -> dict[str, Any]:
        """The plans of the training."""
        plans: dict[str, Any] = self.content["init_args"]["plans"]
        return plans

    @property
    def dataset_json(self) -> dict[str, Any]:
        """The ``dataset.json`` of the training."""
        dataset_json: dict[str, Any] = self.content["init_args"]["dataset_json"]
        return dataset_json

    @property
    def configuration(self) -> str:
        """Such as ``3d_fullres``."""
        return str(self.content["init_args"]["configuration"])

    @property
    def fold(self) -> str:
        """Number of the fold, or ``all``."""
        return str(self.content["init_args"].get("fold"))

    @property
    def trainer_name(self) -> str:
        """Class of the trainer."""
        return str(self.content["trainer_name"])

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return int(self.content["current_epoch"])

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """Settings of the training; None in checkpoints of earlier versions."""
        settings: Mapping[str, Any] | None = self.content.get("cdm", {}).get("settings")
        return settings

    @property
    def started_at(self) -> float | None:
        """Start of the first epoch, seconds since 1970; it identifies the training."""
        started = self.content["logging"].get("epoch_start_timestamps")
        return float(started[0]) if started else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest(self.weights)


def write_checkpoint(path: Path, content: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint to a temporary file, then rename it.

    Args:
        path: The file.
        content: nnU-Net's entries, and ``cdm`` with our entries. NumPy's numbers become Python's.
        metadata: Metadata of the weights (torch's ``_metadata``), which are kept with them.

    Raises:
        OSError: If it can't be written, for example because the disk is full. An existing file is kept.
        TypeError: If the content is anything but numbers, text, tensors and containers of these.
    """
    whole = _plain(content)
    own = {"format_version": _FORMAT_VERSION, "weights_sha256": weights_digest(whole["network_weights"])}
    whole["cdm"] = {**whole.get("cdm", {}), **own}
    whole["network_weights"] = OrderedDict(whole["network_weights"])
    vars(whole["network_weights"])["_metadata"] = _plain(metadata or {})
    with replacing(path) as partial:
        try:
            torch.save(whole, partial)
        except RuntimeError as error:  # (torch does not give the reason)
            raise_write_error(path, partial.stat().st_size if partial.exists() else 1, error)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of a dose trainer. Nothing named in the file is imported or called.

    Raises:
        InputError: If it is missing, damaged, or not a checkpoint of a dose trainer.
    """
    _refuse_damage(path)
    try:
        with safe_globals(_STAND_INS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|function .*?([\w.]+)", str(error))
        what = f"names '{named[1] or named[2]}', which" if named else "asks for something that"
        raise InputError(
            f"{path} {what} no checkpoint of this software needs: it may be made to run foreign code and is not read; "
            "take the file from where it was trained"
        ) from None
    except Exception as error:  # noqa: BLE001  # torch may raise anything for a foreign file
        raise InputError(f"{path} is not a checkpoint: {_short(error)}") from None
    _refuse_other_content(path, content)
    content["init_args"].pop(_OLD_MARK, None)
    checkpoint = Checkpoint(path, content)
    stored = content.get("cdm", {}).get("weights_sha256")
    if stored is not None and stored != checkpoint.digest:
        raise InputError(f"{path} is damaged: its weights are not those that were saved; take another copy")
    return checkpoint


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of weights.

    Example:
        >>> weights_digest({"a": torch.zeros(2)}) == weights_digest({"a": torch.zeros(2), "b": torch.zeros(1)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse_damage(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: the program was stopped while writing; take another checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            changed = None if packed else archive.testzip()
    except Exception as error:  # noqa: BLE001  # zipfile may raise anything for a changed byte
        raise InputError(f"{path} is damaged or cut, or not a checkpoint: {_short(error)}; take another copy") from None
    if packed:  # (torch stores without compression: compressed, a few bytes could become gigabytes)
        raise InputError(f"{path} is not a checkpoint: {packed[0]} in it is compressed")
    if changed is not None:
        raise InputError(f"{path} is damaged: bytes of {changed} in it have changed since it was written; take another")


def _refuse_other_content(path: Path, content: Any) -> None:
    def is_of(entry: Any, *kinds: type) -> bool:
        return isinstance(entry, kinds) and not isinstance(entry, bool)

    arguments = content.get("init_args") if isinstance(content, dict) else None
    whole = (
        isinstance(arguments, dict)
        and all(is_of(arguments.get(key), dict) for key in ("plans", "dataset_json"))
        and is_of(arguments.get("configuration"), str)
        and is_of(content.get("trainer_name"), str)
        and is_of(content.get("current_epoch"), int)
        and is_of(content.get("logging"), dict)
        and is_of(content.get("cdm", {}), dict)
        and is_of(content.get("network_weights"), dict)
        and is_of(metadata := getattr(content["network_weights"], "_metadata", {}), dict)
        and all(is_of(entry, dict) for entry in metadata.values())
        and all(isinstance(name, str) and _is_stored(v, path) for name, v in content["network_weights"].items())
    )
    if not whole:
        raise InputError(f"{path} is not a checkpoint of nnU-Net")
    version = content.get("cdm", {}).get("format_version", _FORMAT_VERSION)
    if version != _FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, this software reads {_FORMAT_VERSION}; update it")


def _is_stored(value: Any, path: Path) -> bool:
    """Whether a value is a tensor with all its elements stored: strides can repeat one number without limit."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= path.stat().st_size
    )


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _plain(value: Any) -> Any:
    """Convert a value to Python's numbers and containers, which can be read without running code."""
    if value is None or isinstance(value, bool | Tensor):
        return value
    for kind in (str, int, float):  # (NumPy's float64 is a float)
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, torch.device | Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    raise TypeError(f"a checkpoint holds numbers, text and tensors, not {type(value).__name__}")


# Checkpoints of earlier versions name NumPy's numbers and one of our functions. These replace them: NumPy's own would
# let a file set state that it must not set.


class _OldType:
    """A number type of NumPy."""

    def __init__(self, spec: object, *_: object) -> None:
        if not (isinstance(spec, str) and re.fullmatch(r"[|<=]?(?:f[248]|[iu][1248]|b1|\?)", spec)):
            raise UnpicklingError(f"a number of type {spec!r}")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: object) -> None:
        """Accept NumPy's state of a number type: with the usual byte order it adds nothing to the name."""


def _old_number(kind: object, data: object) -> float | int | bool:
    if not (isinstance(kind, _OldType) and isinstance(data, bytes) and len(data) == kind.dtype.itemsize):
        raise UnpicklingError("a number of an unknown type")
    number: float | int | bool = np.frombuffer(data, kind.dtype)[0].item()
    return number


_OLD_MARK = "plugin"


def _old_mark() -> None:
    """Named in old checkpoints so that nnU-Net's predictor imports this package; never called here."""


_STAND_INS: list[Any] = [
    (_OldType, "numpy.dtype"),
    *[(_old_number, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")],
    (_old_mark, "cdm_nnunet.nnunet.registration.register"),
]
