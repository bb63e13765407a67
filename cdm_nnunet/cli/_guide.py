"""Guidance of the command line besides results: where to start, what begins, and what comes next."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

START = """\
cdm-nnunet: nnU-Net for radiotherapy dose prediction.
From CT, contours and prescription it predicts the dose of a plan. For research; not a medical device.

Start here
  cdm-nnunet demo -o cdm_demo        every step on synthetic patients: minutes, no GPU, no data
  cdm-nnunet inspect dicom FOLDER    your own patients: what is in a folder of DICOM files

From patients to scores
  inspect -> convert -> plan -> train -> predict -> evaluate -> compare; export writes RTDOSE

  cdm-nnunet --help                  all verbs
  cdm-nnunet VERB --help             options of one verb, with an example"""

_STARTS: Mapping[str, str] = {
    "check": "check {templates}",
    "compare": "compare {evaluations}",
    "convert": "convert {conversion}: {source} to data set {d}",
    "demo": "{what} in {o}",
    "dvh": "DVH metrics of {rtdose}",
    "ensemble": "average the doses of {i}",
    "evaluate": "score the doses in {i} against data set {d}",
    "export": "write {prediction} as {format}",
    "find-best": "score the models of data set {d} on their validation cases",
    "inspect": "look into {source}; later runs read only what is new",
    "mimic": "deliverable doses closest to {prediction}",
    "model": "{part} a model: {model}{m}{d}",
    "plan": "fingerprint, plans and preprocessing of data set {d} ({c})",
    "plan-doses": "plan the patients of data set {dataset} by {protocol} into data set {d}",
    "predict": "predict the doses of {i}{dicom}",
    "preprocess": "preprocess data set {d} ({c})",
    "study": "trainings, predictions and comparison of {study}",
    "train": "train {tr} on data set {dataset}, {configuration}, fold {fold}",
}


def starting(verb: str, summary: str, args: argparse.Namespace) -> str:
    """One line on what a verb begins to do.

    Args:
        verb: Its name.
        summary: Its general summary, for a verb without its own text.
        args: Its arguments.
    """
    given = {name.removesuffix("_option"): value for name, value in vars(args).items() if value is not None}
    words = _Words({name: _worded(value) for name, value in given.items()})
    if verb == "demo":
        phantoms = "phantom patients as DICOM files"
        words["what"] = phantoms if "dicom" in given else "synthetic patients, two trainings and their comparison,"
    return f"{verb}: {_STARTS[verb].format_map(words) if verb in _STARTS else summary}"


class _Words(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def _worded(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)


def next_command(verb: str, args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    """The command to run or file to open that usually follows a verb; may be empty."""
    return _NEXT[verb](args, record) if verb in _NEXT else ""


def _after_inspect(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    template = args.template or "TEMPLATE"
    return (
        f"read {record['mapping']}, then: cdm-nnunet convert dicom {_quoted(args.source)} -d 501 -n NAME "
        f"--template {_quoted(template)} --mapping {_quoted(record['mapping'])}"
    )


def _after_convert(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    if "predictions" in record:
        return ""
    if not record["training_cases"]:
        return f"cdm-nnunet predict -i {_quoted(Path(record['dataset'], 'imagesTs'))} -o predictions -d ID"
    return f"cdm-nnunet plan -d {args.d}"


def _after_plan(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    plans = "" if args.p == "nnUNetPlans" else f" -p {_quoted(args.p)}"
    return f"cdm-nnunet train {args.d} {_quoted(record['preprocessed'][0])} 0{plans}  (--estimate: how many hours)"


def _after_train(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    if "model" not in record:
        return "the same command without --estimate trains"
    options = f"-d {args.dataset} -c {args.configuration} -f {args.fold}"
    options += "" if args.tr == "nnUNetTrainerCDM" else f" -tr {args.tr}"
    options += "" if args.p == "nnUNetPlans" else f" -p {_quoted(args.p)}"
    return f"cdm-nnunet predict -i FOLDER -o predictions {options}  (--dicom FOLDER: new patients, RTDOSE)"


def _after_predict(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    if "patients" in record:
        return "import the RTDOSE files into your planning system; they are not for treatment"
    dataset = getattr(args, "d", None)
    return f"cdm-nnunet evaluate -d {'ID' if dataset is None else dataset} -i {_quoted(args.o)} -o evaluation"


def _after_evaluate(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    compare = f"cdm-nnunet compare OTHER_EVALUATION {_quoted(args.o)} -o comparison"
    report = record["files"].get("report")
    return compare if report is None else f"open {report}; a second model: {compare}"


def _after_model(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    if args.part == "export":
        return f"cdm-nnunet model info {_quoted(args.o)}"
    return f"cdm-nnunet predict -m {_quoted(args.model)} --dicom FOLDER -o OUT"


def _after_demo(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    return f"cdm-nnunet inspect dicom {_quoted(args.o)} -o inspected --template openkbp" if "dicom" in record else ""


_NEXT: Mapping[str, Callable[[argparse.Namespace, Mapping[str, Any]], str]] = {
    "demo": _after_demo,
    "inspect": _after_inspect,
    "convert": _after_convert,
    "plan": _after_plan,
    "preprocess": _after_plan,
    "train": _after_train,
    "model": _after_model,
    "predict": _after_predict,
    "ensemble": _after_predict,
    "evaluate": _after_evaluate,
    "compare": lambda _, record: f"open {record['files']['html']}",
    "export": lambda _, record: (
        f"open {record['cases'][0]['scene']} with 3D Slicer"
        if "cases" in record
        else f"import {record['file']} into the planning system; it is not for treatment"
    ),
    "check": lambda args, _: (
        "" if args.d is not None else "add -d ID to see which ROIs of a data set the template finds"
    ),
    "dvh": lambda _, record: "cdm-nnunet inspect dicom FOLDER, to learn from such plans",
    "plan-doses": lambda args, _: f"cdm-nnunet plan -d {args.d}",
    "mimic": lambda args, _: f"cdm-nnunet evaluate -d {args.d} -i {_quoted(args.o)} -o evaluation",
    "study": lambda args, record: (
        f"open {Path(args.o, 'comparison', 'compare.html')}"
        if "scores" in record
        else f"cdm-nnunet study {_quoted(args.study)} -o {_quoted(args.o)}"
    ),
}


def _quoted(value: object) -> str:
    return shlex.quote(str(value))
