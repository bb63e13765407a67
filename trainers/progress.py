"""Progress messages of a training: epoch, parts of the loss, remaining time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdm_nnunet.counting import counted
from cdm_nnunet.progress import duration_text
from cdm_nnunet.trainers.settings import TrainingSettings

_EPOCHS_FOR_PACE = 10
STEPS_FOR_FIRST_ESTIMATE = 20


def remaining_text(starts: Sequence[float], ends: Sequence[float], n_epochs: int) -> str:
    """Time that the remaining epochs will take, from the last ten finished ones.

    Args:
        starts: Start of each epoch, in seconds.
        ends: End of each of them, in seconds.
        n_epochs: Epochs of the training.

    Example:
        >>> remaining_text([0, 60], [60, 120], 32)
        'epoch 2 of 32 is done, about 30 min to go'
    """
    done = len(ends)
    recent = [end - start for start, end in zip(starts[-_EPOCHS_FOR_PACE:], ends[-_EPOCHS_FOR_PACE:], strict=True)]
    left_s = (n_epochs - done) * sum(recent) / len(recent)
    return f"epoch {done} of {n_epochs} is done" + (f", about {duration_text(left_s)} to go" if left_s else "")


def first_estimate_text(steps_s: Sequence[float], settings: TrainingSettings, epochs_left: int) -> str:
    """Time that a training will take, from its first steps; a validation step counts as a third of one.

    Args:
        steps_s: Durations of its first steps; the first third, with much loading and building, is left out.
        settings: Settings of the training.
        epochs_left: Number of remaining epochs, this one included.
    """
    settled = steps_s[len(steps_s) // 3 :]
    epoch_s = sum(settled) / len(settled) * (settings.num_iterations + settings.num_val_iterations / 3)
    return (
        f"about {duration_text(epochs_left * epoch_s)} for {counted(epochs_left, 'epoch')} of "
        f"{counted(settings.num_iterations, 'step')} "
        f"(from the first {counted(len(steps_s), 'step')}, without the final validation)"
    )


def loss_schedule_text(settings: TrainingSettings, default_weight: float) -> str:
    """Epochs in which the DVH loss is active, as counted in the log; empty if there is none.

    Example:
        >>> loss_schedule_text(TrainingSettings(num_epochs=100, loss_start=0.5), 0.5)
        'DVH loss: from epoch 50 on, its full weight of 0.5 from epoch 59 on'
    """
    weights = [settings.dvh_weight(epoch, default_weight) for epoch in range(settings.num_epochs)]
    if max(weights) == 0:
        return "DVH loss: none (its weight is 0)" if default_weight > 0 else ""
    first = next(epoch for epoch, weight in enumerate(weights) if weight > 0)
    whole = next(epoch for epoch, weight in enumerate(weights) if weight == max(weights))
    if whole == first:
        return f"DVH loss: weight {max(weights):g} from epoch {first} on"
    return f"DVH loss: from epoch {first} on, its full weight of {max(weights):g} from epoch {whole} on"


def losses_text(logged: Mapping[str, float]) -> str:
    """The losses of an epoch, and the two parts of the training loss."""
    dvh = logged["train_dvh_loss"]
    parts = f" (voxel-wise {logged['train_voxel_error']:.4f}, DVH {dvh:.4f})" if dvh == dvh else ""  # NaN: no DVH loss
    return f"loss: training {logged['train_losses']:.4f}{parts}, validation {logged['val_losses']:.4f}"
