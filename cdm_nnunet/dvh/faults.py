"""Faults of a template: which field, what is wrong, and where in the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from cdm_nnunet.dvh.json_text import JsonText, Path, Place


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a template.

    Attributes:
        field: Keys and list positions, counted from 0, with dots between: ``goals.2.unit``. Empty for the whole file.
        message: What is wrong.
        place: Line and column in the file, None where there is no file.
    """

    field: str
    message: str
    place: Place | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def refuse(faults: Iterable[tuple[Path, str]]) -> None:
    """Raise what pydantic raises, with one fault for each path and message; return if there are none."""
    details = [
        InitErrorDetails(type=PydanticCustomError("template", "{text}", {"text": text}), loc=path, input=None)
        for path, text in faults
    ]
    if details:
        raise ValidationError.from_exception_data("template", details)


def faults_of(error: ValidationError, value: Any, text: JsonText | None) -> tuple[Fault, ...]:
    """What pydantic found, one fault a field and message.

    Args:
        error: What it raised.
        value: The data that it looked at.
        text: Where the data stand, if they come from a file.
    """
    messages: dict[tuple[Path, str], list[str]] = {}
    for found in error.errors(include_url=False):
        path = _path_in(value, found["loc"])
        kind, message = found["type"], found["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        if kind == "missing":
            path = (*path, found["loc"][-1])
        # (each alternative of a union has a message of its own for the same field)
        group = "" if len(found["loc"]) > len(path) else message
        messages.setdefault((path, group if kind != "extra_forbidden" else kind), []).append(message)
    return tuple(
        Fault(
            field_name(path),
            ", or: ".join(texts),
            None if text is None else text.place(path, key=group == "extra_forbidden"),
        )
        for (path, group), texts in messages.items()
    )


def repeated_keys(text: JsonText) -> tuple[Fault, ...]:
    """A key that an object has twice: JSON readers take the last, and what the first said is lost."""
    return tuple(
        Fault(field_name(path), "the key is there twice; only the last would count", place)
        for path, place in text.repeated_keys
    )


def summary(faults: Sequence[Fault]) -> str:
    """The first fault in words, and how many more there are."""
    first = faults[0]
    place = f"line {first.place.line}, column {first.place.column}: " if first.place else ""
    more = f" (and {len(faults) - 1} more; 'cdm-nnunet check' lists them)" if len(faults) > 1 else ""
    return f"{place}{first}{more}"


def field_name(path: Path) -> str:
    """``goals.2.unit`` of ``("goals", 2, "unit")``."""
    return ".".join(map(str, path))


def _path_in(value: Any, location: Sequence[str | int]) -> Path:
    """The part of a location that leads to something in the data: pydantic adds the names of types it tried."""
    path: Path = ()
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
        path = (*path, part)
    return path
