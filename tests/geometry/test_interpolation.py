"""The shape between planes: solids on coarse slices that end, begin, split, shift or have holes in between."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere, Torus, circle
from cdm_nnunet.geometry.contour_dvh import sample
from cdm_nnunet.geometry.contours import stack_of
from cdm_nnunet.geometry.distances import LevelCut, Raster, signed_distance
from cdm_nnunet.geometry.interpolation import layers
from cdm_nnunet.geometry.nesting import section_of
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.scanlines import coverage
from cdm_nnunet.geometry.slices import Slices

HEIGHTS = np.arange(-20.0, 21.0)


def roi(drawn):
    """An ROI of pairs (contour of shape (points, 2), z)."""
    contours = tuple(np.column_stack([points, np.full(len(points), z)]) for points, z in drawn)
    return RoiContours(1, "ROI", "ORGAN", contours, {}, "")


def of_solids(*solids, heights=HEIGHTS):
    return roi([(section, z) for z in heights for solid in solids for section in solid.sections(float(z))])


def samples(drawn, end_caps="rounded", **options):
    """Samples of solids with flat faces on contours."""
    return sample(stack_of(drawn, end_caps=end_caps, **options))


def square(size, x=0.0, y=0.0):
    return np.array([(x, y), (x + size, y), (x + size, y + size), (x, y + size)])


def volume_mm3(found, chosen=None):
    return 1000 * float(found.volumes_cc[slice(None) if chosen is None else chosen].sum())


def top_mm(found, share):
    """z below which all except a share of the volume lies."""
    order = np.argsort(found.points_mm[:, 2])
    below = np.cumsum(found.volumes_cc[order]) / found.volume_cc
    return float(found.points_mm[order, 2][np.searchsorted(below, 1 - share)])


SOLIDS = {
    "ball": Sphere((0.3, 0.0, 0.0), 15.0),
    "small ball": Sphere((0.3, 0.0, 0.0), 8.0),
    "shell": Sphere((0.0, 0.4, 0.0), 16.0, 9.0),
    "torus": Torus((0.2, 0.1, 0.0), 12.0, 6.0),
}


@pytest.mark.parametrize(("step_mm", "tolerance_mm", "volume"), [(1.0, 0.08, 0.003), (3.0, 0.15, 0.02)])
@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("phase", [0.05, 0.5, 0.999])
def test_round_ends_at_any_phase_of_the_slices(name, step_mm, tolerance_mm, volume, phase):
    solid = SOLIDS[name]
    found = samples(of_solids(solid, heights=(np.arange(-20, 20) + phase) * step_mm))
    # (the area of a ring rises from its end like a root, and falls short between the last two planes)
    assert found.volume_cc == pytest.approx(solid.volume_cc, rel=volume * (5 if name == "torus" else 1))
    for share in (0.98, 0.5, 0.02):
        level_mm = top_mm(found, share)
        assert 1 - solid.fraction_below(2, level_mm - tolerance_mm) > share
        assert 1 - solid.fraction_below(2, level_mm + tolerance_mm) < share


def test_the_tip_of_a_cone_is_found_and_its_base_is_flat():
    cone = Cylinder((0.0, 0.0, 0.0), 12.0, 24.0, 0.0)
    found = samples(of_solids(cone, heights=np.arange(-12.0, 13.0, 3.0)))
    assert found.volume_cc == pytest.approx(cone.volume_cc, rel=1e-3)
    assert found.points_mm[:, 2].min() >= -12
    assert top_mm(found, 0.001) == pytest.approx(-12 + 24 * (1 - 0.1), abs=0.08)


def test_a_frustum_is_cut_where_it_was_drawn_last():
    frustum = Cylinder((0.0, 0.0, 0.0), 12.0, 24.0, 5.0)
    found = samples(of_solids(frustum, heights=np.arange(-12.0, 13.0, 3.0)))
    assert found.volume_cc == pytest.approx(frustum.volume_cc, rel=1e-3)
    assert np.abs(found.points_mm[:, 2]).max() <= 12


def test_a_drawn_cross_section_is_exact_at_its_own_plane():
    raster = Raster((-20.0, -20.0), 0.5, (81, 81))
    for contours in ([circle((0.3, -0.2), 15.0), circle((2.0, 1.0), 6.0)], [square(17.3, -7.1, -9.6)]):
        section = section_of(contours)
        cut = LevelCut(raster, signed_distance(section, raster))
        covered = [coverage(each, (-20.0, -20.0), (1.0, 1.0), (40, 40), 10) for each in (section, cut)]
        assert np.abs(covered[0] - covered[1]).max() < 0.05
        assert covered[1].sum() == pytest.approx(covered[0].sum(), rel=5e-4)


@given(st.floats(0, np.pi), st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_the_distance_from_a_straight_outline(angle, offset_mm):
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    corners = [across * offset_mm + along * a + across * b for a, b in ((-20, 0), (20, 0), (20, 20), (-20, 20))]
    raster = Raster((-32.7, -32.7), 1.0, (66, 66))
    u, v = np.meshgrid(raster.lines_mm(0), raster.lines_mm(1))
    expected = u * across[0] + v * across[1] - offset_mm
    found = signed_distance(section_of([np.array(corners)]), raster)
    for steps, tolerance in ((0.7, 0.02), (5, 0.25)):  # next to the outline, and farther off
        near = (np.abs(expected) < steps) & (np.hypot(u, v) < 12)
        np.testing.assert_allclose(found[near], expected[near], atol=tolerance)


def test_distances_in_a_part_of_a_raster_are_those_of_the_whole():
    section = section_of([circle((3.0, -5.0), 6.0), circle((4.0, -5.0), 2.0), square(2.3, 12.2, -4.1)])
    whole = Raster((-32.7, -31.9), 0.8, (80, 84))
    part = whole.around([section, section_of([circle((8.0, 3.0), 4.0)])])
    assert np.prod(part.shape) < np.prod(whole.shape) / 3
    np.testing.assert_array_equal(signed_distance(section, part), signed_distance(section, whole)[whole.place_of(part)])
    cuts = [LevelCut(raster, signed_distance(section, raster)) for raster in (part, whole)]
    lines_mm = np.linspace(-40.0, 40.0, 301)  # also beyond the part
    np.testing.assert_array_equal(cuts[0].box_mm, cuts[1].box_mm)
    found = [cut.spans(lines_mm) for cut in cuts]
    np.testing.assert_array_equal(found[0].line, found[1].line)
    np.testing.assert_allclose(found[0].start_mm, found[1].start_mm, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[0].end_mm, found[1].end_mm, rtol=0, atol=1e-12)


def test_half_way_a_frustum_has_the_radius_half_way():
    stack = stack_of(roi([(circle((0.0, 0.0), radius), z) for radius, z in ((10, 0), (8, 4), (6, 8))]))
    (middle,) = [layer for layer in layers(stack, 0.5, 0.5) if layer.low_mm == 2.0]
    low, high = middle.cut.box_mm
    found = middle.cut.spans(np.array([0.0]))
    assert found.end_mm - found.start_mm == pytest.approx([2 * (10 - 2.25 / 2)], abs=0.02)
    assert (high - low).min() >= 2 * (10 - 2.25 / 2)


@pytest.mark.parametrize(("step_mm", "slope"), [(1.0, 0.5), (1.0, 1.0), (3.0, 1.0), (3.0, 2.0)])
def test_a_thin_tube_aslant_keeps_its_volume(step_mm, slope):
    heights = np.arange(0.0, 31.0, step_mm)
    found = samples(roi([(circle((slope * z, 0.0), 2.0), z) for z in heights]))
    assert volume_mm3(found) == pytest.approx(np.pi * 4 * 30, rel=5e-3)
    x, _, z = found.points_mm.T
    assert np.average(x - slope * z, weights=found.volumes_cc) == pytest.approx(0, abs=0.01)


def test_one_part_becomes_two():
    trunk = [(circle((0.0, 0.0), 8.0), z) for z in range(6)]
    branches = [(circle((x, 0.0), 3.0), z) for z in range(6, 11) for x in (-4.0, 4.0)]
    found = samples(roi(trunk + branches))
    x, y, z = found.points_mm.T
    assert volume_mm3(found, z < 5) == pytest.approx(np.pi * 64 * 5, rel=2e-3)
    assert volume_mm3(found, z > 6) == pytest.approx(np.pi * 18 * 4, rel=5e-3)
    between = (z > 5) & (z < 6)
    assert volume_mm3(found, between) == pytest.approx(np.pi * (64 + 18) / 2, rel=0.02)
    assert (np.hypot(x, y)[between] < 8.2).all()


def test_a_part_that_ends_does_not_change_the_others():
    long = [(circle((0.0, 0.0), 8.0), z) for z in range(11)]
    found = samples(roi(long + [(circle((30.0, 0.0), 5.0), z) for z in range(6)]))
    apart = found.points_mm[:, 0] > 15
    assert volume_mm3(found, ~apart) == pytest.approx(np.pi * 64 * 10, rel=2e-3)
    assert volume_mm3(found, apart) == pytest.approx(np.pi * 25 * 5.5, rel=2e-3)  # a flat end half-way
    close = [(square(6.0, -14.1, -3.0), z) for z in range(6)]  # 0.1 mm from it
    beside = samples(roi([(square(16.0, -8.0, -8.0), z) for z in range(11)] + close))
    assert volume_mm3(beside, beside.points_mm[:, 0] > -8.05) == pytest.approx(256 * 10, rel=2e-3)
    balls = Sphere((0.0, 0.0, 0.3), 9.0), Sphere((25.0, 0.0, -8.0), 7.0)
    found = samples(of_solids(*balls))
    apart = found.points_mm[:, 0] > 12
    for ball, part in zip(balls, (~apart, apart), strict=True):
        assert volume_mm3(found, part) == pytest.approx(1000 * ball.volume_cc, rel=5e-3)


def test_holes_end_as_parts_do():
    walls = [(square(20.0, -10, -10), z) for z in HEIGHTS]
    found = samples(roi(walls + [(square(8.0, -4, -4), z) for z in HEIGHTS if abs(z) <= 5]))
    assert volume_mm3(found) == pytest.approx(400 * 40 - 64 * 11, rel=2e-3)
    ball = Sphere((0.0, 0.0, 0.3), 8.0)
    found = samples(roi(walls + [(section, z) for z in HEIGHTS for section in ball.sections(float(z))]))
    assert 400 * 40 - volume_mm3(found) == pytest.approx(1000 * ball.volume_cc, rel=0.01)


def test_a_keyhole_that_turns_from_plane_to_plane_is_a_ring():
    def keyhole(outer_mm, turn):
        outer, inner = circle((0.0, 0.0), outer_mm), circle((0.0, 0.0), 6.0)
        outer, inner = (np.roll(c, -int(turn * len(c)), axis=0) for c in (outer, inner))
        return np.concatenate([outer, outer[:1], inner[:1], inner[:0:-1], inner[:1]])

    heights = np.arange(0.0, 11.0)
    found = samples(roi([(keyhole(12 + 0.3 * z, 0.07 * z), z) for z in heights]))
    nested = [(circle((0.0, 0.0), radius), z) for z in heights for radius in (12 + 0.3 * z, 6.0)]
    assert found.volume_cc == pytest.approx(samples(roi(nested)).volume_cc, rel=1e-3)
    assert (np.hypot(*found.points_mm.T[:2]) > 5.9).all()


def test_nothing_is_interpolated_through_a_gap_or_from_a_single_plane():
    found = samples(roi([(square(10.0), z) for z in (0, 1, 2, 6, 7, 8)]))
    assert volume_mm3(found) == pytest.approx(400, rel=2e-3)
    assert not ((found.points_mm[:, 2] > 2) & (found.points_mm[:, 2] < 6)).any()
    single = sample(stack_of(roi([(square(10.0), 3.0)]), Slices(np.arange(0.0, 9, 3))))
    assert volume_mm3(single) == pytest.approx(300, rel=2e-3)


def test_contours_side_by_side_are_one_part():
    found = samples(roi([(square(10.0, x), z) for z in range(4) for x in (0, 10)]))
    assert volume_mm3(found) == pytest.approx(600, rel=2e-3)


def test_unequal_slices():
    ball = Sphere((0.0, 0.0, 0.0), 9.4)
    found = samples(of_solids(ball, heights=np.array([-9.0, -8, -6, -4, -2, 1, 4, 6, 7, 8, 9])))
    assert found.volume_cc == pytest.approx(ball.volume_cc, rel=0.005)


def test_upside_down_is_the_same_volume():
    drawn = of_solids(Sphere((0.0, 0.0, 0.3), 9.0), Cylinder((25.0, 0.0, 2.0), 6.0, 20.0, 1.0))
    mirrored = RoiContours(1, "ROI", "ORGAN", tuple(c * [1, 1, -1] for c in drawn.contours), {}, "")
    assert samples(mirrored).volume_cc == pytest.approx(samples(drawn).volume_cc, rel=1e-3)


def test_a_contour_smaller_than_the_raster_does_no_harm():
    body = [(circle((0.0, 0.0), 60.0), float(z)) for z in range(8)]
    speck = samples(roi([*body, (circle((100.0, 0.0), 0.2), 3.0)]))
    assert speck.volume_cc == pytest.approx(samples(roi(body)).volume_cc, rel=1e-3)
