"""Which plan of a patient counts: courses, replans and boosts, each with a dose of its own.

A choice is a rule, or the label (RTPlanLabel) or UID of one plan. Nothing is chosen unless somebody chose it.

========== ============================================================================================
``latest`` the plan with the latest date and time
``sum``    all plans of a course: the dose of several plans (MULTI_PLAN) where there is one, else their sum
``each``   all plans, each a case of its own
========== ============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.errors import InputError

RULES = ("latest", "sum", "each")
DEFAULT = "default"


@dataclass(frozen=True)
class Part:
    """Plans and their dose: one plan as a rule; several where the dose is of all of them; none where none is known."""

    plans: tuple[FileEntry, ...] = ()
    doses: tuple[FileEntry, ...] = ()


Course = tuple[Part, ...]  # parts whose doses add up


def choose(plans: Sequence[FileEntry], doses: Sequence[FileEntry], choice: str, notes: list[str]) -> list[Course]:
    """What becomes a case: one course, or one for each plan.

    Args:
        plans: Of one patient.
        doses: Of the same patient.
        choice: A rule, a label or a UID; empty where nothing was chosen.
        notes: What is left aside is added.

    Raises:
        InputError: If there are several and nothing was chosen, or what was chosen is not there or not clear.
    """
    known = {plan.sop_uid for plan in plans}
    if not doses:
        raise InputError("no dose (RTDOSE)")
    if not plans:
        return [(Part((), tuple(_whole(doses, notes))),)]
    loose = [dose for dose in doses if not dose.refers_to]
    shared = [dose for dose in doses if len(dose.refers_to) > 1]
    own = {plan.sop_uid: [dose for dose in doses if dose.refers_to == (plan.sop_uid,)] for plan in plans}
    if loose and len(plans) == 1:
        own[plans[0].sop_uid] += loose
    elif loose:
        raise InputError(f"{len(loose)} doses refer to no plan, and there are {len(plans)} plans: ambiguous, keep one")
    candidates = _by_date([plan for plan in plans if own[plan.sop_uid]])
    if not candidates:
        if not shared:
            raise InputError("no dose (RTDOSE) refers to the plan")
        return [(_shared_part(shared, plans),)]
    if len(candidates) < len(plans):
        notes.append(f"plans without a dose left aside: {len(plans) - len(candidates)}")
    stray = len([dose for dose in doses if dose.refers_to and not known & set(dose.refers_to)])
    if stray:
        notes.append(f"doses of plans that are not in the folder left aside: {stray}")
    if choice == "sum":
        return [_sum(candidates, own, shared, notes)]
    if shared:
        notes.append(f"doses of several plans left aside: {len(shared)}")
    chosen = choose_plans(candidates, choice)
    return [(Part((plan,), tuple(_whole(own[plan.sop_uid], notes))),) for plan in chosen]


def choose_plans(candidates: Sequence[FileEntry], choice: str) -> list[FileEntry]:
    """The plans that a choice means: one, or with ``each`` all.

    Raises:
        InputError: If nothing was chosen among several, or the choice is not there or not clear.
    """
    candidates = _by_date(candidates)
    if choice in RULES or not choice:
        if len(candidates) <= 1 or choice == "each":
            return candidates
        if choice == "latest":
            if not candidates[-1].made or candidates[-1].made == candidates[-2].made or not candidates[0].made:
                raise InputError(f"which plan is the latest can't be told: {describe(candidates)}; choose one by name")
            return candidates[-1:]
        if choice == "sum":
            raise InputError(f"a dose is predicted for one plan, not for the sum of {len(candidates)}; choose one")
        raise InputError(
            f"{len(candidates)} plans: {describe(candidates)}; choose in the mapping, under 'plans': one by its label "
            f"or UID, or a rule ({', '.join(RULES)})"
        )
    found = [plan for plan in candidates if choice in (plan.label, plan.sop_uid)]
    if len(found) != 1:
        what = "is no plan with a dose" if not found else f"is the label of {len(found)} plans; give the UID"
        raise InputError(f"the mapping chooses '{choice}', which {what}: there are {describe(candidates)}")
    return found


def describe(plans: Sequence[FileEntry]) -> str:
    """Plans by label and date; with their UIDs, where labels are not enough to tell them apart."""
    labels = [plan.label for plan in plans]
    clear = len(set(labels)) == len(labels) and all(labels)
    return ", ".join(
        f"'{plan.label}'" + (f" of {plan.made[:8]}" if plan.made else "") + ("" if clear else f" ({plan.sop_uid})")
        for plan in plans
    )


def _by_date(plans: Sequence[FileEntry]) -> list[FileEntry]:
    return sorted(plans, key=lambda plan: (plan.made, plan.sop_uid))


def _whole(doses: Sequence[FileEntry], notes: list[str]) -> Sequence[FileEntry]:
    """The dose of the whole plan alone, where those of its beams are there too."""
    whole = [dose for dose in doses if dose.label == "PLAN"]
    if len(whole) == 1 and len(doses) > 1 and all(dose.label in ("PLAN", "BEAM") for dose in doses):
        notes.append(f"doses of single beams left aside: {len(doses) - 1}")
        return whole
    return doses


def _shared_part(shared: Sequence[FileEntry], plans: Sequence[FileEntry]) -> Part:
    """The dose of several plans, which must all be there: its prescription is theirs."""
    if len(shared) > 1:
        raise InputError(f"{len(shared)} doses of several plans: ambiguous, keep one")
    of_dose = [plan for plan in plans if plan.sop_uid in shared[0].refers_to]
    if len(of_dose) < len(shared[0].refers_to):
        missing = len(shared[0].refers_to) - len(of_dose)
        raise InputError(f"the dose is of {len(shared[0].refers_to)} plans, of which {missing} are not in the folder")
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
