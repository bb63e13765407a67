"""The report in a real browser."""

import csv
import json
import re
import shutil
from dataclasses import replace

import pytest

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.run import Show, evaluate_folder
from cdm_nnunet.fence import Refusals
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.page import write_report

from .conftest import HOSTILE_CASE, HOSTILE_OAR, HOSTILE_ROI, Made, Window
from .reading import MINUS, first_column


def test_the_cohort_shows_the_record(window, report):
    page = window.show_cohort()
    text = page.locator("#cohort").inner_text()
    scores = report.evaluation.scores.to_json()
    for value in (scores["dose_mae_gy"], scores["openkbp"]["dose_score"], scores["openkbp"]["dvh_score"]):
        assert f"{value:.2f} Gy" in text
    assert f"{scores['ptv_score']:.2f}" in text
    assert "2 of 2 cases evaluated." in text
    judged = sum(goal["n"] for goal in scores["goals"].values())
    changed = judged - sum(goal["agree"] for goal in scores["goals"].values())
    assert f"{changed} of {judged}" in text
    footer = page.locator("#footer").inner_text()
    for part in ("Dataset501_Synthetic", "template openkbp", "Research use, not for treatment"):
        assert part in footer


def test_no_button_uploads_a_chart(window, report):
    page = window.show_cohort()
    page.wait_for_selector(".modebar-btn", state="attached")
    buttons = page.locator(".modebar-btn")
    titles = {buttons.nth(k).get_attribute("data-title") for k in range(buttons.count())}
    assert titles == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}


def test_cases_are_sorted_worst_first_and_by_any_column(window, report):
    page = window.show_cohort()
    by_error = [c.case for c in sorted(report.evaluation.cases, key=lambda c: -c.dose_mae_gy)]
    assert first_column(page, "Click a heading to sort, a name") == by_error
    page.get_by_role("button", name="Dose MAE (Gy)").click()
    assert first_column(page, "Click a heading to sort, a name") == by_error[::-1]
    page.get_by_role("button", name="Case", exact=True).click()
    assert first_column(page, "Click a heading to sort, a name") == sorted(by_error)
    page.get_by_role("link", name=by_error[0]).last.click()
    page.wait_for_selector(".readout b")
    assert page.locator("#patient h1").inner_text() == by_error[0]


def test_a_point_of_the_distribution_names_its_case(window, report):
    page = window.show_cohort()
    page.wait_for_selector(".distribution .boxlayer path.point")
    box = page.locator(".distribution path.point").first
    box.scroll_into_view_if_needed()
    box.hover(force=True)
    page.wait_for_selector(".hoverlayer .hovertext")
    text = page.locator(".hoverlayer").first.text_content()
    assert any(case.case in text for case in report.evaluation.cases)
    assert "reference" in text


def test_light_and_dark(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    colours = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    button = page.get_by_role("button", name="Theme")
    for theme, expected in (("light", colours[1]), ("dark", colours[0]), ("system", colours[1])):
        button.click()
        assert button.inner_text() == f"Theme: {theme}"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == expected


@pytest.mark.parametrize("width", [420, 1300])
def test_nothing_is_wider_than_the_window(window, report, width):
    window.page.set_viewport_size({"width": width, "height": 900})
    for page in (window.show_case(report.evaluation.cases[0].case), window.show_cohort()):
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas[tabindex]')].filter((node) =>
        !node.hidden && !(node.getAttribute('aria-label') || node.textContent || node.labels?.[0]?.textContent.trim()))
        .map((node) => node.outerHTML)"""
    )
    assert nameless == []


def test_names_from_data_stay_text(hostile_window):
    page = hostile_window.show_cohort()
    assert HOSTILE_CASE in first_column(page, "Click a heading to sort, a name")
    labels = page.locator(".distribution .yaxislayer-above").first.text_content()
    assert HOSTILE_ROI in labels
    page.get_by_role("link", name=HOSTILE_CASE).last.click()
    page.wait_for_selector(".readout b")
    page.wait_for_selector(".dvh .scatterlayer path")
    assert page.locator("#patient h1").inner_text() == HOSTILE_CASE
    assert page.locator(".roi-list", has_text=HOSTILE_ROI).count() == 1
    assert "<i>Hostile<!--" in page.title()
    page.get_by_role("button", name="Print").click()
    page.wait_for_function("() => window.printed === 1")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[onerror], b[onclick]").count() == 0
    page.locator(".dvh").scroll_into_view_if_needed()
    box = page.locator(".dvh .nsewdrag").bounding_box()
    trace = "document.querySelector('.dvh').data.findIndex((t) => t.meta.roi === name)"
    x, y = page.evaluate(
        f"""(name) => {{ const plot = document.querySelector('.dvh'); const trace = plot.data[{trace}];
        const k = trace.y.findIndex((v) => v < 60); const a = plot._fullLayout;
        return [a.xaxis.d2p(trace.x[k]), a.yaxis.d2p(trace.y[k])]; }}""",
        HOSTILE_OAR,
    )
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_selector(".dvh .hovertext")
    assert page.locator(".dvh .hoverlayer script, .dvh .hoverlayer img").count() == 0
    assert page.evaluate("window.hacked") is None
    hostile_window.check()


def test_the_policy_stops_a_script_that_got_in(hostile_window):
    hostile_window.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 3';"
        " document.head.append(s); }"
    )
    assert hostile_window.page.evaluate("window.hacked") is None


def test_print_has_a_page_for_each_patient(window, report):
    page = window.show_cohort()
    page.get_by_role("button", name="Print").click()
    page.wait_for_function("() => window.printed > 0")
    page.emulate_media(media="print")
    pages = page.locator(".print-page")
    assert pages.count() == len(report.evaluation.cases)
    for printed, case in zip(pages.all(), report.evaluation.cases, strict=True):
        assert case.case in printed.locator("h2").inner_text()
        assert printed.locator("table").is_visible()
        assert printed.locator("svg path").count() >= 2 * len(case.rois)
        assert printed.locator("img").evaluate("image => image.naturalWidth") > 800
    assert not page.locator(".top").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert pages.count() == 0


def test_print_from_the_menu_works_without_slices(window, report):
    page = window.show_cohort()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".print-page svg").count() == len(report.evaluation.cases)
    assert "Slices are printed with the report's own Print button" in page.locator("#printed").text_content()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".print-page").count() == 0


def test_the_record_can_be_downloaded(window, report):
    page = window.show_cohort()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download record").click()
    assert download.value.suggested_filename == "result.json"
    content = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert content == report.evaluation.to_json()


def test_an_unknown_case_in_the_address_shows_the_cohort(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    page.evaluate("() => { location.hash = '#case=nobody'; }")
    page.locator("#cohort h1").wait_for()
    assert page.locator("#cohort h1").is_visible()
    assert not page.locator("#patient").is_visible()


def test_a_case_that_was_left_out_and_one_without_pictures(browser, report, tmp_path):
    shown, undrawn = (case.case for case in report.evaluation.cases)
    copy = tmp_path / "Dataset501_Copy"
    shutil.copytree(report.dataset.folder, copy)
    (copy / "imagesTr" / f"{undrawn}_0000.nii.gz").write_bytes(b"no CT")
    evaluation = replace(report.evaluation, left_out={"bad": "<b> is damaged"}, n_dataset_cases=3)
    path, refusals = tmp_path / "report.html", Refusals(tmp_path / "errors.log")
    parts = CaseParts(tmp_path / "parts", evaluation.template, refusals.reasons)
    show = Show(parts.keep, refusals)
    assert evaluate_folder(RawDataset(copy), report.predictions, show=show).cases == evaluation.cases
    assert list(refusals.reasons) == [undrawn]
    write_report(evaluation, parts, path)
    window = Window(browser, Made(path, evaluation, report.dataset, report.predictions))
    page = window.show_cohort()
    text = page.locator("#cohort").inner_text()
    assert "Left out, 1 of 3 cases:" in text
    assert "bad: <b> is damaged" in text
    assert "2 of 3 cases evaluated. 1 could not be scored, and no mean" in text
    page.evaluate("name => { location.hash = '#case=' + encodeURIComponent(name); }", undrawn)
    page.locator("#patient .problem").wait_for()
    assert page.locator("#patient .problem").inner_text().startswith("No DVH curves and no slices: ")
    assert page.locator("#patient table", has=page.locator("caption", has_text="Goals with a limit")).count() == 1
    assert page.locator("#problem").is_hidden()
    window.show_case(shown)
    page.evaluate("() => { location.hash = ''; }")
    page.locator("#cohort h1").wait_for()
    page.get_by_role("button", name="Print").click()
    page.wait_for_function("() => window.printed === 1")
    assert page.locator("#printed .problem").count() == 1
    window.check()
    page.context.close()


def test_a_report_of_one_case_uses_the_singular(browser, report, tmp_path):
    case = report.evaluation.cases[0]
    evaluation = replace(report.evaluation, cases=(case,), scores=pooled_scores((case,)), n_dataset_cases=1)
    made = Made(tmp_path / "report.html", evaluation, report.dataset, report.predictions)
    write_report(evaluation, made.parts(tmp_path / "parts"), made.path)
    window = Window(browser, made)
    page = window.show_cohort()
    assert page.locator("#subtitle").inner_text().startswith("1 case, template ")
    text = page.locator("#cohort").inner_text()
    assert "1 of 1 case evaluated." in text
    assert re.findall(r"\b1 (?:cases|ROIs|verdicts|goals|patients|metrics)\b", text) == []
    window.check()
    window.page.context.close()


def test_the_first_screen_says_it_in_one_sentence(window, report):
    page = window.show_cohort()
    goals = report.evaluation.scores.goals.values()
    changed, judged = sum(goal.n - goal.agree for goal in goals), sum(goal.n for goal in goals)
    worst = max(report.evaluation.cases, key=lambda case: case.dose_mae_gy)
    mean_gy = report.evaluation.scores.parts.target.dose_gy.mean_signed
    text = page.locator(".summary").inner_text()
    assert text.startswith(f"{changed} of {judged} verdicts {'changes' if changed == 1 else 'change'}, ")
    assert f"targets {-mean_gy:.1f} Gy cold; worst {worst.case} (dose MAE {worst.dose_mae_gy:.2f} Gy)." in text
    page.locator(".summary a").click()
    page.locator("#patient h1").get_by_text(worst.case, exact=True).wait_for()


def test_next_and_keys_follow_the_order_of_the_table(window, report):
    page = window.show_cohort()
    worst, best = (c.case for c in sorted(report.evaluation.cases, key=lambda c: -c.dose_mae_gy))

    def sort(*order):
        for _ in range(3):
            if first_column(page, "Click a heading to sort, a name") != list(order):
                page.get_by_role("button", name="Dose MAE (Gy)").click()
        assert first_column(page, "Click a heading to sort, a name") == list(order)

    sort(worst, best)
    title = page.locator("#patient h1")
    page.keyboard.press("j")
    title.get_by_text(worst, exact=True).wait_for()
    page.keyboard.press("j")
    title.get_by_text(best, exact=True).wait_for()
    page.keyboard.press("j")  # (there is no further one)
    page.keyboard.press("k")
    title.get_by_text(worst, exact=True).wait_for()
    page.get_by_role("button", name="Next").click()
    title.get_by_text(best, exact=True).wait_for()
    assert page.get_by_role("button", name="Next").is_disabled()
    window.show_cohort()
    sort(best, worst)
    page.get_by_role("link", name=best).last.click()
    page.get_by_role("button", name="Next").click()
    title.get_by_text(worst, exact=True).wait_for()


def test_a_table_is_saved_as_it_is_shown(window, report):
    case = report.evaluation.cases[0]
    page = window.show_case(case.case)
    table = page.locator("table", has=page.locator("caption", has_text="Goals with a limit"))
    with page.expect_download() as download:
        table.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "goals_with_a_limit.csv"
    rows = list(csv.reader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
    assert rows[0][:5] == ["Goal", "Limit", "Reference", "Predicted", "Difference"]
    assert len(rows) == 1 + sum(len(roi.goals) for roi in case.rois.values())
    metric = case.rois["PTV_7000"].metrics["D95%"]
    row = next(row for row in rows if row[0] == "PTV_7000 D95%")
    assert row[4] == f"{metric.difference:+.2f}"


def test_no_raw_keys_signs_of_zero_or_scores_without_unit(window, report):
    names = [case.case for case in report.evaluation.cases]
    for page in (window.show_case(names[0]), window.show_cohort()):
        text = page.locator("main").inner_text()
        for name in (*names, report.evaluation.dataset):
            text = text.replace(name, "")
        assert not re.search(r"\b[a-z]+_[a-z_]+\b", text)
        assert ">=" not in text
        assert "<=" not in text
        assert not re.search(rf"[-{MINUS}]0\.?0*(?![\d.])", text)
    score = report.evaluation.scores.ptv_score
    assert f"PTV score\n{score:.2f} Gy and %" in page.locator("#cohort").inner_text()
    assert page.evaluate("document.querySelector('.tiles').innerText").count("OAR score") == 1


def test_few_cases_are_points_without_a_box(window, report):
    page = window.show_cohort()
    widths = page.evaluate(
        "[...document.querySelectorAll('.distribution')].flatMap((c) => c.data.map((t) => t.line.width))"
    )
    assert set(widths) == {0}
    assert "too few to tell a distribution" in page.locator("#cohort").inner_text()


def n_pages(page, path):
    page.emulate_media(media="print")
    page.pdf(path=str(path), prefer_css_page_size=True)
    page.emulate_media(media="screen")
    return len(re.findall(rb"/Type\s*/Page\b", path.read_bytes()))


def test_a_patient_is_printed_on_one_page(window, report, tmp_path):
    page = window.show_case(report.evaluation.cases[0].case)
    counts = []
    for show in (lambda: None, window.show_cohort):
        show()
        before = page.evaluate("window.printed")
        page.get_by_role("button", name="Print").click()
        page.wait_for_function("n => window.printed > n", arg=before)
        counts.append(n_pages(page, tmp_path / "printed.pdf"))
        page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.evaluate("document.getElementById('printed').style.cssText = 'display: none !important'")
    alone = n_pages(page, tmp_path / "cohort.pdf")
    page.evaluate("document.getElementById('printed').style.cssText = ''")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert counts == [1, alone + len(report.evaluation.cases)]
