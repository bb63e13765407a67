"""Work on a Dask cluster: a running one (its scheduler's address), or one described by a file (for example SLURM).

Every worker must be a process with one thread, with the same version of this package, and must see the folders of the
command at the same paths. This is checked on each worker before its first case.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

import cdm_nnunet
from cdm_nnunet.documents import read_yaml
from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel.spread import using
from cdm_nnunet.parallel.watch import Watched, watching

if TYPE_CHECKING:
    from distributed import Client, Future

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_INSTALL = "pip install 'cdm_nnunet[cluster]'"
_LOCAL_CLUSTER = "LocalCluster"
_SCHEMES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
_VARIABLES = ("nnUNet_", "CDM_")  # prefixes of the variables that a worker copies from the command
_VISIBLE_WITHIN_S = 30.0  # a network file system may show new files with a delay
_FIRST_WORKER_S = 600.0  # a queue may be long
_ANSWER_S = 10.0  # of a running scheduler
_GPU = "GPU"  # resource of a Dask worker
_ENTERED: set[str] = set()  # commands for which this worker process has been checked


class TlsFiles(BaseModel):
    """Certificates of a cluster, as PEM files that all machines can read.

    Attributes:
        ca_file: Certificate of the authority that signed the others.
        cert: Certificate of this command and, with a cluster that it starts, of scheduler and workers.
        key: Its private key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca_file: str
    cert: str
    key: str

    def security(self, where: str) -> Any:
        """Dask's security object; all connections are encrypted.

        Raises:
            InputError: If a file is missing.
        """
        from distributed import Security

        for path in (self.ca_file, self.cert, self.key):
            if not Path(path).is_file():
                raise InputError(f"{where}: tls: no file {path}")
        pair = {f"tls_{part}_{what}": value for part in ("client", "scheduler", "worker")
                for what, value in (("cert", self.cert), ("key", self.key))}  # fmt: skip
        return Security(tls_ca_file=self.ca_file, require_encryption=True, **pair)


class ClusterFile(BaseModel):
    """A cluster as YAML: one that the command starts and stops, or the address of a running one.

    Attributes:
        cluster: ``LocalCluster``, or a class of ``dask_jobqueue`` such as ``SLURMCluster``.
        address: Address of a running scheduler instead, such as ``tls://HOST:8786``.
        tls: Certificates.
        arguments: Arguments of the class, see its documentation.
        jobs: Number of queued jobs; with ``LocalCluster``, of workers.
        wait_s: Maximum wait for the first worker, and for another one if all are gone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: (
        Literal["LocalCluster", "SLURMCluster", "PBSCluster", "LSFCluster", "SGECluster", "HTCondorCluster"] | None
    ) = None
    address: str | None = None
    tls: TlsFiles | None = None
    arguments: dict[str, JsonValue] = {}
    jobs: int = Field(default=1, ge=1)
    wait_s: float = Field(default=_FIRST_WORKER_S, gt=0)


@contextlib.contextmanager
def on_cluster(
    scheduler: str | None, *, reads: Sequence[Path] = (), writes: Sequence[Path] = (), needs_gpu: bool = False
) -> Iterator[None]:
    """Run all work inside the ``with`` on a Dask cluster.

    Args:
        scheduler: Address of a scheduler, such as ``tcp://HOST:8786``, or a YAML file (:class:`ClusterFile`); None for
            processes of this machine.
        reads: Folders and files that workers read.
        writes: Folders that workers write into.
        needs_gpu: Use workers started with ``--resources GPU=1``, one task at a time.

    Raises:
        InputError: If Dask is not installed, the file or address is wrong, or no worker starts or can do the work.
    """
    if scheduler is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        connection = _connect(scheduler, stack)
        tokens = tuple(stack.enter_context(_token(folder)) for folder in writes)
        seen = tuple(str(path.absolute()) for path in reads)
        engine = DaskEngine(connection.client, _Surroundings.of_this_process(seen, tokens), needs_gpu)
        watched = Watched(
            n_workers=lambda: engine.n_workers,
            is_waiting=lambda: engine.is_waiting,
            queue_again=connection.queue_again,
            give_up=engine.give_up,
        )
        with watching(watched, connection.wait_s), using(engine):
            yield


@dataclass(frozen=True)
class _Connection:
    """A connection to a cluster.

    Attributes:
        client: The client.
        wait_s: Maximum wait for another worker if all are gone.
        queue_again: Queues jobs in the place of lost ones.
    """

    client: Client
    wait_s: float
    queue_again: Callable[[], None]


def _connect(scheduler: str, stack: contextlib.ExitStack) -> _Connection:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(f"--scheduler needs Dask, which is not installed: {_INSTALL}") from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    described = _described(scheduler)
    security = None if described.tls is None else described.tls.security(scheduler)
    wait_s = described.wait_s
    queue_again = _nothing_to_queue
    if described.address is not None:
        _refuse_missing_certificates(described)
        wait_s = _ANSWER_S
        try:
            client = stack.enter_context(
                Client(described.address, timeout=wait_s, set_as_default=False, security=security)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {described.address}: {_in_one_line(error)}") from None
    else:
        cluster = stack.enter_context(_started(described, scheduler))
        client = stack.enter_context(Client(cluster, set_as_default=False, security=security))
        if described.cluster != _LOCAL_CLUSTER:  # (whose workers come again by themselves)
            queue_again = partial(cluster.scale, jobs=described.jobs)
    try:
        client.wait_for_workers(1, timeout=wait_s)
    except TimeoutError:
        raise InputError(f"{scheduler}: no worker came within {wait_s:.0f} s") from None
    return _Connection(client, described.wait_s, queue_again)


def _nothing_to_queue() -> None:
    """The workers of a running scheduler are somebody else's."""


def _described(scheduler: str) -> ClusterFile:
    if scheduler.startswith(_SCHEMES):
        return ClusterFile(address=scheduler)
    described = read_yaml(Path(scheduler), ClusterFile, "--scheduler takes an address (tcp://HOST:PORT) or a file")
    if (described.cluster is None) == (described.address is None):
        raise InputError(f"{scheduler}: give either 'cluster', which is started, or the 'address' of one that runs")
    return described


def _refuse_missing_certificates(described: ClusterFile) -> None:
    from distributed import Security

    encrypted = str(described.address).startswith(("tls://", "wss://"))
    if encrypted and described.tls is None and Security().tls_ca_file is None:  # (of Dask's configuration)
        raise InputError(
            f"{described.address} needs certificates: give --scheduler a file with 'address' and 'tls' "
            "(docs/studies.md), or set them in Dask's configuration"
        )


def cluster_arguments(described: ClusterFile, where: str) -> dict[str, Any]:
    """Arguments for the class of a cluster.

    Args:
        described: A file with ``cluster``.
        where: Its path, for messages.
    """
    arguments: dict[str, Any] = dict(described.arguments)
    if described.tls is not None:
        arguments |= {"security": described.tls.security(where), "protocol": "tls://"}
    if described.cluster == _LOCAL_CLUSTER:
        own = {"n_workers": described.jobs, "dashboard_address": "127.0.0.1:0"}
        return {**own, **arguments, "threads_per_worker": 1}
    return arguments


def _started(described: ClusterFile, where: str) -> Any:
    module = "distributed" if described.cluster == _LOCAL_CLUSTER else "dask_jobqueue"
    arguments = cluster_arguments(described, where)
    try:
        cluster = getattr(importlib.import_module(module), str(described.cluster))(**arguments)
        if described.cluster != _LOCAL_CLUSTER:
            cluster.scale(jobs=described.jobs)
    except ImportError:
        raise InputError(
            f"{where}: {described.cluster} needs dask-jobqueue, which is not installed: {_INSTALL}"
        ) from None
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise InputError(f"{where}: {described.cluster} can't be started: {_in_one_line(error)}") from None
    return cluster


def _in_one_line(error: BaseException | None) -> str:
    """Messages of an error and its causes, in one line."""
    said: list[str] = []
    while error is not None:
        said.append(" ".join(str(error).split())[:300] or type(error).__name__)
        error = error.__cause__
    return ": ".join(dict.fromkeys(said))


@contextlib.contextmanager
def _token(folder: Path) -> Iterator[str]:
    """Write a file that a worker must see: in a folder, or, while that is missing, in the nearest existing parent."""
    folder = folder.absolute()
    folder = next(place for place in (folder, *folder.parents) if place.is_dir())
    path = folder / f".shared_{uuid.uuid4().hex}"
    path.touch()
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """Settings that a worker must share with the command.

    Attributes:
        command: Unique name of the command.
        version: Version of this package.
        working_directory: Base of relative paths.
        variables: Relevant environment variables.
        seen: Paths that must exist.
        tokens: New files that the worker must see.
    """

    command: str
    version: str
    working_directory: str
    variables: Mapping[str, str]
    seen: tuple[str, ...]
    tokens: tuple[str, ...]

    @classmethod
    def of_this_process(cls, seen: tuple[str, ...], tokens: tuple[str, ...]) -> _Surroundings:
        return cls(
            command=uuid.uuid4().hex,
            version=cdm_nnunet.__version__,
            working_directory=os.getcwd(),
            variables={key: value for key, value in os.environ.items() if key.startswith(_VARIABLES)},
            seen=seen,
            tokens=tokens,
        )

    def enter(self) -> None:
        """Apply them in this worker process, once per command.

        Raises:
            InputError: If this worker can't do the command's work.
        """
        if self.command in _ENTERED:
            return
        host = socket.gethostname()
        if self.version != cdm_nnunet.__version__:
            raise InputError(
                f"the worker on {host} has cdm_nnunet {cdm_nnunet.__version__}, not {self.version}: install the same"
            )
        for path in (self.working_directory, *self.seen):
            if not Path(path).exists():
                raise InputError(f"the worker on {host} can't see {path}: it must be at the same path on all machines")
        for path in self.tokens:
            _wait_for(Path(path), host)
        os.chdir(self.working_directory)
        for key in [key for key in os.environ if key.startswith(_VARIABLES)]:
            del os.environ[key]
        os.environ.update(self.variables)
        _ENTERED.add(self.command)


def _wait_for(path: Path, host: str) -> None:
    end = time.monotonic() + _VISIBLE_WITHIN_S
    while not path.exists():
        if time.monotonic() > end:
            raise InputError(
                f"{path.parent} of the worker on {host} is not the folder that this command sees there: a file "
                f"written here has not appeared there within {_VISIBLE_WITHIN_S:.0f} s; the folder must be on a file "
                "system that all machines share"
            )
        os.scandir(path.parent if path.parent.is_dir() else "/").close()  # (refreshes the file system's cache)
        time.sleep(0.2)


def _run(surroundings: _Surroundings, pickled: bytes) -> object:
    """A task in the worker: the work is unpickled, and so imported, after the settings of the command are applied."""
    surroundings.enter()
    work, job = pickle.loads(pickled)  # from the worker's own client, as Dask itself does
    return work(job)


class DaskEngine:
    """An :class:`~cdm_nnunet.parallel.Engine` with the workers of a Dask client."""

    def __init__(self, client: Client, surroundings: _Surroundings, needs_gpu: bool = False) -> None:
        self._client = client
        self._surroundings = surroundings
        self._resources = {_GPU: 1} if needs_gpu else None
        self._open: dict[Future, int] = {}  # awaited results
        self._given_up: str | None = None
        if self.n_workers == 0:
            raise InputError(f"no worker offers a GPU: start those that have one with --resources {_GPU}=1")
        threads: dict[str, int] = client.nthreads()
        if several := [address for address, count in threads.items() if count != 1]:
            raise InputError(
                f"the worker {several[0]} has {threads[several[0]]} threads: start workers with one each (dask worker "
                "--nworkers N --nthreads 1)"
            )

    @property
    def n_workers(self) -> int:
        """Current number of workers that can do the work."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(self._resources is None or worker["resources"].get(_GPU, 0) >= 1 for worker in workers)

    @property
    def is_waiting(self) -> bool:
        """Whether results are awaited."""
        return bool(self._open)

    def give_up(self, why: str) -> None:
        """End the wait for results: it raises an InputError with this message."""
        self._given_up = why
        self._client.cancel(list(self._open), force=True)

    def unordered(self, work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[tuple[int, _Result]]:
        """Results as they arrive, each with the position of its job.

        Raises:
            InputError: If the workers of a job died several times, or the cluster is gone.
            Exception: Any exception of a job.
        """
        from distributed import as_completed

        if not jobs:
            return
        with self._cancelled_at_the_end() as futures:
            futures.update((self._submit(work, job), position) for position, job in enumerate(jobs))
            for future in as_completed(list(futures), loop=self._client.loop):
                position = futures.pop(future)
                yield position, self._result(future, jobs[position])

    def ordered(self, work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[_Result]:
        """Results in the order of the jobs; computed ahead for a few more jobs than workers.

        Raises:
            InputError: If the workers of a job died several times, or the cluster is gone.
            Exception: Any exception of a job.
        """
        with self._cancelled_at_the_end() as futures:
            begun = 0
            for position, job in enumerate(jobs):
                while begun < min(len(jobs), position + self.n_workers + 1):
                    futures[self._submit(work, jobs[begun])] = begun
                    begun += 1
                future = next(iter(futures))
                result = self._result(future, job)
                del futures[future]
                yield result

    def _submit(self, work: Callable[[_Job], _Result], job: _Job) -> Future:
        return self._client.submit(
            _run, self._surroundings, pickle.dumps((work, job)), pure=False, resources=self._resources
        )

    @contextlib.contextmanager
    def _cancelled_at_the_end(self) -> Iterator[dict[Future, int]]:
        """Futures with their positions; those that are left at the end are cancelled."""
        futures: dict[Future, int] = {}
        before, self._open = self._open, futures
        try:
            yield futures
        finally:
            self._open = before
            if futures:
                with contextlib.suppress(Exception):  # the cluster may be gone
                    self._client.cancel(list(futures), force=True)

    def _result(self, future: Future, job: object) -> Any:
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        try:
            return future.result()
        except KilledWorker as error:
            tries = error.allowed_failures + 1
            raise InputError(
                f"{_name_of(job)}: its worker was killed, {tries} times in a row, most likely because memory ran out, "
                "or its job reached its time limit; give workers more, and run the same command again"
            ) from None
        except (CancelledError, CommClosedError, TimeoutError) as error:
            if self._given_up is not None:
                raise InputError(self._given_up) from None
            raise InputError(
                f"the Dask cluster is gone ({type(error).__name__}); run the same command again to continue"
            ) from None


def _name_of(job: object) -> str:
    first = job[0] if isinstance(job, tuple) and job else job
    name = getattr(first, "case", None) or getattr(first, "name", None)
    return str(name) if name else Path(first).name if isinstance(first, str) else "a job"
