"""Goals, DVH curves, metrics and ranks of the report in a real browser."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dvh import metrics
from cdm_nnunet.evaluation.plan_ranks import PlanValues, ranks_of
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.rank_record import PlanRanks
from cdm_nnunet.images import read_image
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.folder import write_report_folder
from cdm_nnunet.report.page import write_report

from .conftest import Made, Window
from .reading import number, pixels, trace


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
