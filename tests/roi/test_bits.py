import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import (
    add_mask,
    bit_dtype,
    from_words,
    mask_of,
    n_words,
    pack,
    permute_bits,
    refuse_stray_bits,
    to_words,
    unpack,
    used_bits,
)

# Number of ROIs, the only ROI that is set, the packed value, its type, and the 16-bit words.
GOLDEN = [
    (1, 0, 1, "uint8", [1]),
    (8, 7, 128, "uint8", [128]),
    (9, 0, 1, "uint16", [1]),
    (9, 8, 256, "uint16", [256]),
    (16, 15, 32768, "uint16", [32768]),
    (17, 15, 32768, "uint32", [32768, 0]),
    (17, 16, 65536, "uint32", [0, 1]),
    (32, 31, 2147483648, "uint32", [0, 32768]),
    (33, 32, 4294967296, "uint64", [0, 0, 1]),
    (64, 48, 281474976710656, "uint64", [0, 0, 0, 1]),
    (64, 63, 9223372036854775808, "uint64", [0, 0, 0, 32768]),
]


@pytest.mark.parametrize(("n_rois", "roi", "value", "dtype", "words"), GOLDEN)
def test_golden_table_of_the_bit_layout(n_rois, roi, value, dtype, words):
    masks = np.zeros((n_rois, 1), bool)
    masks[roi] = True
    packed = pack(masks)
    assert packed.dtype == dtype
    assert packed.tolist() == [value]
    assert to_words(packed, n_rois)[:, 0].tolist() == words
    assert to_words(packed, n_rois).dtype == np.float32


@pytest.mark.parametrize("n_rois", [8, 16, 32, 64])
def test_all_bits_at_once(n_rois):
    packed = pack(np.ones((n_rois, 2), bool))
    assert packed.tolist() == [2**n_rois - 1] * 2
    assert (to_words(packed, n_rois) == (65535 if n_rois >= 16 else 255)).all()


@st.composite
def overlapping_masks(draw):
    n_rois = draw(st.integers(1, 64))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    return draw(hnp.arrays(bool, (n_rois, *shape)))


@given(overlapping_masks())
@settings(deadline=None, max_examples=150)
def test_round_trips(masks):
    packed = pack(masks)
    assert packed.dtype == bit_dtype(len(masks))
    np.testing.assert_array_equal(unpack(packed, len(masks)), masks)
    words = to_words(packed, len(masks))
    assert words.shape == (n_words(len(masks)), *masks.shape[1:])
    merged = from_words(words, len(masks))
    assert merged.dtype == packed.dtype
    np.testing.assert_array_equal(merged, packed)


@given(overlapping_masks(), st.data())
@settings(deadline=None, max_examples=100)
def test_permutation_moves_whole_masks(masks, data):
    permutation = data.draw(st.permutations(range(len(masks))))
    moved = permute_bits(pack(masks), permutation)
    assert moved.dtype == bit_dtype(len(masks))
    np.testing.assert_array_equal(unpack(moved, len(masks)), masks[list(permutation)])
    inverse = np.argsort(permutation).tolist()
    np.testing.assert_array_equal(permute_bits(moved, inverse), pack(masks))


@given(overlapping_masks())
@settings(deadline=None, max_examples=50)
def test_packing_commutes_with_flips_and_copies(masks):
    flipped = masks[..., ::-1]
    np.testing.assert_array_equal(pack(flipped), pack(masks)[..., ::-1])
    words = to_words(pack(masks), len(masks))[..., ::-1]
    np.testing.assert_array_equal(unpack(from_words(words, len(masks)), len(masks)), flipped)


def test_the_input_is_left_alone():
    packed = np.array([0b01, 0b10], np.uint8)
    permute_bits(packed, (1, 0))
    to_words(packed, 2)[:] = 7
    unpack(packed, 2)[:] = True
    assert packed.tolist() == [1, 2]


def test_65_rois_are_refused():
    with pytest.raises(InputError, match="1 to 64 ROIs, not 65"):
        pack(np.zeros((65, 3), bool))
    with pytest.raises(InputError, match="not 65"):
        n_words(65)
    with pytest.raises(InputError, match="not 0"):
        bit_dtype(0)


def test_masks_that_are_not_boolean_are_refused():
    with pytest.raises(InputError, match="must be boolean, not uint8"):
        pack(np.ones((2, 3), np.uint8))
    with pytest.raises(InputError, match="leading axis"):
        pack(np.array(True))


@pytest.mark.parametrize("dtype", ["int16", "int64", "float32", "float64", "bool"])
@pytest.mark.parametrize("function", [unpack, to_words, refuse_stray_bits])
def test_types_that_lose_bits_are_refused(function, dtype):
    with pytest.raises(InputError, match=f"unsigned integer type, not {dtype}"):
        function(np.zeros(3, dtype), 3)


@pytest.mark.parametrize("function", [unpack, to_words, refuse_stray_bits])
def test_stray_high_bits_are_refused(function):
    with pytest.raises(InputError, match=r"bit 5 is set, but the catalogue has 3 ROIs \(bits 0 to 2\)"):
        function(np.array([0, 0b101001], np.uint8), 3)
    with pytest.raises(InputError, match="9 ROIs do not fit into a packed channel of 8 bits"):
        function(np.array([1], np.uint8), 9)


def test_stray_bits_next_to_the_highest_roi_are_found_in_64_bits():
    with pytest.raises(InputError, match="bit 63 is set"):
        refuse_stray_bits(np.array([2**63], np.uint64), 63)
    refuse_stray_bits(np.array([2**62], np.uint64), 63)
    refuse_stray_bits(np.array([2**64 - 1], np.uint64), 64)


@pytest.mark.parametrize("bad", [0.5, -1.0, 65536.0, np.nan, np.inf])
def test_interpolated_or_normalised_words_are_refused(bad):
    with pytest.raises(InputError, match="whole numbers from 0 to 65535"):
        from_words(np.array([[1.0, bad]], np.float32), 3)


def test_words_of_another_catalogue_are_refused():
    with pytest.raises(InputError, match="expected 2 words of 16 bits for 17 ROIs, not 1"):
        from_words(np.zeros((1, 4), np.float32), 17)
    with pytest.raises(InputError, match="bit 4 is set"):
        from_words(np.array([[16.0]], np.float32), 3)


@pytest.mark.parametrize("permutation", [(0, 0, 1), (1, 2, 3), (0, 2)])
def test_what_is_no_permutation_is_refused(permutation):
    with pytest.raises(InputError, match="not a permutation of 0 to"):
        permute_bits(np.zeros(1, np.uint8), permutation)


def test_permuting_too_few_bits_is_refused():
    with pytest.raises(InputError, match="bit 2 is set"):
        permute_bits(np.array([0b100], np.uint8), (1, 0))


def test_one_mask_is_read_and_set_without_touching_the_others():
    masks = np.random.default_rng(5).random((40, 3, 4, 5)) < 0.1
    masks[17] = False
    packed = np.zeros(masks.shape[1:], np.uint64)
    for bit, mask in enumerate(masks):
        add_mask(packed, bit, mask)
    np.testing.assert_array_equal(packed, pack(masks))
    for bit, mask in enumerate(masks):
        np.testing.assert_array_equal(mask_of(packed, bit), mask)
    assert used_bits(packed) == tuple(bit for bit in range(40) if masks[bit].any())
    assert used_bits(np.zeros((0,), np.uint8)) == ()
    assert used_bits(np.array([1 << 63], np.uint64)) == (63,)
    np.testing.assert_array_equal(mask_of(np.array([1 << 63, 1], np.uint64), 63), [True, False])
