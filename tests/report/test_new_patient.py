"""The report of a new patient, without a reference, in a real browser."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdm_nnunet.evaluation.pairing import find_cases
from cdm_nnunet.patient.record import PatientRecord
from cdm_nnunet.patient.scoring import NewDose, describe_dose
from cdm_nnunet.report.new_patient import write_patient_report

from .conftest import Window, predict

LABEL = "PREDICTED, NOT FOR TREATMENT"


@dataclass(frozen=True)
class Made:
    path: Path
    record: PatientRecord

    @property
    def url(self) -> str:
        return self.path.as_uri()


@pytest.fixture(scope="module")
def made(synthetic_dataset, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("new")
    doses = predict(synthetic_dataset, folder / "doses")
    files = find_cases(synthetic_dataset, doses)[0]
    hostile = {"Parotid_L": "</script><script>window.hacked=1</script>"}
    record = describe_dose(NewDose(files, ("dose.nii.gz", "0"), names=hostile), synthetic_dataset.template)
    record = record.noted("<img src=x onerror='window.hacked=2'>")
    return Made(write_patient_report(record, files, synthetic_dataset.template, folder), record)


@pytest.fixture(scope="module")
def opened(browser, made):
    window = Window(browser, made)
    window.page.locator(".readout b").first.wait_for()
    window.page.locator(".dvh .scatterlayer path").first.wait_for(state="attached")
    yield window
    window.check()
    window.page.context.close()


def test_it_shows_the_record_and_what_the_dose_is(opened, made):
    text = opened.page.locator("#patient").inner_text()
    assert LABEL in text
    assert LABEL in opened.page.locator("header").inner_text()
    assert LABEL in opened.page.locator("#footer").inner_text()
    table = opened.page.locator("table", has=opened.page.locator("caption", has_text="Goals with a limit"))
    rows = {row.locator("th").inner_text(): row.inner_text() for row in table.locator("tbody tr").all()}
    goals = {f"{roi} {goal.metric}": (entry, goal) for roi, entry in made.record.rois.items() for goal in entry.goals}
    assert rows.keys() == goals.keys()
    for name, (entry, goal) in goals.items():
        assert f"{entry.metrics[goal.metric].value:.2f} {goal.unit}" in rows[name]
        assert re.search(rf"{goal.verdict}\b", rows[name])
    assert "eference" not in text
    assert "no calibration was given" in text
    assert opened.page.evaluate("window.hacked") is None


def test_one_dose_is_drawn_and_read(opened, made):
    page = opened.page
    traces = page.evaluate(
        "document.querySelector('.dvh').data.filter((t) => t.meta.dose).map((t) => [t.meta.dose, t.line.dash])"
    )
    assert {tuple(trace) for trace in traces} == {("predicted", "solid")}
    assert page.locator(".roi-list thead th").all_inner_texts() == ["Show", "Predicted"]
    readout = page.locator(".readout").inner_text()
    assert re.match(r"predicted\s+[\d.]+ Gy", readout)
    assert page.locator(".views canvas").count() == 3


def test_it_prints_on_two_pages_with_slices(opened):
    pdf = opened.page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) == 2
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    pages = opened.page.locator("#printed .print-page")
    assert pages.count() == 2
    assert all(LABEL in pages.nth(k).text_content() for k in (0, 1))
    assert pages.nth(1).locator("svg").count() == pages.nth(1).locator("img").count() == 1
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert pages.count() == 0
