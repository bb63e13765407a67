"""``cdm-nnunet evaluate``: DVH evaluation of predicted doses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdm_nnunet.errors import InputError

SUMMARY = "Score predicted doses against reference doses: DVH metrics, scores, tables and pictures."
EXAMPLE = "cdm-nnunet evaluate -d 501 -i predictions -o evaluation -np 4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="dataset id, for example 501")
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="folder of predictions, CASE.nii.gz")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where result.json and tables go")
    parser.add_argument(
        "--template", metavar="NAME|FILE", help="clinical template (default: the one of the dataset); see docs"
    )
    parser.add_argument("-np", type=int, default=3, metavar="N", help="cases scored at a time (default: 3)")
    parser.add_argument(
        "--pictures", type=int, default=3, metavar="N", help="number of cases to draw, best to worst (default: 3)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate and write the result.

    Returns:
        The record of ``result.json`` without its cases, and the paths of what was written.
    """
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.evaluation.run import draw_pictures, evaluate_folder, write_outputs
    from cdm_nnunet.folders import find_dataset

    if args.pictures < 0:
        raise InputError(f"--pictures takes a number of cases, not {args.pictures}")
    dataset = RawDataset(find_dataset(args.d))
    template = None if args.template is None else Template.load(args.template)
    with _progress_bar() as progress:
        evaluation = evaluate_folder(dataset, args.i, template, processes=args.np, progress=progress)
        pictures = draw_pictures(
            evaluation, dataset, args.i, args.o, n_cases=args.pictures, processes=args.np, progress=progress
        )
    files: dict[str, Any] = write_outputs(evaluation, args.o)
    record = {key: value for key, value in evaluation.to_json().items() if key not in ("cases", "template_definition")}
    return {**record, "files": {**files, "pictures": pictures}}


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    scores = record["scores"]
    lines = [
        f"{record['dataset']}: {record['n_cases']} of {record['n_dataset_cases']} cases evaluated, "
        f"template {record['template']}",
        "",
        f"{'dose MAE':<20}{_gy(scores['dose_mae_gy'])}   in {record['dose_region'] or 'the whole grid'}",
    ]
    if scores["openkbp"] is not None:
        lines.append(f"{'OpenKBP dose score':<20}{_gy(scores['openkbp']['dose_score'])}")
        lines.append(f"{'OpenKBP DVH score':<20}{_gy(scores['openkbp']['dvh_score'])}")
    for label, key, kind in (("PTV score", "ptv_score", "target"), ("OAR score", "oar_score", "oar")):
        lines.append(f"{label:<20}{_plain(scores[key])}      {_split(scores['parts'][kind])}")
    lines += ["", f"{'metric':<24}{'mean |difference|':>18}{'mean difference':>17}{'n':>7}"]
    for label, kind in (("targets", "target"), ("OARs", "oar")):
        for metric, part in scores["parts"][kind]["by_metric"].items():
            lines.append(
                f"{label + ' ' + metric:<24}{part['mean_absolute']:>15.3f} {part['unit']:<2}"
                f"{part['mean_signed']:>+14.3f} {part['unit']:<2}{part['n']:>7}"
            )
    lines += _goal_lines(scores["goals"])
    if record["missing"]:
        n_missing = sum(len(rois) for rois in record["missing"].values())
        lines += ["", f"left out: {n_missing} ROIs that are absent, in {len(record['missing'])} cases"]
    return "\n".join([*lines, "", f"result: {record['files']['result']}"])


def _goal_lines(goals: Mapping[str, Any]) -> Iterator[str]:
    if not goals:
        return
    yield ""
    yield f"{'goal':<24}{'met by reference':>18}{'by prediction':>17}{'n':>7}{'same verdict':>15}"
    for name, row in goals.items():
        met = [row[dose]["pass"] + row[dose]["acceptable"] for dose in ("reference", "predicted")]
        yield f"{name:<24}{met[0]:>18}{met[1]:>17}{row['n']:>7}{row['agree']:>15}"


def _split(parts: Mapping[str, Any]) -> str:
    dose, volume = parts["dose_gy"], parts["volume_percent"]
    texts = [f"D {dose['mean_absolute']:.3f} Gy (n = {dose['n']})"] if dose["n"] else []
    if volume["n"]:
        texts.append(f"V {volume['mean_absolute']:.3f} % (n = {volume['n']})")
    return ", ".join(texts)


def _gy(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f} Gy"


def _plain(value: float | None) -> str:
    return " none" if value is None else f"{value:.3f}"


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def progress(verb: str, done: int, total: int) -> None:
        if verb not in bars:
            bars[verb] = tqdm(total=total, desc=verb, unit="case", leave=False)
        bars[verb].update(done - bars[verb].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
