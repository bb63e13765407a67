"""``cdm-nnunet model``: a trained model as one folder or file, without pickle."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted

SUMMARY = "export a trained model as one folder or ZIP file; describe or check one"
EXAMPLE = "cdm-nnunet model export -d 501 -c 3d_fullres -tr nnUNetTrainerCDM -f 0 1 2 3 4 -o clinic_hn.zip"
_PARTS = {
    "export": ("weights, plans, template, ROI names, scores and model card into one folder or ZIP file", EXAMPLE),
    "info": ("describe a model: data set, settings, ROIs, scores and card", "cdm-nnunet model info clinic_hn.zip"),
    "verify": (
        "read everything in a model, compare it with its checksums, and load the weights",
        "cdm-nnunet model verify clinic_hn.zip",
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    made = {
        name: parts.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, (summary, example) in _PARTS.items()
    }
    _configure_export(made["export"])
    for name in ("info", "verify"):
        made[name].add_argument("model", metavar="MODEL", help="folder, ZIP file, or the name of a model that ships")
    made["info"].add_argument("--card", action="store_true", help="print only the model card (Markdown)")
    for one in made.values():
        _options.add_json(one)


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", type=Path, required=True, metavar="FILE.zip|FOLDER", help="the package to write")
    _options.add_model(parser)
    parser.add_argument("--name", help="name of the model (default: that of the file or folder)")
    parser.add_argument("--half", action="store_true", help="weights in half precision: half the size")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights that replace the checkpoint's, such as their average: a state dict of torch, or safetensors",
    )
    parser.add_argument("--result", type=Path, metavar="FILE", help="result.json of the model's evaluation: its scores")
    parser.add_argument("--card", type=Path, metavar="FILE", help="the completed model card (default: one to complete)")
    parser.add_argument("--more", type=Path, nargs="+", default=[], metavar="FILE", help="further JSON files to carry")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export, describe or check a model."""
    if args.part == "export":
        return {"done": "exported", **_export(args)}

    from cdm_nnunet.models.shipped import find_model

    path = find_model(args.model)
    if args.part == "info":
        from cdm_nnunet.models.describe import describe_model
        from cdm_nnunet.models.package import Package

        package = Package.read(path)
        return {"done": "card" if args.card else "info", **describe_model(package), "card": package.card}

    from cdm_nnunet.prediction.model_export import verify_model

    return {"done": "verified", **verify_model(path)}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    chosen = _options.model_options(args)

    from cdm_nnunet.prediction.model_export import ModelExport, export_model
    from cdm_nnunet.prediction.models import choice_of

    request = ModelExport(
        out=args.o,
        name=args.name,
        precision="half" if args.half else None,
        weights=args.weights,
        result=args.result,
        card=args.card,
        more=tuple(args.more),
    )
    return export_model(choice_of(chosen).found(), request)


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    if record["done"] == "card":
        return str(record["card"])
    folds = ", ".join(one["fold"] for one in record["folds"])
    lines = [
        f"{record['path']}: model '{record['name']}', {sum(record['bytes'].values()) / 2**20:.1f} MiB, "
        f"{record['precision']} precision, exported on {record['made']}",
        f"{record['trainer']} on {record['dataset']}, {record['plans']}, {record['configuration']}, fold {folds}",
        f"template '{record['template']}', ROIs: {', '.join(record['rois'])}",
        "ROI names of DICOM files: "
        + ("known" if record["knows_dicom_names"] else "not known; give --mapping to predict"),
    ]
    if not record["scores"]:
        lines.append("no scores: give the result.json of an evaluation to the export (--result)")
    if record["card_to_complete"]:
        lines.append(f"{counted(record['card_to_complete'], 'part')} of the model card left to complete by hand")
    if record["done"] == "verified":
        lines.append("intact: every member has its SHA-256, and the weights fit the network of the plans")
    return "\n".join(lines)
