"""Members of a model package (folder or ZIP file): fixed names, limited sizes, checked by SHA-256.

Nothing is unpacked to disk: a member is read into memory when needed, up to the size limit of its kind, and must have
the digest that ``SHA256SUMS`` lists.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cdm_nnunet.errors import InputError

MANIFEST, CARD, SUMS = "model.json", "MODEL_CARD.md", "SHA256SUMS"
PLANS, DATASET, SCORES = "plans.json", "dataset.json", "scores.json"
MAX_TOTAL_BYTES = 2**32 - 2**20  # (the limit of the ZIP format without its 64-bit extension)
_JSON_BYTES = 16 * 2**20
_MAX_MEMBERS = 64
_LIMITS: Mapping[str, int] = {
    **dict.fromkeys((MANIFEST, PLANS, DATASET, SCORES), _JSON_BYTES),
    CARD: 2**20,
    SUMS: 2**16,
}
_PATTERNS: Mapping[re.Pattern[str], int] = {
    re.compile(r"weights/fold_(?:\d{1,3}|all)\.safetensors"): MAX_TOTAL_BYTES,
    re.compile(r"more/[A-Za-z0-9][A-Za-z0-9_.-]{0,80}\.json"): _JSON_BYTES,
}
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_./-]+)")
_END_OF_ZIP, _END_BYTES = b"PK\5\6", 22
_LARGE_ZIP, _LARGE_BYTES = b"PK\6\7", 20  # (if present before the end record, it overrides that record)
_CHUNK = 2**20
_AGAIN = "take another copy"


def weights_name(fold: str) -> str:
    """The member with the weights of a fold.

    Example:
        >>> weights_name("0")
        'weights/fold_0.safetensors'
    """
    return f"weights/fold_{fold}.safetensors"


def more_name(file_name: str) -> str:
    """Member name of a JSON file from the training."""
    return f"more/{file_name}"


def limit_of(name: str) -> int:
    """Maximum size of a member in bytes; 0 for an unknown name.

    Example:
        >>> limit_of("MODEL_CARD.md"), limit_of("../evil"), limit_of("weights/fold_0.pth")
        (1048576, 0, 0)
    """
    return _LIMITS.get(name) or next((limit for pattern, limit in _PATTERNS.items() if pattern.fullmatch(name)), 0)


@dataclass(frozen=True)
class Members:
    """The members of one package.

    Attributes:
        path: The folder or ZIP file.
        sizes: Sizes of all members in bytes.
        sums: Their SHA-256, without that of ``SHA256SUMS``.
        inside: Folder within a ZIP file that contains them; empty if they are at the top.
    """

    path: Path
    sizes: Mapping[str, int]
    sums: Mapping[str, str]
    inside: str = ""

    @classmethod
    def of(cls, path: Path) -> Members:
        """Find the members and compare their names with ``SHA256SUMS``; contents are checked when read.

        Raises:
            InputError: If it is not a package, a member is unknown, missing, too large or duplicate.
        """
        inside = ""
        if path.is_dir():
            sizes = _sizes_in_folder(path)
        elif path.is_file():
            inside, sizes = _sizes_in_zip(path)
        else:
            raise InputError(f"{path} is missing, or neither a folder nor a file")
        _refuse_sizes(path, sizes)
        listed = cls(path, sizes, {}, inside)
        sums = _sums(path, listed._content(SUMS))
        for name in sorted({*sums, *sizes} - {SUMS}):
            if name not in sums or name not in sizes:
                what = f"lacks {name}, which {SUMS} lists" if name in sums else f"holds {name}, which {SUMS} lacks"
                raise InputError(f"{path} {what}: the model is incomplete, or was changed; {_AGAIN}")
        return cls(path, sizes, sums, inside)

    def read(self, name: str) -> bytes:
        """Read the content of a member.

        Raises:
            InputError: If it is missing or damaged, or has another SHA-256.
        """
        if name not in self.sums:
            raise InputError(f"{self.path} has no {name}")
        content = self._content(name)
        if hashlib.sha256(content).hexdigest() != self.sums[name]:
            raise InputError(
                f"{name} in {self.path} is not the one that {SUMS} lists: it was damaged or changed after the export; "
                f"{_AGAIN}"
            )
        return content

    def _content(self, name: str) -> bytes:
        if self.path.is_dir():
            with (self.path / name).open("rb") as file:
                return self._bounded(name, file)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.inside + name) as member:
                return self._bounded(name, member)  # type: ignore[arg-type]  # (it reads like a file)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
            raise InputError(f"{name} in {self.path} is damaged ({error}); {_AGAIN}") from None

    def _bounded(self, name: str, file: BinaryIO) -> bytes:
        expected = self.sizes[name]
        parts, left = [], expected + 1
        while left > 0 and (part := file.read(min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
        if left != 1:
            raise InputError(f"{name} in {self.path} has another size than the stated {expected:,} bytes; {_AGAIN}")
        return b"".join(parts)


def _sizes_in_folder(path: Path) -> dict[str, int]:
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is not a model: it has no {MANIFEST}; 'cdm-nnunet model export' makes one")
    sizes: dict[str, int] = {}
    for file in _files(path):
        sizes[file.relative_to(path).as_posix()] = file.stat().st_size
        if len(sizes) > _MAX_MEMBERS:
            raise InputError(f"{path} has more than {_MAX_MEMBERS} files: it is not a model, or other files were added")
    return sizes


def _files(path: Path) -> Iterator[Path]:
    """Files of a folder and its subfolders, without those that the system or Python left there."""
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir() and entry.parent == path and entry.name in ("weights", "more"):
            yield from (file for file in sorted(entry.iterdir()) if not file.name.startswith("."))
        else:
            yield entry


def _sizes_in_zip(path: Path) -> tuple[str, dict[str, int]]:
    _refuse_large_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, UnicodeError) as error:
        raise InputError(f"{path} is damaged or cut, or not a ZIP file ({error}); {_AGAIN}") from None
    inside = _top_folder([entry.filename for entry in entries])
    sizes: dict[str, int] = {}
    for entry in entries:
        name = entry.filename.removeprefix(inside)
        if entry.is_dir() and name in ("", "weights/", "more/"):
            continue
        mode = stat.S_IFMT(entry.external_attr >> 16)
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{path}: {_shown(name)} is encrypted, or compressed in another way than 'deflate'")
        if mode not in (0, stat.S_IFREG):
            raise InputError(f"{path}: {_shown(name)} is a link, or no file")
        if name in sizes:
            raise InputError(f"{path} holds {_shown(name)} twice: two readers could see two models; {_AGAIN}")
        sizes[name] = entry.file_size
    return inside, sizes


def _refuse_large_directory(path: Path) -> None:
    """Check the end record before the list of members is read: the list may be large too."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - _LARGE_BYTES))
        before, end = file.read(_LARGE_BYTES), file.read(_END_BYTES)
    if not end.startswith(_END_OF_ZIP) or len(end) < _END_BYTES or before.startswith(_LARGE_ZIP):
        raise InputError(f"{path} is damaged or cut, or not a model in a ZIP file; {_AGAIN}")
    n_members, n_bytes = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if n_members > 2 * _MAX_MEMBERS or n_bytes > 2**16:
        raise InputError(f"{path} has {n_members} members: a model has at most {_MAX_MEMBERS}")


def _top_folder(names: list[str]) -> str:
    """The folder that contains all members, if a folder was packed; empty otherwise."""
    first = {name.partition("/")[0] for name in names}
    if len(first) == 1 and MANIFEST not in names and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", top := first.pop()):
        return f"{top}/"
    return ""


def _refuse_sizes(path: Path, sizes: Mapping[str, int]) -> None:
    for name, n_bytes in sizes.items():
        limit = limit_of(name)
        if not limit:
            raise InputError(f"{path} holds {_shown(name)}, which is not a part of a model: it is not read; {_AGAIN}")
        if n_bytes > limit:
            raise InputError(f"{path}: {name} has {n_bytes:,} bytes, at most {limit:,} are read")
    if len(sizes) > _MAX_MEMBERS or sum(sizes.values()) > MAX_TOTAL_BYTES:
        raise InputError(f"{path} has {len(sizes)} members of {sum(sizes.values()):,} bytes: more than a model has")
    for name in (MANIFEST, SUMS, CARD, PLANS, DATASET):
        if name not in sizes:
            raise InputError(f"{path} is not a complete model: it has no {name}; {_AGAIN}")


def _sums(path: Path, content: bytes) -> dict[str, str]:
    sums: dict[str, str] = {}
    text = content.decode("ascii", errors="replace")
    for line in text.split("\n")[:-1] if text.endswith("\n") else [text]:
        found = _SUM.fullmatch(line)
        if found is None or found[2] in sums:
            raise InputError(f"{SUMS} in {path} is damaged, or names a member twice; {_AGAIN}")
        sums[found[2]] = found[1]
    return sums


def _shown(name: str) -> str:
    return repr(name[:100])
