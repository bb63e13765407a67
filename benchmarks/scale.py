"""Seconds and memory of every verb for 100, 300 and 1,000 patients, to find superlinear growth.

    python benchmarks/scale.py OUT [--patients 100 300 1000] [--coarseness 2] [--processes 1 2] [--copies N ...]

The patients are the phantoms of ``cdm-nnunet convert synthetic`` on a coarse grid, so that a case takes little time and
work for the whole cohort is visible. The steps, each a command in a separate process:

convert    from formulas to the raw data set
plan       fingerprint, plans and preprocessing (voxels of 12 mm, 4 features)
train      one step, so that there is a model (not measured)
predict    all patients
evaluate   scores and tables of doses that are 3 % too high, without report and pictures
report     the report of existing scores
compare    the evaluation against another
page       the report in a browser: until the first paint, and until it is complete

compare and page also run with --copies of the smallest cohort's results, because they read only results.

Seconds are processor time of all processes of a command, which hardly depends on other load of the machine. A command's
start (imports) is the same for each size: seconds per case come from the difference to the next smaller size. Memory is
the peak of the command's largest process. With --processes 1 2 convert and evaluate also run with two processes, and
the wall times are compared.

Results are in OUT/scale.json; finished steps are not repeated, so that the same command continues after a stop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path

from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import SyntheticSource, find_synthetic
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.files import write_json
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.report.folder import write_cohort

DATASET_ID, NAME = 500, "Dataset500_Scale"
STEPS = ("convert", "plan", "train", "predict", "evaluate", "report", "compare", "page")
MEASURED = ("convert", "plan", "predict", "evaluate", "report", "compare")
SEVERAL_CORES: list[str] = []  # filled while a step with several processes runs
FACTORS = {"higher": 1.03, "lower": 0.98}  # of the reference doses, for the two models that are evaluated


@dataclass(frozen=True)
class Measured:
    """Of one command."""

    processor_s: float
    wall_s: float
    peak_mib: float
    load: float  # of the machine, at its start


@dataclass(frozen=True)
class Cohort:
    """One size, in a folder of its own."""

    out: Path
    patients: int
    coarseness: float

    @property
    def folder(self) -> Path:
        return self.out / f"cohort_{self.patients}"

    @property
    def environment(self) -> dict[str, str]:
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CDM_", "nnUNet_"))}
        settings = {f"CDM_NUM_{name}": "1" for name in ("EPOCHS", "ITERATIONS", "VAL_ITERATIONS")}
        folders = {name: str(self.folder / name) for name in names}
        return {**kept, **folders, **settings, "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": "1"}

    @property
    def raw(self) -> Path:
        return self.folder / "nnUNet_raw" / NAME

    def command(self, *arguments: str) -> Measured:
        """Run a verb and measure it."""
        return measured([sys.executable, "-m", "cdm_nnunet.cli.main", *arguments], self.environment, self.folder)

    def convert(self, processes: int = 1) -> Measured:
        arguments = [str(self.patients), str(self.coarseness), str(processes), str(self.raw.parent)]
        if self.raw.parent.exists():
            shutil.rmtree(self.raw.parent)
        return measured([sys.executable, __file__, "--convert", *arguments], self.environment, self.folder)

    def plan(self) -> Measured:
        size = ("-c", "3d_coarse", "--coarse-spacing", "12", "--base-features", "4", "--gpu-memory", "2")
        done = self.command("plan", "-d", str(DATASET_ID), *size, "-np", "1")
        cases = sorted(path.name.removesuffix(".nii.gz") for path in (self.raw / "labelsTr").iterdir())
        split = {"train": cases[2:4], "val": cases[:2]}
        write_json(self.folder / "nnUNet_preprocessed" / NAME / "splits_final.json", [split])
        return done

    def train(self) -> Measured:
        begun = any(self.folder.glob("nnUNet_results/*/*/fold_0/*.pth"))
        what = (str(DATASET_ID), "3d_coarse", "0", "-tr", "nnUNetTrainerDoseMAE", "-device", "cpu")
        return self.command("train", *what, *(("--c",) if begun else ()))

    def predict(self) -> Measured:
        model = ("-d", str(DATASET_ID), "-c", "3d_coarse", "-f", "0", "-tr", "nnUNetTrainerDoseMAE", "-device", "cpu")
        images = ("-i", str(self.raw / "imagesTr"), "-o", str(self.folder / "doses"))
        return self.command("predict", *images, *model, "-np", "1", "--allow-outside")

    def evaluate(self, processes: int = 1) -> Measured:
        shutil.rmtree(self.folder / "a", ignore_errors=True)
        self._scale("higher")
        return self._evaluate("--no-report", "-np", str(processes))

    def report(self) -> Measured:
        return self._evaluate("-np", "1")

    def compare(self) -> Measured:
        self._scale("lower")
        self._evaluate("--no-report", "-np", "1", doses="lower", out="b")
        return self.compare_results()

    def compare_results(self) -> Measured:
        models = [f"{name}={self.folder / name}" for name in "ab"]
        return self.command("compare", *models, "-o", str(self.folder / "comparison"), "--no-images")

    def _evaluate(self, *options: str, doses: str = "higher", out: str = "a") -> Measured:
        folders = ("-i", str(self.folder / doses), "-o", str(self.folder / out))
        return self.command("evaluate", "-d", str(DATASET_ID), *folders, "--pictures", "0", *options)

    def _scale(self, name: str) -> None:
        """Write doses to evaluate: the references times a factor (the network of one step predicts refused doses)."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        for path in (self.raw / "labelsTr").glob("*.nii.gz"):
            if not (out / path.name).is_file():
                dose = read_image(path)
                write_image(replace(dose, values=FACTORS[name] * dose.values, path=out / path.name))

    def page(self) -> dict[str, float]:
        """Seconds of the report in a browser."""
        pages = [self.folder / "a" / "report" / "index.html", self.folder / "a" / "report.html"]
        comparison = self.folder / "comparison"
        compared = [comparison / "compare" / "index.html", comparison / "compare.html"]
        return {
            **painted(next(page for page in pages if page.is_file()), "#cohort table", ".distribution .boxlayer path"),
            **{
                f"compare_{name}": value
                for name, value in painted(
                    next(page for page in compared if page.is_file()), "#content table", None
                ).items()
            },
        }


def on_one_core() -> None:
    """Keep a command on one core: torch's waiting threads use processor time, more so on a busy machine."""
    if not SEVERAL_CORES:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measured(command: list[str], environment: dict[str, str], folder: Path) -> Measured:
    """Run a command to its end; its output goes to a log."""
    folder.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    began = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder, preexec_fn=on_one_core
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[1:6])} ... failed with status {process.returncode}; see {folder / 'log.txt'}")
    return Measured(used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1024, load)


def painted(path: Path, first: str, last: str | None) -> dict[str, float]:
    """Seconds until a page's first contentful paint, its first table, and its completion."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        began = time.monotonic()
        page.goto(path.as_uri(), wait_until="commit")
        page.locator(first).first.wait_for(state="attached")
        found = {"first_table_s": time.monotonic() - began}
        if last is not None:
            page.locator(last).first.wait_for(state="attached")
            found["charts_s"] = time.monotonic() - began
        entries = "() => performance.getEntriesByType('paint').map((one) => [one.name, one.startTime])"
        paints = dict(page.evaluate(entries))
        found["first_paint_s"] = paints["first-contentful-paint"] / 1000
        browser.close()
    return {name: round(value, 3) for name, value in found.items()} | {"mb": round(path.stat().st_size / 1e6, 2)}


def copied(small: Cohort, n: int) -> Cohort:
    """Results of a small cohort, repeated under other names, for commands that read only results."""
    large = Cohort(small.out / "copies", n, small.coarseness)
    for name in "ab":
        one = load_evaluation(small.folder / name)
        cases = tuple(
            replace(case, case=f"{case.case}_{k:04d}", patient=f"{case.case}_{k:04d}")
            for k, case in zip(range(n), cycle(one.cases), strict=False)
        )
        pooled = pooled_scores(cases)
        many = replace(one, cases=cases, n_dataset_cases=n, left_out={}, scores=pooled, plan_ranks=None)
        (large.folder / name).mkdir(parents=True, exist_ok=True)
        write_json(large.folder / name / "result.json", many.to_json())
        if name == "a":
            write_cohort(many, large.folder / name / "report", "0")
    return large


def make(patients: int, coarseness: float, processes: int, raw: Path) -> None:
    """Convert the phantoms, without the command's limit of their number."""
    found = find_synthetic(n_training=2)
    sources = [SyntheticSource(k, f"phantom_{k:04d}", "Tr", coarseness) for k in range(1, patients + 1)]
    raw.mkdir(parents=True)
    convert(replace(found, cases=sources), DatasetPlace(raw, DATASET_ID, "Scale"), n_processes=processes)


def rows(results: dict[str, dict], sizes: list[int]) -> list[str]:
    """Seconds per case beyond the next smaller cohort, and peak memory."""
    lines = ["| step | " + " | ".join(f"{n} patients" for n in sizes) + " |", "| --- " * (len(sizes) + 1) + "|"]
    for step in MEASURED:
        cells = []
        for smaller, n in zip([0, *sizes], sizes, strict=False):
            one, before = results.get(f"{step} {n}"), results.get(f"{step} {smaller}")
            if one is None:
                cells.append("")
                continue
            seconds = (one["processor_s"] - (before["processor_s"] if before else 0)) / (n - (smaller if before else 0))
            cells.append(f"{seconds:.3f} s, {one['peak_mib']:.0f} MiB")
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--convert"]:
        patients, coarseness, processes, raw = sys.argv[2:]
        make(int(patients), float(coarseness), int(processes), Path(raw))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--coarseness", type=float, default=2.0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--copies", type=int, nargs="*", default=[1000], metavar="N")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    args = parser.parse_args()
    path = args.out / "scale.json"
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def step(name: str, do: Callable[[], Measured | dict[str, float]]) -> None:
        if name not in results:
            done = do()
            results[name] = asdict(done) if isinstance(done, Measured) else done
            write_json(path, results)
            print(name, results[name], flush=True)

    for n in args.patients:
        cohort = Cohort(args.out.absolute(), n, args.coarseness)
        for name in args.only:
            step(f"{name} {n}", getattr(cohort, name))
            if name in ("convert", "evaluate"):
                for processes in [p for p in args.processes if p > 1]:
                    SEVERAL_CORES.append(name)
                    step(f"{name} {n}, {processes} processes", partial(getattr(cohort, name), processes))
                    SEVERAL_CORES.clear()
    for n in args.copies:
        names = {"compare_results": f"compare of {n} copies", "page": f"page of {n} copies"}
        if names.values() - results.keys():
            large = copied(Cohort(args.out.absolute(), args.patients[0], args.coarseness), n)
            for method, name in names.items():
                step(name, getattr(large, method))
    print("\n".join(rows(results, args.patients)))


if __name__ == "__main__":
    main()
