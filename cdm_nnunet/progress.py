"""Progress on stderr: a bar in a terminal, one line per minute in a pipe or a log, and notes."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from time import monotonic
from typing import Any, Generic, TextIO, TypeVar

from cdm_nnunet.counting import counted

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 60.0
LINES_OF_PACE = 3  # the time to go follows the pace of the last lines: cases that were done before take no time


def progress(
    items: Iterable[Item] | None = None,
    *,
    desc: str,
    total: int | None = None,
    unit: str = "case",
    leave: bool = True,
    disable: bool = False,
) -> Any:
    """Show progress on stderr.

    Args:
        items: The iterable; None if ``update`` is called.
        desc: Description of the work.
        total: Number of items; None if unknown, or given by ``items``.
        unit: Name of an item.
        leave: Whether a bar stays when the work is done.
        disable: Show nothing.

    Returns:
        A bar of tqdm if stderr is a terminal, otherwise :class:`Lines`, which supports the same use: iteration,
        ``update``, ``close``, ``n`` and ``total``.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(items, desc=desc, total=total, unit=unit, leave=leave, disable=disable)
    return Lines(items, desc=desc, total=total, unit=unit, disable=disable)


def note_beside(*notes: str) -> None:
    """Write notes to stderr, above a bar if one is shown; in a terminal they are wrapped."""
    from tqdm import tqdm

    for text in notes:
        tqdm.write(wrapped(text, sys.stderr), file=sys.stderr)


def wrapped(text: str, file: TextIO) -> str:
    """Text wrapped between words at the width of the terminal; unchanged if the file is not a terminal."""
    if not file.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(part for line in text.split("\n") for part in wrap_line(line, width))


def wrap_line(line: str, width: int) -> list[str]:
    """Wrap a line at a width, with its indentation; words, and so paths, are not broken.

    Example:
        >>> wrap_line("  the dose of the plan is in cGy", 24)
        ['  the dose of the plan', '    is in cGy']
    """
    if len(line) <= width:
        return [line]
    body = line.lstrip(" ")
    indent = " " * (len(line) - len(body))
    return textwrap.wrap(
        body,
        max(width, len(indent) + 20),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        replace_whitespace=False,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )


class Lines(Generic[Item]):
    """Progress as lines of text, one per minute: no line is overwritten, and short work prints nothing."""

    def __init__(
        self,
        items: Iterable[Item] | None = None,
        *,
        desc: str,
        total: int | None = None,
        unit: str = "case",
        disable: bool = False,
        file: TextIO | None = None,
        clock: Callable[[], float] = monotonic,
    ):
        self.n = 0
        self.total = len(items) if total is None and isinstance(items, Sized) else total
        self._items, self._desc, self._unit, self._disable = items, desc, unit, disable
        self._file, self._clock = file, clock
        self._began = self._told = clock()
        self._lines = deque([(self._began, 0)], maxlen=LINES_OF_PACE)

    def __iter__(self) -> Iterator[Item]:
        for item in self._items or ():
            yield item
            self.update()
        self.close()

    def update(self, n: int = 1) -> None:
        """Count finished items."""
        self.n += n
        if not self._disable and self._clock() - self._told >= SECONDS_BETWEEN_LINES and self.n != self.total:
            self._tell()

    def close(self) -> None:
        """Report the duration, if lines were printed before."""
        if self._told > self._began:
            self._tell()
        self._disable, self._began = True, self._told

    def _tell(self) -> None:
        self._told = self._clock()
        print(self._line(self._told - self._began), file=self._file or sys.stderr, flush=True)
        self._lines.append((self._told, self.n))

    def _line(self, seconds: float) -> str:
        of_all = f"{self.n} of {counted(self.total, self._unit)}" if self.total else counted(self.n, self._unit)
        line = f"{self._desc}: {of_all} after {duration_text(seconds)}"
        since, n_then = self._lines[0]
        if self.total is None or not n_then < self.n < self.total:
            return line
        pace = (self._told - since) / (self.n - n_then)
        return f"{line}, about {duration_text(pace * (self.total - self.n))} to go"


def duration_text(seconds: float) -> str:
    """A duration as readable text.

    Example:
        >>> duration_text(42), duration_text(60 * 90), duration_text(3 * 86400 + 5 * 3600)
        ('42 s', '1 h 30 min', '3 d 5 h')
    """
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"
