"""The log of a dose training: one value an epoch, a picture that names dose errors, and nothing called Dice."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cdm_nnunet.nnunet.logger import DoseLogger, loader_hint


def filled(n_epochs: int) -> DoseLogger:
    logger = DoseLogger()
    for epoch in range(n_epochs):
        for k, key in enumerate(logger.my_fantastic_logging):
            logger.log(key, float(k + epoch), epoch)
    return logger


def test_the_picture_shows_every_curve_by_name(tmp_path, monkeypatch):
    drawn = []
    real = Figure.savefig

    def spy(self, *args, **kwargs):
        drawn.extend((ax.get_title(), line.get_label(), line.get_ydata()) for ax in self.axes for line in ax.lines)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    filled(3).plot_progress_png(str(tmp_path))
    labels = [label for _, label, _ in drawn]
    assert {"training", "validation", "dose MAE", "PTV metrics", "OAR metrics", "score", "learning rate"} <= set(labels)
    assert not any("dice" in f"{title} {label}".lower() for title, label, _ in drawn)
    assert all(len(values) == 3 and np.isfinite(values).all() for _, _, values in drawn)
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_epoch_is_not_drawn_and_does_not_disturb(tmp_path):
    logger = filled(2)
    logger.log("train_losses", 1.0, 2)
    logger.plot_progress_png(str(tmp_path))
    assert (tmp_path / "progress.png").is_file()


def test_a_checkpoint_brings_the_log_back():
    resumed = DoseLogger()
    resumed.load_checkpoint(filled(2).get_checkpoint())
    resumed.log("val_score", 7.0, 2)
    assert resumed.get_value("val_score", step=None)[-1] == 7.0
    assert len(resumed.get_value("val_score", step=None)) == 3


def test_segmentation_entries_are_unknown():
    with pytest.raises(AssertionError):
        DoseLogger().log("mean_fg_dice", 1.0, 0)


@pytest.mark.parametrize(("share", "device", "hint"), [(0.2, "cuda", False), (0.21, "cuda", True), (0.9, "cpu", False)])
def test_a_gpu_that_waits_is_worth_a_hint(share, device, hint):
    text = loader_hint(share, device)
    assert bool(text) is hint
    assert ("waits for patches 21 % of the time" in text and "nnUNet_n_proc_DA" in text) is hint
