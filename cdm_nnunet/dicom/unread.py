"""Summary of unreadable files: one line for each reason."""

from __future__ import annotations

import re
from collections.abc import Mapping

_EXAMPLES = 2


def unread_lines(unread: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the number of files and examples.

    Args:
        unread: Reason by path; a reason may contain the path.

    Example:
        >>> what = "is not a DICOM file"
        >>> unread_lines({"1.d": f"1.d {what}", "2.d": f"2.d {what}", "3.d": "3.d is cut off: 3 of 4 bytes"})
        ['2 files: is not a DICOM file (1.d, 2.d)', '3.d is cut off: 3 of 4 bytes']
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, reason in unread.items():
        text = reason.replace(path, "").strip(" :")
        groups.setdefault(re.sub(r"\d+", "#", text), []).append((path, text))
    lines = []
    for files in groups.values():
        path, text = files[0]
        if len(files) == 1:
            lines.append(unread[path] if path in unread[path] else f"{path}: {text}")
            continue
        more = f" and {len(files) - _EXAMPLES} more" if len(files) > _EXAMPLES else ""
        lines.append(f"{len(files)} files: {text} ({', '.join(path for path, _ in files[:_EXAMPLES])}{more})")
    return lines
