"""Elements that are read from their bytes have the value that pydicom gives them, or are refused in the same words."""

import warnings

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from cdm_nnunet.dicom.files import number_of, numbers_of, text_of
from cdm_nnunet.dicom.plain import plain_numbers, plain_text
from cdm_nnunet.errors import InputError

OF_TYPE = {
    "AS": "PatientAge",
    "CS": "Modality",
    "DA": "SeriesDate",
    "TM": "SeriesTime",
    "UI": "SOPInstanceUID",
    "IS": "InstanceNumber",
    "DS": "PixelSpacing",
    "LO": "SeriesDescription",
}
CHARACTERS = [bytes([code]) for code in b"0123456789+-.eE \\\0AZaz_~^,\xb5\x1b\r"]
WORDS = [
    *(b"12", b" 12 ", b"-0", b"1.5", b"+1.", b"1.5\\-2", b"1e3", b"nan", b"1_0", b"1.2.3", b"CT", b"12 \0 ", b"", b" "),
]
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.lists(st.sampled_from(CHARACTERS), max_size=20).map(b"".join),
    st.from_regex(rb" ?[+-]?[0-9]{1,14}(\.[0-9]{0,14})?[ \0]?", fullmatch=True),
)


def unparsed(keyword, vr, value):
    dataset = pydicom.Dataset()
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, vr is None, True)
    return dataset


def outcome(read, dataset, keyword, *options):
    try:
        return repr(read(dataset, keyword, "here", *options))
    except InputError as error:
        return f"refused: {error}"


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(OF_TYPE)), st.booleans(), VALUES)
def test_a_value_is_the_same_once_pydicom_has_parsed_it(vr, is_implicit, value):
    keyword = OF_TYPE[vr]
    raw, parsed = (unparsed(keyword, None if is_implicit else vr, value) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed[keyword]
        except Exception:  # noqa: BLE001  # (pydicom has no list of what it may raise)
            assert plain_text(raw, keyword) is plain_numbers(raw, keyword) is None
    for read, *options in ((text_of,), (text_of, ""), (number_of, 1.0), (numbers_of, 2), (numbers_of,)):
        assert outcome(read, raw, keyword, *options) == outcome(read, parsed, keyword, *options)


def test_plain_values_need_no_pydicom():
    assert plain_text(unparsed("Modality", "CS", b"RTDOSE"), "Modality") == "RTDOSE"
    assert plain_text(unparsed("SOPInstanceUID", None, b"1.2.3\0"), "SOPInstanceUID") == "1.2.3"
    assert plain_text(unparsed("InstanceNumber", "IS", b"7 "), "InstanceNumber") == "7"
    assert plain_numbers(unparsed("PixelSpacing", "DS", b"1.5\\-2 "), "PixelSpacing") == [1.5, -2.0]


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("SeriesDescription", "LO", b"plain"),
        ("Modality", "LO", b"CT"),
        ("Modality", "CS", b"CT\\MR"),
        ("InstanceNumber", "IS", b"1.5"),
        ("Modality", "CS", b"\xb5"),
    ],
    ids=["character set", "another type", "two values", "no integer", "not ASCII"],
)
def test_what_is_not_plain_is_left_to_pydicom(keyword, vr, value):
    assert plain_text(unparsed(keyword, vr, value), keyword) is None
