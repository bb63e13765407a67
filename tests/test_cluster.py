"""Work on a real Dask cluster of two worker processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cdm_nnunet.documents import read_yaml
from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import ordered, unordered
from cdm_nnunet.parallel.cluster import ClusterFile, cluster_arguments, on_cluster
from cdm_nnunet.parallel.watch import Watched, WorkerWatch

REPOSITORY = Path(__file__).resolve().parents[1]
distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@pytest.fixture(scope="module")
def scheduler():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def square(number: int) -> int:
    return number**2


def slow_square(number: int) -> int:
    time.sleep(0.1 * (number == 3))
    return number**2


def refuse(number: int) -> int:
    raise InputError(f"case {number} can't be used")


def process_id(number: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path


def die(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_trace(number: int, folder: Path) -> None:
    time.sleep(0.2)
    (folder / str(number)).touch()


def test_results_are_those_of_this_machine(scheduler):
    with on_cluster(scheduler):
        assert dict(unordered(slow_square, [3, 1, 2], 1)) == {0: 9, 1: 1, 2: 4}
        assert list(ordered(slow_square, [3, 1, 2, 5, 7], 1)) == [9, 1, 4, 25, 49]
        assert list(unordered(square, [], 1)) == []
        assert list(ordered(square, [], 1)) == []
        workers = {pid for _, pid in unordered(process_id, range(8), 1)}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert {pid for _, pid in unordered(process_id, [1, 2], 1)} == {os.getpid()}


def test_a_refusal_reads_as_it_does_here(scheduler):
    with on_cluster(scheduler):
        with pytest.raises(InputError, match=r"^case 7 can't be used$"):
            list(unordered(refuse, [7, 7], 1))
        with pytest.raises(InputError, match=r"^case 7 can't be used$"):
            list(ordered(refuse, [7, 7], 1))


def test_what_has_not_begun_is_dropped_when_the_caller_stops(scheduler, tmp_path):
    with on_cluster(scheduler):
        results = unordered(partial(leave_a_trace, folder=tmp_path), range(40), 1)
        next(results)
        results.close()
        time.sleep(1)
    assert len(list(tmp_path.iterdir())) < 12


def test_workers_take_over_folders_and_variables(scheduler, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", "raw of the command")
    monkeypatch.chdir(tmp_path)
    with on_cluster(scheduler):
        assert set(dict(unordered(variable, ["nnUNet_raw"] * 4, 1)).values()) == {"raw of the command"}
    monkeypatch.delenv("nnUNet_raw")
    with on_cluster(scheduler):
        assert set(dict(unordered(variable, ["nnUNet_raw"] * 4, 1)).values()) == {None}


def test_a_killed_worker_has_its_cases_done_again(scheduler, tmp_path):
    with on_cluster(scheduler):
        done = dict(unordered(die_once, [str(tmp_path / name) for name in "abc"], 1))
    assert done == {0: str(tmp_path / "a"), 1: str(tmp_path / "b"), 2: str(tmp_path / "c")}


def test_a_folder_that_workers_do_not_see_is_one_line(scheduler, tmp_path):
    with (
        on_cluster(scheduler, reads=[tmp_path / "missing"]),
        pytest.raises(InputError, match=r"worker on .* can't see .*/missing: it must be at the same path"),
    ):
        list(unordered(square, [1], 1))


def test_a_file_server_of_another_machine_is_found_out(tmp_path):
    """A worker in its own mount namespace, with another folder at the same path."""
    (tmp_path / "out").mkdir()
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("unshare --mount is not allowed here")
    worker = f"mount -t tmpfs none {tmp_path}/out && exec {sys.executable} -m distributed.cli.dask_worker"
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        command = f"{worker} {cluster.scheduler_address} --nthreads 1 --no-dashboard"
        with subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                with (
                    on_cluster(cluster.scheduler_address, writes=[tmp_path / "out"]),
                    pytest.raises(
                        InputError, match=r"out of the worker on .* is not the folder that this command sees"
                    ),
                ):
                    list(unordered(square, [1], 1))
            finally:
                os.killpg(process.pid, signal.SIGTERM)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_case_that_kills_every_worker_is_named():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        on_cluster(cluster.scheduler_address),
        pytest.raises(InputError, match=r"^pt_9: its worker was killed, \d times in a row"),
    ):
        list(unordered(die, ["cases/pt_9"], 1))


def test_the_wait_for_a_worker_is_told_and_ends(capsys):
    """With a clock of our own, in seconds."""
    state = {"workers": 1, "waiting": True, "now": 0.0}
    said, queued = [], []
    watched = Watched(
        n_workers=lambda: state["workers"],
        is_waiting=lambda: state["waiting"],
        queue_again=lambda: queued.append(state["now"]),
        give_up=said.append,
    )
    watch = WorkerWatch(watched, 600, clock=lambda: state["now"])

    def looked(now, **changes):
        state.update(changes, now=float(now))
        watch.look()
        return capsys.readouterr().err

    assert looked(0) == ""
    assert looked(10, workers=0) == "no worker is left; waiting up to 10 min for another one\n"
    assert looked(600) == ""
    assert looked(605, workers=1) == "a worker has come; the work goes on\n"
    assert looked(700, workers=0, waiting=False) == ""
    assert looked(1400, waiting=True).startswith("no worker is left")
    assert looked(2000) == ""
    assert said == []
    looked(2001)
    assert said == ["no worker was left, and none came within 10 min; run the same command again to continue"]
    assert queued == [0, 10, 600, 605, 700, 1400, 2000, 2001]


@pytest.mark.parametrize("way", [unordered, ordered])
def test_without_any_worker_the_command_ends(tmp_path, monkeypatch, capsys, way):
    monkeypatch.setattr("cdm_nnunet.parallel.watch._EVERY_S", 0.2)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        (tmp_path / "cluster.yaml").write_text(f"address: {cluster.scheduler_address}\nwait_s: 1\n")
        with on_cluster(str(tmp_path / "cluster.yaml")):
            results = iter(way(partial(leave_a_trace, folder=tmp_path), range(40), 1))
            next(results)
            cluster.scale(0)
            with pytest.raises(InputError, match=r"^no worker was left, and none came within 1 s; run the same"):
                list(results)
    assert capsys.readouterr().err == "no worker is left; waiting up to 1 s for another one\n"
    assert len(list(tmp_path.iterdir())) < 40


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A batch system whose jobs are processes of this machine; returns the file with their process groups."""
    programs = {
        "sbatch": 'setsid sh -c "$(cat "$1")" >/dev/null 2>&1 &\n'
        f'echo $! >> {tmp_path}/jobs; echo "Submitted batch job $!"',
        "scancel": "kill -9 -- -$1 2>/dev/null",
    }
    (tmp_path / "bin").mkdir()
    for name, line in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path / "jobs"


def test_jobs_that_the_batch_system_ends_are_queued_again(queue, monkeypatch, tmp_path, capsys):
    pytest.importorskip("dask_jobqueue", reason="the extra 'cluster' is not installed")
    monkeypatch.setattr("cdm_nnunet.parallel.watch._EVERY_S", 0.2)
    monkeypatch.setitem(distributed.config["distributed"]["deploy"], "lost-worker-timeout", "0.5s")
    (tmp_path / "cluster.yaml").write_text(
        "cluster: SLURMCluster\narguments: {cores: 1, memory: 1GB, interface: lo}\njobs: 1\nwait_s: 60\n"
    )
    with on_cluster(str(tmp_path / "cluster.yaml")):
        results = iter(unordered(process_id, range(8), 1))
        first = next(results)[1]
        os.killpg(int(queue.read_text()), signal.SIGKILL)
        later = {pid for _, pid in results}
    assert later - {first}
    assert len(queue.read_text().split()) == 2
    assert capsys.readouterr().err.endswith("a worker has come; the work goes on\n")


def test_a_cluster_of_a_file(tmp_path):
    (tmp_path / "cluster.yaml").write_text("cluster: LocalCluster\njobs: 2\n")
    with on_cluster(str(tmp_path / "cluster.yaml")):
        assert len({pid for _, pid in unordered(process_id, range(8), 1)}) == 2


@pytest.mark.filterwarnings("ignore:.*Cluster.__del__.*:pytest.PytestUnraisableExceptionWarning")  # never begun
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: os.system\n", "line 1, column 10: cluster: Input should be 'LocalCluster'"),
        ("cluster: LocalCluster\njobs: 0\n", "jobs"),
        ("cluster: LocalCluster\narguments: {no_such: 1}\n", "LocalCluster can't be started: .*no_such"),
        ("cluster: SLURMCluster\n", "SLURMCluster can't be started: "),
        ("jobs: 2\n", "give either 'cluster', which is started, or the 'address' of one that runs"),
        ("cluster: LocalCluster\naddress: tcp://127.0.0.1:9\n", "give either 'cluster'"),
        ("address: tls://127.0.0.1:9\ntls: {ca_file: a, cert: b, key: c}\n", "tls: no file a"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(InputError, match=message), on_cluster(str(tmp_path / "cluster.yaml")):
        pass


def test_no_scheduler_no_worker_and_several_threads(tmp_path):
    with (
        pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"),
        on_cluster("tcp://127.0.0.1:9"),
    ):
        pass
    with pytest.raises(InputError, match=r"missing\.yaml"), on_cluster(str(tmp_path / "missing.yaml")):
        pass
    (tmp_path / "cluster.yaml").write_text("cluster: LocalCluster\narguments: {n_workers: 0}\nwait_s: 0.5\n")
    with pytest.raises(InputError, match="no worker came within"), on_cluster(str(tmp_path / "cluster.yaml")):
        pass
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(InputError, match=r"has 2 threads: start workers with one each"),
        on_cluster(cluster.scheduler_address),
    ):
        pass


def test_a_queue_gets_jobs_of_one_thread_with_a_gpu(tmp_path):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="the extra 'cluster' is not installed")
    path = tmp_path / "cluster.yaml"
    lines = [line for line in (REPOSITORY / "docs/studies.md").read_text().split("```yaml") if "SLURMCluster" in line]
    path.write_text(lines[0].partition("```")[0].replace("arguments: {", "arguments: {interface: lo, "))
    described = read_yaml(path, ClusterFile, "")
    with jobqueue.SLURMCluster(**cluster_arguments(described, "")) as cluster:
        script = cluster.job_script()
    for expected in (
        "#SBATCH -p gpu",
        "#SBATCH --gres=gpu:1",
        "--nthreads 1",
        "--resources GPU=1",
        "#SBATCH -t 24:00:00",
    ):
        assert expected in script
    assert "--nworkers" not in script  # (one for each job)


@pytest.fixture
def certificate(tmp_path):
    """A certificate that is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    files = {"ca_file": tmp_path / "cert.pem", "cert": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
    subprocess.run([*command, "-keyout", files["key"], "-out", files["cert"]], check=True, capture_output=True)
    return "{" + ", ".join(f"{name}: {path}" for name, path in files.items()) + "}"


def test_a_cluster_with_tls_lets_nobody_in_without(certificate, tmp_path):
    started = tmp_path / "cluster.yaml"
    started.write_text(f"cluster: LocalCluster\ntls: {certificate}\narguments: {{scheduler_port: 0}}\n")
    described = read_yaml(started, ClusterFile, "")
    with distributed.LocalCluster(**cluster_arguments(described, "")) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        joined = tmp_path / "joined.yaml"
        joined.write_text(f"address: {address}\ntls: {certificate}\n")
        with on_cluster(str(joined)):
            assert dict(unordered(square, [2, 3], 1)) == {0: 4, 1: 9}
        with pytest.raises(InputError, match="needs certificates"), on_cluster(address):
            pass
        with pytest.raises(InputError, match="no Dask scheduler answers"), on_cluster(address.replace("tls", "tcp")):
            pass
