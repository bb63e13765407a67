"""``cdm-nnunet mimic``: the deliverable dose closest to a predicted one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.cli.plan_doses import add_protocol
from cdm_nnunet.counting import counted

SUMMARY = "find the deliverable dose that is closest to a predicted one; compare predicted, deliverable and reference"
EXAMPLE = "cdm-nnunet mimic predictions/pt_201.nii.gz -d 501 -o deliverable"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "prediction", type=Path, metavar="PREDICTION", help="predicted dose, CASE.nii.gz, or a folder of such files"
    )
    _options.add_dataset_id(parser)
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where doses and tables go")
    add_protocol(parser)
    parser.add_argument(
        "--template", metavar="NAME|FILE", help="clinical template of the table (default: the one of the dataset)"
    )
    _options.add_processes(parser, 1, "patients at a time, 2 to 3 GB each")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Mimic the doses.

    Returns:
        The records of the cases, and an ``error`` if one was left out.
    """
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.documents import plain
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.folders import find_dataset
    from cdm_nnunet.planning.mimic_cases import MimicRequest, mimic_doses
    from cdm_nnunet.planning.protocol import Protocol

    request = MimicRequest(
        RawDataset(find_dataset(args.d)),
        args.prediction,
        args.o,
        Protocol.load(args.protocol),
        None if args.template is None else Template.load(args.template),
        _options.n_processes(args),
    )
    found = mimic_doses(request)
    record: dict[str, Any] = {"out": str(args.o), "cases": [plain(one) for one in found.records.values()]}
    if found.left_out:
        told = "; ".join(f"[{case}] {reason}" for case, reason in found.left_out.items())
        record["error"] = f"{counted(len(found.left_out), 'case')} left out: {told}"
    return record


def render(record: Mapping[str, Any]) -> str:
    """The table of each case."""
    lines = [line for case in record["cases"] for line in _case_lines(case)]
    return "\n".join([*lines, f"doses and tables: {record['out']}; not for treatment"])


def _case_lines(case: Mapping[str, Any]) -> Iterator[str]:
    from cdm_nnunet.cli._tables import aligned

    rule, percent = case["gamma_rule"], _percent(case["gamma_percent"])
    yield f"{case['case']}: gamma {rule} of predicted and deliverable dose: {percent}"
    if case["reference_gamma_percent"] is not None:
        yield f"  of the reference and what is closest to it: {_percent(case['reference_gamma_percent'])}"
    rows = [("goal", "limit", "predicted", "deliverable", "reference")]
    rows += [
        (f"{goal['roi']} {goal['metric']}", goal["limit"], *(_value(goal, dose) for dose in rows[0][2:]))
        for goal in case["goals"]
    ]
    yield from aligned(rows)


def _value(goal: Mapping[str, Any], dose: str) -> str:
    if goal[dose] is None:
        return ""
    verdict = goal["verdicts"].get(dose, "")
    return f"{goal[dose]:.2f} {goal['unit']}".rstrip() + (f" {verdict}" if verdict else "")


def _percent(value: float | None) -> str:
    return "is not defined" if value is None else f"{value:.1f} %"
