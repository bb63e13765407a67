"""Pairing of a patient's files by their references, or by the frame of reference if a reference is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdm_nnunet.dicom.copies import without_copies
from cdm_nnunet.dicom.damaged import DamagedFile
from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.dicom.persons import STUDY, several_persons
from cdm_nnunet.dicom.plan import ION_PLAN_CLASS
from cdm_nnunet.dicom.plan_choice import Choice, Course, Part, choose, choose_plans, describe
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.dicom.references import find_ct, find_ct_by_geometry, find_structures, refers_to_any
from cdm_nnunet.errors import InputError

MODALITIES = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")


@dataclass(frozen=True)
class PlanFiles:
    """Files of a plan and its dose.

    Attributes:
        plans: The plan; several for a dose of several plans; may be empty.
        doses: Dose of the plan, or of each beam; empty for a new patient.
    """

    plans: tuple[Path, ...] = ()
    doses: tuple[Path, ...] = ()


@dataclass(frozen=True)
class PatientFiles:
    """The files of a case.

    Attributes:
        patient: PatientID, or ``study UID`` if that is empty; it must not leave this machine.
        patient_name: Pseudonym of the patient.
        case_name: Name of the case: the pseudonym, with a suffix for the plan if each plan is a case.
        ct: Images of the series with the contours.
        structures: Structure set.
        parts: Plans and doses; several if the doses of several plans are summed.
        uids: UIDs of study, frame of reference, structure set and plans, by kind.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``; empty for a new patient, without a dose.
        has_ions: Whether a plan is an ion plan (RT Ion Plan).
        by_geometry: Whether the CT was matched by its slices only: the contours refer to other UIDs.
        problems: Reasons why the patient can't be converted; empty if there are none.
        notes: Remarks on ignored files.
    """

    patient: str
    patient_name: str = ""
    case_name: str = ""
    ct: tuple[Path, ...] = ()
    structures: Path | None = None
    parts: tuple[PlanFiles, ...] = ()
    uids: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dose_type: str = ""
    has_ions: bool = False
    by_geometry: bool = False

    @property
    def plans(self) -> tuple[Path, ...]:
        """All plans."""
        return tuple(path for part in self.parts for path in part.plans)

    @property
    def doses(self) -> tuple[Path, ...]:
        """All doses."""
        return tuple(path for part in self.parts for path in part.doses)


def pair(
    patient: str,
    entries: Sequence[FileEntry],
    needed: Collection[str],
    choice: Choice,
    pseudonyms: Pseudonyms,
) -> list[PatientFiles]:
    """Follow the references from the plan: dose, structure set, CT.

    Args:
        patient: PatientID; ``study UID`` if that is empty.
        entries: The patient's files.
        needed: Modalities that the patient must have besides CT; doses are ignored if not needed.
        choice: Choice of plans and dose type.
        pseudonyms: Make the names.

    Returns:
        One case; several if each plan is a case.
    """
    problems: list[str] = []
    notes: list[str] = []
    entries = without_copies(entries, problems, notes)
    kinds = {kind: [entry for entry in entries if entry.modality == kind] for kind in MODALITIES}
    others = sorted({entry.modality for entry in entries} - set(MODALITIES))
    if others:
        notes.append(f"ignored: {', '.join(others)}")
    name = pseudonyms.patient(patient)
    plan = choice.plan_of(name)
    if patient.startswith(STUDY):
        notes.append("no PatientID: files of one study, and those that refer to it, count as one patient")
    for said, texts in zip(several_persons(patient, entries, plan), (problems, notes), strict=True):
        texts += [said] if said else []
    if not kinds["RTPLAN"]:
        notes.append("no plan (RTPLAN): prescriptions must come from the mapping or the template")
    courses: list[Course] = [()]
    try:
        if "RTDOSE" in needed:
            courses = choose(kinds["RTPLAN"], kinds["RTDOSE"], plan, choice.dose_type, notes)
        elif kinds["RTPLAN"]:
            courses = [(Part((chosen,)),) for chosen in choose_plans(kinds["RTPLAN"], plan, notes)]
    except InputError as error:
        problems.append(str(error))
        needed = ()  # (with one plan, other ambiguities may disappear)
    return [
        _complete(
            *(course, kinds, needed, problems, notes),
            (patient, name, _case_name(name, course, plan, pseudonyms)),
            choice.match_geometry,
        )
        for course in courses
    ]


def _case_name(name: str, course: Course, choice: str, pseudonyms: Pseudonyms) -> str:
    """If each plan is a case, its name depends on the plan, so that later plans do not change names."""
    plans = [plan for part in course for plan in part.plans]
    return f"{name}_{pseudonyms.uid(plans[0].sop_uid)[:6]}" if choice == "each" and plans else name


def _complete(
    course: Course,
    kinds: Mapping[str, Sequence[FileEntry]],
    needed: Collection[str],
    problems: Sequence[str],
    notes: Sequence[str],
    names: tuple[str, str, str],
    match_geometry: bool,
) -> PatientFiles:
    """Find the structure set and the CT of a course."""
    problems, notes = list(problems), list(notes)
    plans = [plan for part in course for plan in part.plans]
    doses = [dose for part in course for dose in part.doses]
    structures = find_structures(kinds["RTSTRUCT"], kinds["CT"], plans, doses, needed, problems, notes)
    by_geometry = match_geometry and structures is not None and not refers_to_any(structures, kinds["CT"])
    if by_geometry and structures is not None:
        ct = find_ct_by_geometry(kinds["CT"], structures, problems, notes)
    else:
        ct = find_ct(kinds["CT"], structures, problems, notes)
    anchors = [*([] if by_geometry else ct[:1]), *([structures] if structures else []), *plans, *doses]
    frames = {entry.frame_uid for entry in anchors if entry.frame_uid}
    if len(frames) > 1:
        what = ", ".join(dict.fromkeys(entry.modality for entry in anchors))
        problems.append(f"{what} lie in {len(frames)} different frames of reference")
    notes += [f"not approved: {describe([one])}" for one in plans if one.approval in ("UNAPPROVED", "REJECTED")]
    has_ions = any(plan.sop_class == ION_PLAN_CLASS for plan in plans)
    if has_ions:
        notes.append("a plan of ions (RT Ion Plan)")
    types = sorted({dose.dose_type or "PHYSICAL" for dose in doses})
    if len(types) > 1:
        problems.append(f"doses of type {' and '.join(types)} can't be summed")
    if not all(dose.dose_type for dose in doses):
        notes.append("no DoseType: taken for PHYSICAL")
    if "EFFECTIVE" in types:
        notes.append("the dose is EFFECTIVE: weighted by biological effectiveness")
    placed = [structures] if by_geometry and structures is not None else ct  # (the destination of a dose)
    uids = {f"plan {k}" if len(plans) > 1 else "plan": plan.sop_uid for k, plan in enumerate(plans, 1)}
    for kind, uid in (
        ("structure set", structures.sop_uid if structures else ""),
        ("study", placed[0].study_uid if placed else ""),
        ("frame of reference", placed[0].frame_uid if placed else ""),
    ):
        if uid:
            uids[kind] = uid
    return PatientFiles(
        *names,
        ct=tuple(Path(entry.path) for entry in ct),
        structures=None if structures is None else Path(structures.path),
        parts=tuple(PlanFiles(_paths(part.plans), _paths(part.doses)) for part in course),
        uids=uids,
        problems=tuple(problems),
        notes=tuple(notes),
        dose_type=types[0] if len(types) == 1 else "",
        has_ions=has_ions,
        by_geometry=by_geometry,
    )


def _paths(entries: Iterable[FileEntry]) -> tuple[Path, ...]:
    return tuple(Path(entry.path) for entry in entries)


def with_damaged(
    files: PatientFiles, sure: Sequence[DamagedFile], perhaps: Sequence[DamagedFile], needed: Collection[str]
) -> PatientFiles:
    """Add the patient's unreadable files to a case: as problems, unless their modality is not needed.

    Args:
        files: The case.
        sure: Damaged files that belong to the patient.
        perhaps: Damaged files that may belong to the patient.
        needed: Modalities that the patient must have besides CT.
    """
    wanted = {"", "CT", "RTPLAN", *needed}
    problems = [
        f"a file of this patient can't be read ({file.reason.removesuffix('; export it again')}); export it again, or "
        "remove it"
        for file in sure
        if file.modality in wanted
    ]
    notes = []
    if len(sure) > len(problems):
        notes.append(f"unreadable files that are not needed, ignored: {len(sure) - len(problems)}")
    if perhaps:
        notes.append(f"unreadable files, or files without a patient, lie among this patient's: {len(perhaps)}")
    return replace(files, problems=(*files.problems, *problems), notes=(*files.notes, *notes))
