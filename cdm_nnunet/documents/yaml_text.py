"""YAML as plain values, with their places in the text.

Only values of JSON are accepted: texts, numbers, true, false, null, lists, and names with values. Aliases and tags are
refused, and so is a plain word that YAML 1.1 and 1.2 read in two ways, such as ``no``, ``010`` or a date.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cdm_nnunet.documents.faults import Fault, field_name
from cdm_nnunet.documents.places import Path, Place, Places

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")  # of the network: a plain word in every version of YAML
_IN_TWO_WAYS = re.compile(
    r"""
      (yes|no|on|off)                                  # a truth value in YAML 1.1, a word in 1.2
    | [-+]?(\.inf|\.nan)                               # no number that anything here could mean
    | [-+.0-9_]*[0-9][0-9_.]*(:[0-9_.]+)+              # sixty times, in 1.1
    | [-+]?[0-9][0-9_.,]*(e[-+]?[0-9]+)?               # 010 is 8 or 10, 1_000 a number or a word
    | [-+]?\.[0-9][0-9_]*(e[-+]?[0-9]+)?
    | [-+]?0[xob][0-9a-f_]*
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([t ].*)?          # a date
    | << | =
    """,
    re.VERBOSE | re.IGNORECASE,
)


class YamlError(ValueError):
    """A fault of a text.

    Attributes:
        fault: The fault with its place.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass
class _Open:
    """A list or an object being read; for an object, ``key`` is that of the next value."""

    path: Path
    value: list[Any] | dict[str, Any]
    key: str | None = None


@dataclass
class _Build:
    """The part read so far."""

    max_depth: int
    value: Any = None
    open: list[_Open] = field(default_factory=list)
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    repeated: list[tuple[Path, Place]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Path of the next value, or of the object if a name comes next."""
        if not self.open:
            return ()
        last = self.open[-1]
        if isinstance(last.value, list):
            return (*last.path, len(last.value))
        return last.path if last.key is None else (*last.path, last.key)

    def refuse(self, message: str, place: Place) -> NoReturn:
        """Stop with a fault of the next item."""
        raise YamlError(Fault(field_name(self.path), message, place))

    def begin(self, value: list[Any] | dict[str, Any], place: Place) -> None:
        """Read the start of a list or an object."""
        if self._expects_key():
            self.refuse("a name is a text, not a list or an object", place)
        if len(self.open) >= self.max_depth:
            self.refuse(f"lists or objects are nested too deeply (more than {self.max_depth})", place)
        opened = _Open(self.path, value)
        self._add(value, place)
        self.open.append(opened)

    def scalar(self, value: Any, place: Place) -> None:
        """Read a text, a number, true, false or null, as a value or a name."""
        if not self._expects_key():
            self._add(value, place)
            return
        if not isinstance(value, str):
            self.refuse(f"the name {value!r} is not text; put it in quotes", place)
        last = self.open[-1]
        path = (*last.path, value)
        if path in self.keys:
            self.repeated.append((path, place))
        last.key = value
        self.keys[path] = place

    def _expects_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].value, dict) and self.open[-1].key is None

    def _add(self, value: Any, place: Place) -> None:
        self.values[self.path] = place
        if not self.open:
            self.value = value
            return
        last = self.open[-1]
        if isinstance(last.value, list):
            last.value.append(value)
        elif last.key is not None:
            last.value[last.key] = value
            last.key = None


def parse(text: str, max_depth: int) -> tuple[Any, Places]:
    """Parse a text with one document.

    Args:
        text: The text.
        max_depth: Maximum nesting of lists and objects.

    Raises:
        YamlError: If it is not YAML, or has more than JSON can express.
    """
    import yaml

    build = _Build(max_depth)
    n_documents = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
            n_documents += isinstance(event, yaml.DocumentStartEvent)
            if n_documents > 1:
                raise YamlError(Fault("", "a second document begins here; a file holds one", place))
            _take(build, event, place)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place_or_none = None if mark is None else Place(mark.line + 1, mark.column + 1)
        raise YamlError(Fault("", f"not YAML: {error.problem or error.context}", place_or_none)) from None
    except yaml.YAMLError as error:
        raise YamlError(Fault("", f"not YAML: {' '.join(str(error).split())}")) from None
    return build.value, Places(build.keys, build.values, tuple(build.repeated))


def _take(build: _Build, event: Any, place: Place) -> None:
    import yaml

    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        build.refuse(
            "'&' and '*' (anchors and aliases) are not allowed; write the value out, or put it in quotes", place
        )
    if getattr(event, "tag", None) is not None:
        build.refuse(f"the tag {event.tag} is not allowed; write the value without it, or put it in quotes", place)
    if isinstance(event, yaml.ScalarEvent):
        build.scalar(_plain(build, event.value, place) if event.implicit[0] else event.value, place)
    elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
        build.begin([] if isinstance(event, yaml.SequenceStartEvent) else {}, place)
    elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
        build.open.pop()


def _plain(build: _Build, word: str, place: Place) -> Any:
    """Value of a word without quotes."""
    if _NULL.fullmatch(word):
        return None
    if _BOOLEAN.fullmatch(word):
        return word.casefold() == "true"
    if _INTEGER.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word):
        return float(word)
    if _IN_TWO_WAYS.fullmatch(word) and not _ADDRESS.fullmatch(word):
        build.refuse(
            f"{word} can be read in two ways; put a text in quotes, write a number with digits and point", place
        )
    return word
