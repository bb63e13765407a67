"""Prediction on a cluster: a case a task, by workers that keep the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.items import Item, preprocess_files
from cdm_nnunet.nnunet.predictor import CasesRefusedError, DosePredictor
from cdm_nnunet.parallel import ordered, usable_cores
from cdm_nnunet.progress import note_beside, progress


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, and how to predict with it; equal for as long as its files are the same.

    Attributes:
        folder: The model's.
        folds: Numbers, or ``all``.
        checkpoint: The file in each fold's folder.
        device: ``cuda`` or ``cpu``.
        step: Step between windows, in patch sizes.
        mirrors: Whether doses are averaged over left-right mirroring.
    """

    folder: str
    folds: tuple[str, ...]
    checkpoint: str
    device: str
    step: float
    mirrors: bool

    def load(self, kind: type[DosePredictor] = DosePredictor, device: str | None = None) -> DosePredictor:
        """A predictor of the model.

        Args:
            kind: Its class.
            device: In place of the model's.

        Raises:
            InputError: If there is no GPU, or the model is damaged.
        """
        device = device or self.device
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("no CUDA device is available; predict with -device cpu")
        torch.set_num_threads(usable_cores() if device == "cpu" else 1)
        predictor = kind(tile_step_size=self.step, use_mirroring=self.mirrors, device=torch.device(device))
        predictor.initialize_from_trained_model_folder(self.folder, list(self.folds), self.checkpoint)
        return predictor

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Size and time of change (ns) of the checkpoints."""
        found = [(Path(self.folder) / f"fold_{fold}" / self.checkpoint).stat() for fold in self.folds]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in found)


@dataclass(frozen=True)
class _Outcome:
    """Of a case: why it was refused, if it was, and what is unusual about it."""

    case: str
    refusal: str | None
    notes: tuple[str, ...]


class SpreadPredictor(DosePredictor):
    """A predictor that checks and records as any, and has the cases themselves predicted by the engine's workers.

    Attributes:
        model: What the workers load.
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
        """Have all cases predicted.

        Raises:
            CasesRefusedError: At the end, if cases can't be right.
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
    """The model of this worker, as long as its files stay as they are."""
    predictor = model.load()
    predictor.allow_tqdm = predictor.tells_notes = False  # (the command does)
    return predictor
