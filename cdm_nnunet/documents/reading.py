"""JSON and YAML files as checked values: bounded in size and depth, typed, and refused with line and column."""

from __future__ import annotations

import functools
import json
import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from cdm_nnunet.documents import json_text, yaml_text
from cdm_nnunet.documents.faults import Fault, faults_of, field_name, repeated_keys, summary
from cdm_nnunet.documents.places import Path as FieldPath
from cdm_nnunet.documents.places import Place, Places
from cdm_nnunet.errors import InputError

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
_FAULTLESS = (int, bool, type(None), list, tuple)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")

T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """A parsed text.

    Attributes:
        value: Its value: None, boolean, number or text, or lists and objects of them. None if the text is
            invalid.
        faults: Faults of the text itself; a text with only repeated keys still has a value.
        is_sound: Whether there is a value.
        find_places: Finds the places of keys and values; called when a message needs them.
    """

    value: Any
    faults: tuple[Fault, ...]
    is_sound: bool
    find_places: Callable[[], Places]


@dataclass(frozen=True)
class Checked(Generic[T]):
    """Outcome of a check.

    Attributes:
        value: The typed value, None if there are faults.
        faults: All faults in the order of the text.
    """

    value: T | None
    faults: tuple[Fault, ...]


def json_document(text: str) -> Document:
    """Parse JSON; faults of the text are in the result."""
    try:
        value, repeated = json_text.parse(text)
    except json.JSONDecodeError as error:
        return _unsound(Fault("", f"not JSON: {error.msg}", Place(error.lineno, error.colno)))
    except RecursionError:
        return _unsound(_TOO_DEEP)
    find_places = functools.cache(lambda: json_text.places_in(text))
    return _document(value, repeated, find_places)


def yaml_document(text: str) -> Document:
    """Parse YAML, as :func:`json_document`."""
    try:
        value, places = yaml_text.parse(text, MAX_DEPTH)
    except yaml_text.YamlError as error:
        return _unsound(error.fault)
    return _document(value, bool(places.repeated_keys), lambda: places)


def plain_document(value: object) -> Document:
    """A document of a value that was parsed elsewhere, such as the plans in a checkpoint."""
    return _document(value, False, Places)


def check(document: Document, kind: type[T]) -> Checked[T]:
    """Check the value of a document against a type.

    Args:
        document: The document.
        kind: A pydantic model, a dataclass, or a type such as ``dict[str, float]``. Nothing is converted: a text is not
            a number, 1.0 is not an integer.
    """
    if not document.is_sound:
        return Checked(None, document.faults)
    value, faults = None, document.faults
    as_key: Any = kind
    adapter: TypeAdapter[T] = _adapter(as_key)
    try:
        value = adapter.validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        faults += faults_of(error, document.value, document.find_places())
    return Checked(None if faults else value, in_order(faults))


def in_order(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """Faults in the order of the text; those without a place come first."""
    return tuple(sorted(faults, key=lambda fault: (fault.place.line, fault.place.column) if fault.place else (0, 0)))


def typed(value: object, kind: type[T], where: object, mend: str = "") -> T:
    """Check a value that was parsed elsewhere.

    Args:
        value: The value.
        kind: As :func:`check`.
        where: Its name in messages.
        mend: Advice at the end of messages.

    Raises:
        InputError: If it is not of this type; the message names the first fault.
    """
    return _value_of(plain_document(value), kind, where, mend)


def parse_json(text: str, kind: type[T], where: object, mend: str = "") -> T:
    """Check JSON within another file, such as one of its lines.

    Raises:
        InputError: As :func:`read_json`.
    """
    return _value_of(json_document(text), kind, where, mend)


def read_json(path: Path, kind: type[T], mend: str = "", *, max_bytes: int = MAX_BYTES) -> T:
    """Read a JSON file.

    Args:
        path: The file.
        kind: Its type, as in :func:`check`.
        mend: Advice for a missing or faulty file, at the end of messages.
        max_bytes: Maximum size.

    Raises:
        InputError: If it is missing, too large, not UTF-8 text, not JSON, nested too deeply, has a repeated key,
            or is not of this type; with line and column.
    """
    return _value_of(json_document(read_text(path, mend, max_bytes=max_bytes)), kind, path, mend)


def read_yaml(path: Path, kind: type[T], mend: str = "", *, max_bytes: int = MAX_BYTES) -> T:
    """Read a YAML file, as :func:`read_json`; accepted YAML: :mod:`cdm_nnunet.documents.yaml_text`.

    Raises:
        InputError: As there.
    """
    return _value_of(yaml_document(read_text(path, mend, max_bytes=max_bytes)), kind, path, mend)


def read_text(path: Path, mend: str = "", *, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        mend: Advice at the end of messages.
        max_bytes: Maximum size.

    Raises:
        InputError: If it is missing, not a file, too large or not text.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # (a pipe would block forever)
            raise InputError(f"{path} is not a file{_then(mend)}")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing{_then(mend)}") from None
    except PermissionError:
        raise InputError(f"{path} may not be read (permission denied)") from None
    if len(content) > max_bytes:
        raise InputError(f"{path} has more than {max_bytes:,} bytes: it is not what is expected here{_then(mend)}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error.reason}, byte {error.start}){_then(mend)}") from None


def _value_of(document: Document, kind: type[T], where: object, mend: str) -> T:
    checked = check(document, kind)
    if checked.faults:
        raise InputError(f"{where}: {summary(checked.faults)}{_then(mend)}")
    value: T = checked.value  # type: ignore[assignment]  # (None only where the type says so)
    return value


def _then(mend: str) -> str:
    return f"; {mend}" if mend else ""


_TOO_DEEP = Fault("", f"lists or objects are nested too deeply (more than {MAX_DEPTH})")


def _document(value: Any, repeated: bool, find_places: Callable[[], Places]) -> Document:
    try:
        is_sound = _is_sound(value)
    except RecursionError:
        return _unsound(_TOO_DEEP)
    faults = repeated_keys(find_places()) if repeated else ()
    if not is_sound:
        faults += tuple(
            Fault(field_name(path), message, find_places().of(path)) for path, message in _faults_with_paths(value)
        )
    return Document(value if is_sound else None, in_order(faults), is_sound, find_places)


def _unsound(fault: Fault) -> Document:
    return Document(None, (fault,), False, Places)


def _is_sound(value: Any) -> bool:
    """Whether no part has a fault: much faster than locating faults.

    Raises:
        RecursionError: If lists and objects are nested too deeply.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if not _is_sound_level(level):
            return False
        containers = [part for part in level if isinstance(part, dict | list | tuple)]
        if not containers:
            return True
        level = list(chain.from_iterable(map(_inner, containers)))
    raise RecursionError


def _is_sound_level(level: Sequence[Any]) -> bool:
    """Whether no part has a fault in the sense of :func:`_fault_of`; texts and numbers are checked together."""
    parts: dict[type, list[Any]] = {kind: [] for kind in {str, float, dict, *map(type, level)}}
    for part in level:
        parts[type(part)].append(part)
    texts, numbers, objects = (parts.pop(kind) for kind in (str, float, dict))
    try:
        names = "".join(chain.from_iterable(objects))
    except TypeError:
        return False
    others = (part for kind, alike in parts.items() if kind not in _FAULTLESS for part in alike)
    is_text = not _NO_TEXT.search(names) and not _NO_TEXT.search("".join(texts))
    return is_text and all(map(math.isfinite, numbers)) and not any(map(_fault_of, others))


def _faults_with_paths(value: Any) -> Iterator[tuple[FieldPath, str]]:
    waiting: list[tuple[FieldPath, Any]] = [((), value)]
    while waiting:
        path, part = waiting.pop()
        message = _fault_of(part)
        if message:
            yield path, message
        if isinstance(part, dict | list | tuple):
            waiting += (((*path, key), inner) for key, inner in zip(_keys(part), _inner(part), strict=True))


def _keys(part: dict[Any, Any] | Sequence[Any]) -> Iterable[Any]:
    return part if isinstance(part, dict) else range(len(part))


def _inner(part: dict[Any, Any] | Sequence[Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def _fault_of(part: Any) -> str:
    """Fault of a number, a text or the names of an object that is valid in JSON but unusable."""
    if isinstance(part, str):
        return "the text has a character that is not text" if _NO_TEXT.search(part) else ""
    if isinstance(part, float):
        return "" if math.isfinite(part) else "the number is not finite or too large"
    if isinstance(part, dict):
        bad = [key for key in part if not isinstance(key, str) or _NO_TEXT.search(key)]
        return f"the name {bad[0]!r} is not text, or has an invalid character" if bad else ""
    if part is None or isinstance(part, int | list | tuple):
        return ""
    return f"{type(part).__name__} can't be written as JSON"


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
