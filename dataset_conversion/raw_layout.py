"""The writer of raw data sets, in the format that :mod:`cdm_nnunet.dataset` describes.

A conversion can be stopped at any moment and run again: complete, unchanged cases are skipped. ``dataset.json`` is
written only when all cases are complete, so that an unfinished data set can't be planned.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import CASES_FILE, CHANNEL_NAMES, FILE_ENDING, FORMAT_VERSION, POSITION, READER_NAME, UNITS
from cdm_nnunet.documents import read_json
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.files import locked, write_json
from cdm_nnunet.folders import dataset_name
from cdm_nnunet.parallel import unordered
from cdm_nnunet.progress import progress
from cdm_nnunet.roi import Catalogue, Roi
from cdm_nnunet.roi.catalogue import mirror_name

from .case import Case
from .case_files import STATE_FOLDER, CaseSource, CompletedCase, recorded_names, write_case
from .splits import make_folds, patients_with_twins, refuse_parted_patients

SPLITS_FILE = "splits_final.json"
_IMAGE_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


@dataclass(frozen=True)
class DatasetSpec:
    """Description of a data set, apart from its cases.

    Attributes:
        dataset_id: Number from 1 to 999.
        name: Letters, digits, ``_`` and ``-``.
        description: One sentence.
        template: The clinical template; its ROIs, in order, are the catalogue.
        source: Name of the conversion.
        published_validation: The publisher's validation cases (fold 0); may be empty.
        excluded: Patients that the user excluded.
        patients: Name of the patient by case, if a patient has several cases: they stay together in every fold.
        mapping: ROI of each name in the patients' files, if a model should read new patients with it.
        remarks: Parts of the source that were ignored, for the messages.
        facts: Further facts about all doses, for a model that is trained on them.
    """

    dataset_id: int
    name: str
    description: str
    template: Template
    source: str
    published_validation: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)
    mapping: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def catalogue(self) -> Catalogue:
        """The ROI catalogue."""
        return template_catalogue(self.template)


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        folder: The data set's folder.
        catalogue: The ROI catalogue.
        cases: All cases by name.
        converted: Names of the cases written in this run; the others were up to date.
        excluded: Patients that the user excluded.
        seconds: Duration of this run.
        patients: The patient by case; cases with the same CT or dose count as one patient.
        stated_patients: The patient by case, as in the source.
        unread: Files of the source that could not be read, one line per reason.
        remarks: Parts of the source that were ignored.
    """

    folder: Path
    catalogue: Catalogue
    cases: dict[str, CompletedCase]
    converted: tuple[str, ...]
    excluded: tuple[str, ...]
    seconds: float
    patients: Mapping[str, str]
    stated_patients: Mapping[str, str]
    unread: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def same_images(self) -> list[list[str]]:
        """Cases with the same CT or dose under different patients in the source; they stay together in folds."""
        groups: dict[str, list[str]] = {}
        for case, patient in self.patients.items():
            groups.setdefault(patient, []).append(case)
        return [group for group in groups.values() if len({self.stated_patients[case] for case in group}) > 1]

    @property
    def training(self) -> tuple[str, ...]:
        """Names of the cases in imagesTr."""
        return tuple(name for name, case in self.cases.items() if case.record.split == "Tr")

    @property
    def training_cases_with_roi(self) -> dict[str, int]:
        """Number of training cases in which each ROI is contoured."""
        present = [roi for name in self.training for roi in self.cases[name].record.rois]
        return {name: present.count(name) for name in self.catalogue.names}

    @property
    def patient_positions(self) -> dict[str, int]:
        """Number of training cases in each patient position; empty unless all their CTs state it."""
        positions = [self.cases[name].record.source.get(POSITION, "") for name in self.training]
        return {} if "" in positions else dict(sorted(Counter(positions).items()))

    def to_json(self) -> dict[str, Any]:
        """The record of the run."""
        n_cases = len(self.cases)
        present = [name for case in self.cases.values() for name in case.record.rois]
        return {
            "dataset": str(self.folder),
            "cases": n_cases,
            "training_cases": len(self.training),
            "test_cases": n_cases - len(self.training),
            "converted": list(self.converted),
            "unchanged": [name for name in self.cases if name not in self.converted],
            "excluded": list(self.excluded),
            "absent_rois": {name: n_cases - present.count(name) for name in self.catalogue.names},
            "one_sided_rois": list(self.catalogue.one_sided),
            "empty_rois": {name: list(case.empty_rois) for name, case in self.cases.items() if case.empty_rois},
            "notes": {name: list(case.record.notes) for name, case in self.cases.items() if case.record.notes},
            "without_reference_dose": [name for name, case in self.cases.items() if not case.has_dose],
            "unread": list(self.unread),
            "same_images": self.same_images,
            "seconds": round(self.seconds, 1),
            "remarks": list(self.remarks),
        }


def template_catalogue(template: Template) -> Catalogue:
    """The catalogue of a template: its ROIs in order; ``NAME_L`` and ``NAME_R`` are mirror partners.

    A ``NAME_L`` without a ``NAME_R`` gives a catalogue without mirroring, in training and prediction.

    Raises:
        InputError: If the template has more than 64 ROIs.

    Example:
        >>> template_catalogue(Template.load("openkbp")).rois[5]
        Roi(name='Parotid_R', kind='oar', mirror='Parotid_L')
    """
    names = [roi.name for roi in template.rois]

    def partner(name: str) -> str | None:
        other = mirror_name(name)
        return other if other in names else None

    return Catalogue(tuple(Roi(roi.name, roi.kind, partner(roi.name)) for roi in template.rois))


def write_dataset(
    raw_folder: Path,
    spec: DatasetSpec,
    sources: Sequence[CaseSource],
    n_processes: int = 1,
    *,
    before: Callable[[], None] | None = None,
    log: Path | None = None,
) -> Conversion:
    """Convert all patients into a raw data set, or bring one up to date.

    Args:
        raw_folder: nnU-Net's raw folder.
        spec: Description of the data set.
        sources: The patients.
        n_processes: Worker processes; 1 converts in this process.
        before: Called before anything is written, when the data set may hold these patients.
        log: File for tracebacks of internal errors, which may name patients; by default in the data set.

    Raises:
        InputError: If the data set's number or name is taken, or patients were refused: all of them in one message.
            The other patients are converted, and the data set stays unfinished.
        OSError: If the disk is full or a file can't be written.
    """
    start = time.monotonic()
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"patient '{name}' is in the source {names.count(name)} times; names must be unique")
    if not names:
        raise InputError("there are no patients to convert")
    training = [source.name for source in sources if source.split == "Tr"]
    refuse_parted_patients({source.name: source.split for source in sources}, spec.patients)
    folds = make_folds(training, spec.published_validation, spec.patients) if training else None

    folder = _claim(raw_folder, spec)
    # keeps a second conversion out of the same data set
    busy = f"another conversion is writing to {folder}; wait until it has ended"
    with locked(folder / STATE_FOLDER / "lock", busy):
        _refuse_other_cases(folder, names)
        if before is not None:
            before()
        shutil.rmtree(folder / STATE_FOLDER / "incomplete", ignore_errors=True)
        (folder / "imagesTr").mkdir(exist_ok=True)
        log = (log or folder / STATE_FOLDER / "errors.log").resolve()
        outcomes = {outcome.name: outcome for outcome in _outcomes(sources, folder, spec, n_processes, log)}
        _refuse_incomplete(outcomes, names, spec.remarks)
        cases = {name: case for name in names if (case := outcomes[name].case) is not None}
        _refuse_strays(folder, cases)
        conversion = Conversion(
            folder,
            spec.catalogue,
            cases,
            tuple(name for name in names if outcomes[name].converted),
            spec.excluded,
            time.monotonic() - start,
            patients_with_twins({name: case.files for name, case in cases.items()}, spec.patients),
            {name: spec.patients.get(name, name) for name in cases},
            remarks=spec.remarks,
        )
        write_json(folder / CASES_FILE, {name: case.record.to_json() for name, case in cases.items()})
        if folds is not None:
            # (a single patient can't be split)
            if len({conversion.patients[name] for name in training}) > 1:
                folds = make_folds(training, spec.published_validation, conversion.patients)
            write_json(folder / SPLITS_FILE, folds)
        write_json(folder / "dataset.json", _dataset_json(spec, conversion))
    return conversion


@dataclass(frozen=True)
class _Outcome:
    name: str
    case: CompletedCase | None
    converted: bool = False
    refusal: str = ""


def load_checked(source: CaseSource, catalogue: Catalogue) -> Case:
    """Load a patient.

    Raises:
        InputError: If the patient can't be converted.
    """
    case = source.load()
    if (case.name, case.split, case.catalogue) != (source.name, source.split, catalogue):
        raise InputError("name, split and catalogue of the loaded case are not those that were announced")
    return case


def _convert(source: CaseSource, folder: Path, catalogue: Catalogue, decisions: str, log: Path) -> _Outcome:
    """Convert one patient unless it is up to date; runs in a worker."""
    try:
        with fenced(source.name, log):
            completed = CompletedCase.read(folder, source.name)
            checksums = {**source.checksums(), "template": decisions}
            if completed is not None and completed.is_current(folder, source.split, checksums):
                return _Outcome(source.name, completed)
            case = load_checked(source, catalogue)
        with fenced(source.name, log, passing=(OSError,)):  # (a full disk ends the run)
            return _Outcome(source.name, write_case(folder, case, checksums), converted=True)
    except InputError as error:
        return _Outcome(source.name, None, refusal=str(error))


def _outcomes(
    sources: Sequence[CaseSource], folder: Path, spec: DatasetSpec, n_processes: int, log: Path
) -> Iterator[_Outcome]:
    # The parts of the template that affect a converted case; goals do not.
    decisions = hashlib.sha256("".join(roi.model_dump_json() for roi in spec.template.rois).encode()).hexdigest()
    work = functools.partial(_convert, folder=folder, catalogue=spec.catalogue, decisions=decisions, log=log)
    done = unordered(work, sources, n_processes)
    for _, outcome in progress(done, total=len(sources), desc=folder.name):
        yield outcome


def _claim(raw_folder: Path, spec: DatasetSpec) -> Path:
    """Create the data set's folder, or check that an existing one is from the same conversion."""
    folder = raw_folder / dataset_name(spec.dataset_id, spec.name)
    others = sorted(p.name for p in raw_folder.glob(f"Dataset{spec.dataset_id:03d}_*") if p.name != folder.name)
    if others:
        raise InputError(
            f"dataset id {spec.dataset_id} is taken by {', '.join(others)} in {raw_folder}; choose another -d"
        )
    manifest_path = folder / STATE_FOLDER / "manifest.json"
    manifest = {
        "source": spec.source,
        "format_version": FORMAT_VERSION,
        "catalogue": spec.catalogue.to_json(),
    }
    if folder.exists() and any(entry.name != STATE_FOLDER for entry in folder.iterdir()):
        try:
            earlier = read_json(manifest_path, dict[str, Any])
        except InputError:
            raise InputError(
                f"{folder} exists and was not written by this command; choose another -d or -n, or remove it"
            ) from None
        for key, value in manifest.items():
            if earlier.get(key) != value:
                raise InputError(
                    f"{folder} was converted with another {key.replace('_', ' ')}; "
                    "choose another -d or -n, or remove it to convert again"
                )
    write_json(manifest_path, manifest)
    return folder


def _refuse_other_cases(folder: Path, names: Sequence[str]) -> None:
    others = sorted(recorded_names(folder) - set(names))
    if others:
        raise InputError(
            f"{folder} holds cases that are not among the patients to convert: {', '.join(others)}; "
            "choose another -d and -n, or remove the folder to convert again"
        )


def _refuse_incomplete(outcomes: dict[str, _Outcome], names: Sequence[str], remarks: Sequence[str]) -> None:
    refused = [outcomes[name] for name in names if outcomes[name].case is None]
    if refused:
        reasons = "; ".join(f"[{outcome.name}] {outcome.refusal}" for outcome in refused)
        raise InputError(
            f"{len(refused)} of {counted(len(names), 'patient')} can't be used: {reasons}. The others are converted; "
            "correct these or leave them out by name (--exclude), and run the same command again to finish the data set"
            + "".join(f"; {remark}" for remark in remarks)
        )


def _refuse_strays(folder: Path, cases: dict[str, CompletedCase]) -> None:
    owned = {file for case in cases.values() for file in case.files}
    found = {f"{name}/{path.name}" for name in _IMAGE_FOLDERS for path in (folder / name).glob("*")}
    strays = sorted(found - owned)
    if strays:
        shown = ", ".join(strays[:8]) + (f" and {len(strays) - 8} more" if len(strays) > 8 else "")
        raise InputError(f"{folder} has files that belong to no converted case: {shown}; remove them and run again")


def _with_several_cases(spec: DatasetSpec, conversion: Conversion) -> dict[str, str]:
    """Patient by training case, for patients with several cases: they stay together in every split, also the user's."""
    of_case = {case: spec.patients[case] for case in conversion.training if case in spec.patients}
    counts = Counter(of_case.values())
    return {case: patient for case, patient in of_case.items() if counts[patient] > 1}


def _dataset_json(spec: DatasetSpec, conversion: Conversion) -> dict[str, Any]:
    return {
        "name": spec.name,
        "description": spec.description,
        "channel_names": {str(k): name for k, name in enumerate(CHANNEL_NAMES)},
        "labels": {"background": 0},
        "numTraining": len(conversion.training),
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": READER_NAME,
        "cdm": {
            "format_version": FORMAT_VERSION,
            "units": dict(UNITS),
            "catalogue": spec.catalogue.to_json(),
            "template": spec.template.to_json(),
            "facts": {
                "source": spec.source,
                "published_validation": list(spec.published_validation),
                "excluded": list(spec.excluded),
                "without_reference_dose": conversion.to_json()["without_reference_dose"],
                "training_cases_with_roi": conversion.training_cases_with_roi,
                **({"patient_positions": positions} if (positions := conversion.patient_positions) else {}),
                **({"patients": patients} if (patients := _with_several_cases(spec, conversion)) else {}),
                **spec.facts,
            },
            **({} if spec.mapping is None else {"mapping": dict(spec.mapping)}),
        },
    }
