"""Parallel work on many cases in processes of this machine.

Processes are spawned, because a fork of a process with threads of SimpleITK or torch can hang.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

from cdm_nnunet.errors import InputError

_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to a process when its parent ends
_MANY = 8  # cases
_SIGKILL = 9  # (does not exist on Windows)
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """Number of cores that this process may use: with ``taskset`` or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent(parent: int) -> None:
    """Make the system end this process when its parent ends for any reason (on Linux).

    Args:
        parent: Process id of the parent, which may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def unordered(work: Callable[[_Job], _Result], jobs: Sequence[_Job], n_processes: int) -> Iterator[tuple[int, _Result]]:
    """As :func:`cdm_nnunet.parallel.unordered`, without an engine."""
    if min(n_processes, len(jobs)) <= 1:
        yield from ((position, work(job)) for position, job in enumerate(jobs))
        return
    with _pool(min(n_processes, len(jobs))) as pool:
        futures = {pool.submit(work, job): position for position, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def processes_for(n_jobs: int, n_processes: int) -> int:
    """Number of processes for work that needs torch and nnU-Net: their start takes as long as several cases.

    Example:
        >>> processes_for(7, 4), processes_for(8, 4)
        (1, 4)
    """
    return n_processes if n_jobs >= _MANY else 1


def ordered(work: Callable[[_Job], _Result], jobs: Sequence[_Job], n_processes: int) -> Iterator[_Result]:
    """As :func:`cdm_nnunet.parallel.ordered`, without an engine; at most ``n_processes + 1`` results are ahead."""
    if not jobs:
        return
    with _pool(min(n_processes, len(jobs))) as pool:
        remaining = iter(jobs)
        ahead = deque(pool.submit(work, job) for job in itertools.islice(remaining, n_processes + 1))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(work, job) for job in itertools.islice(remaining, 1))
            yield result


@contextlib.contextmanager
def _pool(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes; jobs that have not started are dropped at the end."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_processes, spawn, initializer=end_with_parent, initargs=(os.getpid(),))
    processes: dict[int, BaseProcess] = getattr(pool, "_processes", {})  # (the pool reports only that one ended)
    try:
        yield pool
    except BrokenProcessPool as error:
        pool.shutdown(wait=True)  # its thread collects the exit statuses, so wait for it
        raise InputError(_why_broken([process.exitcode for process in processes.values()])) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _why_broken(statuses: Sequence[int | None]) -> str:
    own_faults = [status for status in statuses if status is not None and status > 0]
    if own_faults and -_SIGKILL not in statuses:
        return (
            f"a worker process ended by itself (status {own_faults[0]}). If this was called from a script: worker "
            "processes import the script again, so put its code below: if __name__ == '__main__':"
        )
    return (
        "a worker process was killed, most likely because memory ran out; run the same command again with a smaller -np"
    )
