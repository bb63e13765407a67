"""Validation of a clinical template, and its match with a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cdm_nnunet.dvh.matching import match_rois, refuse_without_goal
from cdm_nnunet.dvh.template import Template, check_template
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.roi.catalogue import Catalogue


@dataclass(frozen=True)
class TemplateFault:
    """A fault of a template.

    Attributes:
        line: Line in the file; None if unknown.
        column: Column in the file; None if unknown.
        field: Such as ``goals[3].metric``; may be empty.
        message: Message in a sentence.
    """

    line: int | None
    column: int | None
    field: str
    message: str


@dataclass(frozen=True)
class TemplateFit:
    """Match of a template with a data set.

    Attributes:
        rois: Name in the data set by ROI of the template; None if it is missing.
        matched_by: Kind of match by ROI of the template.
        goals: Goals whose ROI is present.
        goals_without_roi: The other goals.
        rois_not_in_template: ROIs of the data set that are not in the template.
    """

    rois: dict[str, str | None]
    matched_by: dict[str, str]
    goals: list[str]
    goals_without_roi: list[str]
    rois_not_in_template: list[str]


@dataclass(frozen=True)
class TemplateCheck:
    """A checked template.

    Attributes:
        template: Its name or file.
        faults: Faults; empty if it is valid.
        n_rois: Number of ROIs; None if it can't be read.
        n_goals: Number of goals.
        n_limits: Number of goals with a limit.
        match: Its match with the data set.
    """

    template: str
    faults: list[TemplateFault]
    n_rois: int | None = None
    n_goals: int | None = None
    n_limits: int | None = None
    match: TemplateFit | None = None


def fit(template: Template, catalogue: Catalogue) -> TemplateFit:
    """Match the ROIs and goals of a template with a catalogue.

    Raises:
        InputError: If a match is ambiguous or of another kind, or no goal can be used.
    """
    matched = match_rois(template, catalogue)
    refuse_without_goal(template, template.goals, matched, catalogue.names)
    goals = {f"{goal.roi} {goal.metric}": goal.roi in matched for goal in template.goals}
    sources = {match.source for match in matched.values()}
    return TemplateFit(
        {roi.name: matched[roi.name].source if roi.name in matched else None for roi in template.rois},
        {roi: match.by for roi, match in matched.items()},
        [goal for goal, is_there in goals.items() if is_there],
        [goal for goal, is_there in goals.items() if not is_there],
        [name for name in catalogue.names if name not in sources],
    )


def check_for(name_or_path: str, catalogue: Catalogue | None, log: Path) -> TemplateCheck:
    """Check a shipped template or a file, and whether it fits a data set.

    Args:
        name_or_path: As :meth:`Template.load`.
        catalogue: Catalogue of the data set; None without one.
        log: File for tracebacks of internal errors.
    """
    done = TemplateCheck(name_or_path, [])
    try:
        with fenced(f"template '{name_or_path}'", log):
            checked = check_template(name_or_path)
            for fault in checked.faults:
                line, column = (fault.place.line, fault.place.column) if fault.place else (None, None)
                done.faults.append(TemplateFault(line, column, fault.field, fault.message))
            template = checked.value
            if template is None:
                return done
            n_limits = sum(goal.has_limit for goal in template.goals)
            done = replace(done, n_rois=len(template.rois), n_goals=len(template.goals), n_limits=n_limits)
            return done if catalogue is None else replace(done, match=fit(template, catalogue))
    except InputError as error:
        return replace(done, faults=[*done.faults, TemplateFault(None, None, "", str(error))])
