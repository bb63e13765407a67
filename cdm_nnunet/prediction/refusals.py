"""Patients that can't be used, with the reasons; the others are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced


@dataclass(frozen=True)
class Refusals:
    """Reasons by patient.

    Attributes:
        out: Folder of the doses, with the log of internal errors.
        n_patients: All patients.
        reasons: Why a patient can't be used, by name.
    """

    out: Path
    n_patients: int
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """File for tracebacks of internal errors."""
        return self.out / "errors.log"

    @property
    def text(self) -> str:
        """All of them in one line; empty where there is none."""
        each = "; ".join(f"[{name}] {reason}{self._earlier(name)}" for name, reason in self.reasons.items())
        return f"{len(self.reasons)} of {self.n_patients} patients can't be used: {each}" if each else ""

    def _earlier(self, name: str) -> str:
        """Doses of earlier runs, which must not be taken for new ones."""
        dose = self.out / f"{name}.dcm"
        return f" ({dose} is of an earlier run)" if dose.exists() else ""

    @contextmanager
    def of(self, name: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Keep the reason where a patient is refused.

        Args:
            name: The patient's.
            passing: Exceptions that end the run.
        """
        try:
            with fenced(name, self.log, passing=passing):
                yield
        except InputError as error:
            self.reasons[name] = str(error)

    def refuse_if_none(self, usable: Sized) -> None:
        """Check that something is left.

        Raises:
            InputError: If not, with all reasons.
        """
        if not usable:
            raise InputError(self.text)
