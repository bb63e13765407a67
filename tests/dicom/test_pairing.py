"""Pairing of files with careless references, duplicates and unreadable files."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pydicom
import pytest

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dicom.ct import CT_CLASS, read_ct
from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box
from cdm_nnunet.dicom.plan import read_plan
from cdm_nnunet.dicom.plan_choice import Choice
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.dvh import Template

PHANTOM = Phantom(
    {"PTV": Box((0.0, 0.0, 0.0), (10.0, 10.0, 12.0))},
    LinearDose(0, 0.3, 55.0),
    slices_z_mm=tuple(np.arange(-16.0, 17.0, 2.0)),
    pixels=(12, 12),
    prescriptions_gy={"PTV": 60.0},
)
TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [{"name": "PTV", "kind": "target", "prescription_gy": "patient"}],
        "goals": [{"roi": "PTV", "metric": "D95%"}],
    },
    "test",
)
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def files(tmp_path):
    return write_phantom(PHANTOM, tmp_path / "exports")


def edit(paths, change):
    for k, path in enumerate([paths] if not isinstance(paths, list | tuple) else paths):
        dataset = pydicom.dcmread(path)
        change(dataset, k)
        dataset.save_as(path)


def set_uid(dataset, uid):
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid


def paired(files, **options):
    (found,) = index_folder(files.folder).patients(**options)
    return found


def copy_of_ct(files, name, change):
    """The CT again, as a separate series."""
    folder = files.folder / name
    folder.mkdir()
    paths = [shutil.copy(path, folder / path.name) for path in files.ct]

    def other(image, k):
        image.SeriesInstanceUID = f"1.2.77.{len(name)}"
        set_uid(image, f"1.2.77.{len(name)}.{k}")
        change(image, k)

    edit(paths, other)
    return paths


def listing(structures):
    return structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence


def test_a_random_frame_at_the_top_of_the_structure_set_does_no_harm(files):
    edit(files.structures, lambda d, _: setattr(d.ReferencedFrameOfReferenceSequence[0], "FrameOfReferenceUID", "1.2"))
    assert paired(files).problems == ()
    edit(files.structures, lambda d, _: setattr(d, "FrameOfReferenceUID", "1.2.3"))
    assert paired(files).problems == ()
    edit(files.structures, lambda d, _: setattr(d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2"))
    assert any("different frames of reference" in problem for problem in paired(files).problems)


def test_a_wrong_series_uid_with_the_right_images_is_followed(files):
    edit(files.structures, lambda d, _: setattr(listing(d)[0], "SeriesInstanceUID", "1.2.3"))
    assert (paired(files).problems, len(paired(files).ct)) == ((), 17)
    edit(files.structures, lambda d, _: delattr(listing(d)[0], "ContourImageSequence"))
    assert (paired(files).problems, len(paired(files).ct)) == ((), 17)  # by the contours' own images

    def forget(dataset, _):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"

    edit(files.structures, forget)
    (problem,) = paired(files).problems
    assert problem.startswith("the CT that the structure set was drawn on is not in the folder, or was not chosen")


def test_a_second_listed_ct_is_left_aside_where_nothing_was_drawn_on_it(files):
    copy_of_ct(files, "contrast", lambda image, k: None)

    def list_both(dataset, _):
        item = pydicom.Dataset()
        item.SeriesInstanceUID = "1.2.77.8"
        listing(dataset).append(item)

    edit(files.structures, list_both)
    found = paired(files)
    assert (found.problems, len(found.ct)) == ((), 17)
    assert {pydicom.dcmread(path).SeriesInstanceUID for path in found.ct} != {"1.2.77.8"}
    assert "1 other CT series ignored" in found.notes


def test_a_ct_split_over_two_listed_series_is_one(files):
    edit(files.ct[9:], lambda image, k: setattr(image, "SeriesInstanceUID", "1.2.77"))

    def list_both(dataset, _):
        first = listing(dataset)[0]
        second = pydicom.Dataset()
        second.SeriesInstanceUID = "1.2.77"
        second.ContourImageSequence = first.ContourImageSequence[9:]
        first.ContourImageSequence = first.ContourImageSequence[:9]
        listing(dataset).append(second)

    edit(files.structures, list_both)
    found = paired(files)
    assert (found.problems, len(found.ct)) == ((), 17)
    assert read_ct(found.ct).notes == ("the CT is split over 2 series",)
    shutil.move(files.ct[4], files.folder.parent / "elsewhere")
    (problem,) = paired(files).problems
    assert problem.startswith("2 CT series: ambiguous, keep one")


def second_structures(files, name, images_class, series_uid, frame_uid=None):
    """The structure set once more, drawn on other images."""
    path = files.folder / name
    dataset = pydicom.dcmread(files.structures)
    set_uid(dataset, f"1.2.88.{len(name)}")
    series = listing(dataset)[0]
    series.SeriesInstanceUID = series_uid
    for k, image in enumerate(series.ContourImageSequence):
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = images_class, f"{series_uid}.{k}"
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence = [series.ContourImageSequence[0]]
    if frame_uid:
        dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = frame_uid
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("frame_uid", [None, "1.2.3"])
@pytest.mark.parametrize("has_plan", [True, False])
def test_a_structure_set_on_mr_is_left_aside(files, frame_uid, has_plan):
    second_structures(files, "mr.dcm", MR_CLASS, "1.2.99", frame_uid)
    if not has_plan:
        files.plan.unlink()
        edit(files.doses, lambda d, _: delattr(d, "ReferencedRTPlanSequence"))
    found = paired(files)
    assert (found.problems, found.structures) == ((), files.structures)
    other_ct = second_structures(files, "on_a_ct.dcm", CT_CLASS, "1.2.99")
    assert paired(files).problems == ()  # of a CT that is not here
    copy_of_ct(files, "contrast", lambda image, k: None)
    edit(other_ct, lambda d, _: setattr(listing(d)[0], "SeriesInstanceUID", "1.2.77.8"))
    problems = paired(files).problems
    assert [problem[:37] for problem in problems] == [] if has_plan else ["2 structure sets: ambiguous, keep one"]


@pytest.mark.parametrize("syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.RLELossless])
def test_copies_with_another_header_or_encoding_are_left_aside(files, syntax):
    for path in files.ct:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.ImplementationVersionName = "OTHER"
        if syntax.is_compressed:
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path.with_suffix(".copy"), implicit_vr=syntax.is_implicit_VR, little_endian=True)
    found = paired(files)
    assert (found.problems, len(found.ct)) == ((), 17)
    assert "copies of files ignored: 17" in found.notes
    edit(files.ct[3].with_suffix(".copy"), lambda d, _: setattr(d, "RescaleIntercept", 0))
    (problem,) = paired(files).problems
    assert "have the same SOPInstanceUID but differ" in problem


def test_a_plan_that_is_named_twice_or_not_at_all(files):
    edit(files.doses, lambda d, _: d.ReferencedRTPlanSequence.append(d.ReferencedRTPlanSequence[0]))
    assert paired(files).problems == ()
    read_dose(files.doses, read_plan(files.plan))
    edit(files.doses, lambda d, _: setattr(d, "ReferencedRTPlanSequence", d.ReferencedRTPlanSequence[:1]))
    edit(files.doses, lambda d, _: delattr(d.ReferencedRTPlanSequence[0], "ReferencedSOPInstanceUID"))
    assert (paired(files).problems, len(paired(files).doses)) == ((), 1)
    read_dose(files.doses, read_plan(files.plan))


@pytest.mark.parametrize("difference_mm", [0.04, -0.1])
def test_plane_positions_that_were_rounded_are_those_of_the_dose(tmp_path, difference_mm):
    phantom = dataclasses.replace(PHANTOM, absolute_offsets=True)
    files = write_phantom(phantom, tmp_path)
    before = read_dose(files.doses).volume.grid

    def shift(dataset, _):
        dataset.GridFrameOffsetVector = [float(z) + difference_mm for z in dataset.GridFrameOffsetVector]

    edit(files.doses, shift)
    assert read_dose(files.doses).volume.grid.same_as(before)


@pytest.mark.parametrize("kept", [0, 150, 400, 700])
@pytest.mark.parametrize("count", [1, 3])
def test_a_truncated_file_counts(files, kept, count):
    for path in files.ct[-count:]:
        path.write_bytes(path.read_bytes()[:kept])
    found = paired(files)
    assert len(found.problems) == count
    assert all(f"ct_{17 - count:03d}"[:4] in problem for problem in found.problems)
    assert all("a file of this patient can't be read" in problem for problem in found.problems)


def test_an_overwritten_file_counts_by_its_name(files):
    for k, path in enumerate(files.ct):
        path.rename(files.folder / f"IM{k:04d}")
    (files.folder / "IM0016").write_bytes(bytes(5000))
    (files.folder / "README").write_text("not an image")
    (problem,) = paired(files).problems
    assert "IM0016 is not a DICOM file" in problem


def test_what_cannot_be_read_and_is_not_needed_is_noted(files):
    content = files.doses[0].read_bytes()
    files.doses[0].write_bytes(content[: content.index(pydicom.dcmread(files.doses[0]).StudyInstanceUID.encode()) + 9])
    (problem, *_) = [problem for problem in paired(files).problems if "can't be read" in problem]
    assert "dose.dcm" in problem
    found = paired(files, needed=("RTSTRUCT",))
    assert found.problems == ()
    assert "unreadable files that are not needed, ignored: 1" in found.notes


def test_in_a_folder_of_several_patients_a_nameless_damaged_file_is_noted(files):
    other = write_phantom(dataclasses.replace(PHANTOM, seed=1), files.folder / "second")
    for path in other.folder.iterdir():
        shutil.move(path, files.folder / f"second_{path.name}")
    files.ct[-1].write_bytes(files.ct[-1].read_bytes()[:150])  # before the patient's name
    for found in index_folder(files.folder).patients():
        assert found.problems == ()
        assert [note for note in found.notes if "or files without a patient" in note]
        assert not any("ct_016" in note for note in found.notes)  # (notes go into the data set)
    (files.folder / "report.txt").write_text("no image")
    (files.folder / "empty.csv").touch()
    assert len(index_folder(files.folder).damaged) == 1


def test_a_file_without_preamble_is_no_damaged_file(files):
    index = index_folder(files.folder)
    assert (index.damaged, dict(index.unread)) == ((), {})
    assert read_structures(files.structures).drawn_elsewhere == frozenset()


def renumbered(image, k):
    image.FrameOfReferenceUID, image.StudyInstanceUID = "1.2.66", "1.2.66.1"


def test_a_ct_that_was_exported_again_is_taken_by_its_slices_on_request(files):
    copy_of_ct(files, "again", renumbered)
    for path in files.ct:
        path.unlink()
    (problem, *_) = paired(files).problems
    assert "--match-geometry takes it by its slices" in problem
    found = paired(files, choice=Choice(match_geometry=True))
    assert (found.problems, len(found.ct), found.by_geometry) == ((), 17, True)
    assert "the CT, of other UIDs than the contours', was taken by its 17 slices (match geometry)" in found.notes
    case = DicomPatient(found, DicomMapping({"PTV": "PTV"}), TEMPLATE, "dose").load()
    assert case.rois == ("PTV",)
    (frame,) = pydicom.dcmread(files.structures).ReferencedFrameOfReferenceSequence
    assert found.uids["frame of reference"] == frame.FrameOfReferenceUID


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z + 1.0, "planes of contours are on none of its slices"),
        (lambda z: 2.5 * z, "planes of contours are on none of its slices"),
        (None, "the structure set lists 17 images, and it has 15"),
    ],
)
def test_another_ct_is_not_taken_by_its_slices(files, change, message):
    def move(image, k):
        renumbered(image, k)
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x, y, float(z) if change is None else change(float(z))]

    paths = copy_of_ct(files, "other", move)
    for path in (*files.ct, *(paths[-2:] if change is None else ())):
        path.unlink()
    (problem, *_) = paired(files, choice=Choice(match_geometry=True)).problems
    assert problem.startswith("no CT has the slices of the contours: ")
    assert message in problem


def test_slices_do_not_tell_which_of_two_frames_is_the_cts(files):
    copy_of_ct(files, "again", renumbered)
    for path in files.ct:
        path.unlink()

    def second_frame(dataset, _):
        for sequence in (
            dataset.StructureSetROISequence,
            dataset.ROIContourSequence,
            dataset.RTROIObservationsSequence,
        ):
            sequence.append(copy.deepcopy(sequence[0]))
        roi, drawn, observed = (
            sequence[-1]
            for sequence in (
                dataset.StructureSetROISequence,
                dataset.ROIContourSequence,
                dataset.RTROIObservationsSequence,
            )
        )
        roi.ROINumber = drawn.ReferencedROINumber = observed.ReferencedROINumber = 2
        roi.ROIName, roi.ReferencedFrameOfReferenceUID = "Cord", "1.2.88"

    edit(files.structures, second_frame)
    (problem, *_) = paired(files, choice=Choice(match_geometry=True)).problems
    assert "the contours lie in 2 frames of reference, and slices can't tell which of them is the CT's" in problem


def test_matching_by_slices_changes_nothing_where_the_uids_are_right_and_needs_one_ct(files):
    copy_of_ct(files, "again", renumbered)
    found = paired(files, choice=Choice(match_geometry=True))
    assert (found.problems, found.ct, found.by_geometry) == ((), files.ct, False)
    copy_of_ct(files, "once more", renumbered)
    for path in files.ct:
        path.unlink()
    (problem, *_) = paired(files, choice=Choice(match_geometry=True)).problems
    assert problem.startswith("2 CT series have the slices of the contours: ambiguous, keep one")


def test_the_commands_take_a_ct_by_its_slices(files, tmp_path, monkeypatch, capfd):
    for seed in (1, 2):
        more = write_phantom(dataclasses.replace(PHANTOM, seed=seed), files.folder / str(seed))
        copy_of_ct(more, "again", lambda image, k, seed=seed: set_uid(image, f"1.2.{seed}.{k}"))
        for path in more.ct:
            path.unlink()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "small.json").write_text(json.dumps(TEMPLATE.to_json()))
    out = tmp_path / "inspection"
    inspect = ["inspect", "dicom", str(files.folder), "-o", str(out), "--template", str(tmp_path / "small.json")]
    assert cli.main(inspect) == 0
    (out / "rois.yaml").write_text("rois: {PTV: PTV}")
    assert cli.main([*inspect, "--match-geometry"]) == 0
    assert "3 patients" in (shown := capfd.readouterr().out)
    assert "3 can be converted" in shown
    options = ["--template", str(tmp_path / "small.json"), "--mapping", str(out / "rois.yaml"), "-np", "1"]
    convert = ["convert", "dicom", str(files.folder), "-d", "502", "-n", "Clinic", *options, "--match-geometry"]
    assert cli.main(convert) == 0
    assert "3 converted" in capfd.readouterr().out
