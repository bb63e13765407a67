"""Curves of a training for TensorBoard, Weights & Biases and MLflow.

One adapter, :class:`Tracker`, does what all services need: names, failures, facts that are sent once. A service has
four fields.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunetv2.training.logging import nnunet_logger

from cdm_nnunet.errors import InputError

MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
WANDB_VARIABLE = "nnUNet_wandb_enabled"  # nnU-Net's switch
_INSTALL = "pip install 'cdm_nnunet[tracking]'"
_MLFLOW_RUN = "mlflow_run.json"
_MLFLOW_SETTINGS = {  # if the user has set none
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # an unreachable server must not delay epochs
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder also works on a cluster without a server
}
_ON, _OFF = ("1", "True", "true"), ("0", "False", "false")
_STARTS, _ENDS = "epoch_start_timestamps", "epoch_end_timestamps"
# Name of each curve of the log in the services.
_NAMES = {
    "train_losses": "loss/training",
    "train_voxel_error": "loss/training_voxel_wise",
    "train_dvh_loss": "loss/training_dvh",
    "val_losses": "loss/validation",
    "val_mae_gy": "validation/dose_mae_gy",
    "val_ptv_error": "validation/ptv_metrics",
    "val_oar_error": "validation/oar_metrics",
    "val_score": "validation/score",
    "ema_score": "validation/score_moving_average",
    "lrs": "learning_rate",
    "loader_wait_s": "time/waiting_for_loader_s",
}


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number of an epoch.

    Attributes:
        name: Name of the curve.
        value: The number, finite.
        epoch: The epoch, counted from 0.
    """

    name: str
    value: float
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """The training that is tracked.

    Attributes:
        folder: Folder of its fold.
        name: Its name in lists of runs.
        group: Its data set.
        first_epoch: First epoch of this process.
        facts: Software, machine and data set, as plain values.
    """

    folder: Path
    name: str
    group: str
    first_epoch: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that receives curves.

    Attributes:
        send: Receives the values of some epochs.
        tell: Receives the facts of the training; called once per training.
        close: Ends the run; receives whether the training is finished.
        knows_run: Whether the service already has facts and earlier epochs of this training.
    """

    send: Callable[[Sequence[Value]], None]
    tell: Callable[[Mapping[str, Any]], None]
    close: Callable[[bool], None]
    knows_run: bool = False


class Tracker:
    """One of nnU-Net's loggers: it collects the values of an epoch and sends them at its end.

    A failing service does not end a training: the failure is reported once, and the values are sent with the next
    epoch.

    Args:
        title: Name of the service, for messages.
        open_service: Opens the service; called with the first values, after the loaders were forked.
        facts: Facts of the training.
        tell: Receives a line for the log.
    """

    def __init__(self, title: str, open_service: Callable[[], Service], facts: Mapping[str, Any],
                 tell: Callable[[str], None]) -> None:  # fmt: skip
        self._title = title
        self._open = open_service
        self._facts = facts
        self._tell = tell
        self._service: Service | None = None
        self._waiting: list[Value] = []
        self._epoch_began = math.nan
        self._works = True  # as far as is known
        self._is_given_up = False

    def log(self, key: str, value: float, step: int) -> None:
        """Collect a value of the log; the end time of an epoch sends all."""
        if key == _STARTS:
            self._epoch_began = value
        elif key == _ENDS:
            self._take("time/epoch_s", value - self._epoch_began, step)
            self._flush()
        elif key in _NAMES:
            self._take(_NAMES[key], value, step)

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Do nothing: nnU-Net would send complete plans and ``dataset.json``."""

    def log_summary(self, key: str, value: Any) -> None:
        """Do nothing: nnU-Net's summary is for segmentation."""

    def close(self, *, is_done: bool) -> None:
        """Send the remaining values, and end the run."""
        self._flush()
        if self._service is not None:
            service, self._service = self._service, None
            self._guarded(lambda: service.close(is_done))
        self._is_given_up = True

    def _take(self, name: str, value: float, epoch: int) -> None:
        if math.isfinite(value) and not self._is_given_up:
            self._waiting.append(Value(name=name, value=float(value), epoch=epoch))

    def _flush(self) -> None:
        if self._is_given_up or not self._waiting:
            return
        if self._service is None and not self._guarded(self._begin):
            self._is_given_up = True
            return
        service, values = self._service, list(self._waiting)
        if service is not None and self._guarded(lambda: service.send(values)):
            self._waiting.clear()

    def _begin(self) -> None:
        service = self._open()
        if not service.knows_run:
            service.tell(self._facts)
        self._service = service

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Run an action; its first failure is logged in one line."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  # whatever a service raises, the training continues
            if self._works:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                self._tell(f"{self._title} got no curves ({reason}); the training continues")
            self._works = False
        else:
            self._works = True
            return True
        return False


@contextlib.contextmanager
def opened_later() -> Iterator[None]:
    """Keep nnU-Net from opening W&B when a trainer is made: it would do so in every process, and fail without W&B.

    Raises:
        InputError: If its switch is neither on nor off.
    """
    asked = os.environ.pop(WANDB_VARIABLE, None)
    if asked not in (None, *_ON, *_OFF):
        raise InputError(f"{WANDB_VARIABLE} is 0 or 1, not '{asked}'")
    try:
        yield
    finally:
        if asked is not None:
            os.environ[WANDB_VARIABLE] = asked


def trackers_for(run: Run, tell: Callable[[str], None]) -> list[Tracker]:
    """The trackers of this training: TensorBoard if it is installed, others if their variable is set.

    Args:
        run: The training.
        tell: Receives a line for the log.
    """
    chosen: list[tuple[str, Callable[[Run], Service]]] = []
    if find_spec("tensorboard") is not None:
        chosen.append(("TensorBoard", _tensorboard))
    if os.environ.get(WANDB_VARIABLE) in _ON:
        chosen.append(("Weights & Biases", _wandb))
    if os.environ.get(MLFLOW_VARIABLE):
        chosen.append(("MLflow", _mlflow))
    return [Tracker(title, lambda opens=opens: opens(run), run.facts, tell) for title, opens in chosen]  # type: ignore[misc]


def _tensorboard(run: Run) -> Service:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_epoch)

    def send(values: Sequence[Value]) -> None:
        for value in values:
            writer.add_scalar(value.name, value.value, value.epoch)
        writer.flush()

    def tell(facts: Mapping[str, Any]) -> None:
        text = json.dumps(facts, indent=2)
        writer.add_text("training", f"```\n{text}\n```", run.first_epoch)

    return Service(send=send, tell=tell, close=lambda _: writer.close())


def _wandb(run: Run) -> Service:
    if nnunet_logger.wandb is None:
        raise ImportError(f"wandb is not installed: {_INSTALL}")
    goes_on = run.first_epoch > 0 and (run.folder / "wandb").is_dir()
    logger = nnunet_logger.WandbLogger(str(run.folder), goes_on)

    def send(values: Sequence[Value]) -> None:
        for value in values:
            logger.log(value.name, value.value, value.epoch)

    return Service(
        send=send,
        tell=lambda facts: logger.update_config(dict(facts)),
        close=lambda is_done: logger.run.finish(exit_code=0 if is_done else 1),
        knows_run=goes_on,
    )


def _mlflow(run: Run) -> Service:
    for name, default in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, default)
    try:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise ImportError(f"mlflow is not installed: {_INSTALL}") from None

    client = MlflowClient()
    kept = run.folder / _MLFLOW_RUN
    goes_on = run.first_epoch > 0 and kept.is_file()
    if goes_on:
        run_id = str(json.loads(kept.read_text(encoding="utf-8"))["run_id"])
        client.update_run(run_id, status="RUNNING")
    else:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.group)
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        run_id = client.create_run(number, run_name=run.name).info.run_id
        kept.write_text(json.dumps({"run_id": run_id}), encoding="utf-8")

    def send(values: Sequence[Value]) -> None:
        ends = {value.epoch: 0 for value in values}
        metrics = [Metric(value.name, value.value, ends[value.epoch], value.epoch) for value in values]
        client.log_batch(run_id, metrics=metrics)

    def tell(facts: Mapping[str, Any]) -> None:
        flat = {f"{group}.{name}": value for group, inner in facts.items() for name, value in inner.items()}
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in flat.items()])

    def close(is_done: bool) -> None:
        client.set_terminated(run_id, "FINISHED" if is_done else "KILLED")

    return Service(send=send, tell=tell, close=close, knows_run=goes_on)
