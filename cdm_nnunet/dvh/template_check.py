"""Is a clinical template sound, and which of its ROIs and goals does a data set know?"""

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
    """What is wrong with a template.

    Attributes:
        line: Where in the file; None if nothing says.
        column: Likewise.
        field: As ``goals[3].metric``; may be empty.
        message: In a sentence.
    """

    line: int | None
    column: int | None
    field: str
    message: str


@dataclass(frozen=True)
class TemplateFit:
    """What a data set knows of a template.

    Attributes:
        rois: Name in the data set by ROI of the template; None if it is not there.
        matched_by: How it was found, by ROI of the template.
        goals: Those whose ROI is there.
        goals_without_roi: The others.
        rois_not_in_template: ROIs of the data set.
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
        faults: None if it is sound.
        n_rois: Number of ROIs; None if it can't be read.
        n_goals: Number of goals.
        n_limits: Number of goals with a limit.
        match: What the data set knows of it.
    """

    template: str
    faults: list[TemplateFault]
    n_rois: int | None = None
    n_goals: int | None = None
    n_limits: int | None = None
    match: TemplateFit | None = None


def fit(template: Template, catalogue: Catalogue) -> TemplateFit:
    """Which ROIs and goals of a template the catalogue knows.

    Raises:
        InputError: If a match is ambiguous, of another kind, or no goal is of any use.
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
        catalogue: Of the data set; None for none.
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
