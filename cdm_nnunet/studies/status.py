"""Progress of a study, and scores of its models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdm_nnunet.studies.jobs import Job

_EPOCH = re.compile(r"Epoch (\d+)\s*$", re.MULTILINE)
_REFUSAL = re.compile(r"^cdm-nnunet: error: (.*)$", re.MULTILINE)
_TAIL_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Row:
    """A job in words.

    Attributes:
        job: Its name.
        state: ``done``, ``running``, ``stopped``, ``failed`` or ``waiting``.
        hours: Duration of all its runs so far; None if it has not started.
        remark: The last epoch that began, or why it failed.
    """

    job: str
    state: str
    hours: float | None
    remark: str


def status_rows(jobs: Sequence[Job], *, is_running: bool) -> list[Row]:
    """The state of each job.

    Args:
        jobs: Jobs of the study.
        is_running: Whether the study is being run now.
    """
    return [_row(job, is_running) for job in jobs]


def _row(job: Job, is_running: bool) -> Row:
    state = job.state
    if state is None or (state.state == "done" and not job.is_done):
        return Row(job=job.name, state="waiting", hours=None, remark="")
    word = state.state if state.state != "running" or is_running else "stopped"
    remark = {"done": "", "failed": _last(_REFUSAL, job.log) or f"see {job.log}"}.get(word)
    if remark is None:
        epoch = _last(_EPOCH, job.log)
        remark = f"epoch {epoch}" if epoch else ""
    return Row(job=job.name, state=word, hours=job.seconds / 3600, remark=remark)


def _last(pattern: re.Pattern[str], log: Path) -> str:
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _TAIL_BYTES, 0))
        found = pattern.findall(file.read().decode("utf-8", "replace"))
    return str(found[-1]) if found else ""
