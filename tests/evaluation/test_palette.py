"""Colours that everybody can distinguish. Simulated colour vision: Machado, Oliveira, Fernandes 2009, severity 1."""

import itertools
import json

import numpy as np
import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.palette import (
    COLOURS,
    DARK_GROUND,
    ISODOSES,
    LEAST_CONTRAST,
    contrast,
    on_dark,
    on_white,
    roi_styles,
    shown_template,
    strokes,
)
from cdm_nnunet.roi import Catalogue, Roi

from .conftest import Case, write_dataset

VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
LEAST_DISTANCE = 12.0  # in CIELAB, where 2.3 can just be seen
GROUNDS = pytest.mark.parametrize("ground", [0, 1], ids=["white", "dark"])


def cielab(colour: str, vision: str) -> np.ndarray:
    levels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(VISION[vision]) @ light, 0, 1)
    x, y, z = TO_XYZ @ seen / (0.9505, 1.0, 1.089)
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def distance(one: str, other: str, vision: str) -> float:
    return float(np.linalg.norm(cielab(one, vision) - cielab(other, vision)))


def template_of(*rois: dict) -> Template:
    goals = [{"roi": rois[0]["name"], "metric": "Dmean"}]
    return Template.from_json({"format_version": 1, "name": "t", "rois": list(rois), "goals": goals}, "t")


def of_many(n_targets: int, n_oars: int) -> Template:
    targets = [{"name": f"PTV_{k}", "kind": "target", "prescription_gy": 60} for k in range(n_targets)]
    return template_of(*targets, *({"name": f"Organ_{k}", "kind": "oar"} for k in range(n_oars)))


def test_contrast_is_that_of_wcag():
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ff0000", "#ffffff") == contrast("#ffffff", "#ff0000") == pytest.approx(4.0, abs=0.005)


@GROUNDS
@pytest.mark.parametrize("vision", VISION)
def test_all_colours_are_told_apart_in_every_vision(ground, vision):
    for one, other in itertools.combinations([pair[ground] for pair in COLOURS], 2):
        assert distance(one, other, vision) > LEAST_DISTANCE, (one, other)


@GROUNDS
def test_all_colours_are_seen_on_their_ground(ground):
    for pair in COLOURS:
        assert contrast(pair[ground], ("#ffffff", DARK_GROUND)[ground]) >= LEAST_CONTRAST


@pytest.mark.parametrize("vision", VISION)
def test_no_isodose_looks_like_a_contour(vision):
    for isodose, (_, contour) in itertools.product(ISODOSES.values(), COLOURS):
        assert distance(isodose, contour, vision) > LEAST_DISTANCE


@pytest.mark.parametrize(("n_targets", "n_oars"), [(3, 27), (0, 30), (10, 20), (4, 60)])
def test_no_two_rois_have_the_same_colour_and_strokes(n_targets, n_oars):
    styles = roi_styles(of_many(n_targets, n_oars)).values()
    curves = {(style.light, style.strokes(role)) for style in styles for role in ("reference", "predicted", "other")}
    assert len(curves) == 3 * (n_targets + n_oars)
    assert len({(style.dark, style.dots) for style in styles}) == n_targets + n_oars


def test_up_to_ten_rois_have_plain_lines():
    """Reference unbroken, prediction in short strokes; the dose region, which is never drawn, takes no plain line."""
    styles = roi_styles(Template.load("openkbp"))
    assert {style.strokes("reference") for name, style in styles.items() if name != "DoseRegion"} == {()}
    assert styles["DoseRegion"].dots == 1


def test_strokes_of_the_reference_are_longer():
    for dots in range(1, 5):
        lengths = [strokes(role, dots) for role in ("reference", "predicted", "other")]
        assert lengths[0][0] > 2 * lengths[1][0] > 4 * lengths[2][0] - 1
        assert {len(each) for each in lengths} == {2 + 2 * dots}


def test_a_colour_of_the_template_comes_first_and_others_keep_away_from_it():
    given, plain, same = "#0000CE", "Plain", "Same"
    template = template_of(
        {"name": "Cord", "kind": "oar", "colour": given},
        {"name": plain, "kind": "oar"},
        {"name": same, "kind": "oar", "colour": given},
    )
    styles = roi_styles(template)
    assert styles["Cord"].light == styles[same].light == given.lower()
    assert (styles["Cord"].dots, styles[same].dots) == (0, 1)
    assert distance(styles[plain].light, given, "normal") > LEAST_DISTANCE
    assert template.to_json()["rois"][0]["colour"] == given
    assert "colour" not in template.to_json()["rois"][1]


@pytest.mark.parametrize("colour", ["#ffffff", "#ffff00", "#000000", "#808080", "#00ff00"])
def test_a_given_colour_is_changed_until_it_is_seen(colour):
    assert contrast(on_white(colour), "#ffffff") >= LEAST_CONTRAST
    assert contrast(on_dark(colour), DARK_GROUND) >= LEAST_CONTRAST
    assert on_white("#000000") == "#000000"
    assert on_dark("#ffffff") == "#ffffff"


@pytest.mark.parametrize("colour", ["red", "#fff", "#gggggg", "#ff000000"])
def test_what_is_no_colour_is_refused(colour):
    with pytest.raises(InputError, match="colour"):
        template_of({"name": "Cord", "kind": "oar", "colour": colour})


def dataset_of(folder, *sources):
    """Cases with a cord, a stem and a lung, and the colours of their structure sets."""
    catalogue = Catalogue((Roi("Cord", "oar"), Roi("STEM", "oar"), Roi("Lung", "oar")))
    box = np.zeros((4, 4, 4), bool)
    box[1:3] = True
    cases = {
        f"c{k}": Case(np.ones(box.shape, np.float32), {"Cord": box}, source={"colours": json.dumps(colours)})
        for k, colours in enumerate(sources)
    }
    template = template_of({"name": "Cord", "kind": "oar"})
    return write_dataset(folder, {**cases, "bare": Case(np.ones(box.shape, np.float32), {})}, catalogue, template)


def test_most_structure_sets_say_the_colour_and_the_template_comes_before_them(tmp_path):
    dataset = dataset_of(
        tmp_path,
        {"Cord": "#00ff00", "STEM": "#102030", "Lung": "#ff00ff"},
        {"Cord": "#00ff00", "STEM": "#102030", "Lung": "#aa5500"},
        {"Cord": "#0000ff", "STEM": "#102030"},
    )
    assert dataset.roi_colours == {"Cord": "#00ff00", "STEM": "#102030"}  # (one half is no majority)
    template = template_of(
        {"name": "Cord", "kind": "oar"},
        {"name": "Brainstem", "kind": "oar", "aliases": ["STEM"], "colour": "#ABCDEF"},
        {"name": "Lung", "kind": "oar"},
        {"name": "Other", "kind": "oar"},
    )
    colours = {roi.name: roi.colour for roi in shown_template(template, dataset).rois}
    assert colours == {"Cord": "#00ff00", "Brainstem": "#ABCDEF", "Lung": None, "Other": None}
    bare = template_of({"name": "Brainstem", "kind": "oar", "aliases": ["STEM"]})
    assert shown_template(bare, dataset).roi("Brainstem").colour == "#102030"


def test_given_colours_that_are_alike_are_told_apart_by_dots():
    given = ["#ff0000", "#fa0505", "#0000ff", "#f50a0a", "#0505fa"]
    styles = roi_styles(template_of(*({"name": f"R{k}", "kind": "oar", "colour": c} for k, c in enumerate(given))))
    assert [styles[f"R{k}"].dots for k in range(5)] == [0, 1, 0, 2, 1]
