"""Content of checkpoints, choice of the one to resume from, and the lock of a fold's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.documents import differences
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked
from cdm_nnunet.nnunet.checkpoint import BEST, FINAL, LATEST, Checkpoint, read_checkpoint
from cdm_nnunet.nnunet.compute import bare
from cdm_nnunet.nnunet.model import facts_of, model_facts

if TYPE_CHECKING:
    from cdm_nnunet.trainers.base import DoseTrainer

_LOCK = ".training_lock"


def checkpoint_content(trainer: DoseTrainer, epochs_done: int) -> dict[str, Any]:
    """What a checkpoint holds: nnU-Net's entries, and the settings of the training.

    Args:
        trainer: With its network built.
        epochs_done: Number of the epochs whose record it keeps; a training that goes on from it begins with the next.
    """
    scaler = trainer.grad_scaler
    return {
        "network_weights": bare(trainer.network).state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": None if scaler is None else scaler.state_dict(),
        "logging": {key: values[:epochs_done] for key, values in trainer.logger.get_checkpoint().items()},
        "_best_ema": trainer._best_ema,
        "current_epoch": epochs_done,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": trainer.__class__.__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "cdm": {"settings": trainer.settings.to_json()},
    }


def restore(trainer: DoseTrainer, checkpoint: Checkpoint) -> None:
    """Set a trainer, its network built, to where a checkpoint of the same model and fold was written.

    Raises:
        InputError: If the checkpoint is of another trainer, configuration or fold, or does not fit the network.
    """
    content = checkpoint.content
    own = (trainer.__class__.__name__, trainer.configuration_name, str(trainer.fold))
    other = (checkpoint.trainer_name, checkpoint.configuration, checkpoint.fold)
    for name, here, there in zip(("trainer", "configuration", "fold"), own, other, strict=True):
        if here != there:
            raise InputError(f"{checkpoint.path} is of {name} {there}, not of {here}; was it put there by hand?")
    trained, now = facts_of(checkpoint), model_facts(trainer.plans_manager.plans, trainer.dataset_json)
    if unlike := differences(trained, now):
        raise InputError(
            f"{checkpoint.path} was trained with other plans ({unlike}): plan as then to go on, or give the new plans "
            "another name ('cdm-nnunet plan -p NAME') and train with -p NAME"
        )
    try:
        bare(trainer.network).load_state_dict(checkpoint.weights)
        trainer.optimizer.load_state_dict(content["optimizer_state"])
        if trainer.grad_scaler is not None and content["grad_scaler_state"] is not None:
            trainer.grad_scaler.load_state_dict(content["grad_scaler_state"])
        trainer._best_ema = content["_best_ema"]
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint.path} does not fit this training: {reason}") from None
    trainer.current_epoch = checkpoint.epoch
    trainer.logger.load_checkpoint(content["logging"])


def newest_whole(folder: Path) -> tuple[Checkpoint, list[str]] | None:
    """The checkpoint of a fold's folder with the most epochs among those that are whole.

    Returns:
        The checkpoint, and what is wrong with the others; None if there is none at all.

    Raises:
        InputError: If none is whole, or they are of several trainings.
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
            f"no checkpoint in {folder} is whole: {'; '.join(damaged)}; put a copy there, or train from the start with "
            "--restart"
        )
    if not found:
        return None
    begun = {checkpoint.started_at for checkpoint in found} - {None}
    if len(begun) > 1:
        names = ", ".join(
            f"{c.path.name} (epoch {c.epoch}, begun {datetime.fromtimestamp(c.started_at or 0):%Y-%m-%d %H:%M})"
            for c in found
        )
        raise InputError(f"the checkpoints in {folder} are of several trainings: {names}; move the others away")
    return max(found, key=lambda checkpoint: checkpoint.epoch), damaged  # (the first of equals)


@contextmanager
def fold_claimed(folder: Path, *, begins: bool, restart: bool) -> Iterator[None]:
    """Keep other trainings out of a fold's folder, and earlier checkpoints from being written over.

    Args:
        folder: Of the fold; it exists.
        begins: Whether the training begins, rather than goes on.
        restart: Whether it may begin where there are checkpoints; they are moved to a folder ``replaced_DATE``.

    Raises:
        InputError: If another process trains this fold, or the training begins where there are checkpoints.
    """
    with locked(folder / _LOCK, f"another process is training in {folder}; wait until it has ended"):
        for partial in folder.glob(".checkpoint_*.partial_*"):  # of a process that was killed
            partial.unlink(missing_ok=True)
        earlier = sorted(folder.glob("checkpoint_*.pth"))
        if begins and earlier and not restart:
            raise InputError(
                f"{folder} holds a training already ({', '.join(path.name for path in earlier)}): go on with it (--c), "
                "or train this fold from the start (--restart, or CDM_RESTART=1), which keeps them in another folder"
            )
        if begins and earlier:
            replaced = folder / f"replaced_{datetime.now():%Y%m%d_%H%M%S}"
            replaced.mkdir()
            for path in earlier:
                path.rename(replaced / path.name)
        yield
