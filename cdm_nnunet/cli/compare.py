"""``cdm-nnunet compare``: evaluated models side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.cli._tables import aligned

SUMMARY = "Compare evaluated models: paired differences with intervals and tests, tables, one HTML file."
EXAMPLE = "cdm-nnunet compare MAE=evaluation/mae CDM=evaluation/cdm -o comparison"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "evaluations",
        nargs="+",
        metavar="[NAME=]EVALUATION",
        help="what 'cdm-nnunet evaluate' wrote, a folder or its result.json; the first is the baseline",
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where tables and compare.html go")
    parser.add_argument(
        "--common-cases", action="store_true", help="leave out cases that not all models have, instead of refusing"
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="table with columns case and patient, for cases whose patients are unknown from the conversion",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random sign flips (default: 0)")
    parser.add_argument(
        "--flips",
        type=int,
        default=99_999,
        metavar="N",
        help="random sign flips of a test, where more than 30 patients differ (default: 99999)",
    )
    parser.add_argument(
        "--no-images", dest="images", action="store_false", help="leave CT and doses of the patients out of the page"
    )
    _options.add_processes(parser, 1, "number of cases whose images are read at a time")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare and write the results.

    Returns:
        The record of ``comparison.json`` without template and errors of cases; sentences on scores and excluded cases;
        by candidate the tables of scores and of both models' origins; and the paths of written files.
    """
    from cdm_nnunet.comparison import origins, sentences
    from cdm_nnunet.comparison.images import NOT_ASKED_FOR, find_images
    from cdm_nnunet.comparison.models import load_models, read_patients
    from cdm_nnunet.comparison.output import write_outputs
    from cdm_nnunet.comparison.run import compare

    models = load_models(args.evaluations)
    comparison = compare(
        models,
        common_cases=args.common_cases,
        seed=args.seed,
        n_flips=args.flips,
        patients=None if args.patients is None else read_patients(args.patients),
    )
    images = find_images(models, list(comparison.cases)) if args.images else NOT_ASKED_FOR
    del models  # (for 1,000 patients they take 100 MB, which the page needs)
    files = write_outputs(comparison, args.o, images, n_processes=args.np)
    record = comparison.to_json()
    del record["template_definition"]
    for quantity in record["quantities"]:
        del quantity["patients"]
    summary = {
        name: [sentences.headline(result, name) for result in comparison.at("score")] for name in comparison.candidates
    }
    return {
        **record,
        "summary": summary,
        "scores": {name: list(map(list, sentences.score_table(comparison, name))) for name in comparison.candidates},
        "not_compared": sentences.dropped(comparison),
        "what_models_are": {
            name: [origins.columns(comparison.baseline, name), *rows]
            if (rows := origins.rows(comparison, name))
            else []
            for name in comparison.candidates
        },
        "unknown_models": origins.unknown(comparison),
        "files": files,
    }


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    from cdm_nnunet.comparison import sentences

    lines = [
        f"{record['dataset']}: {sentences.cases_and_patients(record['n_cases'], record['n_patients'])}, "
        f"template {record['template']}",
        *record["not_compared"],
        *record["unknown_models"],
    ]
    for candidate, table in record["scores"].items():
        lines += ["", f"{candidate} against {record['baseline']}, lower is better:", *aligned(table)]
        lines += ["", *aligned(record["what_models_are"][candidate])]
    return "\n".join([*lines, "", f"comparison: {record['files']['html']}"])
