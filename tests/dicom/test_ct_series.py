"""Which images make one CT: a change of the spacing, missing images, second scans, localizers, split series."""

import dataclasses

import numpy as np
import pydicom
import pytest

from cdm_nnunet.dicom.ct import read_ct
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.geometry.resampling import even_grid

EVERY_3_MM = tuple(np.arange(0.0, 91.0, 3.0))
PHANTOM = Phantom(
    {"Box": Box((0.0, 0.0, 45.0), (10.0, 10.0, 60.0))},
    LinearDose(0, 0.3, 30.0),
    slices_z_mm=EVERY_3_MM,
    pixels=(8, 8),
)


def written(folder, z_mm=EVERY_3_MM, **options):
    return list(write_phantom(dataclasses.replace(PHANTOM, slices_z_mm=tuple(z_mm), **options), folder).ct)


def edit(paths, change):
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        change(dataset, k)
        dataset.save_as(path)


def heights(ct):
    return ct.volume.grid.origin_xyz_mm[2] + ct.volume.grid.offsets_xyz_mm[2]


def without_numbers(paths):
    edit(paths, lambda image, k: image.__delitem__("InstanceNumber"))


@pytest.mark.parametrize("gone", [[17], [17, 19], [17, 19, 21, 23], [0, 2], [1, 3, 5], [27, 29], range(5, 25, 2)])
@pytest.mark.parametrize("numbered", [True, False])
def test_missing_images_are_found_also_where_they_hide_each_other(tmp_path, gone, numbered):
    paths = [path for k, path in enumerate(written(tmp_path)) if k not in gone]
    if not numbered:
        without_numbers(paths)
        if len(gone) > 2:
            return  # (without numbers, many of them look like a change of the spacing)
    if list(gone) == [0, 2]:
        with pytest.raises(InputError, match=r"6 mm lie between the slices at z = 3 and 9 mm.*a slice is missing"):
            read_ct(paths)
        return
    low = 3 * (gone[0] - 1)
    words = f", and InstanceNumber goes from {gone[0]} to {gone[0] + 2}" if numbered else ""
    expected = f"6 mm lie between the slices at z = {low} and {low + 6} mm, more than between others{words}: a slice is"
    with pytest.raises(InputError, match=expected):
        read_ct(paths)


@pytest.mark.parametrize(
    "z_mm",
    [
        np.r_[0:30:3.0, 30:60:6.0, 60:90:3.0],
        np.r_[0:30:3.0, 30:60:6.0],
        np.r_[0.0, 3, 6, 9, 15, 21, 24, 27, 30, 33, 36, 39],  # two wide steps with consecutive numbers
        np.r_[0:30:3.0, 33:60:3.0],
        np.r_[0:20:2.0, 20:50:5.0],
    ],
)
def test_a_regular_change_of_the_spacing_is_read_and_made_even(tmp_path, z_mm):
    paths = written(tmp_path, z_mm)
    ct = read_ct(paths[::-1])
    np.testing.assert_allclose(heights(ct), z_mm)
    steps = sorted({float(step) for step in np.diff(z_mm)})
    note = (
        f"the slices of the CT are {steps[0]:g} and {steps[1]:g} mm apart; in between, values are interpolated linearly"
    )
    assert ct.notes[0] == note
    wide = [float(step) > 1.5 * steps[0] for step in np.diff(z_mm)]
    start, end = wide.index(True), len(wide) - wide[::-1].index(True)
    if all(wide[start:end]):
        expected = f"wide steps of the CT: {steps[1]:g} mm from z = {z_mm[start]:g} to {z_mm[end]:g} mm"
        assert ct.notes[1:] == (expected,)
    even = even_grid(ct.volume.grid)
    assert even.is_uniform
    assert even.spacing_xyz_mm == (2.0, 2.0, steps[0])
    assert read_ct(paths, pixels=False).notes == ct.notes
    if min(np.count_nonzero(np.diff(z_mm) == step) for step in steps) >= 3:
        without_numbers(paths)
        np.testing.assert_allclose(heights(read_ct(paths)), z_mm)
        assert read_ct(paths).notes[1].endswith("without InstanceNumber nothing shows whether images are missing there")


@pytest.mark.parametrize(
    "z_mm",
    [
        np.r_[0:30:3.0, 36:60:3.0, 69:90:3.0],  # 9 and 12 mm
        np.r_[0:30:3.0, 60:90:3.0],
        np.r_[0.0, 3, 6, 9, 15, 22, 25, 28, 31],
        np.r_[0:30:3.0, 30:90:15.0],
    ],
)
def test_irregular_steps_are_refused(tmp_path, z_mm):
    with pytest.raises(InputError, match=r"mm lie between the slices at z = \d+ and \d+ mm, more than between others"):
        read_ct(written(tmp_path, z_mm))


def test_positions_that_were_rounded_are_equal(tmp_path):
    z_mm = (np.arange(30) * 0.625).round(1)
    ct = read_ct(written(tmp_path, z_mm))
    assert ct.notes == ()
    assert even_grid(ct.volume.grid).spacing_xyz_mm[2] == pytest.approx(0.6)


def second_scan(folder, paths, shift_mm, number, keep=slice(None), **elements):
    """The images of a series once more, shifted, with other UIDs in the same series."""
    folder.mkdir()
    added = []
    for k, path in enumerate(paths[keep]):
        image = pydicom.dcmread(path)
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x, y, float(z) + shift_mm]
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        image.InstanceNumber = number(k)
        for keyword, value in elements.items():
            setattr(image, keyword, value)
        image.save_as(folder / path.name)
        added.append(folder / path.name)
    return added


@pytest.mark.parametrize("shift_mm", [1.5, 0.7])
@pytest.mark.parametrize(
    "number", [lambda k: k + 1, lambda k: k + 32, lambda k: 100 - k, lambda k: 1], ids=["same", "on", "down", "one"]
)
@pytest.mark.parametrize("keep", [slice(None), slice(10, 25)], ids=["all", "part"])
def test_a_second_scan_in_the_series_is_refused(tmp_path, shift_mm, number, keep):
    paths = written(tmp_path / "ct")
    more = second_scan(tmp_path / "more", paths, shift_mm, number, keep)
    edit(paths, lambda image, k: setattr(image, "AcquisitionNumber", 1))
    edit(more, lambda image, k: setattr(image, "AcquisitionNumber", 2))
    with pytest.raises(InputError, match=r"images of 2 scans are interleaved \(AcquisitionNumber 1, 2\)"):
        read_ct([*paths, *more])
    edit([*paths, *more], lambda image, k: image.__delitem__("AcquisitionNumber"))
    if number(0) == number(1) and keep != slice(None) and shift_mm == 1.5:
        return  # (numbers of which half are equal show nothing)
    with pytest.raises(InputError, match=r"two scans|the same InstanceNumber|more than between others"):
        read_ct([*paths, *more])


@pytest.mark.parametrize("times", [("093000", "094500"), ("093000.00", "")])
def test_the_time_of_the_acquisition_tells_scans_apart(tmp_path, times):
    paths = written(tmp_path / "ct")
    more = second_scan(tmp_path / "more", paths, 1.5, lambda k: k + 1, AcquisitionTime=times[1])
    edit(paths, lambda image, k: setattr(image, "AcquisitionTime", times[0]))
    edit([*paths, *more], lambda image, k: image.__delitem__("InstanceNumber"))
    with pytest.raises(InputError, match=r"images of 2 scans are interleaved \(AcquisitionTime"):
        read_ct([*paths, *more])


def renumbered(folder, **elements):
    """Two scans half a slice apart as one series from 1 on; elements by the scan (0, 1) and the place."""
    paths = written(folder / "ct")
    more = second_scan(folder / "more", paths, 1.5, lambda k: k)
    for which, scan in enumerate((paths, more)):

        def change(image, k, which=which):
            image.InstanceNumber = 2 * k + which + 1
            for keyword, value in elements.items():
                setattr(image, keyword, value(which, k))

        edit(scan, change)
    return [*paths, *more]


@pytest.mark.parametrize(
    "elements",
    [
        {"SeriesTime": lambda which, k: ("093000", "094500")[which]},
        {"KVP": lambda which, k: (120, 100)[which]},
        {"ConvolutionKernel": lambda which, k: ("Br38", "Hr60")[which]},
        {"ContentTime": lambda which, k: f"09{which * 15:02d}{k:02d}"},
        {"InstanceCreationTime": lambda which, k: f"09{which}0{k // 4:02d}.5"},
    ],
)
def test_two_scans_that_were_renumbered_as_one_are_refused_by_what_differs(tmp_path, elements):
    with pytest.raises(InputError, match=rf"images of (2|two) scans are interleaved \({next(iter(elements))}[ ,]"):
        read_ct(renumbered(tmp_path, **elements))


def test_images_twice_as_thick_as_their_distance_are_noted(tmp_path):
    paths = renumbered(tmp_path, SliceThickness=lambda which, k: 3)
    note = (
        "the images of the CT are 3 mm thick and 1.5 mm apart: they overlap, or two scans were merged into one series"
    )
    assert read_ct(paths).notes == (note,)
    edit(paths, lambda image, k: setattr(image, "SliceThickness", 2))
    assert read_ct(paths).notes == ()


@pytest.mark.parametrize("moved", ["patient", "values"])
def test_two_scans_are_told_apart_by_their_pixels(tmp_path, moved):
    paths = renumbered(tmp_path)
    rng = np.random.default_rng(1)
    base = rng.normal(0, 100, (8, 8))

    def change(image, k):
        z = float(image.ImagePositionPatient[2])
        is_second = round(z / 1.5) % 2
        hu = base * (1 + z / 200) + rng.normal(0, 2, (8, 8))
        if is_second:
            hu = np.roll(hu, 1, 1) if moved == "patient" else hu + 40
        image.PixelData = (hu - float(image.RescaleIntercept)).astype(np.int16).tobytes()

    edit(paths, change)
    with pytest.raises(InputError, match="two scans are interleaved; keep the images of one"):
        read_ct(paths)
    assert len(read_ct(paths[:31]).sop_uids) == 31


def test_times_and_values_of_one_scan_in_any_order_are_no_second_scan(tmp_path):
    paths = written(tmp_path)
    rng = np.random.default_rng(2)

    def change(image, k):
        image.ContentTime = f"0930{(k * 7) % 31:02d}"
        image.InstanceCreationTime = f"{10 + k // 16}1500"  # the upper half an hour later
        image.PixelData = rng.integers(900, 1100, (8, 8)).astype(np.int16).tobytes()

    edit(paths, change)
    assert read_ct(paths).notes == ()


def test_one_scan_in_several_acquisitions_is_one_scan(tmp_path):
    paths = written(tmp_path)

    def change(image, k):
        image.AcquisitionNumber = 1 + k // 4
        image.AcquisitionTime = f"0930{k:02d}"
        image.InstanceNumber = 100 - k

    edit(paths, change)
    assert read_ct(paths).notes == ()
    edit(paths, lambda image, k: setattr(image, "AcquisitionTime", f"0930{(k * 7) % 31:02d}"))
    edit(paths, lambda image, k: setattr(image, "InstanceNumber", (k * 7) % 31 + 1))  # in no order
    assert read_ct(paths).notes == ()
    edit(paths, lambda image, k: setattr(image, "InstanceNumber", (k + 15) % 31 + 1))  # upper half first
    assert read_ct(paths).notes == ()
    edit(paths, lambda image, k: setattr(image, "InstanceNumber", k % 16 + 1))  # each half from 1
    assert read_ct(paths).notes == ()


def test_a_localizer_in_the_series_is_left_aside(tmp_path):
    paths = written(tmp_path)
    image = pydicom.dcmread(paths[0])
    image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    image.Rows, image.PixelData = 4, image.PixelData[: len(image.PixelData) // 2]
    image.SOPInstanceUID = "1.2.3"
    del image.RescaleType
    image.save_as(tmp_path / "scout.dcm")
    ct = read_ct([tmp_path / "scout.dcm", *paths])
    assert ct.notes == ("localizers among the CT ignored: 1",)
    np.testing.assert_allclose(heights(ct), EVERY_3_MM)
    assert "1.2.3" in ct.image_uids
    assert "1.2.3" not in ct.sop_uids
    with pytest.raises(InputError, match="there are no CT images"):
        read_ct([tmp_path / "scout.dcm"])


def test_a_ct_that_is_split_over_two_series_is_one(tmp_path):
    paths = written(tmp_path)

    def change(image, k):
        image.SeriesInstanceUID, image.InstanceNumber = "1.2.3", k + 1

    edit(paths[15:], change)
    ct = read_ct(paths)
    assert ct.notes == ("the CT is split over 2 series",)
    np.testing.assert_allclose(heights(ct), EVERY_3_MM)
    with pytest.raises(InputError, match="more than between others"):
        read_ct([*paths[:14], *paths[15:]])


@pytest.mark.parametrize("intercept", [-1024, -1000])
def test_an_unspecified_unit_with_the_rescaling_of_ct_is_hu(tmp_path, intercept):
    paths = written(tmp_path)

    def change(image, k):
        image.RescaleType, image.RescaleIntercept = "US", intercept

    edit(paths, change)
    ct = read_ct(paths)
    assert ct.notes == (
        f"RescaleType of the CT is US (unspecified); slope 1 and intercept {intercept} are those of HU",
    )
    assert float(ct.volume.values.max()) == 1024 + intercept


def test_an_even_grid_stays_as_it_is():
    offsets = (np.arange(4.0), np.arange(5.0), np.arange(6.0) * 2.5)
    grid = Grid.of_offsets(np.array([1.0, 2.0, 3.0]), np.eye(3), offsets)
    assert even_grid(grid).same_as(grid)


def test_two_images_at_one_place_are_refused_also_where_they_differ_by_rounding(tmp_path):
    paths = written(tmp_path, (*EVERY_3_MM[:10], 27.02, *EVERY_3_MM[10:]))
    with pytest.raises(InputError, match=r"two images lie only 0\.02 mm apart, at z = 27 mm: .*keep the images of one"):
        read_ct(paths)


def test_an_image_of_one_frame_is_a_slice(tmp_path):
    paths = written(tmp_path)
    edit(paths, lambda image, k: setattr(image, "NumberOfFrames", 1))
    assert read_ct(paths).volume.values.shape == (31, 8, 8)
    edit(paths[:1], lambda image, k: setattr(image, "NumberOfFrames", 2))
    with pytest.raises(InputError, match="is a multi-frame CT; export one file per slice"):
        read_ct(paths)
