"""Training settings without an option in nnU-Net's command line, from environment variables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np

from cdm_nnunet.counting import counted
from cdm_nnunet.documents import read_number
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.terms import PartialRois, Smoothing, VForm

DeepSupervision = Literal["finest", "all"]
LossShapes = Literal["free", "fixed"]

_PREFIX = "CDM_"
RESTART, CHANGE_SETTINGS = "CDM_RESTART", "CDM_CHANGE_SETTINGS"
_NEAR = 0.6  # similarity of two names without prefix: EPOCHS is near NUM_EPOCHS, HOME is near none
_SEED_LIMIT = 2**32  # NumPy's


@dataclass(frozen=True)
class TrainingSettings:
    """Every field is set by the environment variable ``CDM_`` plus its name in capitals, such as ``CDM_NUM_EPOCHS``.

    Attributes:
        num_epochs: Epochs of the training.
        num_iterations: Batches per epoch.
        num_val_iterations: Validation batches per epoch.
        learning_rate: Learning rate of AdamW at the start; it falls to zero over the epochs (nnU-Net's polynomial
            schedule).
        loss_weight: Weight of the CDM or other DVH loss next to the voxel-wise error; by default the trainer's own.
        loss_start: Share of the epochs before that loss starts; then its weight rises linearly over a tenth
            of the epochs. With 0 it has its full weight from the first step.
        window_percent: See :class:`Smoothing`.
        sigmoid_width_gy: ``threshold_width_gy`` of :class:`Smoothing`.
        v_form: Form of V-metrics, ``sigmoid``, ``dose`` or ``both``: see :class:`CDMLoss`.
        partial_rois: Weight of ROIs that the patch cuts, ``weighted``, ``whole`` or ``all``: see :class:`CDMLoss`.
        deep_supervision: Whether the DVH loss acts on the ``finest`` output only, or on ``all`` outputs of the
            voxel-wise error, with the same weights; a coarse output is enlarged to the finest grid by nearest
            neighbour.
        loss_shapes: ``free``: lists as long as ROIs have voxels. ``fixed``: :class:`CapturedCDMLoss`, the same loss
            without waiting for the device, for ``torch.compile`` and CUDA graphs.
        seed: Seed of weights and patches; negative for none. nnU-Net's loader has several processes in no fixed order,
            and a training that was stopped and continued draws different patches: equal seeds give similar, not
            identical, trainings.

    Raises:
        InputError: If a value is out of range.
    """

    num_epochs: int = 160
    num_iterations: int = 50
    num_val_iterations: int = 10
    learning_rate: float = 1e-3
    loss_weight: float | None = None
    loss_start: float = 0.0
    seed: int = -1
    window_percent: float = Smoothing.window_percent
    sigmoid_width_gy: float = Smoothing.threshold_width_gy
    v_form: VForm = "sigmoid"
    partial_rois: PartialRois = "weighted"
    deep_supervision: DeepSupervision = "finest"
    loss_shapes: LossShapes = "free"

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
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, saved: Mapping[str, Any] | None = None
    ) -> TrainingSettings:
        """Read the variables that are set.

        Args:
            environment: Variables by name.
            saved: Settings for variables that are not set, from :meth:`to_json`; None for the defaults.

        Raises:
            InputError: If a value has the wrong type, a variable's name is nearly one of ours (misspelt, it would
                train for days with a default), or ``saved`` has other names.

        Example:
            >>> TrainingSettings.from_environment({"CDM_NUM_EPOCHS": "20"}).num_epochs
            20
        """
        _refuse_near_misses(environment)
        values = dict(saved or {})
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"the checkpoint has unknown settings ({', '.join(unknown)}); update this software")
        for field in fields(cls):
            text = environment.get(_variable(field.name))
            if text is None:
                continue
            kind = next((k for k in (int, float, str) if isinstance(field.default, k)), float)  # (None: a float)
            try:
                if kind is not str and math.isfinite(float(text)):
                    read_number(text)
                values[field.name] = kind(text)
            except ValueError:
                raise InputError(f"{_variable(field.name)} must be of type {kind.__name__}, not '{text}'") from None
        try:
            return cls(**values)
        except TypeError:
            raise InputError(f"the checkpoint's settings are damaged: {dict(saved or {})}") from None

    @classmethod
    def resumed(cls, saved: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> TrainingSettings:
        """Settings of a training that is continued: those at its start, whatever variables are set.

        Args:
            saved: From :meth:`to_json`.
            environment: Variables by name.

        Raises:
            InputError: If a variable has another value, unless ``CDM_CHANGE_SETTINGS`` is 1.
        """
        began, asked = cls.from_environment({}, saved), cls.from_environment(environment, saved)
        changes = [
            f"{_variable(field.name)} was {getattr(began, field.name)} and is {getattr(asked, field.name)}"
            for field in fields(cls)
            if getattr(began, field.name) != getattr(asked, field.name)
        ]
        if changes and not is_allowed(CHANGE_SETTINGS, environment):
            raise InputError(
                f"the training was started with other settings: {'; '.join(changes)}. Unset the variables to continue "
                f"unchanged, or change the settings from here on (--change-settings, or {CHANGE_SETTINGS}=1)"
            )
        return asked

    def to_json(self) -> dict[str, int | float | str | None]:
        """Form in a checkpoint."""
        return asdict(self)

    def with_epochs(self, n_epochs: int | None) -> TrainingSettings:
        """The settings of a trainer that is named after its number of epochs; None changes nothing.

        Raises:
            InputError: If the variable sets another number.
        """
        variable = _variable("num_epochs")
        if n_epochs is None:
            return self
        if variable in os.environ and self.num_epochs != n_epochs:
            named = counted(n_epochs, "epoch")
            raise InputError(f"{variable}={self.num_epochs}, and the trainer is one of {named}: unset one")
        return replace(self, num_epochs=n_epochs)

    def seeds(self, n: int, *where: int) -> list[int] | None:
        """Seeds of ``n`` random generators, or None for none.

        Args:
            n: Number of seeds.
            where: Numbers that they depend on besides the seed, such as the epoch at which a training is continued:
                with the same seeds it would see the patches of its first epochs again.

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


_CHOICES = {
    "v_form": VForm,
    "partial_rois": PartialRois,
    "deep_supervision": DeepSupervision,
    "loss_shapes": LossShapes,
}


def is_allowed(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether :data:`RESTART` or :data:`CHANGE_SETTINGS` is 1.

    Raises:
        InputError: If it is neither 0 nor 1.
    """
    value = environment.get(variable, "0")
    if value not in ("0", "1"):
        raise InputError(f"{variable} is 0 or 1, not '{value}'")
    return value == "1"


def other_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables with our prefix that are not settings of ours."""
    return sorted(name for name in environment if name.startswith(_PREFIX) and name not in _known())


def _refuse_near_misses(environment: Mapping[str, str]) -> None:
    known = _known()
    for name in sorted(environment):
        if not name.upper().startswith(_PREFIX) or name in known:
            continue
        near = get_close_matches(name[len(_PREFIX) :].upper(), [k[len(_PREFIX) :] for k in known], 1, _NEAR)
        if near:
            raise InputError(f"unknown variable {name}: is {_PREFIX}{near[0]} meant? Known are {', '.join(known)}")


def _known() -> list[str]:
    return [*(_variable(field.name) for field in fields(TrainingSettings)), RESTART, CHANGE_SETTINGS]


def _variable(field: str) -> str:
    return _PREFIX + field.upper()
