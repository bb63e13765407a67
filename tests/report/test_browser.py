"""The report in a real browser."""

import csv
import itertools
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import metrics
from cdm_nnunet.evaluation.doses import gamma_failures
from cdm_nnunet.evaluation.pairing import find_cases, read_case
from cdm_nnunet.evaluation.plan_ranks import PlanValues, ranks_of
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.rank_record import PlanRanks
from cdm_nnunet.evaluation.run import Show, evaluate_folder
from cdm_nnunet.fence import Refusals
from cdm_nnunet.images import on_patient_axes, read_image
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.folder import write_report_folder
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
    assert "Dataset501_Synthetic: 2 of 2 cases evaluated." in text
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
    page.locator("#patient h1").hover()
    before = pixels(page)
    page.locator(".roi-list label", has_text="PTV_7000").click()
    page.wait_for_function(
        "() => document.querySelector('.dvh').data.filter((t) => t.meta.roi === 'PTV_7000' && !t.visible).length === 2"
    )
    assert pixels(page) != before
    page.locator(".roi-list label", has_text="PTV_7000").click()
    page.locator("#patient h1").hover()  # (under the pointer an ROI is drawn thicker)
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


def test_the_gamma_map_shows_the_voxels_that_fail(browser, ensemble_report):
    window = Window(browser, ensemble_report)
    case = ensemble_report.evaluation.cases[0]
    page = window.show_case(case.case)
    (files,) = find_cases(ensemble_report.dataset, ensemble_report.predictions, only=(case.case,))
    images = read_case(files)
    failed = gamma_failures(images.pair, ensemble_report.gamma)
    judged = images.pair.reference_dose_gy >= 7
    rate = case.dose.gamma[0]
    assert 100 * (1 - failed[judged].mean()) == pytest.approx(rate.pass_percent)
    page.get_by_label("gamma", exact=True).check()
    bar = page.locator(".colourbar").inner_text()
    assert f"{rate.pass_percent:.1f} % of {rate.n_voxels} voxels pass" in bar
    assert "Gamma 3 % / 2 mm global, from 10 %" in bar
    image = on_patient_axes(replace(images.reference, values=failed.astype(np.uint8)))
    grid, canvas = image.grid, page.locator(".view canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    seen = set()
    for across, down in itertools.product((0.15, 0.3, 0.4, 0.5, 0.6, 0.75, 0.85), (0.25, 0.4, 0.5, 0.6, 0.75)):
        canvas.click(position={"x": across * box["width"], "y": down * box["height"]})
        texts = page.locator(".readout b").all_inner_texts()
        position = [float(text) for text in re.findall(r"-?[\d.]+", texts[4].replace(MINUS, "-"))]
        where = tuple(
            round((mm - origin) / step)
            for mm, origin, step in zip(position, grid.origin_xyz_mm, grid.spacing_xyz_mm, strict=True)
        )[::-1]
        assert texts[6] == ("above 1" if image.values[where] else "not above 1")
        seen.add(texts[6])
    assert seen == {"above 1", "not above 1"}
    shown = pixels(page)
    page.get_by_label("dose wash").uncheck()
    assert pixels(page) != shown
    window.check()
    window.page.context.close()


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
    assert "Dataset501_Synthetic: 2 of 3 cases evaluated. 1 could not be scored, and no mean" in text
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


def trace(page, roi):
    """The markers of an ROI's goals in the DVH, and the names of the ROIs that are fully drawn."""
    return page.evaluate(
        """(roi) => { const plot = document.querySelector('.dvh');
        const one = plot.data.find((t) => t.meta.goalsOf === roi);
        const of = (t) => t.meta.roi ?? t.meta.goalsOf;
        return { x: one && [...one.x], y: one && [...one.y], text: one && one.hovertext,
          bright: [...new Set(plot.data.filter((t) => (t.opacity ?? 1) === 1).map(of))] }; }""",
        roi,
    )


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


def test_limits_of_goals_stand_at_their_place_in_the_dvh(window, report):
    case = report.evaluation.cases[0]
    page = window.show_case(case.case)
    expected = {
        "PTV_7000": (66.5, 95.0),
        "SpinalCord": (45.0, 100 * 0.1 / case.rois["SpinalCord"].volume_cc),
        "Parotid_L": (26.0, 0.0),
    }
    for roi, (dose_gy, percent) in expected.items():
        marks = trace(page, roi)
        assert (marks["x"], marks["y"]) == ([pytest.approx(dose_gy)], [pytest.approx(percent)])
    goal = case.rois["PTV_7000"].goals[0]
    verdicts = f"reference {goal.reference}, predicted {goal.predicted}"
    assert trace(page, "PTV_7000")["text"] == [f"PTV_7000 D95% \u2265 66.5 Gy: {verdicts}"]
    page.locator(".roi-list label", has_text="PTV_7000").click()
    page.wait_for_function("() => !document.querySelector('.dvh').data.some((t) => t.meta.goalsOf === 'PTV_7000')")
    page.locator(".roi-list label", has_text="PTV_7000").click()


@pytest.mark.parametrize("width", [420, 1300])
def test_names_on_curves_do_not_overlap(window, report, width):
    window.page.set_viewport_size({"width": width, "height": 900})
    page = window.show_case(report.evaluation.cases[0].case)
    boxes = page.evaluate(
        """() => [...document.querySelectorAll('.dvh .annotation-text')].map((node) => {
        const { left, right, top, bottom } = node.getBoundingClientRect(); return [left, right, top, bottom]; })"""
    )
    assert len(boxes) >= 3
    for k, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:k]:
            assert left >= other[1] - 2 or right <= other[0] + 2 or top >= other[3] - 2 or bottom <= other[2] + 2


def test_goal_curve_and_contour_light_up_together(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    page.mouse.move(5, 5)
    before = pixels(page)
    row = page.locator("#patient tr[data-roi=PTV_7000]").first
    row.hover()
    page.wait_for_function("() => document.querySelectorAll('tr.lit').length >= 2")
    assert trace(page, "PTV_7000")["bright"] == ["PTV_7000"]
    assert {lit.get_attribute("data-roi") for lit in page.locator("tr.lit").all()} == {"PTV_7000"}
    assert pixels(page) != before
    page.locator("#patient h1").hover()
    page.wait_for_function("() => !document.querySelector('tr.lit')")
    assert len(trace(page, "PTV_7000")["bright"]) > 5
    assert pixels(page) == before


def test_zoom_pan_and_window_change_the_picture_and_keep_the_place(window, report):
    case = report.evaluation.cases[1].case
    page = window.show_case(case)
    images = [
        read_image(path, patient_axes=True)
        for path in (report.dataset.dose_path(case), report.predictions / f"{case}.nii.gz")
    ]
    seen = [pixels(page)]
    canvas = page.locator(".view canvas").first

    def drag(button, *, shift=False):
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        middle = (box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.move(*middle)
        if shift:
            page.keyboard.down("Shift")
        page.mouse.down(button=button)
        page.mouse.move(middle[0] + 60, middle[1] + 30, steps=4)
        page.mouse.up(button=button)
        page.keyboard.up("Shift")

    for act in (
        lambda: page.get_by_role("button", name="Magnify").click(),
        lambda: page.get_by_role("button", name="Magnify").click(),
        lambda: drag("left", shift=True),
        lambda: drag("right"),
    ):
        act()
        seen.append(pixels(page))
    assert len(set(seen)) == len(seen)
    assert "level" in page.locator("#patient").inner_text()
    places = []
    box = canvas.bounding_box()
    for across, down in ((0.2, 0.3), (0.5, 0.5), (0.8, 0.7)):
        canvas.click(position={"x": across * box["width"], "y": down * box["height"]})
        texts = page.locator(".readout b").all_inner_texts()
        position = [float(text) for text in re.findall(r"-?[\d.]+", texts[4].replace(MINUS, "-"))]
        grid = images[0].grid
        where = [
            round((mm - origin) / step)
            for mm, origin, step in zip(position, grid.origin_xyz_mm, grid.spacing_xyz_mm, strict=True)
        ]
        for image, text in zip(images, texts, strict=False):
            assert abs(number(text) - image.values[tuple(reversed(where))]) <= DOSE_STEP_GY / 2 + 0.051
        places.append(position)
    whole_mm = images[0].values.shape[2] * images[0].grid.spacing_xyz_mm[0]
    assert 0 < places[2][0] - places[0][0] < 0.6 * whole_mm / 1.5**2 + 2 * images[0].grid.spacing_xyz_mm[0]
    page.get_by_role("button", name="Whole slice").click()
    page.get_by_label("CT window").select_option("bone")
    page.get_by_label("CT window").select_option("soft")


def test_jump_goes_to_the_largest_difference(window, report):
    case = report.evaluation.cases[0].case
    page = window.show_case(case)
    reference, predicted = (
        read_image(path).values for path in (report.dataset.dose_path(case), report.predictions / f"{case}.nii.gz")
    )
    bits = read_image(report.dataset.image_path(case, 2)).values
    mask = (bits >> report.dataset.catalogue.bit("Parotid_L")) & 1 == 1
    washed = np.maximum(reference, predicted) >= 7
    for roi, where in (("", washed), ("Parotid_L", mask)):
        page.get_by_label("Where to look for the largest difference").select_option(roi)
        page.get_by_role("button", name="Jump to the largest difference").click()
        texts = page.locator(".readout b").all_inner_texts()
        largest = np.abs(predicted - reference)[where].max()
        assert abs(abs(number(texts[2])) - largest) <= DOSE_STEP_GY + 0.051
        assert roi in texts[5]


def test_a_profile_shows_both_doses_along_a_line(window, report):
    case = report.evaluation.cases[0].case
    page = window.show_case(case)
    page.get_by_text("Dose along a line through the crosshair").click()
    lines = page.locator(".profile path[class]")
    assert [line.get_attribute("class") for line in lines.all()] == ["reference", "predicted"]
    along_x = lines.first.get_attribute("d")
    page.get_by_label("Line", exact=True).select_option("z")
    assert lines.first.get_attribute("d").count("L") != along_x.count("L")
    before = lines.last.get_attribute("d")
    page.get_by_label("Sagittal slice", exact=True).focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("d => document.querySelector('.profile path.predicted').getAttribute('d') !== d", arg=before)


KEYS = [
    "D40%",
    "D95%",
    "D99.5%",
    "D0.03cc",
    "DC1cc",
    "V33Gy",
    "V20Gy[cc]",
    "V95%",
    "CV15Gy[cc]",
    "Dmean",
    "Dmin",
    "Dmax",
]


def test_a_typed_metric_is_that_of_the_ruler_to_the_last_digit(window, report):
    case = report.evaluation.cases[0]
    page = window.show_case(case.case)
    bits = read_image(report.dataset.image_path(case.case, 2)).values
    images = [read_image(p) for p in (report.dataset.dose_path(case.case), report.predictions / f"{case.case}.nii.gz")]
    spacing_mm = images[0].grid.spacing_zyx_mm
    n_digits = []
    for key in KEYS:
        page.get_by_label("Metric", exact=True).last.fill(key)
        rows = page.locator(".metrics tbody tr").all()
        assert len(rows) >= 5
        for row in rows:
            roi = row.get_attribute("data-roi")
            mask = (bits >> report.dataset.catalogue.bit(roi)) & 1 == 1
            for image, cell in zip(images, row.locator("td").all_inner_texts(), strict=False):
                prescription = case.rois[roi].prescription_gy
                if (key == "V95%" and prescription is None) or (key == "DC1cc" and case.rois[roi].volume_cc < 1):
                    assert not re.search(r"\d\.\d\d", cell)
                    continue
                expected = metrics(image.values, mask, spacing_mm, key, prescription_gy=prescription)[key]
                digits = len(cell.partition(".")[2])
                assert cell == f"{expected:.{digits}f}", (key, roi)
                n_digits.append(digits)
    assert np.mean(np.array(n_digits) == 2) > 0.8


@pytest.mark.parametrize("text", ["", "D95", "V20", "D101%", "V0Gy", "HI", "D5Gy", "V5cc", "<img src=x>"])
def test_a_typed_text_that_is_no_metric_says_what_is(window, report, text):
    page = window.show_case(report.evaluation.cases[0].case)
    page.get_by_label("Metric", exact=True).last.fill(text)
    assert "Such are D95%, D0.1cc" in page.locator(".metrics").inner_text()
    assert page.locator(".metrics table").count() == 0


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


EVERY_TENTH_PIXEL = """() => {
    const { width, height } = document.querySelector('.view canvas');
    const copy = new OffscreenCanvas(width, height);
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(document.querySelector('.view canvas'), 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    return [...data].filter((_, i) => i % 40 < 3);
}"""


def test_the_difference_map_is_clear_where_doses_agree(browser, report):
    window = Window(browser, report)  # (a new one: others have moved the slices and zoomed)
    page = window.show_case(report.evaluation.cases[0].case)
    page.get_by_label("contours").uncheck()
    for label in (r"^95 %", r"^50 %"):
        page.get_by_label(re.compile(label)).uncheck()
    page.get_by_label("difference", exact=True).check()
    colours = {}
    for span in ("20", "1"):
        page.get_by_label("Difference scale").select_option(span)
        for wash in (True, False):
            page.get_by_label("dose wash").set_checked(wash)
            colours[span, wash] = page.evaluate(EVERY_TENTH_PIXEL)
    window.page.context.close()
    shown = {key: np.array(values).reshape(-1, 3) for key, values in colours.items()}
    changes = {span: np.abs(shown[span, True] - shown[span, False]).max(axis=1) for span in ("20", "1")}
    both = (changes["20"] > 0) & (changes["1"] > 0)
    assert both.mean() > 0.05
    assert np.median(changes["20"][both]) < 0.75 * np.median(changes["1"][both])  # (on a wide scale they nearly agree)


def test_what_rests_on_missing_dose_is_marked(browser, report, tmp_path):
    first, *others = report.evaluation.cases
    stem = first.rois["Brainstem"]
    goals = tuple(replace(g, reference="not evaluable", predicted="not evaluable", reason="dose") for g in stem.goals)
    changed = replace(stem, goals=goals, outside_region_percent=91.5)
    cases = (replace(first, rois={**first.rois, "Brainstem": changed}), *others)
    evaluation = replace(report.evaluation, cases=cases, scores=pooled_scores(cases))
    parts = CaseParts(report.path.parents[1] / "parts", evaluation.template)
    made = Made(tmp_path / "report.html", evaluation, report.dataset, report.predictions)
    write_report(evaluation, parts, made.path)
    window = Window(browser, made)
    page = window.show_case(first.case)
    assert page.locator(".roi-list", has_text="Brainstem (91.5 % outside the dose region)").count() == 1
    row = page.locator("tr[data-roi=Brainstem]").first.inner_text()
    assert row.count("not evaluable") == 2
    assert "verdict changes" not in row
    judged = sum(goal.agree is not None for case in cases for roi in case.rois.values() for goal in roi.goals)
    assert f" of {judged} verdicts change" in window.show_cohort().locator(".summary").inner_text()
    window.page.evaluate("name => { location.hash = '#case=' + encodeURIComponent(name); }", first.case)
    window.page.locator(".readout b").first.wait_for()
    window.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert "Brainstem (91.5 % outside" in window.page.locator("#printed svg").text_content()
    window.check()
    window.page.context.close()


CORD_GY = {"a": 9.0, "b": 11.0, "c": 12.0, "d": 30.0, "e": 60.0, "f": 61.0}


@pytest.fixture(scope="module")
def many(browser, report, tmp_path_factory):
    """Six cases of one patient's images. Each has another dose in the cord, where the prediction has 15.5 Gy."""
    folder = tmp_path_factory.mktemp("many")
    first = report.evaluation.cases[0]

    def of(name, cord_gy):
        cord = first.rois["SpinalCord"]
        metric = replace(cord.metrics["D0.1cc"], reference=cord_gy, predicted=15.5)
        cord = replace(cord, metrics={**cord.metrics, "D0.1cc": metric})
        for path in (report.path.parents[1] / "parts").glob(f"{first.case}.*"):
            shutil.copy(path, folder / path.name.replace(first.case, name))
        header = json.loads((folder / f"{name}.json").read_text())
        header["curves"]["SpinalCord"] = {
            dose: [[0.0, gy, gy], [100.0, 100.0, 0.0]] for dose, gy in (("reference", cord_gy), ("predicted", 15.5))
        }
        (folder / f"{name}.json").write_text(json.dumps(header))
        return replace(first, case=name, patient=name, rois={"SpinalCord": cord})

    cases = tuple(of(*entry) for entry in CORD_GY.items())
    plans = [
        PlanValues(patient=str(k), prescription_gy=first.prescription_gy, values={"SpinalCord D0.1cc": 10.0 + k})
        for k in range(40)
    ]
    ranks = PlanRanks(cohort="training", n_plans=40, n_unread=2, cases=ranks_of(cases, plans))
    evaluation = replace(
        report.evaluation, cases=cases, scores=pooled_scores(cases), n_dataset_cases=46, plan_ranks=ranks
    )
    made = Made(folder / "report.html", evaluation, report.dataset, report.predictions)
    write_report(evaluation, CaseParts(folder, evaluation.template), made.path)
    window = Window(browser, made)
    yield window
    window.page.context.close()


def test_a_plan_is_ranked_among_the_plans_of_the_data_set(many):
    """Forty training plans with 10 to 49 Gy."""
    shown = {}
    for name in CORD_GY:
        page = many.show_case(name)
        row = page.locator("#patient table", has=page.locator("caption", has_text="Goals with a limit"))
        row = row.locator("tr[data-roi=SpinalCord]")
        shown[name] = row.locator("td").nth(5).inner_text()
        is_unusual = CORD_GY[name] < 10 or CORD_GY[name] > 50
        assert f"Unusual plan by {int(is_unusual)} of 1 goal. " in page.locator("#patient").inner_text()
        assert (row.locator(".unusual").count() == 1) == is_unusual
        assert ("unusual plan" in row.locator("td").last.inner_text()) == is_unusual
    assert shown["a"] == "0 % of 40, the lowest (15 %)"
    assert shown["c"] == "6 % of 40 (15 %)"  # (two below, and one as high, which counts half)
    assert shown["e"] == "100 % of 40, the highest (15 %)"
    text = page.locator("#patient").inner_text()
    assert "of the 40 training cases of the data set (2 more can't be read) that have a lower value" in text
    page.evaluate("() => { location.hash = ''; }")
    page.locator("#cohort h1").wait_for()
    unusual = page.locator("#cohort table", has=page.get_by_role("button", name="Unusual goals"))
    rows = {row.locator("th").inner_text(): row.inner_text() for row in unusual.locator("tbody tr").all()}
    assert {name for name, text in rows.items() if "1 of 1" in text} == {"a", "e", "f"}
    many.check()


def test_the_cohort_has_bands_of_dvh_curves(many, report, tmp_path):
    page = many.page
    page.evaluate("() => { location.hash = ''; }")
    charts = page.locator(".bands figure")
    charts.first.wait_for()
    names = [caption.split()[0] for caption in charts.locator("figcaption").all_inner_texts()]
    header = json.loads((many.made.path.parent / "a.json").read_text())
    assert sorted(names) == sorted(header["curves"])
    cord = page.locator(".bands svg").nth(names.index("SpinalCord"))
    cord.scroll_into_view_if_needed()
    box = cord.bounding_box()
    highest_gy = 0.5 * np.ceil(2 * max(curve[0][-1] for both in header["curves"].values() for curve in both.values()))
    page.mouse.move(box["x"] + (30 + 224 * 20.0 / highest_gy) / 260 * box["width"], box["y"] + 20)
    text = page.locator(".card", has=charts).inner_text()
    # three of six have a higher dose than 20 Gy
    assert "SpinalCord at 20.0 Gy: reference 50.0 % (0.0 to 100.0), predicted 0.0 % (0.0 to 0.0)" in text
    assert cord.locator("path.reference").count() == 2
    assert cord.locator("path.predicted").count() == 3
    evaluation = many.made.evaluation
    write_report_folder(evaluation, CaseParts(many.made.path.parent, evaluation.template), tmp_path / "report")
    packed = re.compile(r'id="bands">([^<]*)<')
    of_file, of_folder = (
        packed.search(path.read_text())[1] for path in (many.made.path, tmp_path / "report" / "data" / "bands.html")
    )
    assert of_file == of_folder
    many.check()


def test_few_cases_have_no_bands(window, report):
    assert "DVH curves of the cohort" not in window.show_cohort().locator("#cohort").inner_text()


def test_few_plans_are_not_ranked(window, report):
    page = window.show_case(report.evaluation.cases[0].case)
    assert "Plans below" not in page.locator("#patient").inner_text()


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
