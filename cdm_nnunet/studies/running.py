"""Run the jobs of a study in parallel, each as soon as the jobs that it needs are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue

from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import Engine, unordered, using
from cdm_nnunet.studies.jobs import Job, Place, State, end_commands, needed_by

Told = Callable[[Job, State | None], None]


def run_jobs(jobs: Sequence[Job], places: Sequence[Place], engine: Engine | None, told: Told) -> dict[str, str]:
    """Run all unfinished jobs.

    Args:
        jobs: All jobs of the study.
        places: Places for simultaneous jobs. With an engine, one per worker.
        engine: Engine that runs the jobs; None for this machine.
        told: Called when a job starts (with None) and when it ends.

    Returns:
        Reasons for unfinished jobs by name.
    """
    free: SimpleQueue[Place] = SimpleQueue()
    for place in places:
        free.put(place)
    waiting = [job for job in jobs if not job.is_done]
    faults: dict[str, str] = {}
    running: dict[Future[str], Job] = {}
    pool = ThreadPoolExecutor(len(places))
    try:
        while waiting or running:
            waiting = _without_hope(waiting, jobs, faults)
            ahead = [*waiting, *running.values()]
            ready = [job for job in waiting if not any(other in ahead for other in needed_by(job, jobs))]
            for job in ready[: len(places) - len(running)]:
                running[pool.submit(_do, job, free, engine, told)] = job
                waiting.remove(job)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if fault := future.result():
                    faults[job.name] = fault
    except BaseException:
        end_commands()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return faults


def _without_hope(waiting: Sequence[Job], jobs: Sequence[Job], faults: dict[str, str]) -> list[Job]:
    """Waiting jobs whose requirements have not failed; for the others, the reason is added to the faults."""
    left = []
    for job in waiting:
        failed = next((other.name for other in needed_by(job, jobs) if other.name in faults), None)
        if failed is None:
            left.append(job)
        else:
            faults[job.name] = f"not started, because {failed} is not done"
    return left


def _do(job: Job, free: SimpleQueue[Place], engine: Engine | None, told: Told) -> str:
    """Run a job in a free place; return the reason if it failed."""
    place = free.get()
    try:
        told(job, None)
        state = job.run(place) if engine is None else _elsewhere(job, place, engine)
    except InputError as error:
        return str(error)
    finally:
        free.put(place)
    told(job, state)
    return "" if state.state == "done" else f"failed, see {job.log}"


def _elsewhere(job: Job, place: Place, engine: Engine) -> State:
    with using(engine):  # (of this thread)
        return next(state for _, state in unordered(partial(_run, place=place), [job], 1))


def _run(job: Job, place: Place) -> State:
    return job.run(place)
