"""A report of synthetic patients, and windows in which it is open."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.pairing import find_cases, read_case
from cdm_nnunet.evaluation.record import Evaluation
from cdm_nnunet.evaluation.run import Options, evaluate_folder
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.page import write_report

HOSTILE_ROI = "</script><script>window.hacked=1</script>"
HOSTILE_OAR = "a &lt;b&gt; <img src=x onerror='window.hacked=2'> %{x}"
HOSTILE_CASE = "<b onclick=hack()>%{y} &amp; '\""


@dataclass(frozen=True)
class Made:
    """A report and its sources."""

    path: Path
    evaluation: Evaluation
    dataset: RawDataset
    predictions: Path
    gamma: GammaRule | None = None

    @property
    def url(self) -> str:
        return self.path.as_uri()

    def parts(self, folder: Path) -> CaseParts:
        """The curves and slices of its cases."""
        parts = CaseParts(folder, self.evaluation.template, gamma=self.gamma)
        for files in find_cases(self.dataset, self.predictions):
            parts.keep(len(self.evaluation.cases), read_case(files))
        return parts


def predict(dataset: RawDataset, folder: Path, factor: float = 0.96) -> Path:
    """Write blurred and slightly cold reference doses as predictions."""
    folder.mkdir()
    for case in dataset.cases:
        dose = read_image(dataset.dose_path(case))
        blurred = (factor * gaussian_filter(dose.values, 0.6)).astype(np.float32)
        write_image(replace(dose, path=folder / f"{case}.nii.gz", values=blurred))
    return folder


def make_report(dataset: RawDataset, folder: Path, options: Options | None = None) -> Made:
    predictions = predict(dataset, folder / "predictions")
    evaluation = evaluate_folder(dataset, predictions, None, options)
    path = folder / "out" / "report.html"
    made = Made(path, evaluation, dataset, predictions, next(iter(options.gamma if options else ()), None))
    write_report(evaluation, made.parts(folder / "parts"), path)
    return made


@pytest.fixture(scope="session")
def synthetic_dataset(tmp_path_factory: pytest.TempPathFactory) -> RawDataset:
    raw = tmp_path_factory.mktemp("raw")
    convert(find_synthetic(n_training=2, n_test=0, coarseness=2.0), DatasetPlace(raw, 501, "Synthetic"))
    return RawDataset(raw / "Dataset501_Synthetic")


@pytest.fixture(scope="session")
def report(synthetic_dataset: RawDataset, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_report(synthetic_dataset, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def ensemble_report(synthetic_dataset: RawDataset, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With gamma, and with intervals from the spread of two members, calibrated on other patients."""
    folder = tmp_path_factory.mktemp("ensemble")
    convert(find_synthetic(n_training=2, n_test=0, coarseness=2.0), DatasetPlace(folder, 502, "Calibration"))
    calibration = RawDataset(folder / "Dataset502_Calibration")

    def members(dataset: RawDataset) -> tuple[Path, ...]:
        return tuple(predict(dataset, folder / f"{dataset.folder.name}_{f}", f) for f in (0.95, 0.97))

    of_calibration = members(calibration)
    options = Options(
        members=members(synthetic_dataset),
        gamma=(GammaRule(), GammaRule(2.0, 2.0, local=True)),
        calibrated_on=evaluate_folder(calibration, of_calibration[0], None, Options(members=of_calibration)),
        coverage_percent=50,
    )
    return make_report(synthetic_dataset, folder, options)


@pytest.fixture(scope="session")
def hostile_report(synthetic_dataset: RawDataset, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same patients with names that would run or vanish if they were taken for markup."""
    folder = tmp_path_factory.mktemp("hostile")
    copy = folder / "Dataset501_<i>Hostile<!--"
    shutil.copytree(synthetic_dataset.folder, copy)
    first = next(iter(synthetic_dataset.cases))
    for path in [*copy.glob("images*/*"), *copy.glob("labels*/*")]:
        path.rename(path.with_name(path.name.replace(first, HOSTILE_CASE)))
    names = {"PTV_7000": HOSTILE_ROI, "Parotid_L": HOSTILE_OAR, first: HOSTILE_CASE}
    for path in (copy / "dataset.json", copy / "cdm_cases.json"):
        text = path.read_text(encoding="utf-8")
        for name, hostile in names.items():
            text = re.sub(rf'"{name}"', lambda _, text=hostile: json.dumps(text), text)
        path.write_text(text, encoding="utf-8")
    return make_report(RawDataset(copy), folder)


class Window:
    """The report in a window without a network, with everything that it requests and says."""

    def __init__(self, browser, made: Made) -> None:
        self.made = made
        self.requests, self.complaints = [], []
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        context.set_offline(True)
        self.page = context.new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script("window.printed = 0; window.print = () => { window.printed += 1; }")
        self.page.goto(made.url)

    def show_cohort(self):
        self.page.evaluate("() => { location.hash = ''; }")
        self.page.locator("#cohort h1").wait_for()
        self.page.locator(".distribution .boxlayer path").first.wait_for(state="attached")
        return self.page

    def show_case(self, case: str):
        self.page.evaluate("() => { location.hash = ''; }")
        self.page.evaluate("name => { location.hash = '#case=' + encodeURIComponent(name); }", case)
        self.page.locator("#patient h1").get_by_text(case, exact=True).wait_for()
        self.page.locator(".readout b").first.wait_for()
        self.page.locator(".dvh .scatterlayer path").first.wait_for(state="attached")
        return self.page

    def check(self) -> None:
        """Nothing was requested but the file, and nothing said on the console."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("blob:", "data:"))] == [self.made.url]


@pytest.fixture(scope="session")
def report_window(browser, report) -> Iterator[Window]:
    window = Window(browser, report)
    yield window
    window.page.context.close()


@pytest.fixture
def window(report_window) -> Iterator[Window]:
    """The window of the report as it is after opening; one for all tests, for opening it takes seconds."""
    yield report_window
    report_window.page.emulate_media(media="screen", color_scheme="light")
    report_window.page.set_viewport_size({"width": 1300, "height": 900})
    report_window.check()


@pytest.fixture(scope="session")
def hostile_window(browser, hostile_report) -> Iterator[Window]:
    window = Window(browser, hostile_report)
    yield window
    window.page.context.close()
