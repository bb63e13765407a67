"""Parallel work on many cases, locally or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import local

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class Engine(Protocol):
    """Runs work elsewhere than in processes of this machine."""

    @property
    def n_workers(self) -> int:
        """Current number of workers that can do the work."""

    def unordered(self, work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[tuple[int, _Result]]:
        """As :func:`unordered`."""

    def ordered(self, work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[_Result]:
        """As :func:`ordered`."""


_ENGINE: ContextVar[Engine | None] = ContextVar("engine", default=None)


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Run all work inside the ``with`` by an engine."""
    token = _ENGINE.set(engine)
    try:
        yield
    finally:
        _ENGINE.reset(token)


def active_engine() -> Engine | None:
    """The active engine; None for processes of this machine."""
    return _ENGINE.get()


def unordered(work: Callable[[_Job], _Result], jobs: Sequence[_Job], n_processes: int) -> Iterator[tuple[int, _Result]]:
    """Results as they arrive, each with the position of its job.

    With one process and no engine, the work is done in this process. When a job fails, or the caller stops, jobs
    that have not started are dropped.

    Args:
        work: A function that can be pickled.
        jobs: Its arguments.
        n_processes: Maximum number of processes; an engine has its own number of workers.

    Raises:
        InputError: If ``n_processes`` is below 1, or a process or a worker was killed.
        Exception: Any exception of a job.
    """
    _check(n_processes)
    if (engine := active_engine()) is not None:
        return engine.unordered(work, jobs)
    return local.unordered(work, jobs, n_processes)


def ordered(work: Callable[[_Job], _Result], jobs: Sequence[_Job], n_processes: int) -> Iterator[_Result]:
    """Results in the order of the jobs, only a few ahead of the caller, because each may take a gigabyte.

    Even a single process is separate, and works while the caller does. Arguments and errors are those of
    :func:`unordered`.
    """
    _check(n_processes)
    if (engine := active_engine()) is not None:
        return engine.ordered(work, jobs)
    return local.ordered(work, jobs, n_processes)


def _check(n_processes: int) -> None:
    if n_processes < 1:
        raise InputError(f"the number of processes must be at least 1, not {n_processes}")
