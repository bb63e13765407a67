"""Common steps of all conversions after patients are found: exclude some, write the others as a raw data set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import dataset_name

from .case_files import CaseSource
from .raw_layout import Conversion, DatasetSpec, write_dataset

Source = TypeVar("Source", bound=CaseSource)


@dataclass(frozen=True)
class DatasetPlace:
    """Location of a raw data set.

    Attributes:
        raw_folder: nnU-Net's raw folder.
        dataset_id: Number of the data set.
        name: Name of the data set.
    """

    raw_folder: Path
    dataset_id: int
    name: str

    @property
    def folder(self) -> Path:
        """The data set's folder.

        Raises:
            InputError: If number or name are invalid.
        """
        return self.raw_folder / dataset_name(self.dataset_id, self.name)


@dataclass(frozen=True)
class FoundPatients(Generic[Source]):
    """Patients that can become a data set.

    Attributes:
        converter: Name of the conversion.
        where: The place that was searched, for messages.
        description: Description of the data set, in a sentence.
        template: Its ROIs form the catalogue.
        cases: The cases; a patient may have several.
        validation: Validation cases chosen by the publisher.
        patients: Name of the patient by case, if patients may have several cases.
        mapping: ROI of each name in the files, if a model should read new patients with it.
        remarks: Parts of the source that were ignored.
        unread: Files that could not be read, one line per reason.
        log: File for tracebacks of internal errors; by default in the data set.
        facts_of: Checks the chosen cases together, and returns facts about all their doses.
        before: Called with the chosen cases before anything is written.
    """

    converter: str
    where: object
    description: str
    template: Template
    cases: Sequence[Source]
    validation: tuple[str, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)
    mapping: Mapping[str, Any] | None = None
    remarks: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    log: Path | None = None
    facts_of: Callable[[Sequence[Source]], Mapping[str, Any]] = field(default=lambda chosen: {})
    before: Callable[[Sequence[Source]], None] = field(default=lambda chosen: None)

    def without(self, exclude: Collection[str]) -> list[Source]:
        """The cases without the excluded ones.

        Args:
            exclude: Names of cases or patients.

        Raises:
            InputError: If one of them does not exist.
        """
        names = {case.name: {case.name, self.patients.get(case.name, case.name)} for case in self.cases}
        unknown = sorted(set(exclude).difference(*names.values()))
        if unknown:
            raise InputError(f"to be excluded, but not in {self.where}: {', '.join(unknown)}")
        return [case for case in self.cases if not names[case.name] & set(exclude)]


def convert(
    found: FoundPatients[Source], place: DatasetPlace, *, exclude: Collection[str] = (), n_processes: int = 1
) -> Conversion:
    """Convert patients into a raw data set, or bring one up to date.

    Args:
        found: The patients.
        place: Location of the data set.
        exclude: Names of cases to exclude, or of patients with several cases.
        n_processes: Worker processes.

    Raises:
        InputError: If an excluded name does not exist, or as :func:`write_dataset`.
    """
    chosen = found.without(exclude)
    names = {case.name for case in chosen}
    spec = DatasetSpec(
        place.dataset_id,
        place.name,
        found.description,
        found.template,
        found.converter,
        tuple(name for name in found.validation if name in names),
        tuple(sorted(exclude)),
        {name: patient for name, patient in found.patients.items() if name in names},
        found.mapping,
        found.facts_of(chosen),
        found.remarks,
    )
    conversion = write_dataset(
        place.raw_folder, spec, chosen, n_processes, before=lambda: found.before(chosen), log=found.log
    )
    return replace(conversion, unread=found.unread)
