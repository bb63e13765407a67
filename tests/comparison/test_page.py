"""``compare.html`` in a real browser, and as a file."""

import re
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet.comparison.output import write_outputs
from cdm_nnunet.comparison.page import page
from cdm_nnunet.comparison.run import compare
from cdm_nnunet.comparison.sentences import title

from .conftest import uniform

HOSTILE = '</script><script>document.title="broken"</script><b>{{data}}'


@pytest.fixture(scope="module")
def comparison():
    return compare(
        (
            uniform("MAE", [-2.0, -1.5, 2.5, 3.0, -1.0, 2.0, 0.5]),
            uniform(HOSTILE, [-1.0, -1.0, 1.0, 0.5, 0.25, 1.5, 0.25]),
            uniform("third", [-2.5, -3.5, 4.5, 4.0, -3.0, 4.0, 5.5]),
        )
    )


@pytest.fixture
def opened(comparison, browser, tmp_path):
    """The page, opened; nothing may be said on the console or asked of the network."""
    file = tmp_path / "compare.html"
    file.write_text(page(comparison), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    view = context.new_page()
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(file.as_uri())
    view.wait_for_selector("#differences .main-svg")
    yield view
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_it_asks_nothing_of_a_network(comparison):
    text = page(comparison)
    assert not re.search(r"""(?:src|href)=["']https?:""", text)
    assert "default-src 'none'" in text
    assert text.count('id="plotly"') == 1
    assert "{{style}}" not in text


def test_it_shows_scores_and_reacts(opened, comparison):
    assert opened.title().startswith(HOSTILE)
    assert opened.locator(".tile").count() == 4
    assert opened.locator("#problem").is_hidden()
    assert opened.locator("#forest .scatterlayer .trace").count() == 4
    opened.get_by_label("Model").select_option("third")
    assert opened.locator(".tile").first.inner_text().startswith("Dose MAE\n3.86 Gy\nMAE: 1.79 Gy\n+116.0 %")
    opened.locator("#patients select").select_option(label="PTV_Low D95%")
    assert opened.locator("#slopes .scatterlayer path.point").count() == 14
    assert "PTV_Low D95% (Gy)" in opened.locator("#slopes").inner_text()
    opened.locator(".card", has=opened.get_by_role("heading", name="Differences")).locator("select").nth(
        1
    ).select_option("unit:Gy")
    assert "mean difference of absolute errors (Gy)" in opened.locator("#forest").inner_text()


def test_no_button_uploads_a_chart(opened):
    for chart in ("#forest", "#differences"):
        buttons = opened.locator(f"{chart} .modebar-btn")
        titles = {buttons.nth(k).get_attribute("data-title") for k in range(buttons.count())}
        assert titles == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}


def test_better_and_worse_lie_on_the_two_sides_of_zero(opened):
    low, high = opened.evaluate("() => document.querySelector('#forest').layout.xaxis.range")
    assert -low == high > 0
    words = opened.evaluate(
        "() => document.querySelector('#forest').layout.annotations.map((a) => [a.text, a.xref, a.x, a.xanchor])"
    )
    assert words == [["\u2190 better", "x", 0, "right"], ["worse \u2192", "x", 0, "left"]]


def test_print_keeps_charts_and_title(opened, comparison):
    opened.emulate_media(media="print", color_scheme="dark")
    opened.evaluate("() => { dispatchEvent(new Event('beforeprint')); }")
    opened.wait_for_selector("#differences .main-svg")
    assert opened.locator("h1").inner_text() == title(comparison)
    for chart in ("#forest", "#slopes", "#differences"):
        assert opened.locator(f"{chart} .main-svg").first.is_visible()
        assert opened.locator(f"{chart} .main-svg").first.bounding_box()["width"] <= 690
    ink = opened.evaluate("() => document.querySelector('#forest').layout.font.color")
    assert ink in ("#000", "#16202b")  # (dark on white, although the screen is dark)
    opened.evaluate("() => { dispatchEvent(new Event('afterprint')); }")
    opened.emulate_media(media="screen", color_scheme="light")


def test_goals_have_proper_signs(opened):
    text = opened.locator(".card", has=opened.get_by_role("heading", name="Goals")).inner_text()
    assert "PTV_High D95% \u2265 66.5 Gy" in text
    assert "SpinalCord D0.1cc \u2264 45 Gy" in text
    assert "leaderboard_" not in opened.locator("#content").inner_text()


def test_a_patients_line_opens_the_patient_also_without_images(opened, comparison):
    assert "No slices and DVH curves of patients: they were not requested." in opened.locator("#content").inner_text()
    links = opened.locator("#patients table tbody a")
    assert links.count() == 7
    worst = links.first.inner_text()
    links.first.click()
    assert opened.locator("#case h1").inner_text() == worst
    assert "they were not requested" in opened.locator("#no-images").inner_text()
    quantity = comparison.quantities[0]
    errors = quantity.as_written().patients[worst].errors
    row = opened.locator("#case tbody tr").first.inner_text()
    assert f"{errors['MAE']:.3f}" in row
    opened.locator("#back").click()
    opened.wait_for_selector("#differences .main-svg")


def test_cases_that_were_left_out_are_told(browser, tmp_path):
    models = (uniform("MAE", [-2.0, 1.5, 0.5]), uniform("CDM", [-1.0, 1.0]))
    (tmp_path / "left.html").write_text(page(compare(models, common_cases=True)), encoding="utf-8")
    context = browser.new_context()
    view = context.new_page()
    view.goto((tmp_path / "left.html").as_uri())
    view.wait_for_selector("#differences .main-svg")
    text = view.locator("#content").inner_text()
    assert view.locator(".notice").count() == 1
    assert "1 case of MAE (pt_02)" in view.locator(".notice").inner_text()
    assert "[object" not in text
    assert "null" not in text
    context.close()


def test_few_patients_are_points_only(comparison, browser, tmp_path):
    few = compare((uniform("MAE", [-2.0, 1.5, 0.5]), uniform("CDM", [-1.0, 1.0, 0.5])))
    (tmp_path / "few.html").write_text(page(few), encoding="utf-8")
    context = browser.new_context()
    view = context.new_page()
    view.goto((tmp_path / "few.html").as_uri())
    view.wait_for_selector("#differences .main-svg")
    kinds = view.evaluate(
        "() => ['#slopes', '#differences'].flatMap(c => document.querySelector(c).data.map(t => t.type))"
    )
    assert set(kinds) == {"scatter"}
    assert view.locator(".tile").first.inner_text().endswith("too few to tell")
    assert "3 patients: too few to tell" in view.locator("#differences").inner_text()
    context.close()


def test_tables_sort_and_name_patients(opened, comparison):
    table = opened.locator(".card", has=opened.get_by_role("heading", name="All numbers"))
    table.locator("select").select_option("roi")
    heading = table.get_by_role("button", name="Quantity")
    names = sorted(r.quantity.name for r in comparison.at("roi"))
    heading.click()
    assert table.locator("tbody th").all_inner_texts() == names
    heading.click()
    assert table.locator("tbody th").all_inner_texts() == names[::-1]
    table.locator("tbody th button").first.click()
    assert "SpinalCord D0.1cc (Gy)" in opened.locator("#slopes").inner_text()


def test_themes_and_a_narrow_window(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    opened.locator("#theme").click()
    light = opened.evaluate(background)
    opened.locator("#theme").click()
    assert opened.evaluate(background) != light
    opened.set_viewport_size({"width": 380, "height": 800})
    width = "document.documentElement.scrollWidth"
    for _ in range(40):  # (charts follow later; the page's policy forbids to wait for an expression)
        if opened.evaluate(width) <= 380:
            break
        opened.wait_for_timeout(250)
    assert opened.evaluate(width) <= 380


def test_a_thousand_patients_have_a_light_first_page(browser, tmp_path):
    rng = np.random.default_rng(0)
    errors = rng.normal(0.0, 2.0, 1000)
    models = (uniform("MAE", errors), uniform("CDM", errors * rng.normal(0.9, 0.2, 1000)))
    index = Path(write_outputs(compare(models, n_flips=999), tmp_path)["html"])
    assert index == tmp_path / "compare" / "index.html"
    assert index.stat().st_size < 300_000
    context = browser.new_context()
    view = context.new_page()
    view.set_default_timeout(60_000)
    said = []
    view.on("console", lambda message: said.append(message.text))
    view.goto(index.as_uri())
    assert view.locator(".tile").count() == 4
    view.locator("#patients table tbody tr").nth(999).wait_for(state="attached")
    assert view.locator("#slopes .scatterlayer .trace").count() <= 3
    paints = view.evaluate("() => performance.getEntriesByType('paint').map((one) => one.name)")
    assert "first-contentful-paint" in paints
    assert said == []
    context.close()
