"""Text for a screen."""

from __future__ import annotations


def printable(line: str) -> str:
    """A line with everything escaped that would act on the screen: names of files and ROIs may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)
