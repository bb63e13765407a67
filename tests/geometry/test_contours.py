"""How contours of one plane combine, and where an ROI has gaps: holes, unions, repeats, exclusive or, stray islands."""

import numpy as np
import pydicom
import pytest

from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box, circle
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contour_dvh import sample
from cdm_nnunet.geometry.contours import stack_of
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.geometry.nesting import section_of
from cdm_nnunet.geometry.rasteriser import rasterise
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.scanlines import coverage
from cdm_nnunet.geometry.slices import Slices, ct_slices, drawn_slices


def square(size, x=0.0, y=0.0):
    return np.array([(x, y), (x + size, y), (x + size, y + size), (x, y + size)])


def roi(drawn, name="ROI", exclusive=()):
    """An ROI of pairs (contour of shape (points, 2), z)."""
    contours = tuple(np.column_stack([points, np.full(len(points), z)]) for points, z in drawn)
    return RoiContours(1, name, "ORGAN", contours, {}, "", exclusive=frozenset(exclusive))


def squares(size, heights, name="ROI"):
    return roi([(square(size), z) for z in heights], name)


def area_mm2(*contours, **options):
    found = coverage(section_of(contours, **options), (-120.0, -120.0), (1.0, 1.0), (240, 240), 8)
    return float(found.sum())


def volume_cc(drawn, slices=None, end_caps="rounded-half-slab"):
    return sample(stack_of(drawn, slices, end_caps=end_caps)).volume_cc


def test_exclusive_or_takes_out_what_two_contours_share():
    one, other = square(10.0), square(10.0, 5.0, 5.0)
    assert area_mm2(one, other) == pytest.approx(175)
    assert area_mm2(one, other, exclusive=True) == pytest.approx(150)
    drawn = roi([(contour, z) for z in range(5) for contour in (one, other)], exclusive=range(10))
    assert volume_cc(drawn) == pytest.approx(0.75, rel=0.01)
    assert stack_of(drawn).notes == ()


def test_the_type_exclusive_or_is_read_from_the_file(tmp_path):
    solids = {"ROI": Box((0.0, 0.0, 0.0), (20.0, 20.0, 12.0))}
    path = write_phantom(Phantom(solids, LinearDose(0, 0.1, 9.0), pixels=(20, 20)), tmp_path).structures
    dataset = pydicom.dcmread(path)
    items = dataset.ROIContourSequence[0].ContourSequence
    for contour in items:
        contour.ContourGeometricType = "CLOSEDPLANAR_XOR"
    shifted = [pydicom.Dataset.from_json(contour.to_json()) for contour in items]
    for contour in shifted:
        points = np.array(contour.ContourData, float).reshape(-1, 3) + np.array([5.0, 0.0, 0.0])
        contour.ContourData = points.ravel().tolist()
    items.extend(shifted)
    dataset.save_as(path)
    stack = stack_of(read_structures(path).rois[0])
    assert [section.united for section in stack.sections] == [0] * len(stack.sections)
    low, high = stack.box_mm
    assert (high - low).tolist() == [25.0, 20.0]
    found = stack.sections[0].spans(np.array([0.0]))
    assert (found.end_mm - found.start_mm).tolist() == [5.0, 5.0]


def test_types_that_contradict_each_other_are_refused():
    drawn = [(square(10.0), 0.0), (square(10.0, 5.0), 0.0), (square(10.0), 3.0), (square(10.0, 5.0), 3.0)]
    with pytest.raises(InputError, match=r"ROI 'ROI', plane at 0 mm: contours of the types .* overlap"):
        stack_of(roi(drawn, exclusive=[0, 2]))
    apart = [(square(10.0), 0.0), (square(10.0, 20.0), 0.0), (square(10.0), 3.0), (square(10.0, 20.0), 3.0)]
    assert volume_cc(roi(apart, exclusive=[0, 2])) == pytest.approx(1.2, rel=0.01)


def test_repeats_cancel_under_exclusive_or_and_are_told():
    drawn = roi([(square(10.0), z) for z in (0, 0, 3, 6)], exclusive=range(4))
    assert stack_of(drawn).notes == ("ROI 'ROI': contours that repeat others cancel them (CLOSEDPLANAR_XOR): 1",)


@pytest.mark.parametrize("thickness_mm", [0.3, 0.5, 1.5])
def test_a_thin_shell_is_a_shell(thickness_mm):
    outer, inner = circle((3.0, 1.0), 100.0), circle((3.0, 1.0), 100.0 - thickness_mm)
    expected = np.pi * (100**2 - (100 - thickness_mm) ** 2)
    assert area_mm2(outer, inner) == pytest.approx(expected, rel=0.03)
    assert section_of([inner, outer]).shells == (1 if thickness_mm < 1 else 0)
    (note,) = stack_of(roi([(c, z) for z in (0, 3) for c in (outer, circle((3.0, 1.0), 99.5))])).notes
    assert note == "ROI 'ROI': contours lie within others at under 1 mm; what counts is the shell between them: 2"


def test_rings_within_rings_alternate_however_close_they_are():
    rings = [circle((0.0, 0.0), radius) for radius in (50.0, 49.5, 49.0, 48.5)]
    expected = np.pi * (50**2 - 49.5**2 + 49**2 - 48.5**2)
    assert area_mm2(*rings) == pytest.approx(expected, rel=0.03)
    assert area_mm2(*rings[::-1]) == pytest.approx(area_mm2(*rings))


@pytest.mark.parametrize("change", ["same", "turned", "rounded", "decimated"])
def test_a_contour_that_is_there_twice_counts_once(change):
    contour = circle((0.3, 0.4), 30.0)
    other = {
        "same": contour,
        "turned": np.roll(contour[::-1], 11, axis=0),
        "rounded": contour.round(1),
        "decimated": contour[::2],
    }[change]
    assert area_mm2(contour, other) == pytest.approx(np.pi * 900, rel=0.005)
    hole = circle((0.0, 0.0), 10.0)
    assert area_mm2(other, hole, contour) == pytest.approx(np.pi * 800, rel=0.005)
    notes = stack_of(roi([(c, z) for z in (0, 3) for c in (contour, other)])).notes
    assert notes == ("ROI 'ROI': contours that repeat others were left out: 2",)


@pytest.mark.parametrize("shift_mm", [0.5, 2.0])
def test_an_outline_drawn_twice_with_a_shift_is_united(shift_mm):
    one, other = circle((0.0, 0.0), 60.0), circle((shift_mm, 0.0), 60.0)
    assert area_mm2(one, other) == pytest.approx(np.pi * 3600 + 2 * 60 * shift_mm, rel=0.005)
    assert section_of([one, other]).united == 2


def test_a_hole_that_crosses_the_outline_a_little_is_a_hole():
    outer, hole = circle((0.0, 0.0), 20.0), circle((10.2, 0.0), 10.0)
    assert area_mm2(outer, hole) == pytest.approx(np.pi * 300, rel=0.02)


def test_unions_do_not_fill_the_hole_of_one_of_them():
    ring = [circle((0.0, 0.0), 20.0), circle((0.0, 0.0), 10.0)]
    beside = square(10.0, 18.0, -5.0)  # across the outer outline alone
    covered = area_mm2(*ring, beside)
    assert np.pi * 300 + 80 < covered < np.pi * 300 + 100
    with pytest.raises(InputError, match="it is unclear whether it is a hole"):
        section_of([*ring, square(15.0, 5.0, -7.0)])  # across both
    with pytest.raises(InputError, match=r"ROI 'ROI', plane at 3 mm: 2 contours overlap each other in part, and one"):
        stack_of(roi([(c, 3.0) for c in (square(20.0), square(20.0, 10.0), square(4.0, 13.0, 8.0))]))


def test_stray_islands_are_not_joined():
    heights = [*np.arange(0.0, 21.0, 2.0), 44.0, 82.0]
    others = squares(60.0, np.arange(-50.0, 101.0, 2.0), "BODY")
    drawn = squares(20.0, heights)
    slices = drawn_slices([others, drawn], np.eye(3))
    assert volume_cc(drawn, slices) == pytest.approx(0.4 * 2 * 13, rel=0.01)
    alone = drawn_slices([drawn], np.eye(3))
    assert volume_cc(drawn, alone) == pytest.approx(0.4 * 2 * 13, rel=0.01)
    assert volume_cc(drawn) == pytest.approx(0.4 * 2 * 13, rel=0.01)
    notes = stack_of(drawn, slices).notes
    assert notes[:2] == ("ROI 'ROI' has a gap from 20 to 44 mm", "ROI 'ROI' has a gap from 44 to 82 mm")


@pytest.mark.parametrize("heights", [(-20, 20), (-8, 8), (-20, -2, 20), (0, 24, 48)])
@pytest.mark.parametrize("known", ["ct", "set"])
def test_single_planes_are_measured_by_the_distance_of_the_slices(heights, known):
    drawn = squares(20.0, heights)
    everything = [squares(60.0, np.arange(-50.0, 51.0, 2.0), "BODY"), drawn]
    of_ct = ct_slices(np.arange(-60.0, 61.0, 2.0), everything, np.eye(3))
    slices = of_ct if known == "ct" else drawn_slices(everything, np.eye(3))
    assert volume_cc(drawn, slices) == pytest.approx(0.8 * len(heights), rel=0.01)
    z_mm = np.arange(-60.0, 61.0, 2.0)
    grid = Grid.of_offsets(
        np.array([-5.5, -5.5, z_mm[0]]), np.eye(3), (np.arange(40.0), np.arange(40.0), z_mm - z_mm[0])
    )
    mask = rasterise(drawn, grid, slices).mask
    assert z_mm[mask.any((1, 2))].tolist() == list(heights)


@pytest.mark.parametrize("heights", [(-20, 20), (0, 40, 80)])
def test_planes_far_apart_tell_no_slice_distance(heights):
    with pytest.raises(InputError, match="drawn in a single plane, and the slice distance is unknown"):
        stack_of(squares(20.0, heights))


@pytest.mark.parametrize(
    ("heights", "ct_mm"),
    [
        ((0, 4, 8), 2.0),  # every second slice
        ((0, 6, 12, 18), 2.0),  # every third
        ((0, 5, 10, 15, 20), 1.0),  # every fifth
        ((0, 3, 6, 9, 12, 15), 2.0),  # drawn on other images
        ((0, 1, 2, 3, 4, 5, 6), 3.0),  # finer than the CT
        ((0, 2, 4, 6, 8, 10), 5.0),
    ],
)
def test_a_rhythm_of_its_own_is_no_gap(heights, ct_mm):
    drawn = squares(20.0, heights)
    others = squares(60.0, np.arange(-30.0, 31.0, ct_mm), "BODY")
    for slices in (
        ct_slices(np.arange(-30.0, 31.0, ct_mm), [drawn, others], np.eye(3)),
        ct_slices(np.arange(-30.0, 31.0, ct_mm), [drawn], np.eye(3)),
        drawn_slices([drawn, others], np.eye(3)),
        None,
    ):
        assert stack_of(drawn, slices).joined.all()


def test_two_planes_go_on_where_the_whole_set_was_drawn_on_every_second_slice():
    drawn = squares(20.0, (0, 4))
    others = squares(60.0, np.arange(-28.0, 29.0, 4.0), "BODY")
    slices = ct_slices(np.arange(-30.0, 31.0, 2.0), [others, drawn], np.eye(3))
    assert stack_of(drawn, slices).notes == ()
    assert stack_of(squares(20.0, (0,)), slices).high_mm[0] == 2.0
    each = ct_slices(np.arange(-30.0, 31.0, 2.0), [squares(60.0, np.arange(-28.0, 29.0, 2.0))], np.eye(3))
    assert stack_of(drawn, each).notes[0] == "ROI 'ROI' has a gap from 0 to 4 mm"


def test_a_change_of_the_slice_distance_is_no_gap():
    z_mm = np.array([-12.0, -10, -8, -6, -4, 2, 8, 14, 20])
    for heights in (z_mm, z_mm[-2:], z_mm[4:], z_mm[::2]):
        drawn = squares(20.0, heights)
        everything = [squares(60.0, z_mm, "BODY"), drawn]
        for slices in (ct_slices(z_mm, everything, np.eye(3)), drawn_slices(everything, np.eye(3))):
            assert stack_of(drawn, slices).joined.all()
    assert stack_of(squares(20.0, (14, 30)), Slices(z_mm)).joined.tolist() == [False]  # beyond the slices


SLIVER = np.array([(0.0, 0.0), (8.0, 0.0), (8.0, 0.2), (0.0, 0.2)])
LINE = np.array([(0.0, 0.0), (4.0, 1.0), (8.0, 2.0)])


@pytest.mark.parametrize("odd", [SLIVER, LINE, SLIVER / 100, np.concatenate([LINE, LINE[::-1]])])
@pytest.mark.parametrize("place", ["end", "both ends", "middle"])
def test_an_roi_with_slivers_has_the_volume_of_the_rest(odd, place):
    ball = [(circle((4.0, 0.0), 6.0), z) for z in (0, 3, 6)]
    extra = {"end": [9, 12], "both ends": [-6, -3, 9, 12], "middle": [3]}[place]
    drawn = roi([*ball, *((odd + np.array([0, 20.0 * (place == "middle")]), z) for z in extra)])
    volume = {"end": (0.68, 1.1), "both ends": (0.68, 1.25), "middle": (0.66, 1.03)}[place]
    for end_caps in ("rounded", "rounded-half-slab", "none", "half-slab"):
        assert volume[0] <= volume_cc(drawn, end_caps=end_caps) <= volume[1]


def written(tmp_path, change):
    """A phantom's structure set after a change of the items of one ROI's contours."""
    solids = {"ROI": Box((0.0, 0.0, 0.0), (20.0, 20.0, 12.0))}
    path = write_phantom(Phantom(solids, LinearDose(0, 0.1, 9.0), pixels=(20, 20)), tmp_path).structures
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return read_structures(path)


def set_points(contour, points):
    contour.ContourData = np.asarray(points, float).ravel().tolist()
    contour.NumberOfContourPoints = len(points)


def test_contours_without_area_are_left_out_and_noted(tmp_path):
    def change(dataset):
        set_points(dataset.ROIContourSequence[0].ContourSequence[0], [(0, 0, -6), (5, 5, -6), (9, 9, -6)])

    found = written(tmp_path, change).rois[0]
    assert len(found.contours) == 6
    assert found.note == "ROI 'ROI': left out 1 contour without area"


@pytest.mark.parametrize("windings", [2, 3, 4])
def test_a_contour_that_runs_around_several_times_counts_once(tmp_path, windings):
    def change(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            set_points(contour, np.tile(np.array(contour.ContourData, float).reshape(-1, 3), (windings, 1)))

    found = written(tmp_path, change).rois[0]
    assert volume_cc(found, end_caps="none") == pytest.approx(4.8, rel=0.01)
    assert found.note == "ROI 'ROI': 7 contours traced several times, counted once"


def test_lost_points_are_refused(tmp_path):
    def change(dataset):
        contour = dataset.ROIContourSequence[0].ContourSequence[3]
        contour.ContourData = contour.ContourData[:9]

    with pytest.raises(
        InputError, match=r"NumberOfContourPoints \(3006,0046\) is 4, but there are 3; were points lost"
    ):
        written(tmp_path, change)


def test_interpolated_contours_are_closed_contours(tmp_path):
    def change(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence[1:]:
            contour["ContourGeometricType"].VR = "LO"  # (longer than the standard has it; read with any representation)
            contour.ContourGeometricType = "INTERPOLATED_PLANAR"

    found = written(tmp_path, change).rois[0]
    assert volume_cc(found, end_caps="none") == pytest.approx(4.8, rel=0.01)
    assert found.note == "ROI 'ROI': 6 INTERPOLATED_PLANAR contours taken as closed contours"


def test_orphan_and_empty_items_do_no_harm(tmp_path):
    def change(dataset):
        dataset.ROIContourSequence[0].ContourSequence.append(pydicom.Dataset())
        orphan = pydicom.Dataset()
        orphan.ReferencedROINumber = 99
        dataset.ROIContourSequence.append(orphan)

    found = written(tmp_path, change)
    assert (found.names, found.rois[0].note, len(found.rois[0].contours)) == (("ROI",), "", 7)
