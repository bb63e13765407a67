"""Replacement of an evaluation's outputs as one set, so that record, report and tables always match."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cdm_nnunet.evaluation.record import RESULT_FILE
from cdm_nnunet.files import locked

_ASIDE = ".updating_"


@contextlib.contextmanager
def publishing(out: Path, outputs: tuple[str, ...]) -> Iterator[Path]:
    """Write outputs to a temporary folder; when the block ends without an error, they replace all earlier ones.

    The record is removed first and written last: after a killed run a folder has no ``result.json``, and the next run
    finishes it. An error, such as a full disk, leaves the earlier outputs unchanged.

    Args:
        out: The folder; it is made if missing.
        outputs: Names of all files and folders that a run may write, except the record. Those that the block does not
            write are removed, because they belong to an earlier record.

    Yields:
        The folder to write to.

    Raises:
        InputError: If another run is writing to the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"another evaluation is writing to {out}; wait until it has ended"):
        for left in out.glob(f"{_ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        aside = out / f"{_ASIDE}{os.getpid()}"
        aside.mkdir()
        try:
            yield aside
            _replace(aside, out, outputs)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _replace(aside: Path, out: Path, outputs: tuple[str, ...]) -> None:
    (out / RESULT_FILE).unlink(missing_ok=True)
    for name in outputs:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    for name in (*outputs, RESULT_FILE):
        if (aside / name).exists():
            os.replace(aside / name, out / name)
