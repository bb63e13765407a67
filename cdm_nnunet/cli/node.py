"""``cdm-nnunet node``: a DICOM node."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.counting import counted

SUMMARY = "receive CT, structure set and plan over the network or from a folder, and send the predicted RTDOSE"
EXAMPLE = "cdm-nnunet node --config node.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file of the node")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--once", type=Path, metavar="FOLDER", help="predict the patients in a folder of DICOM files, send, and end"
    )
    what.add_argument("--check", action="store_true", help="only load the model and call every destination (C-ECHO)")
    what.add_argument("--retry", metavar="STUDY", help="put a study back from the quarantine; the node may be running")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Run the node."""
    from cdm_nnunet.node.service import check_node, run_node, run_once
    from cdm_nnunet.node.settings import read_settings
    from cdm_nnunet.node.store import Queue

    settings = read_settings(args.config)
    if args.check:
        faults = check_node(settings, _tell)
        return {"faults": faults, **({"error": "; ".join(faults)} if faults else {})}
    if args.retry is not None:
        return {"retried": Queue(Path(settings.queue)).retry(args.retry).name}
    if args.once is None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # (as Ctrl-C: started work is repeated later)
        outcome = run_node(settings, _tell, threading.Event())
    else:
        outcome = run_once(settings, args.once, _tell)
    record = {"sent": outcome.sent, "failed": outcome.failed}
    if outcome.failed and args.once is not None:
        n_all = len(outcome.sent) + len(outcome.failed)
        n_failed = len(outcome.failed)
        return {**record, "error": f"in quarantine: {n_failed} of {counted(n_all, 'study', 'studies')}"}
    return record


def render(record: Mapping[str, Any]) -> str:
    """Results of studies."""
    if "faults" in record:
        return "the model is intact" if record["faults"] else "the model is intact, and all destinations answer"
    if "retried" in record:
        return f"{record['retried']} is in the queue again"
    return f"{counted(len(record['sent']), 'study', 'studies')} sent, {len(record['failed'])} in quarantine"


def _tell(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)  # to stderr: the command line sends it there
