"""``cdm-nnunet check``: validation of clinical templates, alone and against a data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted

SUMMARY = "Check clinical templates: every fault with line and column, and what matches a data set."
EXAMPLE = "cdm-nnunet check clinic.json -d 501"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("templates", nargs="+", metavar="TEMPLATE", help="a .json file, or the name of a shipped one")
    _options.add_dataset_id(parser, required=False, use="dataset id: also say which of its ROIs the template finds")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check all templates.

    Returns:
        ``dataset`` (None without ``-d``); ``templates``, one record each; ``exit_status``, 2 if there is a fault.
    """
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dvh.template_check import check_for
    from cdm_nnunet.folders import find_dataset

    dataset = None if args.d is None else RawDataset(find_dataset(args.d))
    catalogue = None if dataset is None else dataset.catalogue
    log = Path("errors.log").resolve()
    records = [asdict(check_for(name, catalogue, log)) for name in args.templates]
    return {
        "dataset": None if dataset is None else dataset.folder.name,
        "templates": records,
        "exit_status": 2 if any(record["faults"] for record in records) else 0,
    }


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    return "\n".join(line for one in record["templates"] for line in _lines(one, record["dataset"]))


def _lines(one: Mapping[str, Any], dataset: str | None) -> Iterator[str]:
    for fault in one["faults"]:
        place = "" if fault["line"] is None else f":{fault['line']}:{fault['column']}"
        field = f"{fault['field']}: " if fault["field"] else ""
        yield f"{one['template']}{place}: {field}{fault['message']}"
    if one["faults"]:
        yield f"{one['template']}: {counted(len(one['faults']), 'fault')}"
        return
    rois, goals = counted(one["n_rois"], "ROI"), counted(one["n_goals"], "goal")
    yield f"{one['template']}: no faults; {rois}, {goals}, {one['n_limits']} of them with a limit"
    match = one["match"]
    if match is None:
        return
    renamed = [f"{roi} (there {name})" for roi, name in match["rois"].items() if name not in (None, roi)]
    absent = [roi for roi, name in match["rois"].items() if name is None]
    n_found, n_goals = len(match["rois"]) - len(absent), len(match["goals"])
    yield f"in {dataset}: {n_found} of {rois} and {n_goals} of {goals}"
    for words, names in (
        ("under another name", renamed),
        ("not in the data set", absent),
        ("ROIs that the template does not name", match["rois_not_in_template"]),
    ):
        if names:
            yield f"  {words}: {', '.join(names)}"
