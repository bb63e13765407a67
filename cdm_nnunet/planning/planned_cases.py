"""A raw data set with doses planned by one protocol: the same patients, written like any conversion."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from cdm_nnunet.dataset import CT_CHANNEL, NOTES, ROI_CHANNEL, RawDataset, Split
from cdm_nnunet.dataset_conversion.case import Case
from cdm_nnunet.dataset_conversion.case_files import recorded_names, sha256
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, FoundPatients, convert
from cdm_nnunet.dataset_conversion.raw_layout import Conversion, template_catalogue
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image
from cdm_nnunet.planning.anatomy import Anatomy, read_anatomy
from cdm_nnunet.planning.engine import Engine, default_engine
from cdm_nnunet.planning.optimiser import Floats
from cdm_nnunet.planning.planner import Plan, plan_patient
from cdm_nnunet.planning.protocol import Protocol
from cdm_nnunet.planning.verdict import PLAN, planned_values

CONVERTER = "plan-doses"


@dataclass(frozen=True)
class PlannedCase:
    """A patient of a raw data set, planned when it is written.

    Attributes:
        dataset: The raw data set.
        name: The case.
        protocol: The planning protocol.
        engine: Calculates the dose.
    """

    dataset: RawDataset
    name: str
    protocol: Protocol
    engine: Engine

    @property
    def split(self) -> Split:
        """As in the source."""
        return self.dataset.record(self.name).split

    def checksums(self) -> dict[str, str]:
        """Digests of CT and ROIs, their record, protocol and engine."""
        images = [self.dataset.image_path(self.name, channel) for channel in (CT_CHANNEL, ROI_CHANNEL)]
        missing = [path for path in images if not path.is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing")
        return {
            **{path.name: sha256(path) for path in images},
            "record": json.dumps(self.dataset.record(self.name).to_json(), sort_keys=True),
            "protocol": self.protocol.sha256,
            "engine": self.engine.version,
        }

    def load(self) -> Case:
        """Plan the patient.

        Raises:
            InputError: As :func:`read_anatomy` and :func:`plan_patient`.
        """
        anatomy = read_anatomy(self.dataset, self.name)
        plan = plan_patient(anatomy, self.protocol, self.engine)
        record = self.dataset.record(self.name)
        return Case(
            name=self.name,
            split=self.split,
            ct_hu=anatomy.ct_hu,
            roi_bits=anatomy.roi_bits,
            catalogue=anatomy.catalogue,
            dose_gy=plan.dose_gy,
            prescriptions_gy=record.prescriptions_gy,
            grid=anatomy.grid,
            source=self._source(plan, planned_values(anatomy, plan.dose_gy, self._source_dose_gy(anatomy))),
            fractions=record.fractions,
        )

    def _source_dose_gy(self, anatomy: Anatomy) -> Floats | None:
        """The patient's dose in the source; None if there is none."""
        path = self.dataset.dose_path(self.name)
        if not path.is_file():
            return None
        dose = read_image(path)
        if dose.values.shape != anatomy.grid.shape:
            raise InputError(f"{path} differs in size from the CT; convert the data again")
        return np.asarray(dose.values, np.float32)

    def _source(self, plan: Plan, values_gy: dict[str, list[float | None]]) -> dict[str, str]:
        """Entries of the source about the patient; its notes may refer to the replaced dose."""
        earlier = self.dataset.record(self.name).source
        kept = {key: value for key, value in earlier.items() if key in ("patient", "patient position")}
        notes = {NOTES: json.dumps(list(plan.notes))} if plan.notes else {}
        told = {
            "protocol": self.protocol.name,
            "protocol_sha256": self.protocol.sha256,
            "engine": self.engine.version,
            "objective": {name: round(value, 4) for name, value in plan.objective.items()},
            "scale": round(plan.scale, 5),
            "iterations": plan.iterations,
            "values_gy": values_gy,
            "cpu_seconds": {name: round(value, 1) for name, value in plan.cpu_seconds.items()},
        }
        return {"patient": self.name, **kept, "planned from": self.dataset.folder.name, PLAN: json.dumps(told), **notes}


@dataclass(frozen=True)
class PlanRequest:
    """Patients to plan, and options.

    Attributes:
        source: The raw data set whose patients are planned.
        protocol: The planning protocol.
        only: Names of cases; empty for all. Cases that were planned before stay in the data set.
        exclude: Names of cases to exclude.
        n_processes: Number of patients at a time.
        engine: Calculates the doses; None for that of the extra ``planning``.
    """

    source: RawDataset
    protocol: Protocol
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    n_processes: int = 1
    engine: Engine | None = None


def plan_doses(request: PlanRequest, place: DatasetPlace) -> Conversion:
    """Write a data set of the same anatomies with planned doses, or update one.

    It can be stopped at any time and run again: a case counts as done when all of its files are in place.

    Args:
        request: Patients and options.
        place: Location of the data set.

    Raises:
        InputError: If the protocol does not fit the data set, a named case does not exist, or as
            :func:`cdm_nnunet.dataset_conversion.raw_layout.write_dataset`: naming every patient that can't be planned.
    """
    source, engine = request.source, request.engine or default_engine()
    if place.folder.resolve() == source.folder.resolve():
        raise InputError(f"{source.folder.name} is the source; give the planned data set another number (-d)")
    if template_catalogue(source.template) != source.catalogue:
        raise InputError(f"{source.folder.name} has other ROIs than its template; convert the data again")
    chosen = _chosen(source, request.only, recorded_names(place.folder))
    cases = [PlannedCase(source, name, request.protocol, engine) for name in chosen]
    facts = source.dataset_json["cdm"].get("facts", {})
    found = FoundPatients(
        CONVERTER,
        source.folder.name,
        f"{source.folder.name} with doses planned by protocol '{request.protocol.name}'; not for treatment",
        source.template,
        cases,
        validation=tuple(name for name in facts.get("published_validation", ()) if name in chosen),
        patients={name: source.patient(name) for name in chosen},
        facts_of=lambda _: {"protocol": request.protocol.model_dump(mode="json"), "engine": engine.version},
    )
    return convert(found, place, exclude=request.exclude, n_processes=request.n_processes)


def _chosen(source: RawDataset, only: Sequence[str], planned: Collection[str]) -> tuple[str, ...]:
    unknown = [name for name in only if name not in source.cases]
    if unknown:
        raise InputError(f"{source.folder.name} has no case '{unknown[0]}'")
    return tuple(name for name in source.cases if not only or name in only or name in planned)
