"""Prediction on a cluster: one case per task, by workers that keep the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdm_nnunet.nnunet.compute import available_device
from cdm_nnunet.nnunet.items import Item, preprocess_files
from cdm_nnunet.nnunet.model import TrainedModel
from cdm_nnunet.nnunet.predictor import CasesRefusedError, DosePredictor
from cdm_nnunet.parallel import ordered, usable_cores
from cdm_nnunet.prediction.models import Found
from cdm_nnunet.progress import note_beside, progress


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, and its prediction options; equal as long as its files are the same.

    Attributes:
        found: Location of the model.
        device: ``cuda``, ``mps`` or ``cpu``; None takes the first available one.
        step: Step between windows, in patch sizes.
        mirrors: Whether doses are averaged over left-right mirroring.
        allows_outside: Whether patients to whom the model does not apply are predicted.
    """

    found: Found
    device: str | None = None
    step: float = 0.5
    mirrors: bool = True
    allows_outside: bool = False

    def load(self, kind: type[DosePredictor] = DosePredictor, device: str | None = None) -> DosePredictor:
        """A predictor of the model.

        Args:
            kind: Its class.
            device: Device instead of the model's.

        Raises:
            InputError: If the device is not available, or the model is damaged.
        """
        return self.predictor_of(self.found.read(), kind, device)

    def predictor_of(
        self, model: TrainedModel, kind: type[DosePredictor] = DosePredictor, device: str | None = None
    ) -> DosePredictor:
        """As :meth:`load`, for a model that has been read."""
        on = available_device(device or self.device)
        torch.set_num_threads(usable_cores() if on.type == "cpu" else 1)
        predictor = kind(tile_step_size=self.step, use_mirroring=self.mirrors, device=on)
        predictor.use_model(model)
        predictor.allows_outside = self.allows_outside
        return predictor

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Size and modification time (ns) of the model's files."""
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in self.found.files()))


@dataclass(frozen=True)
class _Outcome:
    """Outcome of a case: the reason if it was refused, and notes."""

    case: str
    refusal: str | None
    notes: tuple[str, ...]


class SpreadPredictor(DosePredictor):
    """A predictor whose cases are predicted by the engine's workers; checks and records are as usual.

    Attributes:
        model: Model that the workers load.
    """

    model: LoadedModel

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str] | None,
        output_filenames_truncated: list[str] | None,
        num_processes: int,
    ) -> Iterator[Item]:
        outputs = output_filenames_truncated or []
        return ({"files": files, "ofile": output} for files, output in zip(input_list_of_lists, outputs, strict=True))

    def predict_from_data_iterator(
        self,
        data_iterator: Iterator[Item],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = 0,
    ) -> list[Any]:
        """Let the workers predict all cases.

        Raises:
            CasesRefusedError: At the end, if cases are implausible.
        """
        jobs = [(item["files"], item["ofile"]) for item in data_iterator]
        work = functools.partial(_predict_case, model=self.model, stamps=self.model.stamps())
        refused: dict[str, str] = {}
        for outcome in progress(ordered(work, jobs, 1), desc="predict", total=len(jobs)):
            for note in outcome.notes:
                note_beside(f"case '{outcome.case}': {note}")
            if outcome.refusal is not None:
                refused[outcome.case] = outcome.refusal
        if refused:
            raise CasesRefusedError(refused, len(jobs))
        return [None] * len(jobs)


def _predict_case(job: tuple[list[str], str], model: LoadedModel, stamps: tuple[tuple[int, int], ...]) -> _Outcome:
    files, output = job
    predictor = _loaded(model, stamps)
    item = preprocess_files((files, output, predictor.plans_manager, predictor.configuration_manager))
    case, notes = Path(output).name, tuple(item.get("notes", ()))
    try:
        predictor.predict_from_data_iterator(iter([item]))
    except CasesRefusedError as error:
        return _Outcome(case, error.reasons[case], notes)
    return _Outcome(case, None, notes)


@functools.lru_cache(maxsize=1)
def _loaded(model: LoadedModel, stamps: tuple[tuple[int, int], ...]) -> DosePredictor:
    """The model of this worker, as long as its files are unchanged."""
    predictor = model.load()
    predictor.allow_tqdm = predictor.tells_notes = False  # (the command does)
    return predictor
