"""A trained model in Python: loaded once, it predicts the doses of many patients from arrays or files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.dataset_conversion.case import Case, clip_hu, pack_masks
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.dataset_conversion.roi_mapping import map_rois, prescriptions_gy
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Volume
from cdm_nnunet.images import Image, write_image
from cdm_nnunet.nnunet.model import TrainedModel
from cdm_nnunet.nnunet.predictor import CasesRefusedError, DosePredictor
from cdm_nnunet.nnunet.reader import channels_of, properties_of
from cdm_nnunet.prediction.models import ModelChoice, PackageChoice, TrainedOn
from cdm_nnunet.prediction.spread import LoadedModel
from cdm_nnunet.prediction_record import Applicability, Origin, PredictionRecord


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """A predicted dose. It is a prediction, not for treatment.

    Attributes:
        dose: float32, (z, y, x), Gy, on the grid of the CT.
        case: Name of the case.
        prescriptions_gy: Prescription of each contoured target, Gy, as the model read it.
        absent_rois: ROIs of the model that were not given or have no voxels.
        notes: Unusual properties of the patient, one sentence each.
        origin: The model and options that made the dose.
        model: Name of the model package; None for a model in nnU-Net's folders.
        applicability: Whether the model applies to the patient.
    """

    dose: Volume
    case: str
    prescriptions_gy: Mapping[str, float]
    absent_rois: tuple[str, ...]
    notes: tuple[str, ...]
    origin: Origin
    model: str | None
    applicability: Applicability

    def write(self, folder: Path) -> Path:
        """Write ``CASE.nii.gz`` and its record, as ``cdm-nnunet predict`` does.

        Returns:
            The file of the dose.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.case}{FILE_ENDING}"
        record = PredictionRecord(
            case=self.case,
            prescriptions_gy=dict(self.prescriptions_gy),
            notes=list(self.notes),
            origin=self.origin,
            model=self.model,
            applicability=self.applicability,
        )
        with record.beside(file):
            write_image(Image(self.dose.values, self.dose.grid, file))
        return file


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model. Make it by :meth:`load`; several threads may use it, but one patient at a time is predicted.

    Attributes:
        trained: Weights, plans and records of the training.
        predictor: Predictor with the network on its device.

    Example:
        A model package, and a patient as NumPy arrays with the geometry of the CT (axes to the patient's left, back
        and head)::

            import numpy as np
            from cdm_nnunet import Model
            from cdm_nnunet.geometry.grid import Grid, Volume

            model = Model.load("clinic_hn.zip")
            grid = Grid(ct_hu.shape, (3.0, 2.5, 2.5), np.array([-120.0, -90.0, 40.0]))  # size z, y, x; origin x, y, z
            patient = model.predict(
                Volume(ct_hu, grid),
                {"PTV_High": ptv, "Parotid_L": left, "Parotid_R": right, "External": body},
                {"PTV_High": 70.0},
            )
            patient.dose.values.max(), patient.notes
    """

    trained: TrainedModel
    predictor: DosePredictor = field(repr=False)

    @classmethod
    def load(
        cls,
        source: str | Path | ModelChoice | PackageChoice,
        *,
        device: str | None = None,
        step: float = 0.5,
        mirrors: bool = True,
        allows_outside: bool = False,
    ) -> Model:
        """Load a model once, to predict many patients.

        Args:
            source: Folder or ZIP file of a model package, the name of a shipped model, or a model in nnU-Net's folders.
            device: ``cuda``, ``mps`` or ``cpu``; None takes the first available one.
            step: Step between windows, as a fraction of the patch size.
            mirrors: Whether doses are averaged over left-right mirroring: better, but takes twice the time.
            allows_outside: Whether patients to whom the model does not apply are predicted; their records state it.

        Raises:
            InputError: If there is no such model or device, or the model is damaged.
        """
        if not 0 < step <= 1:
            raise InputError(f"the step between windows is above 0 and at most 1, not {step}")
        choice = PackageChoice(str(source)) if isinstance(source, str | Path) else source
        found = choice.found()
        return cls.of(found.read(), LoadedModel(found, device, step, mirrors, allows_outside))

    @classmethod
    def of(cls, trained: TrainedModel, how: LoadedModel) -> Model:
        """As :meth:`load`, for a model that has been read.

        Args:
            trained: The model.
            how: Prediction options.

        Raises:
            InputError: As :meth:`load`.
        """
        return cls(trained, how.predictor_of(trained))

    @property
    def name(self) -> str | None:
        """Name of the model package; None for a model in nnU-Net's folders."""
        return self.trained.name

    @property
    def origin(self) -> Origin:
        """The model and options, as recorded with its doses."""
        return self.predictor.origin

    @cached_property
    def trained_on(self) -> TrainedOn:
        """What the model states about its training data.

        Raises:
            InputError: As :meth:`TrainedOn.of`.
        """
        return TrainedOn.of(self.trained)

    @property
    def template(self) -> Template:
        """The clinical template of the training: ROIs with their kinds and aliases, prescriptions, goals."""
        return self.predictor.dose_plans.template

    def predict(
        self,
        ct: Volume,
        masks: Mapping[str, NDArray[Any]],
        prescriptions: Mapping[str, float],
        *,
        case: str = "case",
        fractions: int | None = None,
    ) -> Prediction:
        """Predict the dose of a patient in memory, with the same checks as for files.

        Args:
            ct: HU, (z, y, x), with its grid: axes to the patient's left, back and head, equally spaced planes.
            masks: Masks by ROI name of the template or an alias of it: (z, y, x) on the CT's grid, boolean or 0 and 1.
            prescriptions: Prescriptions of the contoured targets, by name or alias, Gy; missing ones are taken from
                the template, if it has a fixed one for all patients.
            case: Name of the case.
            fractions: Number of fractions, to check the dose of each; None if unknown.

        Raises:
            InputError: If geometry, CT, masks or prescriptions are implausible, or the model does not apply to the
                patient and that is not allowed.
        """
        patient, unused = self._patient(ct, masks, prescriptions, case, fractions)
        image = Image(patient.ct_hu.astype(np.float32), ct.grid, Path(case))
        channels = channels_of(image.values, patient.prescription_map_gy(), patient.roi_bits)
        properties = {**properties_of(image), "catalogue": patient.catalogue.to_json()}
        items = list(self.predictor.get_data_iterator_from_raw_npy_data(channels, None, properties, None))
        with _quiet(self.predictor):
            try:
                doses_gy = self.predictor.predict_from_data_iterator(iter(items))
            except CasesRefusedError as error:
                raise InputError("; ".join(error.reasons.values())) from None
        assigned = patient.record()
        return Prediction(
            dose=Volume(np.asarray(doses_gy[0]), ct.grid),
            case=case,
            prescriptions_gy=dict(assigned.prescriptions_gy),
            absent_rois=tuple(name for name in patient.catalogue.names if name not in patient.rois),
            notes=(*assigned.notes, *unused, *items[0]["notes"]),
            origin=self.origin,
            model=self.name,
            applicability=items[0]["applicability"].permitted(self.predictor.allows_outside),
        )

    def predict_files(
        self, cases: Sequence[Sequence[str]], out: Path, *, keeps: bool = False, n_processes: int = 2
    ) -> None:
        """Write the dose of each case into a folder, with its record.

        Args:
            cases: Files of the channels of each case (CT, prescription map, ROI bits).
            out: The folder.
            keeps: Whether earlier doses of this model in the folder are kept.
            n_processes: Number of processes for preprocessing.

        Raises:
            InputError: If a case is refused; the others are predicted.
        """
        self.predictor.predict_from_files(
            [list(files) for files in cases], str(out), overwrite=not keeps, num_processes_preprocessing=n_processes
        )

    def _patient(
        self,
        ct: Volume,
        masks: Mapping[str, NDArray[Any]],
        prescriptions: Mapping[str, float],
        case: str,
        fractions: int | None,
    ) -> tuple[Case, tuple[str, ...]]:
        """The patient as a converted case, and notes on masks that match no ROI of the model."""
        if ct.values.shape != ct.grid.shape:
            raise InputError(f"the CT has shape {ct.values.shape}, and its grid {ct.grid.shape}")
        template = self.trained_on.template
        catalogue = template_catalogue(template)
        mapping = map_rois(template, masks)
        named = ((roi, _as_mask(name, masks[name])) for roi, name in mapping.names.items())
        roi_bits, empty = pack_masks(catalogue, named, ct.values.shape)
        contoured = [roi for roi in mapping.names if roi not in empty]
        patient = Case(
            name=case,
            split="Ts",
            ct_hu=clip_hu(ct.values),
            roi_bits=roi_bits,
            catalogue=catalogue,
            dose_gy=None,
            prescriptions_gy=prescriptions_gy(template, prescriptions, contoured),
            grid=ct.grid,
            empty_rois=empty,
            fractions=fractions,
        )
        return patient, tuple(f"mask '{name}' is not an ROI of the model and was not used" for name in mapping.unused)


def _as_mask(name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    values = np.asarray(values)
    if values.dtype.kind not in "buif" or not ((values == 0) | (values == 1)).all():
        raise InputError(f"the mask of '{name}' has other values than 0 and 1; threshold it explicitly first")
    return values.astype(np.bool_)


@contextlib.contextmanager
def _quiet(predictor: DosePredictor) -> Iterator[None]:
    """No progress bar and no notes on stderr: they are in the prediction."""
    told, shown = predictor.tells_notes, predictor.allow_tqdm
    predictor.tells_notes = predictor.allow_tqdm = False
    try:
        yield
    finally:
        predictor.tells_notes, predictor.allow_tqdm = told, shown
