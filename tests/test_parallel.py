"""Work in several processes: results, errors and killed workers."""

import os
import signal
import subprocess
import sys
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
    with pytest.raises(InputError, match="a worker process was killed, most likely because memory ran out"):
        list(unordered(die, [1, 2], 2))


UNGUARDED = """
from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import unordered
try:
    print(list(unordered(abs, [1, 2], 2)))
except InputError as error:
    print("refused:", error)
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False, timeout=120
    )
    assert "refused: a worker process ended by itself (status 1). If this was called from a script" in done.stdout
    assert "if __name__ == '__main__':" in done.stdout


def report_and_sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


KILLED = """
import sys
from cdm_nnunet.parallel import unordered
from test_parallel import report_and_sleep
if __name__ == "__main__":
    list(unordered(report_and_sleep, [sys.argv[1]] * 2, 2))
"""


def is_alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "script.py").write_text(KILLED)
    (tmp_path / "workers").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "workers")], env=environment)
    assert wait_until(lambda: len(list((tmp_path / "workers").iterdir())) == 2)
    workers = [int(path.name) for path in (tmp_path / "workers").iterdir()]
    assert all(map(is_alive, workers))
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(is_alive, workers)))


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
    with pytest.raises(InputError, match="a worker process was killed, most likely because memory ran out"):
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
