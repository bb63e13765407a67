"""Inspection's messages on suspicious values, without holding a dose, and its cache for the next inspection."""

import dataclasses
import json
import os

import numpy as np
import pydicom
import pytest
from phantoms import change

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dicom import files as dicom_files
from cdm_nnunet.dicom import inspection
from cdm_nnunet.dicom.dose import check_dose, read_dose
from cdm_nnunet.dicom.files import stored_range
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.inspection import inspect_index
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dicom.plan import read_plan
from cdm_nnunet.errors import InputError

PHANTOM = Phantom(
    {"BODY": Cylinder((0.0, 0.0, 0.0), 18.0, 16.0), "PTV60": Sphere((0.0, 0.0, 0.0), 8.0)},
    LinearDose(0, 0.5, 55.0),
    slices_z_mm=tuple(np.arange(-10.0, 11.0, 2.0)),
    pixels=(24, 24),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)


@pytest.fixture
def files(tmp_path):
    return write_phantom(PHANTOM, tmp_path / "patient")


def look(files, **options):
    (row,) = inspect_index(index_folder(files.folder), **options)["patients"].values()
    return row


def test_a_plausible_patient_has_no_notes(files):
    row = look(files)
    assert (row["problems"], row["notes"], row["convertible"]) == ([], [], True)
    assert (row["plans"], row["fractions"], row["prescriptions_gy"]) == (["phantom"], 35, {"PTV60": 60.0})
    assert row["dose_maximum_gy"] == pytest.approx(float(read_dose(files.doses).volume.values.max()), abs=0.005)


def stored(value):
    """Give every pixel a value, or shift all of them."""

    def edit(dataset):
        pixels = np.full(dataset.pixel_array.shape, value) if np.isscalar(value) else value(dataset.pixel_array)
        dataset.PixelData = pixels.astype("<u2").tobytes()

    return edit


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (stored(24), "suspicious: in 3 of 11 CT images all values are -1000 HU"),
        (
            lambda d: setattr(d, "RescaleIntercept", 0),
            "suspicious: in 3 of 11 CT images nothing is below 24 HU: no air; stored as HU + 1024?",
        ),
        (stored(lambda pixels: pixels // 40), "suspicious: in 3 of 11 CT images nothing is above -999 HU: no tissue"),
        (
            stored(lambda pixels: pixels * 4),
            "suspicious: in 3 of 11 CT images values from -928 to 3072 HU (padding, metal?); conversion clips them to "
            "-1024 to 3071 HU",
        ),
        (
            lambda d: setattr(d, "RescaleIntercept", -1100),
            "suspicious: in 3 of 11 CT images values from -1076 to -76 HU (padding, metal?); conversion clips them to "
            "-1024 to 3071 HU",
        ),
    ],
)
def test_suspicious_ct_values_are_told(files, edit, note):
    for path in files.ct:
        change(path, edit)
    assert look(files)["notes"] == [note]
    assert look(files, pixels=False)["notes"] == []


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_ct_without_rescaling_is_refused(files, keyword):
    for path in files.ct:
        change(path, lambda d: delattr(d, keyword))
    (problem,) = look(files)["problems"]
    assert f"lacks {keyword} (0028,105" in problem


def test_a_missing_slice_is_seen_in_the_headers(files):
    files.ct[4].unlink()
    (problem,) = look(files, pixels=False)["problems"]
    assert "4 mm lie between the slices at z = -4 and 0 mm" in problem
    assert "InstanceNumber goes from 4 to 6: a slice is missing" in problem
    for path in files.ct[:4]:
        path.unlink()
    (problem,) = look(files, pixels=False)["problems"]
    assert "refers to 11 images, 5 missing in the folder" in problem


def test_the_dose_is_looked_through_in_pieces(files, monkeypatch):
    whole = pydicom.dcmread(files.doses[0])
    low, high = int(whole.pixel_array.min()), int(whole.pixel_array.max())
    monkeypatch.setattr(dicom_files, "_PIECE", 1000)
    monkeypatch.setattr(dicom_files, "pixels_of", lambda *_: pytest.fail("the pixels were read as a whole"))
    assert stored_range(files.doses[0]) == (low, high)
    assert check_dose(files.doses) == pytest.approx(high * float(whole.DoseGridScaling))
    content = files.doses[0].read_bytes()
    files.doses[0].write_bytes(content[:-3000])
    with pytest.raises(InputError, match="cut off"):
        stored_range(files.doses[0])


def test_a_dose_of_another_encoding_is_read_as_a_whole(files):
    before = stored_range(files.doses[0])
    dataset = pydicom.dcmread(files.doses[0])
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(files.doses[0])
    assert stored_range(files.doses[0]) == before


def test_a_header_is_enough_for_what_does_not_need_values(tmp_path):
    files = write_phantom(dataclasses.replace(PHANTOM, beams=3, dose_per_beam=True), tmp_path / "patient")
    plan = read_plan(files.plan)
    assert check_dose(files.doses, plan, pixels=False) is None
    with pytest.raises(InputError, match=r"the dose of beam 2 of the 3 beams of .* is missing"):
        check_dose((files.doses[0], files.doses[2]), plan, pixels=False)
    change(files.doses[1], lambda d: setattr(d, "GridFrameOffsetVector", [0.0, 2.5]))
    assert "GridFrameOffsetVector (3004,000C) has 2 numbers" in look(files, pixels=False)["problems"][0]


def test_a_dose_that_fits_no_prescription_is_suspicious(files):
    change(files.doses[0], lambda d: setattr(d, "DoseGridScaling", "1e-5"))
    (note,) = look(files)["notes"]
    assert note.startswith(
        "suspicious: the dose maximum is 0.66 Gy for a prescription of 60 Gy, expected 30 to 180 Gy;"
    )
    change(files.doses[0], lambda d: setattr(d, "DoseGridScaling", "0.1"))
    (problem,) = look(files)["problems"]
    assert "not plausible; is DoseGridScaling (3004,000E) for cGy" in problem


def test_what_was_seen_of_a_patient_is_kept_while_its_files_stay(files, tmp_path, monkeypatch):
    cache = tmp_path / "patients.jsonl"
    first = inspect_index(index_folder(files.folder), cache=cache)
    seen = []
    monkeypatch.setattr(inspection, "_inspect_patient", lambda *given: seen.append(given) or pytest.fail("looked anew"))
    assert inspect_index(index_folder(files.folder), cache=cache) == first
    monkeypatch.undo()
    status = files.plan.stat()
    change(files.plan, lambda d: setattr(d.FractionGroupSequence[0], "NumberOfFractionsPlanned", 30))
    os.utime(files.plan, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert look(files, cache=cache)["fractions"] == 30
    assert look(files, pixels=False, cache=cache).get("dose_maximum_gy") is None  # (another depth, another look)


def test_file_names_that_are_no_text_are_told(files, tmp_path, capfd):
    odd = [b"a\xff\xfe.txt", b"two\nlines", b"\x1b[31mred", b"-rf $(reboot) ;"]
    for name in odd:
        with open(os.path.join(os.fsencode(files.folder), name), "wb") as file:
            file.write(b"no image")
    os.rename(files.ct[0], os.path.join(os.fsencode(files.folder), b"ct\xff\n\x1b[2J"))
    out = tmp_path / "inspection"
    assert cli.main(["inspect", "dicom", str(files.folder), "-o", str(out)]) == 0
    shown = capfd.readouterr().out
    assert "1 patient in 14 DICOM files; 1 can be converted" in shown
    assert f"not read: {len(odd)} files: is not a DICOM file (" in shown
    assert "\x1b" not in shown
    assert "lines is not a DICOM file" not in shown.splitlines()
    assert cli.main(["inspect", "dicom", str(files.folder), "-o", str(out), "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["unread"]) == len(odd)
    with open(os.path.join(os.fsencode(files.folder), b"a\xff\xfe.dcm"), "wb") as file:
        file.write(b"an image once")
    assert cli.main(["inspect", "dicom", str(files.folder), "-o", str(out)]) == 0
    assert "1 patient in 14 DICOM files; 0 can be converted" in capfd.readouterr().out


def test_the_command_can_leave_the_pixels_alone(files, tmp_path, capfd):
    change(files.ct[5], stored(24))
    options = ["inspect", "dicom", str(files.folder), "-o", str(tmp_path / "inspection")]
    assert cli.main([*options, "--headers-only", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["patients"].values()
    assert "dose_maximum_gy" not in row
    assert cli.main([*options, "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["patients"].values()
    assert row["dose_maximum_gy"] > 60
