"""A panel of the report is one module: here one that is added in a temporary folder."""

import re

import pytest

from cdm_nnunet.report import page
from cdm_nnunet.report.page import write_report

from .conftest import Made, Window

PANEL = """
addPanel({
  view: "cohort",
  place: 15,
  build: () => card("Hottest references", table([
    { label: "Case", value: (name) => name, show: (name) => name, header: true },
    { label: "Scale", value: (name) => record.cases[name].dose.scale_gy, show: (name) => plain(record.cases[name].dose.scale_gy), number: true },
  ], caseNames)),
});
addPanel({ view: "patient", place: 99, build: (name) => card("Own words", el("p", { class: "own" }, `It is ${name}`)) });
"""  # noqa: E501  # (lines of another language)


@pytest.fixture
def with_panel(report, tmp_path, monkeypatch):
    folder = tmp_path / "panels"
    folder.mkdir()
    (folder / "hottest.js").write_text(PANEL, encoding="utf-8")
    (folder / "notes.txt").write_text("no module", encoding="utf-8")
    monkeypatch.setattr(page, "PANEL_FOLDERS", [*page.PANEL_FOLDERS, folder])
    write_report(report.evaluation, report.parts(tmp_path / "parts"), tmp_path / "report.html")
    return Made(tmp_path / "report.html", report.evaluation, report.dataset, report.predictions)


def test_a_panel_stands_at_its_place(browser, with_panel):
    window = Window(browser, with_panel)
    shown = window.show_cohort()
    titles = shown.locator("#cohort h2").all_inner_texts()
    assert titles.index("Hottest references") == titles.index("Cases, the worst first") - 1
    table = shown.locator("section", has=shown.locator("h2", has_text="Hottest references")).locator("tbody tr")
    wanted = {case.case: f"{case.dose.scale_gy:g}" for case in with_panel.evaluation.cases}
    assert {row.locator("th").inner_text(): row.locator("td").inner_text() for row in table.all()} == wanted
    name = with_panel.evaluation.cases[0].case
    assert window.show_case(name).locator("#patient .own").inner_text() == f"It is {name}"
    window.check()
    window.page.context.close()


def test_panels_of_this_software_each_add_themselves():
    (folder,) = page.PANEL_FOLDERS
    modules = [module for module in folder.iterdir() if module.name.endswith(".js")]
    places = [re.findall(r"addPanel\(\{ view: \"(\w+)\", place: (\d+)", module.read_text()) for module in modules]
    assert all(len(found) == 1 for found in places)
    assert len({found[0] for found in places}) == len(modules) >= 6
