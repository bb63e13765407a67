"""Faults of a document: field, message, and place in the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from cdm_nnunet.documents.places import Path, Place, Places

TAG_MARK = ":"  # prefix of the tags of discriminated unions, which are not part of a field's name
_SHOWN_CHARACTERS = 40
_SAY_WHAT_CAME = ("_type", "_from_float", "literal_error", "_than", "_than_equal")  # (suffixes of pydantic's names)


@dataclass(frozen=True)
class Fault:
    """One fault of a document.

    Attributes:
        field: Keys and list positions from 0, joined with dots: ``goals.2.unit``. Empty for the whole file.
        message: What is wrong.
        place: Line and column in the file, None if there is no file.
    """

    field: str
    message: str
    place: Place | None = None

    def __str__(self) -> str:
        place = f"line {self.place.line}, column {self.place.column}: " if self.place else ""
        return f"{place}{self.field}: {self.message}" if self.field else f"{place}{self.message}"


def refuse(faults: Iterable[tuple[Path, str]]) -> None:
    """Raise a pydantic error with one fault for each path and message; return if there are none."""
    details = [
        InitErrorDetails(type=PydanticCustomError("fault", "{text}", {"text": text}), loc=path, input=None)
        for path, text in faults
    ]
    if details:
        raise ValidationError.from_exception_data("document", details)


def faults_of(error: ValidationError, value: Any, places: Places) -> tuple[Fault, ...]:
    """Faults found by pydantic, one per field and message.

    Args:
        error: Its exception.
        value: The checked data.
        places: Places of the data in the text.
    """
    messages: dict[tuple[Path, str], list[str]] = {}
    for found in error.errors(include_url=False):
        path = _path_in(value, found["loc"])
        kind, message = found["type"], found["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        if kind == "missing":
            path = (*path, found["loc"][-1])
        # (each alternative of a union has its own message for the same field)
        group = "" if len(found["loc"]) > len(path) else message
        messages.setdefault((path, group if kind != "extra_forbidden" else kind), []).append(message)
    came = {_path_in(value, found["loc"]): _came(found) for found in error.errors(include_url=False)}
    return tuple(
        Fault(
            field_name(path),
            ", or: ".join(texts) + came.get(path, ""),
            places.of(path, key=group == "extra_forbidden"),
        )
        for (path, group), texts in messages.items()
    )


def repeated_keys(places: Places) -> tuple[Fault, ...]:
    """A repeated key of an object: many readers take the last one, and the first value is lost."""
    return tuple(
        Fault(field_name(path), "the key appears twice; only the last would count", place)
        for path, place in places.repeated_keys
    )


def summary(faults: Sequence[Fault], all_told_by: str = "") -> str:
    """The first fault as text, and the number of others.

    Args:
        faults: At least one.
        all_told_by: A command that lists all of them, if there is one.
    """
    told = f"; '{all_told_by}' lists them" if all_told_by else ""
    more = f" (and {len(faults) - 1} more{told})" if len(faults) > 1 else ""
    return f"{faults[0]}{more}"


def field_name(path: Path) -> str:
    """``goals.2.unit`` of ``("goals", 2, "unit")``."""
    return ".".join(map(str, path))


def _path_in(value: Any, location: Sequence[str | int]) -> Path:
    """The part of a location that is in the data: pydantic adds the names of types that it tried."""
    path: Path = ()
    for part in location:
        is_key = isinstance(value, dict) and part in value
        is_position = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if isinstance(part, str) and part.startswith(TAG_MARK):
            continue
        if not is_key and not is_position:
            break
        value = value[part]
        path = (*path, part)
    return path


def _came(found: ErrorDetails) -> str:
    """The found value, for kinds of fault whose message lacks it."""
    if not found["type"].endswith(_SAY_WHAT_CAME):
        return ""
    value = found["input"]
    if isinstance(value, dict | list | tuple):
        return f", not {'an object' if isinstance(value, dict) else 'a list'}"
    text = "null" if value is None else "true" if value is True else "false" if value is False else repr(value)
    return f", not {text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '...'}"
