"""Work on many cases in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cdm_nnunet.errors import InputError

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def unordered(work: Callable[[_Job], _Result], jobs: Sequence[_Job], n_processes: int) -> Iterator[tuple[int, _Result]]:
    """Results as they come, each with the position of its job.

    Processes are spawned: a fork of a process in which SimpleITK or torch has run threads can hang. With one process,
    the work is done in this one. When a job fails, or the caller stops, what has not begun is dropped.

    Args:
        work: A function that can be pickled.
        jobs: Its arguments.
        n_processes: How many processes at most.

    Raises:
        InputError: If ``n_processes`` is below 1, or a process was killed.
        Exception: What a job raised.
    """
    if n_processes < 1:
        raise InputError(f"the number of processes must be at least 1, not {n_processes}")
    if min(n_processes, len(jobs)) <= 1:
        yield from ((position, work(job)) for position, job in enumerate(jobs))
        return
    pool = ProcessPoolExecutor(min(n_processes, len(jobs)), multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(work, job): position for position, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, most likely for want of memory; run the same command with a smaller -np"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
