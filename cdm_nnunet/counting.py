"""Numbers with their nouns, for messages."""

from __future__ import annotations

from typing import SupportsIndex


def counted(n: SupportsIndex, one: str, several: str = "") -> str:
    """A number with its noun.

    Args:
        n: The number.
        one: The noun in the singular.
        several: Its plural; by default the singular with an s.

    Example:
        >>> counted(1, "case"), counted(0, "case"), counted(1200, "study", "studies")
        ('1 case', '0 cases', '1200 studies')
    """
    return f"{n} {one if n == 1 else several or one + 's'}"
