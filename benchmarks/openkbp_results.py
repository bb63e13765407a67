"""Tables and a figure of an OpenKBP study: losses over their seeds, paired by patient with the same training with MAE.

    python benchmarks/openkbp_results.py OUT RESULTS [-d 501]

OUT is the output of ``cdm-nnunet study benchmarks/studies/openkbp.yaml -o OUT``, or of ``openkbp_fine_tuning.yaml``;
RESULTS gets ``losses.md`` and ``losses_dvh.png``. Errors of a patient are averaged over the seeds of a loss first;
intervals are 95 % bootstrap intervals (BCa) over patients. ``without_a_model.py`` gives the scores of no model.
"""

import argparse
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import bootstrap

from cdm_nnunet.comparison.models import load_models, shared_cases
from cdm_nnunet.comparison.quantities import paired_quantities
from cdm_nnunet.comparison.record import Quantity
from cdm_nnunet.comparison.statistics import weighted_mean
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.evaluation.pairing import find_cases, load_pair
from cdm_nnunet.folders import find_dataset

LABELS = {
    "mae": "MAE",
    "cdm": "MAE + CDM",
    "mse": "MSE",
    "dvh": "MAE + DVH curve",
    "moment": "MAE + moments",
    "sorted": "MAE + sorted doses",
    "vanilla": "vanilla nnU-Net (MAE, no anchor)",
    "cdm_from_the_middle": "MAE + CDM from the middle on",
    "vanilla_cdm_from_the_middle": "vanilla nnU-Net, MAE + CDM from the middle on",
}
SCORES = {
    "OpenKBP dose score": "dose score",
    "OpenKBP DVH score": "DVH score",
    "PTV score": "PTV score",
    "OAR score": "OAR score",
}
BASELINE = "mae"
DRAWN = ("vanilla", "vanilla_cdm_from_the_middle", "mae", "cdm", "cdm_from_the_middle", "dvh", "moment", "sorted")
VOLUMES_PERCENT = np.arange(1, 100)
N_RESAMPLES = 9999
N_WORST = 5
Runs = Mapping[str, Sequence[str]]


def find_runs(folder: Path) -> dict[str, list[str]]:
    """Names of the finished runs by loss; runs that differ only in their seed belong together."""
    finished = {path.parent.parent.name for path in folder.glob("*/evaluation/result.json")}
    grouped = {loss: sorted(name for name in finished if re.sub(r"_seed_\d+$", "", name) == loss) for loss in LABELS}
    return {loss: names for loss, names in grouped.items() if names}


def read_quantities(folder: Path, runs: Runs) -> tuple[Quantity, ...]:
    names = [name for group in runs.values() for name in group]
    models, _ = shared_cases(
        load_models([f"{name}={folder / name / 'evaluation'}" for name in names]), common_cases=False
    )
    return paired_quantities(models)


def over_seeds(by_run: Mapping[str, Sequence[float]], names: Sequence[str]) -> np.ndarray:
    """The errors of each patient, averaged over the seeds, (N,)."""
    return np.mean([by_run[name] for name in names], axis=0)


def score_table(quantities: Sequence[Quantity], runs: Runs) -> Iterator[str]:
    """One row per loss: mean over seeds, standard deviation, and the change relative to the same training with MAE."""
    chosen = [q for q in quantities if q.level == "score" and q.name in SCORES]
    chosen.sort(key=lambda q: list(SCORES).index(q.name))
    yield "| loss | seeds | " + " | ".join(f"{SCORES[q.name]} ({q.unit or 'Gy, %'})" for q in chosen) + " |"
    yield "| --- " * (len(chosen) + 2) + "|"
    for loss, names in runs.items():
        cells = []
        for quantity in chosen:
            weights = np.array(list(quantity.n_terms.values()), dtype=np.float64)
            means = [weighted_mean(np.array(quantity.errors[name]), weights) for name in names]
            cell = f"{np.mean(means):.3f}"
            if len(means) > 1:
                cell += f" ± {np.std(means, ddof=1):.3f}"
            if loss != BASELINE and BASELINE in runs:
                cell += f"; {change(quantity, runs, loss)}"
            cells.append(cell)
        yield f"| {LABELS[loss]} | {len(names)} | " + " | ".join(cells) + " |"


def change(quantity: Quantity, runs: Runs, loss: str) -> str:
    """Change relative to the same training with MAE in percent with its interval, such as ``-12.3 % (-15 to -9)``."""
    weights = np.array(list(quantity.n_terms.values()), dtype=np.float64)
    candidate, baseline = (over_seeds(quantity.errors, runs[name]) for name in (loss, BASELINE))
    ratio = weighted_mean(candidate, weights) / weighted_mean(baseline, weights)
    interval = bootstrap(
        (candidate * weights, baseline * weights),
        lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        n_resamples=N_RESAMPLES,
        method="BCa",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    low, high = (100 * (end - 1) for end in interval)
    return f"{100 * (ratio - 1):+.1f} % ({low:+.0f} to {high:+.0f})"


def metric_table(quantities: Sequence[Quantity], runs: Runs, losses: Sequence[str]) -> Iterator[str]:
    """One row per pooled metric: absolute error and predicted - reference; mean, and median over patients."""
    losses = [loss for loss in losses if loss in runs]
    yield "| metric | " + " | ".join(f"{LABELS[loss]}: error (median); bias (median)" for loss in losses) + " |"
    yield "| --- " * (len(losses) + 1) + "|"
    for quantity in quantities:
        if quantity.level != "pooled" or quantity.signed is None or quantity.name.endswith("metrics"):
            continue
        weights = np.array(list(quantity.n_terms.values()), dtype=np.float64)
        cells = []
        for loss in losses:
            error, bias = (over_seeds(values, runs[loss]) for values in (quantity.errors, quantity.signed))
            there = weights > 0
            cells.append(
                f"{weighted_mean(error, weights):.2f} ({np.median(error[there]):.2f}); "
                f"{weighted_mean(bias, weights):+.2f} ({np.median(bias[there]):+.2f})"
            )
        yield f"| {quantity.name} ({quantity.unit}) | " + " | ".join(cells) + " |"


def reference_values(stage: Path, run: str, kind: str) -> dict[tuple[str, str], list[float]]:
    """Values of the reference plans by ROI and metric, for ROIs of a kind."""
    record = json.loads((stage / run / "evaluation" / "result.json").read_text())
    values: dict[tuple[str, str], list[float]] = {}
    for case in record["cases"].values():
        for name, roi in case["rois"].items():
            for metric, value in roi["metrics"].items() if roi["kind"] == kind else ():
                values.setdefault((name, metric), []).append(value["reference"])
    return values


def plans_table(stage: Path, run: str) -> Iterator[str]:
    """Scatter of the plans' own coverage and near-maximum doses, by target."""
    yield "| reference plans | mean | median | standard deviation | lowest |"
    yield "| --- " * 5 + "|"
    for (name, metric), plans in sorted(reference_values(stage, run, "target").items()):
        if metric not in ("D99%", "D2%", "V95%"):
            continue
        numbers = (np.mean(plans), np.median(plans), np.std(plans), min(plans))
        yield f"| {name} {metric} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |"


def worst_patients(quantities: Sequence[Quantity], runs: Runs, losses: Sequence[str]) -> Iterator[str]:
    """Share of a few patients in the error of V95%."""
    quantity = next(q for q in quantities if q.level == "pooled" and q.name == "Targets V95%")
    n_terms = np.array(list(quantity.n_terms.values()), dtype=np.float64)
    for loss in losses:
        if loss in runs:
            error = over_seeds(quantity.errors, runs[loss])
            total = np.sort(np.where(n_terms > 0, error * n_terms, 0.0))
            share = 100 * total[-N_WORST:].sum() / total.sum()
            yield f"{LABELS[loss]}: {N_WORST} of {len(error)} patients make {share:.0f} % of the targets' V95% error"


def dose_errors_at_volumes(dataset: RawDataset, doses: Path) -> np.ndarray:
    """D_v%(predicted) - D_v%(reference), mean over targets and patients, for each volume v: (99,)."""
    errors = []
    for files in find_cases(dataset, doses):
        pair = load_pair(files)
        for roi in pair.catalogue.rois:
            if roi.kind == "target" and (mask := pair.roi_mask(roi.name)).any():
                both = (pair.predicted_dose_gy, pair.reference_dose_gy)
                predicted, reference = (np.percentile(dose[mask], 100 - VOLUMES_PERCENT) for dose in both)
                errors.append(predicted - reference)
    return np.mean(errors, axis=0)


def draw(stage: Path, dataset: RawDataset, runs: Runs, path: Path) -> None:
    """The mean error of the targets' DVH, volume by volume, for each loss."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for loss in DRAWN:
        if loss in runs:
            folders = [stage / name / "predictions" for name in runs[loss]]
            mean = np.mean([dose_errors_at_volumes(dataset, folder) for folder in folders], axis=0)
            axes.plot(
                VOLUMES_PERCENT,
                mean,
                label=LABELS[loss],
                lw=2.5 if "cdm" in loss else 1.5,
                ls=":" if loss.startswith("vanilla") else "-",
            )
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("volume v of a target (%)")
    axes.set_ylabel("mean of predicted - reference D_v% (Gy)")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("-d", dest="dataset", type=int, default=501, help="data set of the study")
    args = parser.parse_args()
    warnings.simplefilter("error")
    stage = args.out
    runs = find_runs(stage)
    quantities = read_quantities(stage, runs)
    args.results.mkdir(parents=True, exist_ok=True)
    tables = [*score_table(quantities, runs), "", *metric_table(quantities, runs, DRAWN), ""]
    tables += [*plans_table(stage, next(iter(runs.values()))[0]), "", *worst_patients(quantities, runs, DRAWN)]
    (args.results / "losses.md").write_text("\n".join([*tables, ""]))
    draw(stage, RawDataset(find_dataset(args.dataset)), runs, args.results / "losses_dvh.png")
    print("\n".join(tables))


if __name__ == "__main__":
    main()
