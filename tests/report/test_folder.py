"""The report of many patients: a folder with a light first page and a data file for each patient."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from cdm_nnunet import images
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation import pairing, scene
from cdm_nnunet.images import read_image
from cdm_nnunet.report import publish
from cdm_nnunet.report.folder import INDEX_FILE, REPORT_FOLDER, write_report_folder
from cdm_nnunet.report.publish import EvaluationRequest, evaluate_and_publish

from .conftest import HOSTILE_CASE, Made, Window, predict


@pytest.fixture(scope="module")
def folder(hostile_report, tmp_path_factory) -> Made:
    """The report of patients with hostile names, as a folder."""
    made = hostile_report
    path = tmp_path_factory.mktemp("many") / "report"
    index = write_report_folder(made.evaluation, made.parts(tmp_path_factory.mktemp("parts")), path)
    assert index == path / INDEX_FILE
    return replace(made, path=index)


class FolderWindow(Window):
    """It may also open the data files next to the page."""

    def check(self) -> None:
        assert self.complaints == []
        data = self.made.path.parent.as_uri() + "/data/"
        opened = [url for url in self.requests if not url.startswith(("blob:", "data:"))]
        assert opened[0] == self.made.url
        assert all(url.startswith(data) for url in opened[1:])


@pytest.fixture(scope="module")
def shown(browser, folder) -> Iterator[FolderWindow]:
    window = FolderWindow(browser, folder)
    yield window
    window.page.context.close()


def test_the_first_page_holds_no_patient(folder):
    names = sorted(path.name for path in (folder.path.parent / "data").iterdir())
    n = len(folder.evaluation.cases)
    assert names == sorted([*(f"case_{k}.html" for k in range(n)), "plotly.html", "whole.html"])
    text = folder.path.read_text(encoding="utf-8")
    assert '"cases":{}' in text
    assert "volume-0" not in text.replace("volume-${position}", "")
    assert len(text) < 300_000


def test_a_data_file_runs_one_fixed_script(folder):
    for path in (folder.path.parent / "data").iterdir():
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"script-src ([^;\"]*)", text)[0].count("sha256-") == 1
        assert text.count("<script>") == 1
        assert "default-src 'none'" in text


def test_cohort_patient_and_record(shown, folder):
    page = shown.show_cohort()
    evaluation = folder.evaluation
    text = page.locator("#cohort").inner_text()
    assert f"{evaluation.scores.to_json()['dose_mae_gy']:.2f} Gy" in text
    assert "2 of 2 cases evaluated" in text
    assert "Goals: reference and prediction" in text
    titles = page.locator("#cohort h2").all_inner_texts()
    assert titles[0] == "Cases, the worst first"
    for case in evaluation.cases:
        shown.show_case(case.case)
        rows = page.locator("#patient table", has=page.locator("caption", has_text="Goals with a limit"))
        assert rows.locator("tbody tr").count() == sum(len(roi.goals) for roi in case.rois.values())
    with page.expect_download() as download:
        page.get_by_role("button", name="Download record").click()
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == evaluation.to_json()
    assert page.evaluate("window.hacked") is None
    shown.check()


def test_a_patient_can_be_the_first_that_is_opened(browser, folder):
    window = FolderWindow(browser, replace(folder))
    page = window.page
    page.goto("about:blank")
    page.goto(f"{folder.url}#case={quote(folder.evaluation.cases[0].case, safe='')}")
    page.locator(".readout b").first.wait_for()
    page.get_by_role("button", name="Print").click()
    page.wait_for_function("() => window.printed === 1")
    assert page.locator(".print-page").count() == 1
    page.context.close()


def test_a_file_that_is_missing_or_of_another_report_is_told(browser, folder, tmp_path):
    copy = tmp_path / "report"
    shutil.copytree(folder.path.parent, copy)
    (copy / "data" / "case_0.html").unlink()
    other = copy / "data" / "case_1.html"
    other.write_text(re.sub(r'id="key">"\w+"', 'id="key">"other"', other.read_text(encoding="utf-8")), encoding="utf-8")
    window = FolderWindow(browser, replace(folder, path=copy / INDEX_FILE))
    for place, case in enumerate(folder.evaluation.cases):
        window.page.evaluate("name => { location.hash = '#case=' + encodeURIComponent(name); }", case.case)
        window.page.locator("#problem", has_text=f"data/case_{place}.html is missing or damaged").wait_for()
    window.page.context.close()


def test_another_page_gets_nothing_from_a_data_file(browser, folder, tmp_path):
    thief = tmp_path / "thief.html"
    data = (folder.path.parent / "data" / "case_0.html").as_uri()
    thief.write_text(
        f"<script>onmessage = () => {{ window.got = 1; }}</script><iframe src='{data}'></iframe>"
        f"<iframe src='{data}#0123'></iframe>"
    )
    page = browser.new_page()
    page.goto(thief.as_uri())
    page.wait_for_timeout(500)
    assert page.frames[1].locator("p").inner_text().startswith("Data of a report")
    assert page.evaluate("window.got") is None
    page.close()


def test_evaluate_writes_one_form_and_removes_the_other(report, tmp_path, monkeypatch):
    request = EvaluationRequest(report.predictions, tmp_path / "out", n_pictures=0, n_processes=1)
    monkeypatch.setattr(publish, "MOST_CASES_IN_A_FILE", 1)
    monkeypatch.setitem(vars(report.dataset), "roi_colours", {"Brainstem": "#123456"})
    published = evaluate_and_publish(report.dataset, request)
    assert published.files["report"] == str(tmp_path / "out" / REPORT_FOLDER / INDEX_FILE)
    assert (tmp_path / "out" / REPORT_FOLDER / "data" / "case_1.html").is_file()
    monkeypatch.setattr(publish, "MOST_CASES_IN_A_FILE", 2)
    assert '"light":"#123456"' in Path(published.files["report"]).read_text(encoding="utf-8")
    published = evaluate_and_publish(report.dataset, request)
    assert published.files["report"] == str(tmp_path / "out" / "report.html")
    text = Path(published.files["report"]).read_text(encoding="utf-8")
    assert '"light":"#123456"' in text
    assert "#123456" not in json.dumps(published.evaluation.to_json())  # (a colour is no part of the result)
    assert not (tmp_path / "out" / REPORT_FOLDER).exists()
    (tmp_path / "out" / REPORT_FOLDER).mkdir()
    with pytest.raises(InputError, match="is not a report of this software"):
        evaluate_and_publish(report.dataset, request)


def test_hostile_names_are_there(folder):
    assert any(case.case == HOSTILE_CASE for case in folder.evaluation.cases)


def test_every_image_is_read_once(synthetic_dataset, tmp_path, monkeypatch):
    predictions = predict(synthetic_dataset, tmp_path / "predictions")
    read: list[str] = []
    for module in (images, pairing, scene):
        monkeypatch.setattr(module, "read_image", lambda path, **kw: read.append(path.name) or read_image(path, **kw))
    request = EvaluationRequest(predictions, tmp_path / "out", n_pictures=0, n_processes=1)
    for _ in ("scored", "kept"):
        read.clear()
        done = evaluate_and_publish(synthetic_dataset, request)
        assert done.not_drawn == {}
        text = Path(done.files["report"]).read_text(encoding="utf-8")
        assert text.count('id="volume-') == len(synthetic_dataset.cases)
        doses = [f"{case}.nii.gz" for case in synthetic_dataset.cases for _ in ("reference", "predicted")]
        assert sorted(read) == sorted(
            [*doses, *(f"{case}_000{k}.nii.gz" for case in synthetic_dataset.cases for k in (0, 2))]
        )
