"""Masks against closed forms, and the rules for nested, overlapping, touching, missing and outlying contours."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.dicom.phantom import ORIENTATIONS, LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box, Cylinder, Sphere, Torus, circle
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contours import stack_of
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.geometry.nesting import section_of
from cdm_nnunet.geometry.rasteriser import rasterise
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.scanlines import coverage
from cdm_nnunet.geometry.slices import Slices

SOLIDS = {
    "cube": Box((0.3, 0.2, 0.0), (24.0, 24.0, 24.0)),
    "sphere": Sphere((1.3, -2.1, 0.4), 15.0),
    "shell": Sphere((0.0, 0.4, 0.3), 16.0, 9.0),
    "cylinder": Cylinder((0.3, 0.1, 0.0), 10.0, 26.0),
    "cone": Cylinder((0.0, 0.2, 0.0), 15.0, 30.0, 4.0),
    "torus": Torus((0.2, 0.1, 0.3), 12.0, 5.5),
    "straw": Cylinder((3.1, 2.2, 0.0), 2.5, 30.0),
}


def cubic_grid(n=40, step=1.0, z_mm=None):
    centred = (np.arange(n) - (n - 1) / 2) * step
    z_mm = centred if z_mm is None else np.asarray(z_mm, float)
    origin = np.array([centred[0], centred[0], z_mm[0]])
    return Grid.of_offsets(origin, np.eye(3), (centred - centred[0], centred - centred[0], z_mm - z_mm[0]))


def drawn(solid, z_mm, name="ROI"):
    sections = [(z, section) for z in z_mm for section in solid.sections(float(z))]
    return roi([np.column_stack([section, np.full(len(section), z)]) for z, section in sections], name)


def roi(contours, name="ROI"):
    return RoiContours(1, name, "ORGAN", tuple(np.asarray(c, float) for c in contours), {}, "")


def square(x, y, size, z):
    return [(x, y, z), (x + size, y, z), (x + size, y + size, z), (x, y + size, z)]


def box_roi(x, y, size, heights, name="ROI"):
    return roi([square(x, y, size, z) for z in heights], name)


def centres(grid):
    z, y, x = np.meshgrid(*(grid.offsets_xyz_mm[axis] for axis in (2, 1, 0)), indexing="ij")
    return grid.origin_xyz_mm + np.stack([x, y, z], -1)


def majority(solid, grid, n=9):
    """Voxels with at least half of their area in a solid, by n x n points in the slice."""
    shifts = (np.arange(n) + 0.5) / n - 0.5
    inside = [solid.contains(centres(grid) + np.array([x, y, 0.0])) for x in shifts for y in shifts]
    return 2 * np.sum(inside, axis=0) >= n * n


@pytest.mark.parametrize("name", SOLIDS)
def test_masks_of_solids(name):
    grid, solid = cubic_grid(), SOLIDS[name]
    made = rasterise(drawn(solid, np.arange(-19.5, 20)), grid)
    truth = majority(solid, grid)
    dice = 2 * np.count_nonzero(made.mask & truth) / (np.count_nonzero(made.mask) + np.count_nonzero(truth))
    assert dice >= 0.995
    assert made.mask.sum() / 1000 == pytest.approx(truth.sum() / 1000, rel=0.01)
    assert made.lost_cc == 0
    assert made.notes == ()


@pytest.mark.parametrize("position", ["HFP", "FFS", "HFDL"])
def test_contours_of_any_orientation_give_the_same_mask(tmp_path, position):
    assert position in ORIENTATIONS
    solids = {"shell": SOLIDS["shell"]}
    phantom = Phantom(solids, LinearDose(0, 0.1, 10.0), position, tuple(np.arange(-19.5, 20)), (8, 8))
    made = rasterise(read_structures(write_phantom(phantom, tmp_path).structures).rois[0], cubic_grid())
    np.testing.assert_array_equal(made.mask, rasterise(drawn(solids["shell"], np.arange(-19.5, 20)), cubic_grid()).mask)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(4, 12), st.integers(1, 5))
def test_coverage_of_a_rectangle_is_exact(u, v, size, quarter_mm):
    height = quarter_mm * 2.0
    v = np.floor(4 * v) / 4  # (edges on the borders of lines: exact along v too)
    corners = np.array([(u, v), (u + size, v), (u + size, v + height), (u, v + height)])
    covered = coverage(section_of([corners]), (-20.0, -20.0), (1.0, 1.0), (40, 40), 4)
    edges = np.arange(-20.0, 21.0)
    along_u = (np.minimum(edges[1:], u + size) - np.maximum(edges[:-1], u)).clip(0)
    along_v = (np.minimum(edges[1:], v + height) - np.maximum(edges[:-1], v)).clip(0)
    np.testing.assert_allclose(covered, np.outer(along_v, along_u), atol=1e-9)


def area(*contours):
    return (
        coverage(section_of([np.asarray(c, float) for c in contours]), (-50.0, -50.0), (0.5, 0.5), (200, 200), 4).sum()
        / 4
    )


def test_nested_contours_are_holes_and_islands():
    rings = [circle((0.0, 0.0), radius) for radius in (20.0, 15.0, 5.0)]
    assert area(*rings) == pytest.approx(np.pi * (400 - 225 + 25), rel=1e-3)
    touching = [circle((0.0, 0.0), 20.0), circle((10.0, 0.0), 10.0)]  # the hole touches the outline
    assert area(*touching) == pytest.approx(np.pi * 300, rel=2e-3)


def test_contours_that_overlap_in_part_are_united():
    one, other = np.array(square(0, 0, 10, 0))[:, :2], np.array(square(5, 5, 10, 0))[:, :2]
    assert area(one, other) == pytest.approx(175.0)
    assert area(one, one) == pytest.approx(100.0)  # drawn twice
    assert area(one, np.array(square(10, 0, 10, 0))[:, :2]) == pytest.approx(200.0)  # side by side
    stack = stack_of(roi([square(0, 0, 10, 0), square(5, 5, 10, 0), square(0, 0, 10, 3)]))
    assert stack.notes == ("ROI 'ROI': contours that overlap others in part were united: 2",)


def test_a_keyhole_is_a_ring():
    outer, inner = circle((0.0, 0.0), 20.0), circle((0.0, 0.0), 10.0)
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[:0:-1], inner[:1], outer[:1]])
    assert area(keyhole) == pytest.approx(np.pi * 300, rel=1e-3)


def keyhole(outer, inner):
    return np.concatenate([outer, outer[:1], inner[:1], inner[:0:-1], inner[:1], outer[:1]])


@pytest.mark.parametrize(
    ("radius", "expected", "note"),
    [
        (10.0, 300, "contours that repeat the outline of a hole in others were left out; the hole stays open: 10"),
        (9.95, 300, "contours that repeat the outline of a hole in others were left out; the hole stays open: 10"),
        (9.5, 390.25, "contours fill holes in others to within 1 mm; they count as islands: 10"),
        (5.0, 325, None),
    ],
)
def test_the_hole_of_a_keyhole_drawn_again_stays_open(radius, expected, note):
    ring = keyhole(circle((0.0, 0.0), 20.0), circle((0.0, 0.0), 10.0))
    again = circle((0.0, 0.0), radius)
    planes = [np.column_stack([points, np.full(len(points), 2.0 * k)]) for k in range(10) for points in (ring, again)]
    stack = stack_of(roi(planes))
    assert stack.notes == ((f"ROI 'ROI': {note}",) if note else ())
    assert area(ring, again) == pytest.approx(np.pi * expected, rel=2e-3)
    assert area(again[::-1], ring) == pytest.approx(np.pi * expected, rel=2e-3)


def test_what_lies_beside_another_contour_is_no_hole():
    horseshoe = [(0, 0), (30, 0), (30, 30), (20, 30), (20, 10), (10, 10), (10, 30), (0, 30)]
    assert area(horseshoe, [(10, 10), (20, 10), (20, 29), (10, 29)]) == pytest.approx(700 + 190)  # (open above)
    assert area(np.array(square(0, 0, 10, 0))[:, :2], np.array(square(10, 2, 6, 0))[:, :2]) == pytest.approx(136)


def test_the_order_of_points_and_contours_does_not_matter():
    solid, heights = SOLIDS["shell"], np.arange(-19.5, 20)
    ring = drawn(solid, heights)
    turned = roi([np.roll(contour[::-1], 7, axis=0) for contour in ring.contours[::-1]])
    np.testing.assert_array_equal(rasterise(ring, cubic_grid()).mask, rasterise(turned, cubic_grid()).mask)


@pytest.mark.parametrize(("end_caps", "height_mm"), [("none", 12.0), ("half-slab", 15.0)])
def test_end_caps(end_caps, height_mm):
    made = rasterise(box_roi(-5, -5, 10, [-6, -3, 0, 3, 6]), cubic_grid(z_mm=np.arange(-15, 16, 3)), end_caps=end_caps)
    assert made.volume_cc == pytest.approx(0.1 * height_mm)
    assert np.flatnonzero(made.mask.any((1, 2))).tolist() == [3, 4, 5, 6, 7]  # the slices that were drawn


@pytest.mark.parametrize("name", ["sphere", "shell", "torus"])
@pytest.mark.parametrize("step_mm", [1.0, 3.0])
def test_between_the_planes_the_shape_is_interpolated(name, step_mm):
    solid, grid = SOLIDS[name], cubic_grid()
    made = rasterise(drawn(solid, np.arange(-21.0, 22.0, step_mm) + 0.3), grid)
    truth = majority(solid, grid)
    dice = 2 * np.count_nonzero(made.mask & truth) / (np.count_nonzero(made.mask) + np.count_nonzero(truth))
    assert dice >= (0.995 if step_mm == 1 else 0.98)
    assert made.volume_cc == pytest.approx(solid.volume_cc, rel=0.01 if step_mm == 1 else 0.02)


def test_every_second_slice_drawn_is_interpolated():
    cone = Cylinder((0.0, 0.0, 0.0), 15.0, 30.0, 5.0)
    grid = cubic_grid()
    made = rasterise(drawn(cone, np.arange(-14.5, 15, 2)), grid)
    np.testing.assert_allclose(made.mask.sum((1, 2))[6:34], majority(cone, grid).sum((1, 2))[6:34], rtol=0.03, atol=4)
    all_slices = rasterise(drawn(cone, np.arange(-14.5, 15)), grid).mask
    assert (made.mask[5:34:2] != all_slices[5:34:2]).sum((1, 2)).max() <= 4  # (a voxel a quadrant)


def test_every_second_slice_of_the_grid_drawn_is_interpolated():
    ball, z_mm = Sphere((0.3, 0.2, 0.0), 8.0), np.arange(-18.0, 19.0, 3.0)
    grid = cubic_grid(z_mm=z_mm)
    every, second = (drawn(ball, heights) for heights in (z_mm, z_mm[::2]))
    assert rasterise(second, grid).volume_cc == pytest.approx(ball.volume_cc, rel=0.08)
    for slices in (None, Slices(z_mm)):
        made = rasterise(second, grid, slices).mask.sum((1, 2))
        np.testing.assert_allclose(made, rasterise(every, grid).mask.sum((1, 2)), rtol=0.12)


def test_a_gap_is_left_open_and_noted():
    roi_ = box_roi(-5, -5, 10, [-9, -6, -3, 6, 9, 12])
    made = rasterise(roi_, cubic_grid(z_mm=np.arange(-15, 16, 3)))
    assert np.flatnonzero(made.mask.any((1, 2))).tolist() == [2, 3, 4, 7, 8, 9]
    assert made.volume_cc == pytest.approx(0.1 * 18)
    assert made.notes == ("ROI 'ROI' has a gap from -3 to 6 mm",)


def test_unequal_slices_are_no_gap():
    slices = np.array([-12.0, -10, -8, -6, 0, 6, 8, 10, 12])
    made = rasterise(box_roi(-5, -5, 10, slices), cubic_grid(z_mm=slices), Slices(slices))
    assert made.mask.any((1, 2)).all()
    assert made.volume_cc == pytest.approx(0.1 * 26)
    assert made.notes == ()


def test_planes_are_matched_by_position_not_by_order():
    shuffled = [3.0, -3.0, 0.0, 0.02]
    made = rasterise(
        roi([square(-5, -5, 10, z) for z in shuffled[:3]] + [square(10, 10, 4, 0.02)]), cubic_grid(z_mm=[-3, 0, 3])
    )
    assert [int(plane.sum()) for plane in made.mask] == [100, 116, 100]


def test_a_single_plane_has_the_thickness_of_a_slice():
    made = rasterise(box_roi(-5, -5, 10, [3]), cubic_grid(z_mm=np.arange(-15, 16, 3)))
    assert made.volume_cc == pytest.approx(0.3)
    assert made.notes == ("ROI 'ROI' is drawn in a single plane at 3 mm; taken as a slab of 3 mm",)
    with pytest.raises(InputError, match="drawn in a single plane, and the slice distance is unknown"):
        stack_of(box_roi(-5, -5, 10, [3]))


def test_what_lies_outside_the_image_is_reported():
    grid = cubic_grid(n=40)
    made = rasterise(box_roi(15, -5, 10, np.arange(-4.5, 5)), grid)
    assert made.volume_cc == pytest.approx(1.0)
    assert made.lost_cc == pytest.approx(0.5, rel=1e-3)
    assert made.mask.sum() == 5 * 10 * 10
    above = rasterise(box_roi(-5, -5, 10, np.arange(15.0, 26.0)), grid)
    assert above.lost_cc == pytest.approx(0.55, rel=1e-3)
    with pytest.raises(InputError, match="ROI 'Far' lies entirely outside the image"):
        rasterise(box_roi(100, 100, 10, [0, 1, 2], "Far"), grid)


def test_faces_through_voxel_centres_do_not_grow_an_roi():
    grid = cubic_grid(n=41)  # centres at whole mm
    assert (
        rasterise(box_roi(-5, -5, 10, np.arange(-5.0, 6)), grid).mask.sum() == (10 * 10 - 1) * 11
    )  # a quarter of the corner


@pytest.mark.parametrize("size_mm", [4.0, 6.0, 8.0, 12.0, 20.0])
@pytest.mark.parametrize("faces", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("shift_mm", [0.0, 1.0])  # ends in the middle of voxels, or at their borders
def test_of_two_faces_through_voxel_centres_one_counts_between_contours_too(size_mm, faces, shift_mm):
    low = [-size_mm / 2 - (size_mm / 2 + through) % 2 for through in faces]  # (centres at odd mm)
    corners = np.array([(0, 0), (size_mm, 0), (size_mm, size_mm), (0, size_mm)]) + low
    z_mm = np.arange(-12.0, 13, 4)
    contours = [np.column_stack([corners, np.full(4, z)]) for z in z_mm]
    grid = cubic_grid(step=2.0, z_mm=np.arange(-39.0, 40, 2) + 1 + shift_mm)
    made = rasterise(roi(contours), grid, Slices(np.arange(-40.0, 41, 2)))
    n = int(size_mm / 2)
    assert made.volume_cc == pytest.approx(size_mm**2 * 28 / 1000)
    assert made.mask.sum((1, 2)).tolist() == [
        n * n - all(faces) if -14 <= z - shift_mm < 14 - shift_mm else 0
        for z in grid.origin_xyz_mm[2] + grid.offsets_xyz_mm[2]
    ]


@pytest.mark.parametrize("growth_mm", [0.5, 1.0, 2.0])
def test_a_face_that_two_planes_share_stays_between_them(growth_mm):
    contours = [
        [(-6 - growth_mm * k, -6, z), (6 + growth_mm * k, -6, z), (6 + growth_mm * k, 6, z), (-6 - growth_mm * k, 6, z)]
        for k, z in enumerate(np.arange(-16.0, 17, 4))
    ]
    grid = cubic_grid(n=61, step=2.0, z_mm=np.arange(-40.0, 41, 2))
    made = rasterise(roi(contours), grid, Slices(grid.origin_xyz_mm[2] + grid.offsets_xyz_mm[2]))
    assert {int(n) for n in made.mask.any(2).sum(1)} == {0, 6}
    assert made.volume_cc == pytest.approx(12 * (2 * (6 + 4 * growth_mm)) * 36 / 1000, rel=0.005)


@pytest.mark.parametrize("inner", ["hole", "island"])
def test_what_ends_between_planes_counts_once_in_the_middle_of_voxels(inner):
    z_mm, low = np.arange(-12.0, 13, 4), -4.0 if inner == "hole" else 20.0
    contours = [square(-10, -10, 20, z) for z in z_mm] + [square(low, low, 8, z) for z in z_mm if abs(z) <= 4]
    grid = cubic_grid(step=2.0, n=40, z_mm=np.arange(-20.0, 21, 2))
    planes = rasterise(roi(contours), grid, Slices(grid.origin_xyz_mm[2] + grid.offsets_xyz_mm[2])).mask.sum((1, 2))
    inside = 100 + (16 if inner == "island" else -16)
    expected = [0] * 3 + [100] * 4 + [inside] * 6 + [100] * 4 + [0] * 4
    np.testing.assert_allclose(planes, expected, atol=3)  # (of the four corners, which are round between planes)


def test_contours_tilted_against_the_grid(tmp_path):
    phantom = Phantom(
        {"ball": SOLIDS["sphere"]}, LinearDose(0, 0.1, 10.0), slices_z_mm=tuple(np.arange(-19.5, 20)), pixels=(8, 8)
    )
    tilted = dataclasses.replace(phantom, tilt_degrees=20.0)
    contours = read_structures(write_phantom(tilted, tmp_path).structures).rois[0]
    made = rasterise(contours, cubic_grid())
    turned = dataclasses.replace(
        SOLIDS["sphere"], centre_mm=tuple(np.array(SOLIDS["sphere"].centre_mm) @ tilted.rotation)
    )
    truth = turned.contains(centres(cubic_grid()))
    assert 2 * np.count_nonzero(made.mask & truth) / (np.count_nonzero(made.mask) + truth.sum()) >= 0.99
    assert made.volume_cc == pytest.approx(turned.volume_cc, rel=0.01)


def test_contours_in_crossing_planes_are_refused():
    upright = [(0, 0, 0), (0, 10, 0), (0, 10, 10), (0, 0, 10)]
    with pytest.raises(InputError, match="ROI 'ROI' do not lie in parallel planes"):
        rasterise(roi([square(0, 0, 10, 0), upright]), cubic_grid())


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        ([], "has no contours"),
        ([[(0, 0, 0), (1, 1, 0), (2, 2, 0)], [(0, 0, 1), (1, 1, 1), (2, 2, 1)]], "encloses no volume"),
    ],
)
def test_an_roi_without_volume_is_refused(contours, message):
    with pytest.raises(InputError, match=message):
        rasterise(roi(contours), cubic_grid())
