"""Fast decoding of elements of plain characters from their bytes; pydicom is many times slower.

Other elements are left to pydicom: another VR than the standard's, other characters, several texts, an element that
is parsed already.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

_TEXTS = ("AS", "CS", "DA", "TM", "UI")  # in the default character set, independent of the file's
_OF_TEXT = bytes(code for code in range(0x20, 0x7F) if code != ord("\\"))
_NUMBER = rb"[+-]?[0-9]{1,12}(?:\.[0-9]{0,12})?"
_NUMBERS = {
    "IS": re.compile(rb" *([+-]?[0-9]{1,12})[ \0]*"),
    "DS": re.compile(rb" *(" + _NUMBER + rb"(?:\\" + _NUMBER + rb")*)[ \0]*"),
}


@functools.cache
def tag_of(keyword: str) -> BaseTag:
    """Tag of a keyword of the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return BaseTag(tag)


def plain_text(dataset: Dataset, keyword: str) -> str | None:
    """Text of an element without surrounding blanks; empty for an empty one, None if it is not plain."""
    content = _content(dataset, keyword)
    if content is None:
        return None
    value, vr = content
    if vr in _TEXTS:
        value = value.rstrip(b" \0").lstrip(b" ")
        return None if value.translate(None, _OF_TEXT) else value.decode("ascii")
    found = _NUMBERS[vr].fullmatch(value)
    return None if found is None or b"\\" in value else found[1].decode("ascii")


def plain_numbers(dataset: Dataset, keyword: str) -> list[float] | None:
    """Numbers of an element of decimal or integer strings; None if it is not plain."""
    content = _content(dataset, keyword)
    if content is None or content[1] not in _NUMBERS:
        return None
    value, vr = content
    found = _NUMBERS[vr].fullmatch(value)
    if found is None:
        return None
    # (an integer has no negative zero)
    return [float(int(number)) if vr == "IS" else float(number) for number in found[1].split(b"\\")]


def stored_form(dataset: Dataset, keyword: str) -> Hashable | None:
    """Stored form of an element, equal for equal elements; None if it is parsed already."""
    raw = dataset.get_item(tag_of(keyword), keep_deferred=True)
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        return None
    return raw.VR, raw.value, raw.is_implicit_VR, raw.is_little_endian


def _content(dataset: Dataset, keyword: str) -> tuple[bytes, str] | None:
    """Bytes and VR of an element that may be plain."""
    vr = _vr_of(keyword)
    if vr not in _NUMBERS and vr not in _TEXTS:
        return None
    raw = dataset.get_item(tag_of(keyword), keep_deferred=True)
    if not isinstance(raw, RawDataElement) or raw.VR not in (None, vr) or not isinstance(raw.value, bytes):
        return None
    return raw.value, vr


@functools.cache
def _vr_of(keyword: str) -> str:
    return dictionary_VR(keyword)
