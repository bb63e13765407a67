"""Work in several processes: results, errors and killed workers."""

import os
import signal

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import unordered


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
