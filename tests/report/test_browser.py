"""The report in a real browser."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.evaluation.run import Show, evaluate_folder
from cdm_nnunet.fence import Refusals
from cdm_nnunet.images import read_image
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.page import write_report
from cdm_nnunet.report.volumes import DOSE_STEP_GY

from .conftest import HOSTILE_CASE, HOSTILE_OAR, HOSTILE_ROI, Made, Window

MINUS = "\u2212"


def pixels(page, view=0):
    return page.evaluate("k => document.querySelectorAll('.view canvas')[k].toDataURL()", view)


def first_column(page, caption):
    table = page.locator("table", has=page.locator("caption", has_text=caption))
    return table.locator("tbody th").all_inner_texts()


def number(text):
    return float(text.replace(MINUS, "-").split()[0])


def test_the_cohort_shows_the_record(window, report):
    page = window.show_cohort()
    text = page.locator("#cohort").inner_text()
    scores = report.evaluation.scores.to_json()
    for value in (scores["dose_mae_gy"], scores["openkbp"]["dose_score"], scores["openkbp"]["dvh_score"]):
        assert f"{value:.2f} Gy" in text
    assert f"{scores['ptv_score']:.2f}" in text
    assert "2 of 2 cases of Dataset501_Synthetic were evaluated." in text
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
    page.get_by_role("link", name=by_error[0]).click()
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


def test_goals_and_verdicts_of_a_case(window, report):
    case = report.evaluation.cases[0]
    page = window.show_case(case.case)
    table = page.locator("#patient table", has=page.locator("caption", has_text="Goals with a limit"))
    rows = {row.locator("th").inner_text(): row.inner_text() for row in table.locator("tbody tr").all()}
    judged = {f"{roi} {g.metric}": (g, r) for roi, r in case.rois.items() for g in r.goals}
    assert rows.keys() == judged.keys()
    for name, (goal, roi) in judged.items():
        metric = roi.metrics[str(goal.metric)]
        assert f"{metric.reference:.2f} {metric.unit}" in rows[name]
        assert f"{metric.predicted:.2f} {metric.unit}" in rows[name]
        assert re.findall(r"pass|acceptable|fail\b", rows[name].replace("fails", ""))[:2] == [
            goal.reference,
            goal.predicted,
        ]
        assert ("prediction changes the verdict" in rows[name]) == (goal.reference != goal.predicted)
        both_fail = goal.reference == goal.predicted == "fail"
        assert ("reference fails too" in rows[name]) == both_fail
        assert (f"few voxels ({roi.n_voxels})" in rows[name]) == (roi.n_voxels < 100)


def test_dvh_hover_shows_values(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    page.locator(".dvh").scroll_into_view_if_needed()
    box = page.locator(".dvh .nsewdrag").bounding_box()
    x, y = page.evaluate(
        """() => { const plot = document.querySelector('.dvh'); const trace = plot.data[0];
        const k = trace.y.findIndex((v) => v < 60); const a = plot._fullLayout;
        return [a.xaxis.d2p(trace.x[k]), a.yaxis.d2p(trace.y[k])]; }"""
    )
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_selector(".dvh .hovertext")
    text = page.locator(".dvh .hoverlayer").text_content()
    assert re.search(r"at [\d.]+ Gy: reference [\d.]+ %, predicted [\d.]+ %", text)


def test_dvh_reads_the_exact_curve_within_its_stated_error(window, report):
    case = report.evaluation.cases[0].case
    page = window.show_case(case)
    slider = page.get_by_label("Dose at which the curves are read")
    slider.evaluate("node => { node.value = '30'; node.dispatchEvent(new Event('input')); }")
    stated = number(re.search(r"at most ([\d.]+) % of the volume", page.locator("#patient").inner_text())[1])
    dataset = report.dataset
    bits = read_image(dataset.image_path(case, 2)).values
    doses = (dataset.dose_path(case), report.predictions / f"{case}.nii.gz")
    rows = page.locator(".roi-list tbody tr").all()
    assert len(rows) >= 5
    for row in rows:
        name = row.locator("th").inner_text().strip()
        mask = (bits >> dataset.catalogue.bit(name)) & 1 == 1
        for dose, cell in zip(doses, row.locator("td").all()[:2], strict=True):
            exact = 100 * np.mean(read_image(dose).values[mask] >= 30)
            assert abs(number(cell.inner_text()) - exact) <= stated + 0.06


def test_hiding_an_roi_takes_it_from_curves_and_slices(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    before = pixels(page)
    page.locator(".roi-list label", has_text="PTV_7000").click()
    page.wait_for_function(
        "() => document.querySelector('.dvh').data.filter((t) => t.meta.roi === 'PTV_7000' && !t.visible).length === 2"
    )
    assert pixels(page) != before
    page.locator(".roi-list label", has_text="PTV_7000").click()
    assert pixels(page) == before


def test_slider_wheel_and_keys_move_the_slices(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    slider = page.get_by_label("Axial slice", exact=True)
    start, before = int(slider.input_value()), pixels(page)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == start + 1
    assert pixels(page) != before
    page.locator(".view canvas").first.hover()
    page.mouse.wheel(0, 100)
    page.wait_for_function("n => Number(document.querySelector('.view input').value) === n", arg=start)
    page.locator(".view canvas").first.focus()
    page.keyboard.press("PageDown")
    assert int(slider.input_value()) == start - 1
    sagittal = page.get_by_label("Sagittal slice", exact=True)
    x = int(sagittal.input_value())
    page.keyboard.press("ArrowRight")
    assert int(sagittal.input_value()) == x + 1


@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_readout_is_the_dose_at_that_place(window, report, view):
    """Orientation, cropping and quantisation at once: position and values are looked up in the files."""
    case = report.evaluation.cases[1].case
    page = window.show_case(case)
    paths = (report.dataset.dose_path(case), report.predictions / f"{case}.nii.gz", report.dataset.image_path(case, 0))
    images = [read_image(path, patient_axes=True) for path in paths]
    canvas = page.locator(".view canvas").nth(view)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    seen = []
    for across, down in ((0.3, 0.4), (0.5, 0.5), (0.62, 0.7), (0.45, 0.25)):
        canvas.click(position={"x": across * box["width"], "y": down * box["height"]})
        texts = page.locator(".readout b").all_inner_texts()
        position = [float(text) for text in re.findall(r"-?[\d.]+", texts[4].replace(MINUS, "-"))]
        where = [
            round((mm - origin) / step)
            for mm, origin, step in zip(
                position, images[0].grid.origin_xyz_mm, images[0].grid.spacing_xyz_mm, strict=True
            )
        ]
        reference, predicted, ct = (image.values[tuple(reversed(where))] for image in images)
        assert abs(number(texts[0]) - reference) <= DOSE_STEP_GY / 2 + 0.051
        assert abs(number(texts[1]) - predicted) <= DOSE_STEP_GY / 2 + 0.051
        assert abs(number(texts[2]) - (predicted - reference)) <= DOSE_STEP_GY + 0.051
        assert abs(number(texts[3]) - max(-1024, ct)) <= 18.5
        seen.append(where)
    right, down = {0: (0, 1), 1: (0, 2), 2: (1, 2)}[view]
    assert seen[2][right] > seen[0][right]  # to the patient's left, or to the back
    assert (seen[2][down] > seen[3][down]) == (view == 0)  # further down is posterior, or nearer the feet


def test_difference_switch_window_and_wash_change_the_picture(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    seen = [pixels(page)]
    for action in (
        lambda: page.get_by_label("predicted", exact=True).check(),
        lambda: page.get_by_label("difference", exact=True).check(),
        lambda: page.get_by_label("Difference scale").select_option("1"),
        lambda: page.get_by_label("CT window").select_option("bone"),
        lambda: page.get_by_label("dose wash").uncheck(),
        lambda: page.get_by_label("contours").uncheck(),
        lambda: page.get_by_label(re.compile(r"^20 %")).check(),
    ):
        action()
        seen.append(pixels(page))
    assert len(set(seen)) == len(seen)
    assert "predicted colder" in page.locator(".colourbar").inner_text()
    page.get_by_label("contours").check()
    page.get_by_label("dose wash").check()
    page.get_by_label("reference", exact=True).check()


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


def test_intervals_and_gamma_are_shown_and_fit(browser, ensemble_report):
    evaluation = ensemble_report.evaluation
    window = Window(browser, ensemble_report)
    text = window.show_cohort().locator("#cohort").inner_text()
    coverage = evaluation.scores.to_json()["coverage"]
    assert f"References in their 50 % interval\n{coverage['observed_percent']:.2f} %\nn = {coverage['n']}" in text
    assert f"calibrated on {len(evaluation.cases)} cases" in text
    for gamma in evaluation.scores.to_json()["dose"]["gamma"]:
        scope = "local" if gamma["local"] else "global"
        name = f"Gamma {gamma['dose_percent']:g} % / {gamma['distance_mm']:g} mm {scope}, from 10 %"
        assert f"{name}\n{gamma['mean_percent']:.2f} %" in text
    case = evaluation.cases[0]
    page = window.show_case(case.case)
    goals = page.locator("table", has=page.locator("caption", has_text="Goals with a limit"))
    shown = goals.inner_text()
    judged = [(roi.metrics[str(goal.metric)], goal) for roi in case.rois.values() for goal in roi.goals]
    intervals = [metric.interval for metric, _ in judged if metric.interval is not None]
    assert len(intervals) > 3
    for low, high in intervals:
        assert f"[{low:.2f}, {high:.2f}]" in shown
    certainties = goals.locator("tbody td:nth-child(7)").all_inner_texts()
    assert sorted(text.split()[-1] for text in certainties) == sorted(goal.certainty or "\u2013" for _, goal in judged)
    assert goals.evaluate("table => table.scrollWidth <= table.parentElement.clientWidth")
    assert "Paddick conformity" in page.locator("#patient").text_content()
    window.check()
    window.page.context.close()


def test_names_from_data_stay_text(hostile_window):
    page = hostile_window.show_cohort()
    assert HOSTILE_CASE in first_column(page, "Click a heading to sort, a name")
    labels = page.locator(".distribution .yaxislayer-above").first.text_content()
    assert HOSTILE_ROI in labels
    page.get_by_role("link", name=HOSTILE_CASE).click()
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
    assert "2 of 3 cases of Dataset501_Synthetic were evaluated. 1 could not be scored, and no mean" in text
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
