"""``cdm-nnunet evaluate``: DVH evaluation of predicted doses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted

if TYPE_CHECKING:
    from cdm_nnunet.evaluation.gamma import GammaRule

SUMMARY = "Score predicted doses against reference doses: DVH metrics, scores, tables, pictures and an HTML report."
EXAMPLE = "cdm-nnunet evaluate -d 501 -i predictions -o evaluation -np 4"
WRITES = ("o",)
_CASES = ("cases", "plan_ranks", "template_definition")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    _options.add_dataset_id(parser)
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="folder of predictions, CASE.nii.gz")
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output folder of result.json, tables, pictures and report",
    )
    parser.add_argument(
        "--template", metavar="NAME|FILE", help="clinical template (default: the one of the dataset); see docs"
    )
    _options.add_processes(parser, 3, "cases scored at a time")
    parser.add_argument(
        "--pictures", type=int, default=3, metavar="N", help="number of cases to draw, best to worst (default: 3)"
    )
    parser.add_argument(
        "--dose-map",
        choices=("jet", "viridis"),
        default="jet",
        help="colours of the dose in pictures; in viridis equal steps of dose look equal (default: jet)",
    )
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help="write no report.html (it holds CT and doses)"
    )
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="evaluate this case; repeatable")
    parser.add_argument(
        "--require",
        choices=("all", "Tr", "Ts"),
        help="refuse unless each case of the dataset, or of its imagesTr or imagesTs, has a prediction",
    )
    parser.add_argument(
        "--no-ranks",
        dest="ranks",
        action="store_false",
        help="do not rank each plan among those of the training cases, which takes a second for four",
    )
    _add_gamma(parser)
    _add_intervals(parser)


def _add_gamma(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gamma",
        nargs="*",
        metavar="CRITERION",
        help="gamma pass rates too, for example 3%%/2mm 2%%/2mm-local (without a criterion: 3%%/2mm, of TG-218)",
    )
    parser.add_argument(
        "--gamma-threshold",
        type=float,
        default=10.0,
        metavar="PERCENT",
        help="voxels below this percentage of the normalisation dose have no gamma (default: 10)",
    )
    parser.add_argument(
        "--gamma-normalisation",
        choices=("prescription", "maximum"),
        default="prescription",
        help="what 100 %% of gamma's dose is: the highest prescription, or the highest reference dose",
    )


def _add_intervals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--members", nargs="+", type=Path, default=[], metavar="FOLDER", help="predictions of each fold, for a spread"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="RESULT", help="result.json of other cases with the same --members: intervals"
    )
    parser.add_argument(
        "--coverage", type=float, default=90.0, metavar="PERCENT", help="of the intervals (default: 90)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate and write the result.

    Returns:
        The record of ``result.json`` without entries by case; by case the missing ROIs, the undefined metrics, and the
        reason why it was not drawn; the paths of written files; and an ``error`` if a case was excluded or not
        drawn.
    """
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.evaluation.reading import load_evaluation
    from cdm_nnunet.evaluation.run import Options
    from cdm_nnunet.folders import find_dataset
    from cdm_nnunet.report.publish import EvaluationRequest, evaluate_and_publish

    dataset = RawDataset(find_dataset(args.d))
    options = Options(
        cases=tuple(args.case),
        required=args.require,
        members=tuple(args.members),
        gamma=_gamma_rules(args),
        calibrated_on=None if args.calibrate is None else load_evaluation(args.calibrate),
        coverage_percent=args.coverage,
        ranks=args.ranks,
    )
    template = None if args.template is None else Template.load(args.template)
    request = EvaluationRequest(args.i, args.o, template, options, args.pictures, args.report, args.np, args.dose_map)
    with _progress_bar() as progress:
        done = evaluate_and_publish(dataset, request, progress)
    evaluation = done.evaluation
    record = {key: value for key, value in evaluation.to_json().items() if key not in _CASES}
    return {
        **record,
        "missing": {case.case: dict(case.missing) for case in evaluation.cases if case.missing},
        "undefined": {case.case: dict(case.undefined) for case in evaluation.cases if case.undefined},
        "goal_limits": {f"{goal.roi} {goal.metric}": goal.limit_text for goal in evaluation.template.goals},
        "not_drawn": done.not_drawn,
        "files": {**done.files, "pictures": done.pictures},
        **_error(evaluation.left_out, done.not_drawn),
    }


def _challenge_lines(scores: Mapping[str, Any]) -> Iterator[str]:
    from cdm_nnunet.challenges import CHALLENGES

    for challenge in CHALLENGES:
        for score in challenge.scores if scores[challenge.name] is not None else ():
            yield f"{score.title:<20}{_gy(scores[challenge.name][score.key])}"


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    scores = record["scores"]
    lines = [
        f"{record['dataset']}: {record['n_cases']} of {counted(record['n_dataset_cases'], 'case')} evaluated, "
        f"template {record['template']}",
        *(f"left out: case '{case}': {reason}" for case, reason in record["left_out"].items()),
        "",
        f"{'dose MAE':<20}{_gy(scores['dose_mae_gy'])}   in {record['dose_region'] or 'the whole grid'}",
    ]
    lines += _challenge_lines(scores)
    for label, key, kind in (("PTV score", "ptv_score", "target"), ("OAR score", "oar_score", "oar")):
        lines.append(f"{label:<20}{_plain(scores[key])}      {_split(scores['parts'][kind])}")
    lines += ["", f"{'metric':<24}{'mean |difference|':>18}{'mean difference':>17}{'n':>7}"]
    for label, kind in (("targets", "target"), ("OARs", "oar")):
        for metric, part in scores["parts"][kind]["by_metric"].items():
            lines.append(
                f"{label + ' ' + metric:<24}{part['mean_absolute']:>15.3f} {part['unit']:<2}"
                f"{part['mean_signed']:>+14.3f} {part['unit']:<2}{part['n']:>7}"
            )
    lines += _goal_lines(scores["goals"], record["goal_limits"])
    lines += _gamma_lines(scores["dose"]["gamma"])
    if scores["coverage"] is not None:
        lines += ["", _coverage_line(scores["coverage"], record["calibration"])]
    if record["missing"]:
        n_missing = sum(len(rois) for rois in record["missing"].values())
        lines += ["", f"left out: {counted(n_missing, 'absent ROI')}, in {counted(len(record['missing']), 'case')}"]
    if record["undefined"]:
        terms = [term for of_case in record["undefined"].values() for term in of_case]
        names = ", ".join(dict.fromkeys(terms))
        cases = counted(len(record["undefined"]), "case")
        lines += ["", f"not defined: {counted(len(terms), 'metric')}, in {cases} ({names})"]
    lines += ["", *(f"note: {note}" for note in record["notes"])] if record["notes"] else []
    written = [f"{what}: {record['files'][what]}" for what in ("result", "report") if what in record["files"]]
    return "\n".join([*lines, "", *written])


def _error(left_out: Mapping[str, str], not_drawn: Mapping[str, str]) -> dict[str, str]:
    """The error for scripts; empty if everything was done."""
    told = [
        f"{counted(len(reasons), 'case')} {words}: {_each(reasons)}"
        for words, reasons in (("left out of all means", left_out), ("scored but not drawn", not_drawn))
        if reasons
    ]
    return {"error": "; ".join(told)} if told else {}


def _each(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"[{case}] {reason}" for case, reason in reasons.items())


def _goal_lines(goals: Mapping[str, Any], limits: Mapping[str, str]) -> Iterator[str]:
    if not goals:
        return
    labels = {name: f"{name} {limits[name]}" for name in goals}
    width = max(24, *(len(label) + 2 for label in labels.values()))
    certain = any(row["certainty"] for row in goals.values())
    yield ""
    yield f"{'goal':<{width}}{'met by reference':>18}{'by prediction':>17}{'n':>7}{'same verdict':>15}" + (
        f"{'uncertain':>12}" if certain else ""
    )
    for name, row in goals.items():
        met = [row["n"] - row[dose]["fail"] for dose in ("reference", "predicted")]
        uncertain = row["certainty"]["uncertain"] if row["certainty"] else "-"
        yield f"{labels[name]:<{width}}{met[0]:>18}{met[1]:>17}{row['n']:>7}{row['agree']:>15}" + (
            f"{uncertain:>12}" if certain else ""
        )


def _gamma_rules(args: argparse.Namespace) -> tuple[GammaRule, ...]:
    from cdm_nnunet.evaluation.gamma import GammaRule

    if args.gamma is None:
        return ()
    options = (args.gamma_threshold, args.gamma_normalisation)
    return tuple(dict.fromkeys(GammaRule.parse(text, *options) for text in args.gamma or ["3%/2mm"]))


def _gamma_lines(gamma: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    from cdm_nnunet.evaluation.tables import gamma_label

    if gamma:
        yield ""
    for row in gamma:
        percent = "none" if row["mean_percent"] is None else f"{row['mean_percent']:.1f} %"
        yield f"{'gamma ' + gamma_label(row):<36}{percent:>9} of the voxels, mean of {counted(row['n'], 'case')}"


def _coverage_line(coverage: Mapping[str, Any], calibration: Mapping[str, Any]) -> str:
    if not coverage["n"]:
        return "intervals: none; no metric has enough calibration cases"
    return (
        f"intervals of {coverage['nominal_percent']:g} %, calibrated on {counted(calibration['n_cases'], 'case')}, "
        f"contain {coverage['observed_percent']:.1f} % of {counted(coverage['n'], 'reference value')}"
    )


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
    from cdm_nnunet.progress import progress as bar_of

    bars: dict[str, Any] = {}

    def progress(verb: str, done: int, total: int) -> None:
        if verb not in bars:
            bars[verb] = bar_of(total=total, desc=verb, leave=False)
        bars[verb].update(done - bars[verb].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
