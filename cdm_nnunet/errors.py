"""The exception for a user's mistake or unusable data, and the number format of its message."""

from __future__ import annotations


class InputError(ValueError):
    """Input that must not be used: a file, an option or data that would lead to a wrong dose.

    The message says what was expected, what came, for which case, ROI or file, and how to fix it. The command line
    prints it as one line and exits with status 2; anything else that is raised is a defect of this software.
    """


def numbers(values: object) -> str:
    """Numbers for a message.

    Example:
        >>> numbers((2.5, 3))
        '(2.5, 3)'
    """
    import numpy as np  # (what the command line imports at its start stays light)

    return "(" + ", ".join(f"{float(value):g}" for value in np.asarray(values).ravel()) + ")"
