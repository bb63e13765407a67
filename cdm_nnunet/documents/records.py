"""Records: typed data with one JSON form, and the JSON schema that describes it."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

STRICT = ConfigDict(strict=True)
"""Nothing is converted when a record is made: a text is not a number, a list not a tuple."""
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", re.MULTILINE | re.DOTALL)


def plain(record: object) -> Any:
    """The JSON form of a record: of its fields and computed fields, in their order.

    Args:
        record: A dataclass or model of pydantic, or a dataclass of plain types.
    """
    kind: Any = type(record)
    return _adapter(kind).dump_python(record, mode="json")


def schema_of(kind: Any, title: str) -> dict[str, Any]:
    """The JSON schema of a record, with descriptions from the docstrings of its classes.

    Args:
        kind: Its class.
        title: Title of the schema.
    """
    schema = _adapter(kind).json_schema(mode="serialization", schema_generator=_Described)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": title}


def described(kind: type) -> dict[str, str]:
    """One-line descriptions of fields, from the section ``Attributes`` in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        section = re.split(r"^\w[\w ]*:$", section, maxsplit=1, flags=re.MULTILINE)[0]
        texts |= {name: _markdown(text) for name, text in _ATTRIBUTE.findall(section)}
    return texts


class _Described(GenerateJsonSchema):
    """Descriptions of fields come from docstrings."""

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        """Schema of a record: all of its keys are required, and no others allowed."""
        entry = _with_descriptions(super().dataclass_schema(schema), schema["cls"])
        return {**entry, "required": list(entry.get("properties", {})), "additionalProperties": False}

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Schema of a section that may have other keys."""
        return _with_descriptions(super().model_schema(schema), schema["cls"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Titles of fields only repeat their names."""
        return False


def _with_descriptions(entry: dict[str, Any], kind: type) -> dict[str, Any]:
    """Add descriptions to the keys of an object; defaults are removed."""
    texts = described(kind)
    for name, content in entry.get("properties", {}).items():
        prop = getattr(kind, name, None)
        of_property = inspect.getdoc(prop.fget) if isinstance(prop, property) else None
        if text := texts.get(name) or (of_property and _markdown(of_property)):
            content["description"] = text
        for detail in ("default", "readOnly", "title"):
            content.pop(detail, None)
    first = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    return {**entry, "description": _markdown(first)}


def _markdown(text: str) -> str:
    """One line, with single backquotes, and null for None."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(text.split()))
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
