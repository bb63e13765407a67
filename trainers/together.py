"""Several processes that train one model, one per GPU: agreement between them, and combined results."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from cdm_nnunet.errors import InputError

_Item = TypeVar("_Item")


def refuse_torchrun(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse the processes of ``torchrun``: each would train the whole model on the same GPU.

    Raises:
        InputError: If ``torchrun`` started this process.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        raise InputError(
            "torchrun can't start a training: nnU-Net starts the processes of several GPUs itself, on one machine; "
            "leave torchrun out and use -num_gpus"
        )


def are_several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def n_processes() -> int:
    """Number of processes; 1 for a single one."""
    return int(dist.get_world_size()) if are_several() else 1


def from_all(items: Sequence[_Item]) -> list[_Item]:
    """The items of all processes, in their order; all must call it."""
    if not are_several():
        return list(items)
    gathered: list[Any] = [None] * n_processes()
    dist.all_gather_object(gathered, list(items))
    return [item for part in gathered for item in part]


def any_of_all(said: bool, device: torch.device) -> bool:
    """Whether a condition is true in any process; all must call it, and all get the same answer."""
    if not are_several():
        return said
    count = torch.tensor(int(said), device=device)
    dist.all_reduce(count)
    return bool(count)


def wait_for_all() -> None:
    """Return once all processes have reached this point."""
    if are_several():
        dist.barrier()


def loss_factor(n_samples: int, n_samples_of_all: int) -> float:
    """Factor for a process' mean loss, so that each sample counts equally.

    DDP averages gradients over processes. If one has two samples and the other has one, the single sample would count
    twice.

    Args:
        n_samples: Number of samples of this process in a batch.
        n_samples_of_all: Number of samples of all processes together.
    """
    return n_samples * n_processes() / n_samples_of_all


@contextlib.contextmanager
def by_the_first(claim: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in the first process only.

    Raises:
        InputError: In all processes, if the first one's claim is refused.
    """
    with contextlib.ExitStack() as held:
        if not are_several():
            held.enter_context(claim)
        elif refusal := _refusal_of_the_first(claim, held):
            raise InputError(refusal)
        yield


def _refusal_of_the_first(claim: contextlib.AbstractContextManager[None], held: contextlib.ExitStack) -> str:
    said = [""]
    if dist.get_rank() == 0:
        try:
            held.enter_context(claim)
        except InputError as error:
            said = [str(error)]
    dist.broadcast_object_list(said, src=0)
    return said[0]


@contextlib.contextmanager
def several_processes() -> Iterator[None]:
    """For the process that starts the others: forward SIGTERM to them, and report their refusals in one line.

    Raises:
        InputError: If they refuse something.
        SystemExit: After SIGTERM, with status 143, once they have ended.
    """
    stopped = 128 + signal.SIGTERM
    asked = threading.Event()

    def pass_on(*_: Any) -> None:
        asked.set()
        for process in multiprocessing.active_children():
            process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except ProcessRaisedException as error:
        if refusal := _refusal_in(str(error)):
            raise InputError(refusal) from None
        raise
    except ProcessExitedException as error:
        if asked.is_set() or error.exit_code == stopped:
            raise SystemExit(stopped) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _refusal_in(trace: str) -> str:
    """The message of an :class:`InputError` at the end of a trace; empty for another error."""
    last = trace.rstrip().splitlines()[-1]
    name = f"{InputError.__module__}.{InputError.__qualname__}: "
    return last.removeprefix(name) if last.startswith(name) else ""
