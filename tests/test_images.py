"""Requirements of a NIfTI header, before a voxel is unpacked."""

import gzip
import math
import os
import re
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet import nifti_header
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, read_image, write_image
from cdm_nnunet.nifti_header import read_voxels

SHAPE, SPACING, ORIGIN = (4, 5, 6), (3.0, 2.5, 2.0), (-11.5, 20.25, -300.0)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
DIM, TYPE, BITS, PIXDIM, OFFSET, SCALING = 40, 70, 72, 76, 108, 112
UNITS, CODES, QUATERNION, Q_OFFSET, SFORM, EXTENSION = 123, 252, 256, 268, 280, 348


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ct.nii.gz"
    values = np.arange(math.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    write_image(Image(values, Grid.of_image(values.shape, SPACING, ORIGIN, LPS), path))
    return path


def edit(path, *changes, order="<"):
    """Replace values of the header: (place, kind as struct has it, values...)."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for at, kind, *values in changes:
        struct.pack_into(f"{order}{kind}", content, at, *values)
    path.write_bytes(gzip.compress(content))


def edited_bytes(path, change):
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # orientation
        ([(CODES, "2h", 0, 0)], r"the orientation of the patient: the codes of its qform and sform are 0 and 0"),
        ([(CODES, "2h", -1, 0)], r"are -1 and 0; left and right would be a guess"),
        ([(SFORM, "4f", 2, 0, 0, 1.5)], r"its sform and its qform place .* 10 mm apart and differ in left-right"),
        ([(SFORM + 16, "4f", 0, 2.5, 0, 0)], r"its sform and its qform place .* differ in front-back"),
        ([(SFORM + 12, "f", -3)], r"its sform and its qform place voxels up to 14\.5 mm apart: nothing says which"),
        ([(SFORM, "12f", 0, 2.5, 0, 0, 2, 0, 0, 0, 0, 0, 3, 0), (PIXDIM, "4f", 1, 2, 2.5, 3)], "differ in left-right"),
        ([(QUATERNION, "3f", 0, 0, 0)], r"differ in left-right and front-back"),
        ([(PIXDIM, "f", -1.0)], r"differ in head-feet"),
        ([(Q_OFFSET + 8, "f", NAN)], r"the qform in its header is not a rotation"),
        ([(QUATERNION, "f", 1.5)], r"the qform in its header is not a rotation \(quaternion \(1\.5, 0, 1\)"),
        ([(PIXDIM, "f", NAN)], r"not a rotation .* qfac nan"),
        ([(SFORM + 8, "f", INF)], r"the sform in its header has numbers that are not finite"),
        ([(SFORM + 4, "f", 1.0), (SFORM + 20, "f", -math.sqrt(2.5**2 - 1))], "not at right angles"),
        ([(SFORM, "12f", *[0.0] * 12)], r"\(2, 2\.5, 3\) mm by pixdim and \(0, 0, 0\) mm by its sform"),
        # voxel size
        ([(PIXDIM + 4, "f", 0.0)], r"\(pixdim\) is \(0, 2\.5, 3\) mm, which is not a voxel size"),
        ([(PIXDIM + 8, "f", NAN)], r"\(pixdim\) is \(2, nan, 3\) mm, which is not a voxel size"),
        ([(PIXDIM + 12, "f", INF)], r"\(pixdim\) is \(2, 2\.5, inf\) mm, which is not a voxel size"),
        ([(PIXDIM + 12, "f", -3.0)], r"\(pixdim\) is \(2, 2\.5, -3\) mm, which is not a voxel size"),
        ([(PIXDIM + 12, "f", 2.5)], r"\(2, 2\.5, 2\.5\) mm by pixdim and \(2, 2\.5, 3\) mm by its sform"),
        ([(UNITS, "B", 1)], "gives its voxel size in metres"),
        ([(UNITS, "B", 3)], "gives its voxel size in micrometres"),
        ([(UNITS, "B", 7)], "gives its voxel size in an unknown unit"),
        # voxels
        ([(OFFSET, "f", 0.0)], "the voxels begin at byte 0;"),
        ([(OFFSET, "f", 348.0)], "the voxels begin at byte 348;"),
        ([(OFFSET, "f", 352.5)], r"the voxels begin at byte 352\.5;"),
        ([(OFFSET, "f", NAN)], "the voxels begin at byte nan;"),
        ([(OFFSET, "f", 1e30)], r"the voxels begin at byte 1e\+30;"),
        ([(OFFSET, "f", 368.0)], r"begin at byte 368, but there are other data before|is cut off"),
        ([(EXTENSION, "4B", 1, 0, 0, 0)], r"the extensions of its header do not end where its voxels begin"),
        ([(TYPE, "2h", 4, 8)], "8 bits per voxel, and a type of 16 bits"),
        ([(TYPE, "2h", 16, 16)], "16 bits per voxel, and a type of 32 bits"),
        ([(TYPE, "2h", 32, 64)], r"NIfTI type 32: complex, in colour or unknown"),
        ([(TYPE, "2h", 128, 24)], r"NIfTI type 128: complex, in colour"),
        ([(TYPE, "2h", 1, 1)], r"NIfTI type 1: "),
        ([(TYPE, "2h", 16, 32)], "is cut off: 240 bytes for 120 voxels of 32 bits"),
        ([(TYPE, "2h", 2, 8)], "is longer than the 120 voxels"),
        ([(DIM + 6, "h", 3)], "is longer than the 90 voxels"),
        ([(DIM + 6, "h", 5)], "is cut off: 240 bytes for 150 voxels"),
        ([(DIM + 2, "3h", 32767, 32767, 32767)], "35181150961663 voxels of 16 bits are more than the 2 GiB"),
        ([(DIM + 2, "h", -6)], r"has no voxels or a damaged header \(its sizes: \(-6, 5, 4\)\)"),
        ([(DIM, "5h", 4, 6, 5, 2, 2)], "is not a three-dimensional image with one value per voxel"),
        ([(DIM, "h", 2)], "is not a three-dimensional image"),
        ([(DIM, "h", 8)], "is not a three-dimensional image"),
        ([(SCALING, "2f", NAN, 0)], "scales values by nan and adds 0"),
        ([(SCALING, "2f", 1, INF)], "scales values by 1 and adds inf"),
        ([(SCALING, "2f", 0, 7)], "scales values by 0 and adds 7, which is not a scaling"),
        ([(0, "i", 540)], "is not a compressed NIfTI-1 file"),
        ([(344, "4s", b"ni1\0")], "is not a compressed NIfTI-1 file"),
    ],
)
def test_a_header_that_is_damaged_or_contradicts_itself_is_refused(path, changes, message):
    edit(path, *changes)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*(?:{message})") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        [(CODES, "2h", 1, 0)],
        [(CODES, "2h", 0, 2)],
        [(CODES, "2h", 0, 2), (QUATERNION, "6f", NAN, 2, 3, NAN, 1, 1)],  # (unused fields may hold anything)
        [(CODES, "2h", 1, 0), (SFORM, "12f", *[NAN] * 12)],
        [(CODES, "2h", 1, 1)],
        [(SFORM, "f", -2.0 - 1e-6), (QUATERNION, "3f", 1e-6, 0, 1.0000001)],
        [(PIXDIM, "f", 0.0)],  # (qfac of zero is one, says the standard)
        [(UNITS, "B", 0)],
        [(DIM, "h", 5), (DIM + 8, "2h", 1, 1)],
        [(SCALING, "2f", 0, 0)],
    ],
)
def test_what_is_equal_to_within_rounding_or_not_used_is_fine(path, changes):
    before = read_image(path)
    edit(path, *changes)
    after = read_image(path)
    np.testing.assert_array_equal(after.values, before.values)
    assert after.values.dtype == before.values.dtype
    before.refuse_other_grid(after)


def test_scaled_values_are_read_as_the_header_says(path):
    edit(path, (SCALING, "2f", 0.5, -10))
    np.testing.assert_array_equal(read_image(path).values, np.arange(120).reshape(SHAPE) / 2 - 10)


def test_scaled_values_that_overflow_are_refused(path):
    edit(path, (SCALING, "2f", 3e38, 0))
    with pytest.raises(InputError, match=r"ct\.nii\.gz is not finite in \d+ voxels?"):
        read_image(path)


def test_other_byte_orders_are_read_alike(path):
    expected = read_image(path)
    content = gzip.decompress(path.read_bytes())
    fields = "i10s18sihcb8h3f4h8f3fh2b4f2i80s24s2h6f12f16s4s4s"
    header = struct.pack(f">{fields}", *struct.unpack_from(f"<{fields}", content))
    path.write_bytes(gzip.compress(header + np.frombuffer(content, "<i2", offset=352).byteswap().tobytes()))
    found = read_image(path)
    np.testing.assert_array_equal(found.values, expected.values)
    expected.refuse_other_grid(found)


def test_extensions_are_skipped(path):
    extension = struct.pack("<2i", 32, 6) + b"made by a test".ljust(24, b"\0")
    expected = read_image(path)
    edit(path, (OFFSET, "f", 384.0), (EXTENSION, "4B", 1, 0, 0, 0))
    edited_bytes(path, lambda content: content[:352] + extension + content[352:])
    np.testing.assert_array_equal(read_image(path).values, expected.values)
    edited_bytes(path, lambda content: content[:352] + struct.pack("<i", 48) + content[356:])
    with pytest.raises(InputError, match="extensions of its header do not end where its voxels begin, at byte 384"):
        read_image(path)


def test_a_bomb_is_not_unpacked(path, monkeypatch):
    """Zeros behind the voxels are not read, and an image beyond the limit is refused by its header."""
    edited_bytes(path, lambda content: content + bytes(50_000_000))
    taken = []
    real = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: taken.append(n) or real(self, n))
    with pytest.raises(InputError, match="is longer than the 120 voxels"):
        read_image(path)
    assert all(0 <= n <= 352 for n in taken)
    monkeypatch.setattr(nifti_header, "MAX_VOXEL_BYTES", 2**30)
    edit(path, (DIM + 2, "3h", 1024, 1024, 1024))
    taken.clear()
    with pytest.raises(
        InputError, match=r"1073741824 voxels of 16 bits are more than the 1 GiB that an image may have"
    ):
        read_image(path)
    assert taken == [352]


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match=r"ct\.nii\.gz is missing or not a file"):
        read_image(tmp_path / "ct.nii.gz")


axes = st.permutations([0, 1, 2])
signs = st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)
angle = st.floats(-0.4, 0.4)


@settings(deadline=None)
@given(axes, signs, angle, st.sampled_from([(2, 0), (0, 2), (1, 1)]))
def test_every_orientation_is_understood_as_simpleitk_does(tmp_path_factory, order, sign, tilt, codes):
    direction = np.eye(3)[order] * sign
    c, s = math.cos(tilt), math.sin(tilt)
    direction = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ direction
    path = tmp_path_factory.mktemp("images") / "ct.nii.gz"
    image = sitk.GetImageFromArray(np.zeros((7, 30, 90), np.int16))
    image.SetSpacing((0.9, 1.7, 3.3))
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path))
    edit(path, (CODES, "2h", *codes))
    found = read_image(path)
    np.testing.assert_allclose(found.grid.direction, direction.ravel(), atol=1e-5)
    np.testing.assert_allclose(found.grid.origin_xyz_mm, ORIGIN, rtol=1e-5)
    header, stored = read_voxels(path)
    assert (header.shape, stored.shape) == ((90, 30, 7), (7, 30, 90))
