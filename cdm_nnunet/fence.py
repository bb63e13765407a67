"""Isolation of one patient or case: an unexpected error is reported for it, and the run continues."""

from __future__ import annotations

import errno
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@contextmanager
def fenced(what: str, log: Path, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Convert an unexpected exception to an :class:`InputError`.

    Args:
        what: Patient, case or file, for the log.
        log: File to which the traceback is appended; only its owner can read it, because it may name patients.
        passing: Exceptions that pass, in addition to InputError and a full disk, which ends a run.

    Raises:
        InputError: With the exception as text and the log's path.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, *passing)) or (isinstance(error, OSError) and error.errno in _FULL):
            raise
        _append(log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n{traceback.format_exc()}\n")
        raise InputError(f"internal error ({type(error).__name__}: {error}); left out, see {log}") from error


@dataclass(frozen=True)
class Refusals:
    """Cases excluded from a run, with the reasons.

    Attributes:
        log: File for the tracebacks of internal errors.
        reasons: Reasons by case.
    """

    log: Path
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, reason: str) -> None:
        """Exclude a case; of several reasons, the first is kept."""
        self.reasons.setdefault(case, reason.removeprefix(f"case '{case}': "))

    @contextmanager
    def of(self, case: str) -> Iterator[None]:
        """Exclude a case if the block refuses it or raises an unexpected error."""
        try:
            with fenced(f"case '{case}'", self.log):
                yield
        except InputError as error:
            self.add(case, str(error))

    def told(self, n_cases: int) -> str:
        """Number of excluded cases with reasons, for an error message."""
        each = "; ".join(f"[{case}] {reason}" for case, reason in self.reasons.items())
        verb = "is" if len(self.reasons) == 1 else "are"
        return f"{len(self.reasons)} of {counted(n_cases, 'case')} {verb} left out: {each}"


def fence_of(case: str, refusals: Refusals | None) -> AbstractContextManager[None]:
    """Context for one case; without refusals it does nothing, so that the first fault ends the run."""
    return nullcontext() if refusals is None else refusals.of(case)


@dataclass(frozen=True)
class Refused:
    """Reason why a job has no result."""

    reason: str


@dataclass(frozen=True)
class Attempt(Generic[_Job, _Result]):
    """A function that returns the reason for a refusal instead of raising; worker processes can use it.

    Attributes:
        work: The function.
        log: As in :class:`Refusals`.
    """

    work: Callable[[_Job], _Result]
    log: Path

    def __call__(self, job: _Job) -> _Result | Refused:
        """The result of a job, or the reason why there is none."""
        try:
            with fenced(str(job), self.log):
                return self.work(job)
        except InputError as error:
            return Refused(str(error))


def _append(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write(text)
