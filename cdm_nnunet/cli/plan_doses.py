"""``cdm-nnunet plan-doses``: the anatomies of a data set with doses planned by one protocol."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted

SUMMARY = "plan every patient of a data set by one protocol, with calculated doses, into a new data set"
EXAMPLE = "cdm-nnunet plan-doses 501 -d 502 -n OnePlanner --protocol openkbp_hn -np 4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "dataset", type=_options.dataset_id, metavar="SOURCE_DATASET", help="raw data set: 501, or Dataset501_OpenKBP"
    )
    _options.add_dataset_id(parser, use="number of the new data set, for example 502")
    parser.add_argument("-n", metavar="NAME", help="name of the new data set (default: the source's, and 'Planned')")
    add_protocol(parser)
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="plan this case; repeatable")
    _options.add_exclude(parser, "CASE", "a case to exclude")
    _options.add_processes(parser, 1, "patients at a time, 2 to 3 GB each")


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add ``--protocol``."""
    parser.add_argument(
        "--protocol",
        default="openkbp_hn",
        metavar="NAME|FILE",
        help="planning protocol: a YAML file, or the name of one that ships (default: openkbp_hn)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Plan the patients.

    Returns:
        The record of the conversion, with the ``protocol``, its digest, and the ``verdict``: means of planned and of
        the source's doses, by metric.
    """
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
    from cdm_nnunet.folders import find_dataset, folder
    from cdm_nnunet.planning.planned_cases import PlanRequest, plan_doses
    from cdm_nnunet.planning.protocol import Protocol
    from cdm_nnunet.planning.verdict import cpu_seconds_of, verdict_of

    source = RawDataset(find_dataset(args.dataset))
    protocol = Protocol.load(args.protocol)
    request = PlanRequest(source, protocol, tuple(args.case), tuple(args.exclude), _options.n_processes(args))
    name = args.n or source.folder.name.split("_", 1)[1] + "Planned"
    done = plan_doses(request, DatasetPlace(folder("nnUNet_raw"), args.d, name))
    records = [case.record for case in done.cases.values()]
    return {
        **done.to_json(),
        "protocol": protocol.name,
        "protocol_sha256": protocol.sha256,
        "verdict": [vars(row) for row in verdict_of(records)],
        "cpu_seconds_a_patient": cpu_seconds_of(records),
    }


def render(record: Mapping[str, Any]) -> str:
    """The planned cases, and the table of means."""
    from cdm_nnunet.cli._tables import aligned

    rows = [("metric", "planned", "source", "n")]
    for row in record["verdict"]:
        source = "" if row["source_gy"] is None else f"{row['source_gy']:.1f} Gy"
        rows.append((row["name"], f"{row['planned_gy']:.1f} Gy", source, str(row["n"])))
    lines = [
        f"{counted(record['cases'], 'case')} by protocol '{record['protocol']}': {len(record['converted'])} planned, "
        f"{len(record['unchanged'])} unchanged; {record['cpu_seconds_a_patient']:.0f} s of processor time a patient",
        *aligned(rows),
        *(f"note: {note} [{case}]" for case, notes in record["notes"].items() for note in notes),
        f"dataset: {record['dataset']}",
    ]
    return "\n".join([*lines, "calculated for research by a generic machine; not for treatment"])
