"""``cdm-nnunet check``: is a clinical template sound, and does it fit a data set?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.errors import InputError

if TYPE_CHECKING:
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.roi import Catalogue

SUMMARY = "Check clinical templates: every fault with line and column, and what matches a data set."
EXAMPLE = "cdm-nnunet check clinic.json -d 501"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("templates", nargs="+", metavar="TEMPLATE", help="a .json file, or the name of a shipped one")
    parser.add_argument("-d", type=int, metavar="ID", help="dataset id: also say which of its ROIs the template finds")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check all templates.

    Returns:
        ``dataset`` (None without ``-d``); ``templates``, one record each; ``exit_status``, 2 where there is a fault.
    """
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.folders import find_dataset

    dataset = None if args.d is None else RawDataset(find_dataset(args.d))
    catalogue = None if dataset is None else dataset.catalogue
    records = [_check(name, catalogue) for name in args.templates]
    return {
        "dataset": None if dataset is None else dataset.folder.name,
        "templates": records,
        "exit_status": 2 if any(record["faults"] for record in records) else 0,
    }


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    return "\n".join(line for one in record["templates"] for line in _lines(one, record["dataset"]))


def _check(name: str, catalogue: Catalogue | None) -> dict[str, Any]:
    from cdm_nnunet.dvh import check_template
    from cdm_nnunet.fence import fenced

    log = Path("errors.log").resolve()
    record: dict[str, Any] = {"template": name, "faults": [], "n_rois": None, "n_goals": None, "n_limits": None}
    record["match"] = None
    try:
        with fenced(f"template '{name}'", log):
            checked = check_template(name)
    except InputError as error:
        return {**record, "faults": [_fault(str(error))]}
    for fault in checked.faults:
        line, column = (fault.place.line, fault.place.column) if fault.place else (None, None)
        record["faults"].append({"line": line, "column": column, "field": fault.field, "message": fault.message})
    template = checked.value
    if template is None:
        return record
    record["n_rois"], record["n_goals"] = len(template.rois), len(template.goals)
    record["n_limits"] = sum(goal.has_limit for goal in template.goals)
    if catalogue is not None:
        try:
            with fenced(f"template '{name}'", log):
                record["match"] = _match(template, catalogue)
        except InputError as error:
            record["faults"].append(_fault(str(error)))
    return record


def _match(template: Template, catalogue: Catalogue) -> dict[str, Any]:
    """Which ROIs and goals of a template the catalogue knows.

    Raises:
        InputError: If a match is ambiguous, of another kind, or no goal is of any use.
    """
    from cdm_nnunet.dvh.matching import match_rois, refuse_without_goal

    matched = match_rois(template, catalogue)
    refuse_without_goal(template, template.goals, matched, catalogue.names)
    goals = {f"{goal.roi} {goal.metric}": goal.roi in matched for goal in template.goals}
    sources = {match.source for match in matched.values()}
    return {
        "rois": {roi.name: matched[roi.name].source if roi.name in matched else None for roi in template.rois},
        "matched_by": {roi: match.by for roi, match in matched.items()},
        "goals": [goal for goal, is_there in goals.items() if is_there],
        "goals_without_roi": [goal for goal, is_there in goals.items() if not is_there],
        "rois_not_in_template": [name for name in catalogue.names if name not in sources],
    }


def _fault(message: str) -> dict[str, Any]:
    return {"line": None, "column": None, "field": "", "message": message}


def _lines(one: Mapping[str, Any], dataset: str | None) -> Iterator[str]:
    for fault in one["faults"]:
        place = "" if fault["line"] is None else f":{fault['line']}:{fault['column']}"
        field = f"{fault['field']}: " if fault["field"] else ""
        yield f"{one['template']}{place}: {field}{fault['message']}"
    if one["faults"]:
        n = len(one["faults"])
        yield f"{one['template']}: {n} fault{'s' if n > 1 else ''}"
        return
    counts = f"{one['n_rois']} ROIs, {one['n_goals']} goals, {one['n_limits']} of them with a limit"
    yield f"{one['template']}: sound; {counts}"
    match = one["match"]
    if match is None:
        return
    renamed = [f"{roi} (there {name})" for roi, name in match["rois"].items() if name not in (None, roi)]
    absent = [roi for roi, name in match["rois"].items() if name is None]
    n_found, n_goals = len(match["rois"]) - len(absent), len(match["goals"])
    yield f"in {dataset}: {n_found} of {one['n_rois']} ROIs and {n_goals} of {one['n_goals']} goals"
    for words, names in (
        ("under another name", renamed),
        ("not in the data set", absent),
        ("ROIs that the template does not name", match["rois_not_in_template"]),
    ):
        if names:
            yield f"  {words}: {', '.join(names)}"
