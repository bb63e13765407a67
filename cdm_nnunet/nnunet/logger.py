"""Log of a dose training, one value per epoch, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import LocalLogger

# key: (axis label, legend label)
_CURVES = {
    "train_losses": ("loss", "training"),
    "train_voxel_error": ("loss", "training, voxel-wise part"),
    "train_dvh_loss": ("loss", "training, DVH part"),
    "val_losses": ("loss", "validation"),
    "val_mae_gy": ("Gy", "dose MAE"),
    "val_ptv_error": ("Gy or % of volume", "PTV metrics"),
    "val_oar_error": ("Gy or % of volume", "OAR metrics"),
    "val_score": ("Gy or % of volume", "score"),
    "ema_score": ("Gy or % of volume", "score, moving average"),
    "lrs": ("learning rate", "learning rate"),
}
_PANELS = (
    ("Loss", ("train_losses", "train_voxel_error", "train_dvh_loss", "val_losses")),
    ("Dose error of validation patches", ("val_mae_gy",)),
    ("DVH metric error of validation patches (mean absolute difference)",
     ("val_ptv_error", "val_oar_error", "val_score", "ema_score")),
    ("Learning rate", ("lrs",)),
)  # fmt: skip
_MUCH_WAITING = 0.2
_TIMES = ("epoch_start_timestamps", "epoch_end_timestamps")


class DoseLogger(LocalLogger):
    """One value per epoch of losses and their parts, dose MAE, errors of PTV and OAR metrics, score, times."""

    def __init__(self) -> None:
        super().__init__()
        self.my_fantastic_logging: dict[str, list[Any]] = {
            key: [] for key in (*_CURVES, "val_cdm", "loader_wait_s", *_TIMES)
        }

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the log of a checkpoint; quantities that its version did not log are NaN."""
        known = set(self.my_fantastic_logging)
        super().load_checkpoint(checkpoint)
        n_epochs = len(self.my_fantastic_logging[_TIMES[0]])
        for key in known - set(self.my_fantastic_logging):
            self.my_fantastic_logging[key] = [float("nan")] * n_epochs

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw all curves to ``progress.png``."""
        logged = self.my_fantastic_logging
        n_epochs = min(len(values) for values in logged.values())
        epochs = range(n_epochs)
        figure = Figure(figsize=(10, 16), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(_PANELS) + 1, 1, sharex=True)
        for ax, (title, keys) in zip(axes, _PANELS, strict=False):
            for key in keys:
                ax.plot(epochs, logged[key][:n_epochs], marker="." if n_epochs < 30 else None, label=_CURVES[key][1])
            ax.set(title=title, ylabel=_CURVES[keys[0]][0])
            ax.legend()
            ax.grid(alpha=0.3)
        seconds = [logged[_TIMES[1]][i] - logged[_TIMES[0]][i] for i in epochs]
        axes[-1].plot(epochs, seconds, marker="." if n_epochs < 30 else None, label="epoch")
        axes[-1].plot(epochs, logged["loader_wait_s"][:n_epochs], label="waiting for the data loader")
        axes[-1].set(title="Time", ylabel="s", xlabel="epoch", ylim=(0, None))
        axes[-1].legend()
        axes[-1].grid(alpha=0.3)
        figure.savefig(Path(output_folder) / "progress.png", dpi=80)


def loader_hint(waiting_share: float, device_type: str) -> str:
    """Advice for a GPU that waits for the data loader; may be empty.

    Args:
        waiting_share: Share of the time spent waiting, 0 to 1.
        device_type: Type of the device that computes; a CPU has no cores to spare for the loader.
    """
    if device_type != "cuda" or waiting_share <= _MUCH_WAITING:
        return ""
    return (
        f"the GPU waits for patches {100 * waiting_share:.0f} % of the time; give the loader more processes "
        "(export nnUNet_n_proc_DA=N, up to the number of processors) or faster storage"
    )
