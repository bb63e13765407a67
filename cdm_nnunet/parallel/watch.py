"""The workers of a cluster while a command waits for results: lost jobs are queued again, and the wait has an end.

A batch system ends jobs, for example at their time limit, and Dask starts no others in their place.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cdm_nnunet.progress import duration_text, note_beside

_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is watched, and what can be done about it. All of it is called from another thread.

    Attributes:
        n_workers: Current number of workers that can do the work.
        is_waiting: Whether the command waits for results.
        queue_again: Queues jobs in the place of lost ones; does nothing if none is lost.
        give_up: Ends the wait with a message.
    """

    n_workers: Callable[[], int]
    is_waiting: Callable[[], bool]
    queue_again: Callable[[], None]
    give_up: Callable[[str], None]


class WorkerWatch:
    """Notes since when there is no worker.

    Args:
        watched: The cluster.
        wait_s: How long to wait for another worker.
        clock: Time in seconds.
    """

    def __init__(self, watched: Watched, wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._watched, self._wait_s, self._clock = watched, wait_s, clock
        self._none_since: float | None = None

    def look(self) -> None:
        """Look once: queue lost jobs again, tell the user, or give up."""
        self._watched.queue_again()
        if self._watched.n_workers() > 0 or not self._watched.is_waiting():
            if self._none_since is not None:
                note_beside("a worker has come; the work goes on")
            self._none_since = None
            return
        if self._none_since is None:
            self._none_since = self._clock()
            note_beside(f"no worker is left; waiting up to {duration_text(self._wait_s)} for another one")
        elif self._clock() - self._none_since > self._wait_s:
            self._watched.give_up(
                f"no worker was left, and none came within {duration_text(self._wait_s)}; run the same command again "
                "to continue"
            )


@contextlib.contextmanager
def watching(watched: Watched, wait_s: float) -> Iterator[None]:
    """Look every few seconds, in a thread, until the ``with`` ends."""
    ended = threading.Event()
    watch = WorkerWatch(watched, wait_s)

    def look_on() -> None:
        while not ended.wait(_EVERY_S):
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # (the connection is being closed, or lost)
                watch.look()

    thread = threading.Thread(target=look_on, name="watch of the workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
