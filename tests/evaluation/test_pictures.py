from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from cdm_nnunet.dvh import Metric, Template, evaluate
from cdm_nnunet.evaluation.pairing import find_cases
from cdm_nnunet.evaluation.palette import difference_span_gy
from cdm_nnunet.evaluation.pictures import Look, draw_case, dvh_figure, slices_figure
from cdm_nnunet.evaluation.scene import load_scene
from cdm_nnunet.images import read_image

from .conftest import Case, synthetic_case, write_image

OPENKBP = Template.load("openkbp")


@pytest.fixture
def case() -> Case:
    return synthetic_case(4, absent=("PTV_6300", "Esophagus"))


@pytest.fixture
def files(make_dataset, predict, case):
    return find_cases(make_dataset({"pt_4": case}), predict({"pt_4": case.dose_gy * np.float32(0.9)}))[0]


@pytest.fixture
def scene(files):
    return load_scene(files, OPENKBP)


def test_scene_has_present_rois_targets_first(scene, case):
    assert list(scene.masks) == [
        "PTV_7000",
        "PTV_5600",
        "Brainstem",
        "SpinalCord",
        "Parotid_R",
        "Parotid_L",
        "Larynx",
        "Bone_Mandible",
    ]
    assert scene.n_targets == 2
    assert scene.prescription_gy == 70.0
    np.testing.assert_array_equal(scene.masks["Larynx"], case.masks["Larynx"])


def test_scene_turns_images_to_the_patients_axes(files, case):
    turned = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)  # stored from left to right and from back to front
    before = load_scene(files, OPENKBP)
    for path in (files.ct, files.reference, files.predicted, files.roi_bits):
        array = np.ascontiguousarray(read_image(path).values[:, ::-1, ::-1])
        # the far corner of the grid that write_image gives: (-30, 10, 5) plus 17 x 3 mm and 19 x 4 mm
        write_image(path, array, case.spacing_mm, (21.0, 86.0, 5.0), turned)
    after = load_scene(files, OPENKBP)
    np.testing.assert_array_equal(after.doses_gy["reference"], before.doses_gy["reference"])
    np.testing.assert_array_equal(after.masks["Parotid_L"], before.masks["Parotid_L"])
    assert after.grid.origin_zyx_mm == pytest.approx(before.grid.origin_zyx_mm) == (5.0, 10.0, -30.0)
    assert after.grid.spacing_zyx_mm == pytest.approx((2.5, 4.0, 3.0))


def test_slices_show_the_patient_as_radiologists_do(scene):
    figure = slices_figure(scene, 5)
    panels = [axes for axes in figure.axes if axes.get_images() and len(axes.get_images()) == 2]
    assert len(panels) == 9
    for row in range(3):
        axial, coronal, sagittal = panels[3 * row : 3 * row + 3]
        for axes in (axial, coronal, sagittal):
            assert axes.get_aspect() == 1.0  # a millimetre is as long in both directions
            left, right = axes.get_xlim()
            assert left < right  # to the patient's left, or to posterior
        assert axial.get_ylim()[0] > axial.get_ylim()[1]  # y runs to posterior, which is at the bottom
        assert coronal.get_ylim()[0] < coronal.get_ylim()[1]  # z runs to the head, which is at the top
        assert sagittal.get_ylim()[0] < sagittal.get_ylim()[1]
    letters = [{text.get_text() for text in axes.texts} - {"5 cm"} for axes in panels[:3]]
    assert letters == [set("RLAP"), set("RLHF"), set("APHF")]
    for axes in panels:
        ct, wash = axes.get_images()
        assert ct.get_extent() == wash.get_extent()
        assert ct.origin == ("upper" if axes in panels[::3] else "lower")


def test_a_hot_voxel_lies_where_the_patient_has_it(scene):
    """The dose drawn at a physical position is the dose of the voxel there."""
    figure = slices_figure(scene, 5)
    axial = figure.axes[0]
    wash = axial.get_images()[1]
    left, right, bottom, top = wash.get_extent()
    shown = np.asarray(wash.get_array().data)
    z = int(np.argmax(scene.masks["PTV_7000"].sum(axis=(1, 2))))
    reference = scene.doses_gy["reference"]
    y, x = np.unravel_index(np.argmax(reference[z]), reference[z].shape)
    x_mm, y_mm = -30.0 + 3.0 * x, 10.0 + 4.0 * y
    column = int((x_mm - left) / (right - left) * shown.shape[1])
    row = int((y_mm - top) / (bottom - top) * shown.shape[0])
    assert shown[row, column] == reference[z].max()


def test_wash_is_transparent_below_a_tenth_and_difference_is_symmetric(scene):
    figure = slices_figure(scene, 5)
    panels = [axes for axes in figure.axes if len(axes.get_images()) == 2]
    washes = [axes.get_images()[1] for axes in panels]
    for wash in washes[:6]:
        shown = wash.get_array()
        assert shown.compressed().min() >= 7.0
        assert (shown.data[np.ma.getmaskarray(shown)] < 7.0).all()
    assert len({wash.get_clim() for wash in washes[:6]}) == 1  # one scale for both doses
    low, high = washes[6].get_clim()
    assert low == -high < 0
    assert (low, high) == (-5, 5)
    assert washes[6].get_array().mean() < 0  # (the prediction is a tenth too cold)


def test_the_difference_is_clear_at_zero_and_opaque_from_a_quarter_of_its_scale(scene):
    panels = [axes for axes in slices_figure(scene, 8).axes if len(axes.get_images()) == 2]
    wash = panels[6].get_images()[1]
    difference, alpha = np.abs(wash.get_array()), wash.get_alpha()
    assert alpha.max() == pytest.approx(0.7)
    assert (difference < 2).any()
    assert (difference > 2).any()
    np.testing.assert_allclose(alpha[~difference.mask], 0.7 * np.minimum(difference.compressed() / 2, 1))


@pytest.mark.parametrize(("error_gy", "span_gy"), [(0.0, 1), (0.33, 1), (0.34, 2), (2.9, 10), (3.4, 20), (50, 20)])
def test_the_scale_of_differences_is_that_of_the_cohort(error_gy, span_gy):
    assert difference_span_gy(error_gy) == span_gy


def test_names_stand_on_their_curves_without_overlap(scene, case):
    axes = dvh_figure(scene).axes[0]
    assert {text.get_text().strip() for text in axes.texts} == set(scene.masks)
    for text in axes.texts:
        at_gy, percent = text.get_position()
        dose_gy = case.dose_gy[scene.masks[text.get_text().strip()]].astype(float)
        shown = [evaluate(Metric("volume_at_gy", at_gy + step), dose_gy, voxel_volume_cc=1.0) for step in (-0.2, 0.2)]
        assert shown[0] >= percent - 1e-9 >= shown[1] - 2e-9
    assert len({text.get_position() for text in axes.texts}) == len(scene.masks)


def test_no_legend_drops_an_roi(scene):
    """27 ROIs, as in a clinical structure set."""
    names = [f"Organ_{number}" for number in range(27)]
    masks = dict.fromkeys(names, scene.masks["Larynx"])
    styles = dict.fromkeys(names, next(iter(scene.styles.values())))
    many = replace(scene, masks=masks, styles=styles, n_targets=0)
    for figure in (dvh_figure(many), slices_figure(many, 5)):
        figure.savefig(BytesIO())
        box = figure.legends[0].get_window_extent()
        assert [text.get_text() for text in figure.legends[0].get_texts()][-27:] == names
        assert min(box.x0, box.y0) >= 0
        assert box.y1 <= figure.bbox.y1
        assert box.x1 <= figure.bbox.x1
        if figure.axes[0].get_images():
            assert box.y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)


def test_dvh_curves_are_the_metrics(scene, case):
    axes = dvh_figure(scene).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Dose (Gy)", "Volume (% of the ROI)")
    lines = axes.get_lines()
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * len(scene.masks)  # unbroken, and in strokes
    for number, (name, mask) in enumerate(scene.masks.items()):
        reference, predicted = lines[2 * number : 2 * number + 2]
        assert reference.get_color() == predicted.get_color()
        for line, factor in ((reference, np.float32(1)), (predicted, np.float32(0.9))):
            dose_gy = (case.dose_gy * factor)[mask].astype(float)
            at_gy, percent = line.get_xdata()[300], line.get_ydata()[300]
            expected = evaluate(Metric("volume_at_gy", at_gy), dose_gy, voxel_volume_cc=1.0)
            assert percent == pytest.approx(expected, abs=1e-9), name


def test_a_legend_marks_rois_where_dose_is_missing(scene):
    texts = dvh_figure(scene, {"Brainstem": 91.52, "Larynx": 0.0}).legends[0].get_texts()
    labels = [text.get_text() for text in texts]
    assert "Brainstem\n(91.5 % outside the dose region)" in labels
    assert "Larynx" in labels
    assert not any("outside" in text.get_text() for text in dvh_figure(scene).legends[0].get_texts())


@pytest.mark.parametrize("dose_map", ["jet", "viridis"])
def test_the_dose_has_the_colours_that_are_asked_for(scene, dose_map):
    axes = slices_figure(scene, 5, dose_map).axes
    maps = [image.get_cmap().name for panel in axes for image in panel.get_images()[1:]]
    assert maps == 6 * [dose_map] + 3 * ["RdBu_r"]


def test_legends_name_rois_and_doses(scene):
    labels = [text.get_text() for text in dvh_figure(scene).legends[0].get_texts()]
    assert labels == ["reference", "predicted", *scene.masks]
    drawn = {text.get_text() for text in slices_figure(scene, 5).legends[0].get_texts()}
    assert {"PTV_7000"} <= drawn <= set(scene.masks)


def test_a_case_without_target_is_drawn(make_dataset, predict, tmp_path):
    case = synthetic_case(5, absent=("PTV_7000", "PTV_6300", "PTV_5600"))
    files = find_cases(make_dataset({"b": case}), predict({"b": case.dose_gy}))[0]
    paths = draw_case(files, OPENKBP, tmp_path / "pictures", Look(5))
    assert [path.name for path in paths] == ["b_slices.png", "b_dvh.png"]
    assert all(path.stat().st_size > 10_000 for path in paths)
