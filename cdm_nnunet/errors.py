"""The exception for a user's mistake or unusable data, and the number format of its message."""

from __future__ import annotations

import re

_BREAK = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


class InputError(ValueError):
    r"""Input that must not be used: a file, an option or data that would lead to a wrong dose.

    The message says what was expected, what was found, for which case, ROI or file, and how to fix it. The command line
    prints it as one line and exits with status 2; any other exception is a defect of this software.

    Example:
        >>> print(InputError("'PTV\n\x1b[2J' is no name"))
        'PTV \x1b[2J' is no name
    """

    def __str__(self) -> str:
        """The message as one line, with control characters escaped: names in files may contain anything."""
        return printable(_BREAK.sub(" ", super().__str__()).strip())


def printable(text: str) -> str:
    """A text with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def numbers(values: object) -> str:
    """Numbers for a message.

    Example:
        >>> numbers((2.5, 3))
        '(2.5, 3)'
    """
    import numpy as np  # (keeps the start of the command line fast)

    return "(" + ", ".join(f"{float(value):g}" for value in np.asarray(values).ravel()) + ")"
