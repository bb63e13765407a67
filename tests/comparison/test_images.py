"""Slices and DVH curves of both models on one patient: found by the evaluations, checked, packed, shown."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.cli import main as cli
from cdm_nnunet.comparison import page as pages
from cdm_nnunet.comparison.images import Images, find_images, pack_case
from cdm_nnunet.comparison.models import load_models
from cdm_nnunet.comparison.output import write_outputs
from cdm_nnunet.comparison.run import compare
from cdm_nnunet.dataset import CASES_FILE, RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.evaluation.sources import SOURCES_FILE
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.report.publish import EvaluationRequest, evaluate_and_publish

SHRUNK = {"MAE": 0.95, "CDM": 0.98, "third": 0.9}
MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Evaluations of three models on two synthetic patients, in the folder that is returned."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "raw").mkdir()
    convert(find_synthetic(n_training=2, n_test=0, coarseness=2.0), DatasetPlace(folder / "raw", 501, "Synthetic"))
    dataset = RawDataset(folder / "raw" / "Dataset501_Synthetic")
    for model, factor in SHRUNK.items():
        (folder / f"doses_{model}").mkdir()
        for case in dataset.cases:
            dose = read_image(dataset.dose_path(case))
            values = (factor * dose.values).astype(np.float32)
            write_image(replace(dose, path=folder / f"doses_{model}" / f"{case}.nii.gz", values=values))
        request = EvaluationRequest(folder / f"doses_{model}", folder / model, n_pictures=0, with_report=False)
        evaluate_and_publish(dataset, replace(request, n_processes=1))
    return folder


@pytest.fixture(scope="module")
def compared(evaluated):
    models = load_models([f"{name}={evaluated / name}" for name in SHRUNK])
    comparison = compare(models)
    return comparison, find_images(models, list(comparison.cases))


def opened(browser, path, case):
    """A case's view in a window without a network."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_offline(True)
    view = context.new_page()
    view.set_default_timeout(60_000)
    view.complaints = []
    view.on("console", lambda message: view.complaints.append(message.text))
    view.on("pageerror", lambda error: view.complaints.append(str(error)))
    view.goto(path.as_uri())
    view.locator("#patients table").get_by_role("link", name=case, exact=True).click()
    view.locator("#case .readout b").first.wait_for()
    view.locator("#case .dvh .scatterlayer path").first.wait_for(state="attached")
    return view


def readings(view):
    """Texts of the readout by their dose."""
    spans = view.locator("#case .readout span").all()
    return {span.inner_text().removesuffix(" " + (b := span.locator("b").inner_text())): b for span in spans}


def _wait_for_traces(view, n):
    for _ in range(100):  # (the page's policy forbids to wait for an expression)
        if view.locator("#case .dvh .scatterlayer .trace").count() == n:
            return
        view.wait_for_timeout(100)
    raise AssertionError(f"not {n} curves")


def pictures(view):
    shown = view.locator("#case canvas:visible")
    return [shown.nth(k).evaluate("c => c.toDataURL()") for k in range(4)]


def look_closer(view, compared):
    """Zoom, pan and window go with all four pictures; the place stays, and a jump finds the largest difference."""
    canvas = view.locator("#case canvas:visible").nth(1)
    whole, found = pictures(view), readings(view)
    seen = [whole]

    def drag(button, key=None):
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        middle = (box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        view.mouse.move(*middle)
        if key:
            view.keyboard.down(key)
        view.mouse.down(button=button)
        view.mouse.move(middle[0] + 40, middle[1] + 20, steps=3)
        view.mouse.up(button=button)
        if key:
            view.keyboard.up(key)
        view.mouse.move(5, 5)

    for act in (
        lambda: view.get_by_role("button", name="Magnify").click(),
        lambda: canvas.press("+"),
        lambda: drag("left", "Shift"),
        lambda: drag("right"),
        lambda: view.get_by_label("CT window").select_option("bone"),
        lambda: view.get_by_label("Colours").select_option("viridis"),
    ):
        act()
        seen.append(pictures(view))
    for k in range(3):
        assert len({shown[k] for shown in seen}) == len(seen)
    assert len({shown[3] for shown in seen}) == len(seen) - 1  # (the map of doses is not that of differences)
    assert readings(view) == found
    view.get_by_role("button", name="Whole slice").click()
    view.get_by_label("CT window").select_option("soft")
    view.get_by_label("Colours").select_option("jet")
    assert pictures(view) == whole
    one, two = (read_image(compared.files[model].predicted).values for model in ("MAE", "CDM"))
    view.get_by_role("button", name="Jump to the largest difference").click()
    largest = float(readings(view)[f"CDM {MINUS} MAE"].removesuffix(" Gy"))
    assert largest == pytest.approx(np.abs(two - one).max(), abs=0.11)


@pytest.mark.parametrize("form", ["file", "folder"])
def test_two_models_are_seen_on_one_patient(form, compared, browser, tmp_path, monkeypatch):
    comparison, images = compared
    monkeypatch.setattr(pages, "MOST_CASES_IN_A_FILE", 1 if form == "folder" else 2)
    files = write_outputs(comparison, tmp_path, images)
    assert (tmp_path / "compare.html").exists() == (form == "file")
    case = next(iter(comparison.cases))
    view = opened(browser, pages.Path(files["html"]), case)
    titles = view.locator("#case .columns h3")
    assert titles.all_inner_texts() == ["reference", "MAE", "CDM", f"CDM {MINUS} MAE"]
    assert view.locator("#case canvas:visible").count() == 4
    found = readings(view)
    doses = {name: float(found[name].removesuffix(" Gy")) for name in ("reference", "MAE", "CDM")}
    assert doses["reference"] > 50
    for name in ("MAE", "CDM"):
        assert doses[name] == pytest.approx(SHRUNK[name] * doses["reference"], abs=0.15)
    assert float(found[f"CDM {MINUS} MAE"].removesuffix(" Gy")) == pytest.approx(doses["CDM"] - doses["MAE"], abs=0.11)
    before = [view.locator("#case canvas:visible").nth(k).evaluate("c => c.toDataURL()") for k in range(4)]
    assert len(set(before)) == 4
    places = view.locator("#case figcaption .muted:visible")
    place = places.first.inner_text()
    view.locator("#case canvas:visible").nth(2).press("PageUp")
    assert len(set(places.all_inner_texts())) == 1
    assert places.first.inner_text() != place
    look_closer(view, images.cases[0])
    view.locator("#case .card select").nth(1).select_option(label=f"MAE {MINUS} reference")
    assert titles.last.inner_text() == f"MAE {MINUS} reference"
    assert f"MAE {MINUS} reference" in readings(view)
    n_rois = view.locator("#case .dvh + .controls input").count()
    assert view.locator("#case .dvh .scatterlayer .trace").count() == 3 * n_rois
    view.locator("#case .dvh + .controls input").first.uncheck()
    _wait_for_traces(view, 3 * (n_rois - 1))
    view.emulate_media(media="print")
    legend = view.locator("#case .legend")
    assert [legend.nth(k).is_visible() for k in range(2)] == [True, True]
    assert legend.last.locator("label:visible").count() == n_rois - 1
    assert not view.locator("#case .legend input:visible").count()
    view.emulate_media(media="screen")
    view.locator("#case select").first.select_option("third")
    view.locator("#case h3", has_text=f"third {MINUS} MAE").wait_for()
    view.locator("#back").click()
    view.locator("#differences .main-svg").first.wait_for()
    assert view.complaints == []
    view.context.close()


def test_a_folder_replaces_a_file_and_the_other_way_round(compared, tmp_path, monkeypatch):
    comparison, _ = compared
    monkeypatch.setattr(pages, "MOST_CASES_IN_A_FILE", 1)
    assert write_outputs(comparison, tmp_path)["html"] == str(tmp_path / "compare" / "index.html")
    index = (tmp_path / "compare" / "index.html").read_text(encoding="utf-8")
    assert '"n_terms"' not in index  # (the errors of patients are in a separate file)
    monkeypatch.setattr(pages, "MOST_CASES_IN_A_FILE", 2)
    assert write_outputs(comparison, tmp_path)["html"] == str(tmp_path / "compare.html")
    assert not (tmp_path / "compare").exists()
    (tmp_path / "compare").mkdir()
    with pytest.raises(InputError, match="is not a report of this software"):
        write_outputs(comparison, tmp_path)


def test_a_dose_that_was_not_evaluated_is_not_shown(compared):
    _, images = compared
    case = images.cases[0]
    swapped = replace(case, files={**case.files, "CDM": case.files["MAE"]})
    with pytest.raises(InputError, match="is not the dose of CDM that was evaluated: its dose MAE is"):
        pack_case(swapped, template=images.template)
    header, packed = pack_case(case, template=images.template)
    assert len(packed) < 360_000
    assert list(next(iter(header["curves"].values()))) == ["reference", "predicted", "other", "other-2"]


def test_what_is_not_at_hand_is_told(evaluated, tmp_path):
    models = load_models([f"{name}={evaluated / name}" for name in SHRUNK])
    case = [models[0].evaluation.cases[0].case]
    assert isinstance(find_images(models, case), Images)
    alone = replace(models[1], path=tmp_path)
    assert find_images([models[0], alone], case) == (
        "the evaluation of CDM does not say where its predictions are; evaluate again"
    )
    (tmp_path / SOURCES_FILE).write_text(json.dumps({"dataset": str(evaluated / "raw"), "predictions": "gone"}))
    assert "the folder of predictions of CDM is no longer there" in find_images([models[0], alone], case)


def test_rois_have_the_colours_of_the_structure_sets(evaluated, compared, tmp_path):
    comparison, images = compared
    cases = evaluated / "raw" / "Dataset501_Synthetic" / CASES_FILE
    text = cases.read_text(encoding="utf-8")
    content = json.loads(text)
    for case in content.values():
        case["source"]["colours"] = json.dumps({"Brainstem": "#123456"})
    try:
        cases.write_text(json.dumps(content), encoding="utf-8")
        models = load_models([f"{name}={evaluated / name}" for name in SHRUNK])
        coloured = find_images(models, list(comparison.cases))
    finally:
        cases.write_text(text, encoding="utf-8")
    assert coloured.template.roi("Brainstem").colour == "#123456"
    assert images.template.roi("Brainstem").colour is None


def test_an_evaluation_is_read_by_a_path_in_text(evaluated):
    folder = evaluated / "MAE"
    assert load_evaluation(str(folder)) == load_evaluation(folder) == load_evaluation(f"{folder}/result.json")


def test_images_can_be_left_out(evaluated, tmp_path):
    both = [f"{name}={evaluated / name}" for name in ("MAE", "CDM")]
    assert cli.main(["compare", *both, "-o", str(tmp_path / "with")]) == 0
    assert cli.main(["compare", *both, "-o", str(tmp_path / "without"), "--no-images"]) == 0
    sizes = [(tmp_path / name / "compare.html").stat().st_size for name in ("with", "without")]
    assert sizes[0] > sizes[1]
    texts = [(tmp_path / name / "compare.html").read_text(encoding="utf-8") for name in ("with", "without")]
    assert ['id="volume-0"' in text for text in texts] == [True, False]
    records = [(tmp_path / name / "comparison.json").read_bytes() for name in ("with", "without")]
    assert records[0] == records[1]
