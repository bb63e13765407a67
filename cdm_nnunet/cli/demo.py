"""``cdm-nnunet demo``: every step on synthetic patients."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUMMARY = "try everything on synthetic patients: convert, plan, train, predict, evaluate, compare, on a CPU in minutes"
EXAMPLE = "cdm-nnunet demo -o cdm_demo"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER", help="new folder, or that of a demo to finish or show again"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few training steps only, to see that everything runs; the doses are poor",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the steps that are not done yet; the record is that of :func:`cdm_nnunet.demo.run_demo`."""
    from cdm_nnunet.demo import run_demo

    return run_demo(args.o, quick=args.quick)


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    from cdm_nnunet.demo import BASELINE, CDM

    patients, models = record["patients"], record["models"]
    names = {BASELINE: "MAE", CDM: "MAE + CDM"}
    columns = (("dose_score_gy", "dose score (Gy)"), ("ptv_score", "PTV score"), ("oar_score", "OAR score"))
    lines = [
        "",
        f"{patients['test']} synthetic test patients, after {patients['training']} for training and validation; "
        "lower is better:",
        f"{'trained on':<24}" + "".join(f"{title:>17}" for _, title in columns),
    ]
    for trainer, name in names.items():
        lines.append(f"{name:<24}" + "".join(f"{models[trainer][key]:>17.2f}" for key, _ in columns))
    lines += [
        "PTV and OAR score: mean difference of DVH metrics from the reference plan (D in Gy, V in % of the volume).",
        "These trainings take minutes: they show that everything runs, not which loss is better.",
        "",
    ]
    for trainer, model in models.items():
        lines += [f"{trainer}:", f"  result   {model['result']}", f"  report   {model['report']}"]
        lines += [f"  picture  {picture}" for picture in model["pictures"]]
    logs = Path(record["folder"], "logs")
    return "\n".join([*lines, "", f"both models side by side: {record['comparison']}", f"logs of the steps: {logs}"])
