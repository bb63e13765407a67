"""The slices of the report in a real browser: doses, differences, gamma, zoom, profile."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.evaluation.doses import gamma_failures
from cdm_nnunet.evaluation.pairing import find_cases, read_case
from cdm_nnunet.images import on_patient_axes, read_image
from cdm_nnunet.report.volumes import DOSE_STEP_GY

from .conftest import Window
from .reading import MINUS, number, pixels


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
