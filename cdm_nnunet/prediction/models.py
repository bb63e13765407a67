"""Look-up of trained models, and their records of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_nnunet.dataset import cdm_section
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, mapping_from
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS, configuration_in, folder
from cdm_nnunet.models.members import MANIFEST, SUMS, weights_name
from cdm_nnunet.models.package import Package
from cdm_nnunet.models.shipped import find_model
from cdm_nnunet.nnunet.model import TrainedModel, read_model
from cdm_nnunet.nnunet.packaged import read_package
from cdm_nnunet.nnunet.plans import DosePlans


@dataclass(frozen=True)
class FoldsFound:
    """Folds of a model in nnU-Net's folder of results.

    Attributes:
        folder: ``DATASET/TRAINER__PLANS__CONFIGURATION``.
        folds: Numbers of folds, or ``all``.
        checkpoint: The file in each fold's folder.
    """

    folder: Path
    folds: tuple[str, ...]
    checkpoint: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder

    def read(self) -> TrainedModel:
        """The model.

        Raises:
            InputError: As :func:`cdm_nnunet.nnunet.model.read_model`.
        """
        return read_model(self.folder, self.folds, self.checkpoint)

    def files(self) -> list[Path]:
        """Files that it is read from."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]


@dataclass(frozen=True)
class PackageFound:
    """A model package.

    Attributes:
        path: The folder or ZIP file.
        folds: Folds to use; empty for all.
    """

    path: Path
    folds: tuple[str, ...] = ()

    def read(self) -> TrainedModel:
        """The model.

        Raises:
            InputError: As :func:`cdm_nnunet.nnunet.packaged.read_package`.
        """
        return read_package(self.path, self.folds)

    def files(self) -> list[Path]:
        """Files that it is read from."""
        if self.path.is_file():
            return [self.path]
        folds = [fold.fold for fold in Package.read(self.path).manifest.folds]
        return [self.path / name for name in (MANIFEST, SUMS, *map(weights_name, folds))]


Found = FoldsFound | PackageFound


@dataclass(frozen=True)
class PackageChoice:
    """A model package.

    Attributes:
        name: A folder, a ZIP file, or the name of a shipped model.
        folds: Folds to use; empty for all.
    """

    name: str
    folds: tuple[str, ...] = ()

    def found(self) -> PackageFound:
        """Location of the model.

        Raises:
            InputError: If there is no such model.
        """
        return PackageFound(find_model(self.name), self.folds)


@dataclass(frozen=True)
class ModelChoice:
    """Folds of a trained model.

    Attributes:
        dataset_id: Number of the data set that it was trained on.
        configuration: Such as ``3d_fullres``.
        trainer: Name of the trainer.
        plans: Name of the plans.
        folds: Numbers of folds, or ``all``.
        checkpoint: The file in each fold's folder.
    """

    dataset_id: int
    configuration: str = "3d_fullres"
    trainer: str = "nnUNetTrainerCDM"
    plans: str = DEFAULT_PLANS
    folds: tuple[str, ...] = ("0",)
    checkpoint: str = "checkpoint_final.pth"

    def find(self) -> Path:
        """The model's folder.

        Raises:
            InputError: If a fold is invalid, or the model or a checkpoint is missing.
        """
        for fold in self.folds:
            if fold != "all" and not fold.isdigit():
                raise InputError(f"a fold is a number or 'all', not '{fold}'")
        results, dataset = folder("nnUNet_results"), f"Dataset{self.dataset_id:03d}_*"
        model = f"{dataset}/{self.trainer}__{self.plans}__"
        there = {path.name.rsplit("__", 1)[1] for path in results.glob(f"{model}*")}
        found = sorted(results.glob(model + configuration_in(there, self.configuration)))
        if len(found) != 1:
            trained = sorted(path.name for path in results.glob(f"{dataset}/*__*__*"))
            raise InputError(
                f"{len(found) or 'no'} models of dataset {self.dataset_id} for {self.trainer}, {self.plans}, "
                f"{self.configuration} in {results}; there "
                f"{'are ' + ', '.join(trained) if trained else 'is none of this data set'}"
            )
        for fold in self.folds:
            checkpoint = found[0] / f"fold_{fold}" / self.checkpoint
            if not checkpoint.is_file():
                raise InputError(
                    f"{checkpoint} is missing: fold {fold} was not trained to its end, or -chk names another file"
                )
        return found[0]

    def found(self) -> FoldsFound:
        """Location of the folds.

        Raises:
            InputError: As :meth:`find`.
        """
        return FoldsFound(self.find(), self.folds, self.checkpoint)


def choice_of(options: Mapping[str, Any]) -> ModelChoice | PackageChoice:
    """A model from named arguments: ``name`` for a package, else attributes of :class:`ModelChoice`."""
    return PackageChoice(**options) if "name" in options else ModelChoice(**options)


@dataclass(frozen=True)
class TrainedOn:
    """A model's record of its training data.

    Attributes:
        folder: Folder of the model.
        template: Template whose ROIs form the catalogue.
        mapping: Mapping of names in the training data's DICOM files; None for other data.
        grid: Median voxel size of the training data in mm: ``XxYxZ``.
        always_contoured: ROIs that all training cases had; all ROIs if unknown.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``; empty if it is not known.
        ion_plans: Number of ion plans; None if unknown.
        positions: Number of training cases in each patient position (HFS, FFS, ...); empty if unknown.
    """

    folder: Path
    template: Template
    mapping: DicomMapping | None
    grid: str
    always_contoured: frozenset[str]
    dose_type: str
    ion_plans: int | None
    positions: Mapping[str, int]

    @classmethod
    def of(cls, model: TrainedModel) -> TrainedOn:
        """Read the record of a model.

        Raises:
            InputError: If the catalogue is not the template's.
        """
        folder = model.folder
        plans, where = DosePlans(model.plans), f"dataset.json of {folder}"
        if template_catalogue(plans.template) != plans.catalogue:
            raise InputError(
                f"{folder / 'plans.json'}: the catalogue is not that of the template; plan and train again"
            )
        section = cdm_section(model.dataset_json, where)
        stored, facts = section.get("mapping"), section.get("facts", {})
        return cls(
            folder,
            plans.template,
            None if stored is None else mapping_from(stored, f"{where}: mapping"),
            _median_grid(model.plans),
            _always_contoured(plans, facts, model.dataset_json["numTraining"]),
            facts.get("dose_type", ""),
            facts.get("ion_plans"),
            facts.get("patient_positions", {}),
        )

    def mapping_for(self, own: DicomMapping | None) -> DicomMapping:
        """The model's mapping without its prescriptions, updated with the entries of another one.

        Raises:
            InputError: If there is neither, or the other one does not fit the model.
        """
        if own is None and self.mapping is None:
            raise InputError(
                f"{self.folder} was not trained on DICOM files and does not know their ROI names; give --mapping, the "
                "reviewed rois.yaml of 'cdm-nnunet inspect dicom'"
            )
        mapping = DicomMapping({} if self.mapping is None else self.mapping.rois)
        if own is not None:
            mapping = mapping.updated(own)
        mapping.refuse_unknown_rois(self.template)
        return mapping


def _median_grid(plans: Mapping[str, Any]) -> str:
    z, y, x = plans["original_median_spacing_after_transp"]
    # (to a micrometre, because of NIfTI's float32)
    return "x".join(f"{round(size, 3):g}" for size in (x, y, z))


def _always_contoured(plans: DosePlans, facts: Mapping[str, Any], n_cases: int) -> frozenset[str]:
    counts = facts.get("training_cases_with_roi", {})
    return frozenset(name for name in plans.catalogue.names if counts.get(name, n_cases) == n_cases)
