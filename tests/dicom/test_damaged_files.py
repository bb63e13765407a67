"""One damaged file anywhere in a tree is named and ignored; it ends nothing."""

import io
import os
import struct
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

from cdm_nnunet.dicom import files
from cdm_nnunet.dicom.files import items_of, numbers_of, pixels_of, read_file, stored_range, text_of
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.errors import InputError


def image(syntax=ExplicitVRLittleEndian):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.Modality, dataset.PatientID = "CT", "one"
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = dataset.FrameOfReferenceUID = generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 5, 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    dataset.PixelData = np.arange(20, dtype="<u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def encoded(dataset):
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def nested(depth):
    """An unfinished file with nested sequences."""
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    return encoded(image())[:-52] + (sequence + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * depth


def deflated(dataset, change=lambda packed: packed):
    content = encoded(dataset)
    start = 144 + int.from_bytes(content[140:144], "little")
    return content[:start] + change(content[start:])


def packed(content):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def with_vr(keyword, vr):
    content = bytearray(encoded(image()))
    tag = pydicom.datadict.tag_for_keyword(keyword)
    at = content.rindex(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    content[at + 4 : at + 6] = vr
    return bytes(content)


DAMAGED = {
    "nested": (nested(5000), "its sequences are nested too deeply|is damaged or cut off"),
    "cut deflate": (deflated(image(DeflatedExplicitVRLittleEndian), lambda c: c[:-9]), "is damaged or cut off"),
    "no deflate": (deflated(image(DeflatedExplicitVRLittleEndian), lambda c: b"\xff" * 40), "is damaged or cut off"),
    "sequence for text": (with_vr("Modality", b"SQ"), r"is cut off: \d+ of \d+ bytes of element \(0008,0060\)"),
    "whole number for text": (with_vr("Modality", b"US"), r"Modality \(0008,0060\) has the type US .* and CS by the"),
    "unknown VR": (with_vr("PatientID", b"ZZ"), "is damaged or cut off|can't be read"),
    "number for UID": (with_vr("StudyInstanceUID", b"FD"), r"StudyInstanceUID \(0020,000D\) has the type FD"),
    "half a header": (encoded(image())[:200], "is cut off|is damaged|is not a DICOM file|lacks"),
}


def identity(path):
    read = read_file(path)
    return [text_of(read, keyword, path) for keyword in ("Modality", "PatientID", "StudyInstanceUID")]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_in_a_tree_is_named(tmp_path, kind):
    content, message = DAMAGED[kind]
    (tmp_path / "whole.dcm").write_bytes(encoded(image()))
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "damaged.dcm"
    path.write_bytes(content)
    index = index_folder(tmp_path)
    assert [entry.path for entry in index.entries if "whole" in entry.path] == [str(tmp_path / "whole.dcm")]
    if kind != "cut deflate":
        assert list(index.unread) == [str(path)]
    with pytest.raises(InputError, match=message) as caught:
        identity(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_BYTES", 2**20)
    path = tmp_path / "bomb.dcm"
    whole = image(DeflatedExplicitVRLittleEndian)
    whole.PixelData = bytes(2**21)
    path.write_bytes(encoded(whole))
    with pytest.raises(InputError, match=r"bomb\.dcm unpacks to more than 0 GiB; export it without compression"):
        read_file(path)
    path.write_bytes(encoded(image(DeflatedExplicitVRLittleEndian)))
    np.testing.assert_array_equal(pixels_of(read_file(path), path).ravel(), np.arange(20))


def test_pixels_that_are_none_are_refused(tmp_path):
    for changes, message in (
        ({"Rows": 65535, "Columns": 65535}, "not an image, or one of more than 1 GiB"),
        ({"Rows": 0}, "not an image"),
        ({"Rows": 40}, "is cut off: 40 bytes of pixels, expected 400"),
        ({"BitsAllocated": 13}, "can't be (read|decoded)"),
    ):
        dataset = image()
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        path = tmp_path / "image.dcm"
        dataset.save_as(path, enforce_file_format=True)
        with pytest.raises(InputError, match=message):
            pixels_of(read_file(path), path)


def test_an_unknown_transfer_syntax_is_told(tmp_path):
    path = tmp_path / "image.dcm"
    dataset = image()
    dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    with pytest.raises(InputError, match=r"image\.dcm.*export"):
        pixels_of(read_file(path), path)
    with pytest.raises(InputError, match=r"image\.dcm.*export"):
        stored_range(path)


def test_values_of_another_kind_are_told(tmp_path):
    dataset = image()
    dataset.ReferencedStudySequence = [Dataset()]
    dataset["DoseGridScaling"] = pydicom.DataElement("DoseGridScaling", "FD", 0.5)
    with pytest.raises(InputError, match=r"DoseGridScaling \(3004,000E\) has the type FD in the file and DS by the"):
        numbers_of(dataset, "DoseGridScaling", "here")
    with pytest.raises(InputError, match=r"here: ReferencedStudySequence \(0008,1110\) is not text"):
        text_of(dataset, "ReferencedStudySequence", "here")
    dataset.SeriesDescription = "a\0b"
    with pytest.raises(InputError, match=r"here: SeriesDescription \(0008,103E\) is damaged \('a\\x00b'\); export"):
        text_of(dataset, "SeriesDescription", "here")
    with pytest.raises(InputError, match=r"here: Modality \(0008,0060\) is not a sequence"):
        items_of(dataset, "Modality", "here")
    with pytest.raises(InputError, match=r"here: Modality \(0008,0060\) is not a number: 'CT'"):
        numbers_of(dataset, "Modality", "here")


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "image.dcm")
    with pytest.raises(InputError, match=r"image\.dcm is missing or not a file"):
        read_file(tmp_path / "image.dcm")
