"""Numbers in texts: tables, DICOM's decimal strings, options."""

import re

_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
_NOT_OF_NUMBERS = re.compile(r"[^0-9eE+.\s-]")


def read_number(text: str) -> float:
    """The finite number in a text: sign, digits with a point, exponent.

    Python's ``float`` accepts more, which in a file means damage: ``1_0`` (ten), digits of other scripts, NaN.

    Raises:
        ValueError: If the text is anything else.

    Examples:
        >>> read_number("-2.5e1")
        -25.0
        >>> read_number("1_0")
        Traceback (most recent call last):
        ValueError: '1_0' is not a number
    """
    number = float(text) if _NUMBER.fullmatch(text) else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text!r} is not a number")
    return number


def stray_character(text: str) -> str | None:
    """The first character of a list of texts that no number can have; None if there is none.

    Examples:
        >>> stray_character("1.5 -2e3"), stray_character("1_0")
        (None, '_')
    """
    found = _NOT_OF_NUMBERS.search(text)
    return found[0] if found else None
