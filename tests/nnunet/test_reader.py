"""The reader keeps every bit, and refuses files that would lead to a wrong dose with one clear line."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, read_image, write_image
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.roi import from_words, pack

SHAPE = (4, 5, 6)
SPACING = (3.0, 2.5, 2.0)
ORIGIN = (-11.5, 20.25, -300.0)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def write(path: Path, values: np.ndarray, spacing=SPACING, origin=ORIGIN, direction=LPS) -> str:
    write_image(Image(values, Grid.of_image(values.shape, spacing, origin, direction), path))
    return str(path)


def write_raw(path: Path, values: np.ndarray) -> str:
    """Bypass the check on writing, for invalid files."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(image, str(path))
    return str(path)


def channels(dtype=np.uint8, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, np.iinfo(dtype).max, SHAPE, dtype, endpoint=True)
    bits.flat[0] = np.iinfo(dtype).max
    ct = generator.integers(-1024, 3000, SHAPE).astype(np.int16)
    return [ct, np.where(bits & dtype(1), 70.0, 0.0).astype(np.float32), bits]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write(tmp_path / f"case_{k:04d}.nii.gz", values) for k, values in enumerate(channels())]


@pytest.fixture
def dose_file(tmp_path: Path) -> str:
    return write(tmp_path / "case.nii.gz", np.random.default_rng(1).gamma(4, 10, SHAPE).astype(np.float32))


@pytest.mark.parametrize(("dtype", "n_words"), [(np.uint8, 1), (np.uint16, 1), (np.uint32, 2), (np.uint64, 4)])
def test_every_bit_of_every_type_comes_through(tmp_path, dtype, n_words):
    expected = channels(dtype)
    files = [write(tmp_path / f"case_{k:04d}.nii.gz", values) for k, values in enumerate(expected)]
    data, properties = CDMReaderWriter().read_images(files)
    assert data.dtype == np.float32
    assert data.shape == (2 + n_words, *SHAPE)
    np.testing.assert_array_equal(data[0], expected[0])
    np.testing.assert_array_equal(data[1], expected[1])
    np.testing.assert_array_equal(from_words(data[2:], np.iinfo(dtype).bits), expected[2])
    assert properties["spacing"] == list(SPACING)
    assert properties["sitk_stuff"] == {"spacing": SPACING[::-1], "origin": ORIGIN, "direction": LPS}


@pytest.mark.parametrize("bit", [0, 7, 15, 16, 31, 32, 62, 63])
def test_a_single_bit_stays_where_it_is(tmp_path, bit):
    masks = np.zeros((bit + 1, *SHAPE), bool)
    masks[bit, 2, 3, 4] = True
    ct, prescription, _ = channels()
    files = [write(tmp_path / f"c_{k:04d}.nii.gz", v) for k, v in enumerate((ct, prescription, pack(masks)))]
    words = CDMReaderWriter().read_images(files)[0][2:]
    assert np.argwhere(words).tolist() == [[bit // 16, 2, 3, 4]]
    assert words.max() == 2 ** (bit % 16)


def test_a_written_dose_comes_back_with_its_geometry(tmp_path, files):
    reader = CDMReaderWriter()
    _, properties = reader.read_images(files)
    dose = np.random.default_rng(2).gamma(4, 10, SHAPE)
    out = tmp_path / "out.nii.gz"
    reader.write_seg(dose, str(out), properties)
    back, back_properties = reader.read_seg(str(out))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back[0], dose.astype(np.float32))
    assert back_properties == properties
    assert sitk.ReadImage(str(out)).GetPixelIDTypeAsString() == "32-bit float"


def test_a_tilted_gantry_is_kept(tmp_path):
    c, s = np.cos(np.radians(5)), np.sin(np.radians(5))
    tilted = (1.0, 0.0, 0.0, 0.0, c, -s, 0.0, s, c)
    files = [write(tmp_path / f"case_{k:04d}.nii.gz", v, direction=tilted) for k, v in enumerate(channels())]
    _, properties = CDMReaderWriter().read_images(files)
    np.testing.assert_allclose(properties["sitk_stuff"]["direction"], tilted, atol=1e-6)


def test_a_case_has_its_dose_on_its_grid(files, dose_file):
    data, dose, properties = CDMReaderWriter().read_case(files, dose_file)
    assert data.shape[1:] == dose.shape[1:] == SHAPE
    assert properties["spacing"] == list(SPACING)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_channel_is_refused(files, which):
    Path(files[which]).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(files[which])} is missing"):
        CDMReaderWriter().read_images(files)


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_another_number_of_channels_is_refused(files, n):
    with pytest.raises(InputError, match=rf"3 channels \(CT, prescription, roi_bits\), found {n} for"):
        CDMReaderWriter().read_images((files * 2)[:n])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_empty_file_is_refused(files, which):
    Path(files[which]).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{re.escape(files[which])} is empty"):
        CDMReaderWriter().read_images(files)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_refused(files, which, share):
    path = Path(files[which])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"{re.escape(files[which])} is (damaged or )?cut off"):
        CDMReaderWriter().read_images(files)


def test_a_file_whose_voxels_end_too_early_is_refused(files):
    """Complete as a gzip file, cut off as an image: SimpleITK would fill it with zeros."""
    path = Path(files[0])
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-20]))
    with pytest.raises(InputError, match=rf"{re.escape(files[0])} is cut off: \d+ bytes for 120 voxels of 16 bits"):
        CDMReaderWriter().read_images(files)


def test_flipped_bytes_are_refused(files):
    path = Path(files[0])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged or cut off"):
        CDMReaderWriter().read_images(files)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_image_is_refused(files, packed):
    content = b"not a NIfTI file" * 100
    Path(files[2]).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(
        InputError, match=rf"{re.escape(files[2])} is (damaged or cut off|not a compressed NIfTI-1 file)"
    ):
        CDMReaderWriter().read_images(files)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, files, value):
    values = np.full(SHAPE, 30.0, np.float32)
    values[1, 2, 3] = value
    broken = write_raw(tmp_path / "broken.nii.gz", values)
    with pytest.raises(InputError, match=r"broken\.nii\.gz is not finite in 1 voxel"):
        CDMReaderWriter().read_seg(broken)
    for which in (0, 1):
        with pytest.raises(InputError, match=r"broken\.nii\.gz is not finite in 1 voxel"):
            CDMReaderWriter().read_images([*files[:which], broken, *files[which + 1 :]])


def test_a_negative_dose_is_refused(tmp_path):
    values = np.full(SHAPE, 30.0, np.float32)
    values[0, 0, 0] = -0.25
    with pytest.raises(InputError, match=r"d\.nii\.gz has negative dose \(minimum -0\.25 Gy\)"):
        CDMReaderWriter().read_seg(write(tmp_path / "d.nii.gz", values))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint8])
def test_a_whole_numbered_dose_is_refused(tmp_path, dtype):
    path = write(tmp_path / "d.nii.gz", np.full(SHAPE, 30, dtype))
    with pytest.raises(InputError, match=rf"has type {np.dtype(dtype)}; a dose is floating point, in Gy"):
        CDMReaderWriter().read_seg(path)


def test_a_prescription_of_zero_or_below_is_refused(tmp_path, files):
    zero = write(tmp_path / "p.nii.gz", np.zeros(SHAPE, np.float32))
    with pytest.raises(InputError, match=r"p\.nii\.gz is zero everywhere: no target has a prescription"):
        CDMReaderWriter().read_images([files[0], zero, files[2]])
    negative = write(tmp_path / "n.nii.gz", np.linspace(-1, 70, 120, dtype=np.float32).reshape(SHAPE))
    with pytest.raises(InputError, match=r"n\.nii\.gz has a negative prescription"):
        CDMReaderWriter().read_images([files[0], negative, files[2]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int16, np.int32, np.int64])
def test_a_float_or_signed_roi_channel_is_refused(tmp_path, files, dtype):
    bits = write(tmp_path / "b.nii.gz", channels()[2].astype(np.int64).clip(0, 100).astype(dtype))
    with pytest.raises(
        InputError, match=rf"b\.nii\.gz has type {np.dtype(dtype)}: the ROI channel must have an unsigned"
    ):
        CDMReaderWriter().read_images([files[0], files[1], bits])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": (3.0, 2.5, 2.1)}, r"spacing \(z, y, x\) \(3, 2\.5, 2\.1\), \S+ has \(3, 2\.5, 2\)"),
        ({"origin": (-11.5, 20.25, -297.0)}, r"origin \(x, y, z\) \(-11\.5, 20\.25, -297\)"),
        ({"direction": (1.0, 0.0, 0.0, 0.0, 0.999, -0.0447, 0.0, 0.0447, 0.999)}, "direction"),
        ({"shape": (4, 5, 7)}, r"size \(z, y, x\) \(4, 5, 7\), \S+ has \(4, 5, 6\)"),
    ],
)
@pytest.mark.parametrize("which", [1, 2, "dose"])
def test_another_grid_is_refused(tmp_path, files, dose_file, change, message, which):
    change = dict(change)
    shape = change.pop("shape", SHAPE)
    dtype = np.uint8 if which == 2 else np.float32
    other = write(tmp_path / "other.nii.gz", np.full(shape, 1, dtype), **change)
    images = [other if k == which else file for k, file in enumerate(files)]
    with pytest.raises(InputError, match=rf"other\.nii\.gz has {message}"):
        CDMReaderWriter().read_case(images, other if which == "dose" else dose_file)


@pytest.mark.parametrize(
    "direction",
    [
        (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0),  # sagittal slices
        (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0),  # oblique
        (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),  # RAS, as many research NIfTI files
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),  # head first against feet first
    ],
)
def test_other_axes_are_refused(tmp_path, direction):
    """A network that has only seen noses at the top must not be shown one at the bottom."""
    files = [write(tmp_path / f"case_{k:04d}.nii.gz", v, direction=direction) for k, v in enumerate(channels())]
    with pytest.raises(InputError, match=r"case_0000\.nii\.gz is not on an axial grid in LPS orientation"):
        CDMReaderWriter().read_images(files)


def test_a_segmentation_is_not_written_as_a_dose(tmp_path, files):
    _, properties = CDMReaderWriter().read_images(files)
    with pytest.raises(InputError, match="a dose is floating point, not int16"):
        CDMReaderWriter().write_seg(np.zeros(SHAPE, np.int16), str(tmp_path / "x.nii.gz"), properties)
    assert not (tmp_path / "x.nii.gz").exists()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, files, monkeypatch):
    """Writing is interrupted before the file is in place: the old file stays, and no partial file is left."""
    _, properties = CDMReaderWriter().read_images(files)
    out = tmp_path / "out.nii.gz"
    CDMReaderWriter().write_seg(np.full(SHAPE, 1.0), str(out), properties)
    before = sorted(path.name for path in tmp_path.iterdir())

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        CDMReaderWriter().write_seg(np.full(SHAPE, 2.0), str(out), properties)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (read_image(out).values == 1.0).all()


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, files):
    resource = pytest.importorskip("resource")
    _, properties = CDMReaderWriter().read_images(files)
    properties["sitk_stuff"]["origin"] = ORIGIN
    dose = np.random.default_rng(3).random((40, 50, 60)).astype(np.float32)
    before = sorted(path.name for path in tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the system's limit for a file's size, like a full disk
    try:
        with pytest.raises(OSError, match=r"big\.nii\.gz"):
            CDMReaderWriter().write_seg(dose, str(tmp_path / "big.nii.gz"), properties)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_has_the_number_that_the_command_line_knows(tmp_path, files, monkeypatch):
    """ENOSPC becomes 'the disk is full'."""
    import errno

    _, properties = CDMReaderWriter().read_images(files)
    real_open = Path.open

    def on_a_full_disk(self, *args, **kwargs):
        return real_open(Path("/dev/full") if self.name.startswith(".probe") else self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", on_a_full_disk)
    monkeypatch.setattr(sitk, "WriteImage", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("write failed")))
    with pytest.raises(OSError, match=r"x\.nii\.gz") as caught:
        CDMReaderWriter().write_seg(np.zeros(SHAPE), str(tmp_path / "x.nii.gz"), properties)
    assert caught.value.errno == errno.ENOSPC
