"""Choice of the checkpoint to resume from, and the lock of a fold's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked
from cdm_nnunet.nnunet.checkpoint import BEST, FINAL, LATEST, Checkpoint, read_checkpoint

_LOCK = ".training_lock"


def newest_whole(folder: Path) -> tuple[Checkpoint, list[str]] | None:
    """The intact checkpoint with the most epochs in a fold's folder.

    Returns:
        The checkpoint, and the faults of the others; None if there is no checkpoint.

    Raises:
        InputError: If none is intact, or they belong to several trainings.
    """
    found: list[Checkpoint] = []
    damaged: list[str] = []
    for name in (FINAL, LATEST, BEST):
        if (folder / name).is_file():
            try:
                found.append(read_checkpoint(folder / name))
            except InputError as error:
                damaged.append(str(error))
    if not found and damaged:
        raise InputError(
            f"no checkpoint in {folder} is intact: {'; '.join(damaged)}; put a copy there, or train from the start "
            "with --restart"
        )
    if not found:
        return None
    begun = {checkpoint.started_at for checkpoint in found} - {None}
    if len(begun) > 1:
        names = ", ".join(
            f"{c.path.name} (epoch {c.epoch}, begun {datetime.fromtimestamp(c.started_at or 0):%Y-%m-%d %H:%M})"
            for c in found
        )
        raise InputError(f"the checkpoints in {folder} belong to several trainings: {names}; move the others away")
    return max(found, key=lambda checkpoint: checkpoint.epoch), damaged  # (the first one of equal epoch)


@contextmanager
def fold_claimed(folder: Path, *, begins: bool, restart: bool) -> Iterator[None]:
    """Keep other trainings out of a fold's folder, and protect earlier checkpoints from being overwritten.

    Args:
        folder: The fold's folder; it exists.
        begins: Whether the training starts, rather than continues.
        restart: Whether it may start although there are checkpoints; they are moved to a folder ``replaced_DATE``.

    Raises:
        InputError: If another process trains this fold, or a training starts although there are checkpoints.
    """
    with locked(folder / _LOCK, f"another process is training in {folder}; wait until it has ended"):
        for partial in folder.glob(".checkpoint_*.partial_*"):  # left by a killed process
            partial.unlink(missing_ok=True)
        earlier = sorted(folder.glob("checkpoint_*.pth"))
        if begins and earlier and not restart:
            raise InputError(
                f"{folder} holds a training already ({', '.join(path.name for path in earlier)}): continue it (--c), "
                "or train this fold from the start (--restart, or CDM_RESTART=1), which keeps them in another folder"
            )
        if begins and earlier:
            replaced = folder / f"replaced_{datetime.now():%Y%m%d_%H%M%S}"
            replaced.mkdir()
            for path in earlier:
                path.rename(replaced / path.name)
        yield
