"""Settings of a training that nnU-Net's command line has no option for, from environment variables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.cdm import PartialRois, VForm
from cdm_nnunet.losses.metrics import Smoothing

DeepSupervision = Literal["finest", "all"]

_PREFIX = "CDM_"
_SEED_LIMIT = 2**32  # NumPy's


@dataclass(frozen=True)
class TrainingSettings:
    """Every field is set by the environment variable ``CDM_`` plus its name in capitals, such as ``CDM_NUM_EPOCHS``.

    Attributes:
        num_epochs: Epochs of the training.
        num_iterations: Batches an epoch.
        num_val_iterations: Validation batches an epoch.
        learning_rate: Of AdamW at the start; it falls to zero over the epochs (nnU-Net's polynomial schedule).
        loss_weight: Weight of the CDM or other DVH loss beside the voxel-wise error; the trainer's own where not set.
        loss_start: Share of the epochs before that loss sets in; from there its weight rises linearly over a tenth
            of the epochs. With 0 it has its whole weight from the first step on.
        window_percent: See :class:`Smoothing`.
        sigmoid_width_gy: ``threshold_width_gy`` of :class:`Smoothing`.
        v_form: How V-metrics count, ``sigmoid``, ``dose`` or ``both``: see :class:`CDMLoss`.
        partial_rois: Weight of ROIs that the patch cuts, ``weighted``, ``whole`` or ``all``: see :class:`CDMLoss`.
        deep_supervision: Whether the DVH loss acts on the ``finest`` output only, or on ``all`` that the voxel-wise
            error acts on, with the same weights; a coarse output is enlarged to the finest grid by nearest neighbour.
        seed: Seed of weights and patches; negative for none. nnU-Net's loader has several processes, whose order is
            left to the machine, and a training that is stopped and goes on draws other patches than one that is not:
            equal seeds give like, not identical, trainings.

    Raises:
        InputError: If a value is out of range.
    """

    num_epochs: int = 1000
    num_iterations: int = 250
    num_val_iterations: int = 50
    learning_rate: float = 1e-3
    loss_weight: float | None = None
    loss_start: float = 0.0
    seed: int = -1
    window_percent: float = Smoothing.window_percent
    sigmoid_width_gy: float = Smoothing.threshold_width_gy
    v_form: VForm = "sigmoid"
    partial_rois: PartialRois = "weighted"
    deep_supervision: DeepSupervision = "finest"

    def __post_init__(self) -> None:
        for name in ("num_epochs", "num_iterations", "num_val_iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{_variable(name)} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"{_variable('learning_rate')} must be above zero, not {self.learning_rate}")
        if self.loss_weight is not None and not 0 <= self.loss_weight < math.inf:
            raise InputError(f"{_variable('loss_weight')} must not be negative, not {self.loss_weight}")
        if not 0 <= self.loss_start <= 1:
            raise InputError(f"{_variable('loss_start')} is a share of the epochs from 0 to 1, not {self.loss_start}")
        if not 0 <= self.window_percent <= 100:
            raise InputError(f"{_variable('window_percent')} must be from 0 to 100, not {self.window_percent}")
        if not 0 < self.sigmoid_width_gy < math.inf:
            raise InputError(f"{_variable('sigmoid_width_gy')} must be above zero, not {self.sigmoid_width_gy}")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"{_variable(name)} is one of {', '.join(get_args(kind))}, not '{getattr(self, name)}'"
                )
        if self.seed >= _SEED_LIMIT:
            raise InputError(f"{_variable('seed')} must be below {_SEED_LIMIT}, not {self.seed}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TrainingSettings:
        """Read the variables that are set.

        Raises:
            InputError: If one is not a number of its kind, or a variable that starts with ``CDM_`` is none of ours: a
                misspelt name would otherwise train for days with a default.

        Example:
            >>> TrainingSettings.from_environment({"CDM_NUM_EPOCHS": "20"}).num_epochs
            20
        """
        known = [_variable(field.name) for field in fields(cls)]
        unknown = sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)
        if unknown:
            raise InputError(f"unknown variable {', '.join(unknown)}; known are {', '.join(known)}")
        values: dict[str, int | float | str] = {}
        for field in fields(cls):
            text = environment.get(_variable(field.name))
            if text is None:
                continue
            kind = next((k for k in (int, float, str) if isinstance(field.default, k)), float)  # (None: a float)
            try:
                values[field.name] = kind(text)
            except ValueError:
                raise InputError(f"{_variable(field.name)} must be of type {kind.__name__}, not '{text}'") from None
        return cls(**values)  # type: ignore[arg-type]  # each value has the type of its field's default

    def seeds(self, n: int, *where: int) -> list[int] | None:
        """Seeds of ``n`` random generators, or None for none.

        Args:
            n: How many.
            where: Numbers that they depend on besides the seed, such as the epoch at which a training goes on: with the
                same ones again, it would see the patches of its first epochs once more.

        Example:
            >>> settings = TrainingSettings(seed=1)
            >>> settings.seeds(2, 0) == settings.seeds(2, 0), settings.seeds(2, 0) == settings.seeds(2, 50)
            (True, False)
        """
        if self.seed < 0:
            return None
        return [int(seed) for seed in np.random.SeedSequence((self.seed, *where)).generate_state(n)]

    def dvh_weight(self, epoch: int, default: float) -> float:
        """Weight of the DVH loss in an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            default: The trainer's own ``loss_weight``.

        Example:
            >>> settings = TrainingSettings(num_epochs=100, loss_start=0.5)
            >>> settings.dvh_weight(49, 0.5), settings.dvh_weight(54, 0.5), settings.dvh_weight(60, 0.5)
            (0.0, 0.25, 0.5)
        """
        full = default if self.loss_weight is None else self.loss_weight
        start = self.loss_start * self.num_epochs
        ramp = max(0.1 * self.num_epochs, 1.0) if self.loss_start > 0 else 1.0
        return full * min(max((epoch + 1 - start) / ramp, 0.0), 1.0)


_CHOICES = {"v_form": VForm, "partial_rois": PartialRois, "deep_supervision": DeepSupervision}


def _variable(field: str) -> str:
    return _PREFIX + field.upper()
