"""Choice of a patient's plan among courses, replans and boosts, each with its own dose.

A choice is a rule, or the label (RTPlanLabel) or UID of one plan. Without a choice, several plans are refused.

========== ============================================================================================
``latest`` the plan with the latest date and time; among approved plans if there are any
``sum``    all plans of a course: their common dose (MULTI_PLAN) if present, otherwise the sum of doses
``each``   all plans, each as its own case
========== ============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.dicom.file_choice import FileChoice
from cdm_nnunet.errors import InputError

RULES = ("latest", "sum", "each")
DEFAULT = "default"
DOSE_TYPES = ("PHYSICAL", "EFFECTIVE")


@dataclass(frozen=True)
class Part:
    """Plans and their dose: usually one plan; several for a dose of several plans; none if unknown."""

    plans: tuple[FileEntry, ...] = ()
    doses: tuple[FileEntry, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Choices for all patients.

    Attributes:
        plans: Rule, label or UID by the patient's name; the rule under ``default`` applies to all others.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``; empty without a choice.
        files: Choice of structure set and CT series by the patient's name.
        match_geometry: Match the CT by its slices if the contours refer to no CT in the folder.
    """

    plans: Mapping[str, str] = field(default_factory=dict)
    dose_type: str = ""
    files: Mapping[str, FileChoice] = field(default_factory=dict)
    match_geometry: bool = False

    def plan_of(self, patient: str) -> str:
        """Rule, label or UID for a patient; empty without a choice."""
        return self.plans.get(patient, self.plans.get(DEFAULT, ""))


NOTHING_CHOSEN = Choice()
Course = tuple[Part, ...]  # parts whose doses add up


def choose(
    plans: Sequence[FileEntry], doses: Sequence[FileEntry], plan: str, dose_type: str, notes: list[str]
) -> list[Course]:
    """Select the cases of a patient: one for the course, or one per plan.

    Args:
        plans: Plans of one patient.
        doses: Doses of the same patient.
        plan: Rule, label or UID; empty without a choice.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``; empty without a choice.
        notes: Remarks about ignored files are appended.

    Raises:
        InputError: If there are several and nothing was chosen, or the choice matches no plan or several.
    """
    doses = _of_type(_planned(doses, notes), dose_type, notes)
    if not plans:
        return [(Part((), tuple(_whole(doses, notes))),)]
    loose = [dose for dose in doses if not dose.refers_to]
    shared = [dose for dose in doses if len(dose.refers_to) > 1]
    own = {one.sop_uid: [dose for dose in doses if dose.refers_to == (one.sop_uid,)] for one in plans}
    if loose and len(plans) == 1:
        own[plans[0].sop_uid] += loose
    elif loose:
        doses_of_none = counted(len(loose), "dose")
        raise InputError(f"{doses_of_none} without a plan, and there are {len(plans)} plans: ambiguous, keep one")
    with_dose = [one for one in plans if own[one.sop_uid]]
    if not with_dose:
        if not shared:
            raise InputError("no dose (RTDOSE) refers to the plan")
        return [(_shared_part(shared, plans),)]
    if len(with_dose) < len(plans):
        notes.append(f"plans without a dose ignored: {len(plans) - len(with_dose)}")
    stray = len([dose for dose in doses if dose.refers_to and not set(own) & set(dose.refers_to)])
    if stray:
        notes.append(f"doses of plans that are not in the folder ignored: {stray}")
    if plan == "sum":
        return [_sum(_accepted(with_dose, plan, notes), own, shared, notes)]
    if shared:
        notes.append(f"doses of several plans ignored: {len(shared)}")
    chosen = choose_plans(with_dose, plan, notes)
    return [(Part((one,), tuple(_whole(own[one.sop_uid], notes))),) for one in chosen]


def choose_plans(plans: Sequence[FileEntry], choice: str, notes: list[str]) -> list[FileEntry]:
    """The plans that match a choice: one, or all with ``each``.

    A rejected plan is used only if it was chosen by its label or UID. The latest plan is the latest approved one, if
    any is approved.

    Raises:
        InputError: If there are several and no choice, or the choice matches no plan or several.
    """
    if choice and choice not in RULES:
        return [_named(plans, choice)]
    candidates = _accepted(plans, choice, notes)
    if len(candidates) <= 1 or choice == "each":
        return candidates
    if choice == "latest":
        if any(plan.approval == "APPROVED" for plan in candidates):
            candidates = [plan for plan in candidates if plan.approval != "UNAPPROVED"]
            if not candidates[-1].approval:
                raise InputError(
                    f"the latest plan has no ApprovalStatus, and an earlier one is approved: {describe(candidates)}; "
                    "choose one by name"
                )
        if len(candidates) > 1 and not _is_latest(candidates[-1].made, [plan.made for plan in candidates[:-1]]):
            raise InputError(f"it is unclear which plan is the latest: {describe(candidates)}; choose one by name")
        notes.append(f"not the latest, ignored: {describe([plan for plan in plans if plan != candidates[-1]])}")
        return candidates[-1:]
    if choice == "sum":
        raise InputError(f"a dose is predicted for one plan, not for the sum of {len(candidates)}; choose one")
    raise InputError(
        f"{len(candidates)} plans: {describe(candidates)}; choose in the mapping, under 'plans': one by its label "
        f"or UID, or a rule ({', '.join(RULES)})"
    )


def _named(plans: Sequence[FileEntry], choice: str) -> FileEntry:
    """The plan with a label or UID; also a rejected one, unless another plan has the label."""
    found = [plan for plan in plans if choice in (plan.label, plan.sop_uid)]
    if len(found) > 1:
        found = [plan for plan in found if plan.approval != "REJECTED"] or found
    if len(found) != 1:
        what = "is not a plan with a dose" if not found else f"is the label of {len(found)} plans; give the UID"
        raise InputError(f"the mapping chooses '{choice}', which {what}: there are {describe(_by_date(plans))}")
    return found[0]


def _accepted(plans: Sequence[FileEntry], choice: str, notes: list[str]) -> list[FileEntry]:
    """Plans that were not rejected."""
    plans = _by_date(plans)
    rejected = [plan for plan in plans if plan.approval == "REJECTED"]
    accepted = [plan for plan in plans if plan.approval != "REJECTED"]
    if rejected and not accepted:
        raise InputError(
            f"all plans are rejected: {describe(rejected)}; name one under 'plans' of the mapping to use it "
            "nevertheless"
        )
    if rejected:
        notes.append(f"rejected plans ignored: {describe(rejected)}")
    if choice == "sum" and {plan.approval for plan in accepted} >= {"APPROVED", "UNAPPROVED"}:
        raise InputError(
            f"a course is summed of approved plans, or of plans without an approval: there are {describe(accepted)}; "
            "remove what was not treated, or choose one plan"
        )
    return accepted


def describe(plans: Sequence[FileEntry]) -> str:
    """Describe plans by label and date; with UIDs if labels are ambiguous."""
    labels = [plan.label for plan in plans]
    clear = len(set(labels)) == len(labels) and all(labels)
    return ", ".join(
        f"'{plan.label}'"
        + (f" of {plan.made[:8]}" if plan.made else "")
        + (f", {plan.approval}" if plan.approval else "")
        + ("" if clear else f" ({plan.sop_uid})")
        for plan in plans
    )


def _by_date(plans: Sequence[FileEntry]) -> list[FileEntry]:
    return sorted(plans, key=lambda plan: (plan.made, plan.sop_uid))


def _is_latest(made: str, others: Sequence[str]) -> bool:
    """Whether a date is later than the others; a date without a time may be any time of that day."""
    has_date = all(len(date) >= 8 and date[:8].isdigit() for date in (made, *others))
    return has_date and not any(made.startswith(date) for date in others)


def _planned(doses: Sequence[FileEntry], notes: list[str]) -> list[FileEntry]:
    """Planned doses with voxels: without this software's predictions and files with only DVHs."""
    predicted = [dose for dose in doses if dose.is_prediction]
    without_grid = [dose for dose in doses if not dose.has_grid and not dose.is_prediction]
    planned = [dose for dose in doses if dose.has_grid and not dose.is_prediction]
    doses_of_kind = [dose for dose in planned if dose.dose_type in ("", *DOSE_TYPES)]
    absolute = [dose for dose in doses_of_kind if not dose.is_relative]
    found = absolute or doses_of_kind  # (if it is the only one, a relative dose is refused with its file name)
    aside = [
        f"{count} {what}"
        for count, what in (
            (len(predicted), "predicted by this software"),
            (len(without_grid), "of DVHs without voxels"),
            (len(planned) - len(doses_of_kind), "of differences (DoseType ERROR)"),
            (len(doses_of_kind) - len(found), "in relative units next to others in Gy"),
        )
        if count
    ]
    if not found:
        raise InputError("no dose (RTDOSE)" + (f" but {' and '.join(aside)}" if aside else ""))
    notes += [f"doses ignored: {text}" for text in aside]
    return found


def _of_type(doses: Sequence[FileEntry], dose_type: str, notes: list[str]) -> Sequence[FileEntry]:
    """The doses of the chosen type."""
    if not dose_type:
        return doses
    found = [dose for dose in doses if (dose.dose_type or "PHYSICAL") == dose_type]
    if not found:
        raise InputError(
            f"no dose of type {dose_type}, which the mapping chooses, but {doses[0].dose_type or 'PHYSICAL'}"
        )
    if len(found) < len(doses):
        notes.append(f"doses of another type than {dose_type} ignored: {len(doses) - len(found)}")
    return found


def _whole(doses: Sequence[FileEntry], notes: list[str]) -> Sequence[FileEntry]:
    """Among doses of plan, beams, fractions and control points, that of the plan, otherwise those of the beams."""
    if any(dose.label in ("MULTI_PLAN", "PLAN_OVERVIEW") for dose in doses):
        return doses
    whole = [dose for dose in doses if dose.label == "PLAN"]
    beams = [dose for dose in doses if dose.label == "BEAM"]
    kept = whole or beams
    if len({dose.dose_type or "PHYSICAL" for dose in kept}) > 1:
        raise InputError(
            f"{len(kept)} doses of the plan, of type EFFECTIVE and PHYSICAL; choose one for the data set, by "
            "'dose_type' of the mapping"
        )
    if kept and len(kept) < len(doses):
        aside = sorted({dose.label or "?" for dose in doses} - {kept[0].label})
        notes.append(f"doses of {', '.join(aside)} ignored: {len(doses) - len(kept)}")
    return kept or doses


def _shared_part(shared: Sequence[FileEntry], plans: Sequence[FileEntry]) -> Part:
    """The common dose of several plans; all of them must be present, because they hold the prescription."""
    if len(shared) > 1:
        raise InputError(f"{len(shared)} doses of several plans: ambiguous, keep one")
    of_dose = [plan for plan in plans if plan.sop_uid in shared[0].refers_to]
    if len(of_dose) < len(shared[0].refers_to):
        missing = len(shared[0].refers_to) - len(of_dose)
        raise InputError(f"the dose is of {len(shared[0].refers_to)} plans, of which {missing} are not in the folder")
    rejected = [plan for plan in of_dose if plan.approval == "REJECTED"]
    if rejected:
        raise InputError(f"the dose is of {len(of_dose)} plans, of which some are rejected: {describe(rejected)}")
    return Part(tuple(_by_date(of_dose)), tuple(shared))


def _sum(
    candidates: Sequence[FileEntry],
    own: Mapping[str, Sequence[FileEntry]],
    shared: Sequence[FileEntry],
    notes: list[str],
) -> Course:
    everything = {plan.sop_uid for plan in candidates}
    of_all = [dose for dose in shared if set(dose.refers_to) == everything]
    if len(candidates) > 1 and of_all:
        return (_shared_part(of_all, candidates),)
    if shared:
        raise InputError(
            f"a dose is of other plans than the {len(candidates)} to be summed ({describe(candidates)}); remove one"
        )
    return tuple(Part((plan,), tuple(_whole(own[plan.sop_uid], notes))) for plan in candidates)
