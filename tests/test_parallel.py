"""Work in several processes: results, errors and killed workers."""

import os
import signal
import time
from pathlib import Path

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import ordered, unordered, usable_cores


def square(number: int) -> int:
    return number**2


def refuse(number: int) -> int:
    raise InputError(f"case {number} can't be used")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_id(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("n_processes", [1, 2, 9])
def test_every_job_has_its_result(n_processes):
    assert dict(unordered(square, [3, 1, 2], n_processes)) == {0: 9, 1: 1, 2: 4}


def test_one_process_is_this_one_and_two_are_not():
    assert {pid for _, pid in unordered(process_id, [1, 2], 1)} == {os.getpid()}
    assert os.getpid() not in {pid for _, pid in unordered(process_id, [1, 2], 2)}


@pytest.mark.parametrize("n_processes", [1, 2])
def test_an_error_comes_through_as_it_was_raised(n_processes):
    with pytest.raises(InputError, match="case 7 can't be used"):
        list(unordered(refuse, [7, 7], n_processes))


def test_a_killed_worker_is_told():
    with pytest.raises(InputError, match="a worker process was killed, most likely for want of memory"):
        list(unordered(die, [1, 2], 2))


def test_no_processes_are_refused():
    with pytest.raises(InputError, match="number of processes must be at least 1, not 0"):
        list(unordered(square, [1], 0))


def leave_a_trace(path: str) -> str:
    Path(path).touch()
    return path


@pytest.mark.parametrize("n_processes", [1, 3, 9])
def test_results_in_order(n_processes):
    assert list(ordered(square, [3, 1, 2, 5], n_processes)) == [9, 1, 4, 25]
    assert list(ordered(square, [], n_processes)) == []


def test_one_process_works_beside_this_one():
    assert os.getpid() not in set(ordered(process_id, [1], 1))


def test_a_bounded_number_of_results_is_ahead(tmp_path):
    """Of nine jobs one is handed over and two (of one process) are ahead; the rest waits for the caller."""
    results = ordered(leave_a_trace, [str(tmp_path / str(k)) for k in range(9)], 1)
    assert next(results) == str(tmp_path / "0")
    deadline = time.monotonic() + 20
    while not (tmp_path / "2").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    results.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_an_ordered_error_and_a_killed_worker():
    with pytest.raises(InputError, match="case 7 can't be used"):
        list(ordered(refuse, [7, 7], 2))
    with pytest.raises(InputError, match="a worker process was killed, most likely for want of memory"):
        list(ordered(die, [1, 2], 1))
    with pytest.raises(InputError, match="number of processes must be at least 1, not 0"):
        list(ordered(square, [1], 0))


def test_cores_that_the_process_may_not_use_are_not_counted():
    allowed = os.sched_getaffinity(0)
    assert usable_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
