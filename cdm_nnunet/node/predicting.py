"""The model that a node predicts with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cdm_nnunet import __version__
from cdm_nnunet.dicom.pseudonyms import KEY_FILE, Pseudonyms, read_pseudonyms
from cdm_nnunet.errors import InputError
from cdm_nnunet.node.settings import NodeSettings
from cdm_nnunet.node.store import file_digest

if TYPE_CHECKING:
    from cdm_nnunet.prediction.cases import CasePredictor
    from cdm_nnunet.prediction.models import TrainedOn

_REFUSED = re.compile(r"^\d+ of \d+ patients? can't be used: \[[^\]]*\] ")


@dataclass(frozen=True)
class PredictedDose:
    """A predicted dose.

    Attributes:
        file: RTDOSE.
        maximum_gy: Highest dose.
        notes: Remarks for the user.
        beside: Record and report of the patient, if requested.
    """

    file: Path
    maximum_gy: float
    notes: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()


class PatientPredictor(Protocol):
    """A loaded model."""

    @property
    def identity(self) -> str:
        """Identity of the model and its settings."""

    def predict_patient(self, folder: Path, out: Path) -> PredictedDose:
        """Predict the patient of a folder.

        Args:
            folder: CT, structure set and plan of the patient.
            out: A folder for the RTDOSE.

        Raises:
            InputError: If the patient can't be used.
        """


Load = Callable[[], PatientPredictor]


def dose_uid(inputs_digest: str, identity: str, kind: str = "dose") -> str:
    """UID that depends only on the objects and on the model.

    Args:
        inputs_digest: Digest of the objects.
        identity: Identity of the model.
        kind: Purpose of the UID.

    Example:
        >>> dose_uid("a", "b") == dose_uid("a", "b") != dose_uid("a", "c"), dose_uid("a", "b")[:5]
        (True, '2.25.')
    """
    digest = hashlib.sha256(json.dumps([inputs_digest, identity, kind]).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"


def node_pseudonyms(settings: NodeSettings) -> Pseudonyms:
    """Names of patients: by the key beside the mapping, which may choose among their plans, else by the queue's own.

    Raises:
        InputError: If the key is damaged.
    """
    if settings.mapping is not None and (Path(settings.mapping).parent / KEY_FILE).is_file():
        return read_pseudonyms(Path(settings.mapping).parent, make=False)
    return read_pseudonyms(Path(settings.queue))


def load_model(settings: NodeSettings) -> PatientPredictor:
    """Load the model of a node.

    Raises:
        InputError: If it is missing or damaged.
    """
    from cdm_nnunet.prediction.cases import CasePredictor
    from cdm_nnunet.prediction.models import choice_of

    predictor = CasePredictor(choice_of(_model_options(settings)), settings.device, n_processes=0)
    predictor.loaded  # noqa: B018  # (a missing device is not the fault of a study)
    weights = tuple(file_digest(path) for path in predictor.found.files())
    return TrainedPredictor(settings, predictor.trained_on, predictor, weights)


def _model_options(settings: NodeSettings) -> dict[str, Any]:
    """As :func:`cdm_nnunet.prediction.models.choice_of` takes them."""
    if settings.trained is None:
        return {"name": settings.model}
    options = settings.trained.model_dump()
    dataset_id, folds = options.pop("dataset"), tuple(map(str, options.pop("folds")))
    return {**options, "dataset_id": dataset_id, "folds": folds}


@dataclass(frozen=True)
class TrainedPredictor:
    """A trained model.

    Attributes:
        settings: Settings of the node.
        trained: The model's record of its training data.
        predictor: Predictor of cases.
        weights: SHA-256 of the weight files.
    """

    settings: NodeSettings
    trained: TrainedOn
    predictor: CasePredictor
    weights: tuple[str, ...]

    @property
    def identity(self) -> str:
        """As :attr:`PatientPredictor.identity`."""
        mapping = None if self.settings.mapping is None else file_digest(Path(self.settings.mapping))
        options = [self.settings.grid, self.settings.bits, self.settings.match_geometry]
        return json.dumps([__version__, self.weights, mapping, *options])

    def predict_patient(self, folder: Path, out: Path) -> PredictedDose:
        """As :meth:`PatientPredictor.predict_patient`."""
        from cdm_nnunet.prediction.described import Describer, Extras
        from cdm_nnunet.prediction.patients import NewPatients, predict_patients

        request = NewPatients(
            folder,
            out,
            None if self.settings.mapping is None else Path(self.settings.mapping),
            grid=self.settings.grid,
            bits=self.settings.bits,
            match_geometry=self.settings.match_geometry,
            pseudonyms=node_pseudonyms(self.settings),
        )
        try:
            describer = Describer(self.trained.template, Extras(report=self.settings.reports is not None))
            done = predict_patients(request, self.trained, self.predictor.predict, describer)
        except InputError as error:
            raise InputError(_REFUSED.sub("", str(error))) from error
        if len(done.patients) != 1:
            raise InputError(f"{len(done.patients)} cases in one study; {done.refused or 'choose one plan (mapping)'}")
        (patient,) = done.patients
        notes = [*patient.notes, *([done.undescribed] if done.undescribed else [])]
        said = patient.described
        beside = () if said is None or said.report is None else (Path(said.record), Path(said.report))
        return PredictedDose(Path(patient.file), patient.maximum_gy, tuple(notes), beside)
