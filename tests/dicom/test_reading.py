"""Phantoms are read back in every patient orientation, and unusable files are refused."""

import dataclasses

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from cdm_nnunet.dicom.ct import CT_CLASS, read_ct, read_slice
from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.files import stored_range
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import ORIENTATIONS, LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box, Sphere
from cdm_nnunet.dicom.plan import Prescription, read_plan
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.errors import InputError

DIAGONAL = LinearDose(0, 0.3, 30.0)
PHANTOM = Phantom(
    {"Ball": Sphere((6.0, -4.0, 3.0), 8.0), "PTV": Box((0.0, 0.0, 0.0), (10.0, 10.0, 12.0))},
    DIAGONAL,
    slices_z_mm=tuple(np.arange(-16.0, 17.0, 2.0)),
    pixels=(20, 24),
    prescriptions_gy={"PTV": 60.0},
)


def points_of(grid):
    z, y, x = np.meshgrid(*(grid.offsets_xyz_mm[axis] for axis in (2, 1, 0)), indexing="ij")
    return grid.origin_xyz_mm + np.stack([x, y, z], -1) @ grid.axes


@pytest.fixture
def files(tmp_path):
    return write_phantom(PHANTOM, tmp_path / "phantom")


@pytest.fixture
def edited(files):
    """Change elements of a written file."""

    def edit(path, **elements):
        dataset = pydicom.dcmread(path)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)
        return files

    return edit


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("position", ORIENTATIONS)
def test_dose_lands_on_the_same_points_in_every_orientation(tmp_path, position, axis, absolute):
    dose = LinearDose(axis, 0.3, 30.0)
    phantom = dataclasses.replace(PHANTOM, position=position, dose=dose, absolute_offsets=absolute)
    read = read_dose(write_phantom(phantom, tmp_path).doses).volume
    assert np.abs(read.values - dose(points_of(read.grid))).max() < 1e-3  # one step of 16 bits
    np.testing.assert_allclose(read.grid.axes, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("position", ORIENTATIONS)
def test_ct_lands_on_the_same_points_in_every_orientation(tmp_path, position):
    ct = read_ct(write_phantom(dataclasses.replace(PHANTOM, position=position), tmp_path).ct[::-1])
    points = points_of(ct.volume.grid)
    inside = np.any([solid.contains(points) for solid in PHANTOM.solids.values()], axis=0)
    np.testing.assert_array_equal(ct.volume.values, np.where(inside, 0.0, -1000.0))
    assert ct.patient_position == position


def test_a_tilted_image_keeps_its_physical_points(tmp_path):
    phantom = dataclasses.replace(PHANTOM, tilt_degrees=12.0)
    read = read_dose(write_phantom(phantom, tmp_path).doses).volume
    upright = points_of(read.grid) @ phantom.rotation.T
    assert np.abs(read.values - DIAGONAL(upright)).max() < 1e-3
    with pytest.raises(InputError, match=r"not on an axial grid .* to within 25 degrees"):
        read_dose(write_phantom(dataclasses.replace(PHANTOM, tilt_degrees=30.0), tmp_path / "more").doses)


def test_unequal_slices_are_read_as_they_are(tmp_path):
    z_mm = (-16.0, -14.0, -12.0, -10.0, -5.0, 0.0, 5.0, 10.0)
    grid = read_ct(write_phantom(dataclasses.replace(PHANTOM, slices_z_mm=z_mm), tmp_path).ct).volume.grid
    np.testing.assert_allclose(grid.origin_xyz_mm[2] + grid.offsets_xyz_mm[2], z_mm)
    assert not grid.is_uniform


def test_structures_and_plan_are_read(files):
    structures, plan = read_structures(files.structures), read_plan(files.plan)
    assert structures.names == ("Ball", "PTV")
    ball = structures.roi("Ball")
    assert len(ball.contours) == 8  # slices at -4, -2, ..., 10 mm; the poles at -5 and 11 are between slices
    assert plan.prescriptions == (Prescription(60.0, 2, "PTV", "VOLUME"),)
    assert (plan.n_fractions, plan.structure_uid) == (35, structures.sop_uid)
    structures.refuse_other_images(frozenset(read_ct(files.ct).sop_uids))
    with pytest.raises(InputError, match=r"no ROI 'Heart'; it has Ball, PTV"):
        structures.roi("Heart")


def test_beams_are_summed(tmp_path):
    phantom = dataclasses.replace(PHANTOM, beams=3)
    whole = read_dose(write_phantom(phantom, tmp_path / "plan").doses)
    files = write_phantom(dataclasses.replace(phantom, dose_per_beam=True), tmp_path / "beams")
    plan = read_plan(files.plan)
    summed = read_dose(files.doses, plan)
    np.testing.assert_allclose(summed.volume.values, whole.volume.values, atol=2e-3)
    assert summed.notes == ("dose summed over 3 beams",)
    with pytest.raises(InputError, match=r"the dose of beam 2 of the 3 beams of .* is missing"):
        read_dose((files.doses[0], files.doses[2]), plan)
    with pytest.raises(InputError, match="the plan is needed"):
        read_dose(files.doses)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"DoseUnits": "RELATIVE"}, r"DoseUnits \(3004,0002\) RELATIVE; export the absolute dose"),
        ({"DoseUnits": "CGY"}, "DoseUnits .* CGY; expected GY"),
        ({"DoseGridScaling": "1.0"}, "not plausible; is DoseGridScaling .* for cGy"),
        ({"DoseGridScaling": "0"}, "is 0, expected a number above zero"),
        ({"DoseGridScaling": None}, r"lacks DoseGridScaling \(3004,000E\)"),
        ({"DoseType": "ERROR"}, "it is not a dose"),
        ({"DoseSummationType": "FRACTION"}, "FRACTION; expected PLAN, or BEAM"),
        ({"GridFrameOffsetVector": [5.0 + k for k in range(13)]}, "starts with 5, expected 0 or the z of"),
        ({"GridFrameOffsetVector": [0.0, 2.5]}, "has 2 numbers for 13 planes"),
        ({"GridFrameOffsetVector": [0.0] * 13}, "several planes at the same position"),
        ({"ImagePositionPatient": None}, r"lacks ImagePositionPatient \(0020,0032\)"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not a pair of unit vectors"),
        ({"PixelSpacing": [2, 0]}, "PixelSpacing .* is not above zero"),
        ({"Modality": "CT"}, "is of modality CT, not RTDOSE"),
    ],
)
def test_a_dose_that_cannot_be_trusted_is_refused(edited, files, elements, message):
    edited(files.doses[0], **elements)
    with pytest.raises(InputError, match=message):
        read_dose(files.doses)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_codes_of_a_dose_in_mixed_case_are_read(edited, files):
    edited(files.doses[0], DoseUnits="Gy", DoseType="Physical", DoseSummationType="Plan")
    assert read_dose(files.doses).dose_type == "PHYSICAL"


def test_an_orientation_that_is_no_pair_of_unit_vectors_is_named(edited, files):
    for path in files.ct:
        edited(path, ImageOrientationPatient=[2, 0, 0, 0, 2, 0])
    with pytest.raises(InputError, match=r"ImageOrientationPatient \[2.0, .*\] is not a pair of unit vectors"):
        read_ct(files.ct)


def test_several_doses_are_not_summed(tmp_path):
    one = write_phantom(PHANTOM, tmp_path / "1").doses
    other = write_phantom(dataclasses.replace(PHANTOM, seed=1), tmp_path / "2").doses
    with pytest.raises(InputError, match="2 doses, one of them of a whole plan"):
        read_dose((*one, *other))
    with pytest.raises(InputError, match=r"have the same SOPInstanceUID \(0008,0018\)"):
        read_dose((*one, *one))


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(files, cut):
    for path, read in (
        (files.doses[0], lambda path: read_dose([path])),
        (files.structures, read_structures),
        (files.ct[3], lambda path: read_ct([path])),
        (files.plan, read_plan),
    ):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * cut)])
        with pytest.raises(InputError, match=r"cut off|lacks|not a DICOM|has no ROIs|have no ROIName"):
            read(path)


def test_what_is_no_dicom_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello " * 100)
    with pytest.raises(InputError, match=r"notes\.txt is not a DICOM file"):
        read_plan(path)
    with pytest.raises(InputError, match="missing"):
        read_plan(tmp_path / "absent")


@pytest.mark.parametrize("syntax", [pydicom.uid.JPEGLSLossless, pydicom.uid.JPEGLosslessSV1, pydicom.uid.JPEG2000])
def test_compressed_pixels_that_are_damaged_are_refused(files, syntax):
    dataset = pydicom.dcmread(files.ct[0])
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.save_as(files.ct[0])
    with pytest.raises(InputError, match=r"ct_000\.dcm: the pixels.* can't be (decoded|read)"):
        read_ct(files.ct)


def test_one_ct_series_is_expected(files, edited, tmp_path):
    other = write_phantom(dataclasses.replace(PHANTOM, seed=1), tmp_path / "other")
    with pytest.raises(InputError, match="the CT images belong to 2 studies"):
        read_ct((*files.ct, *other.ct))
    with pytest.raises(InputError, match=r"have the same SOPInstanceUID .* keep one of the two"):
        read_ct((*files.ct, files.ct[2]))
    with pytest.raises(InputError, match=r"4 mm lie between the slices at z = -12 and -8 mm.*a slice is missing"):
        read_ct([path for path in files.ct if path.name != "ct_003.dcm"])
    with pytest.raises(InputError, match="there are no CT images"):
        read_ct([])


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"PixelSpacing": [2.0, 2.5]}, "differ in PixelSpacing"),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, "differ in ImageOrientationPatient"),
        ({"ImagePositionPatient": [-20.0, -19.0, -10.0]}, "shifted by 3.00 mm in its own plane"),
        ({"ImagePositionPatient": [-23.0, -19.0, -8.0]}, "several planes at the same position"),
        ({"RescaleType": "OD"}, "RescaleType .* is OD, expected HU"),
        (
            {"RescaleType": "US", "RescaleSlope": 0.5},
            r"RescaleType .* is US, expected HU \(slope 0.5, intercept -1024\)",
        ),
        ({"RescaleSlope": None}, r"lacks RescaleSlope \(0028,1053\)"),
        ({"FrameOfReferenceUID": "1.2.3"}, "belong to 2 frames of reference"),
        (
            {"SeriesInstanceUID": "1.2.3"},
            r"images of 2 scans are interleaved \(SeriesInstanceUID 1.2.3, 1.2.826",
        ),
        ({"NumberOfFrames": 2}, "is a multi-frame CT"),
    ],
)
def test_a_ct_slice_that_does_not_fit_is_refused(edited, files, elements, message):
    edited(files.ct[3], **elements)
    with pytest.raises(InputError, match=message):
        read_ct(files.ct)


def test_a_colour_image_is_refused(edited, files):
    for path, read in ((files.ct[3], read_ct), (files.doses[0], read_dose)):
        edited(path, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
        with pytest.raises(InputError, match=r"\.dcm is a colour image, not one value per voxel"):
            read([path])


def test_a_ct_of_many_frames_in_one_file_is_refused(edited, files):
    dataset = pydicom.dcmread(files.ct[0])
    item = pydicom.Dataset()
    item.FrameContentSequence = []
    edited(files.ct[0], PerFrameFunctionalGroupsSequence=[item], PixelData=dataset.PixelData * 2)
    with pytest.raises(InputError, match=r"ct_000\.dcm is a multi-frame CT; export one file per slice"):
        read_ct(files.ct[:1])


def test_a_plan_with_several_fraction_groups_is_refused(edited, files):
    group = pydicom.dcmread(files.plan).FractionGroupSequence[0]
    edited(files.plan, FractionGroupSequence=[group, group])
    with pytest.raises(InputError, match=r"plan\.dcm has 2 fraction groups; plans with one are understood"):
        read_plan(files.plan)


def test_an_roi_in_another_frame_of_reference_is_refused_by_itself(files):
    dataset = pydicom.dcmread(files.structures)
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    dataset.save_as(files.structures)
    structures, frame_uid = read_structures(files.structures), read_ct(files.ct).frame_uid
    assert structures.frame_uid == ""
    structures.refuse_other_frame(["PTV"], frame_uid, "the CT")
    with pytest.raises(
        InputError, match=r"and the CT lie in different frames of reference \(ROI 'Ball' in 1\.2\.3, not"
    ):
        structures.refuse_other_frame(["PTV", "Ball"], frame_uid, "the CT")


def test_the_frame_of_the_rois_comes_before_that_at_the_top(files):
    dataset = pydicom.dcmread(files.structures)
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    dataset.save_as(files.structures)
    assert read_structures(files.structures).frame_uid == read_ct(files.ct).frame_uid
    for roi in dataset.StructureSetROISequence:
        del roi.ReferencedFrameOfReferenceUID
    dataset.save_as(files.structures)
    assert read_structures(files.structures).frame_uid == "1.2.3"


def lists_another_series(path, *, kind, uids=("1.2.3.1", "1.2.3.2")):
    """Let a structure set list one more series, of images of a SOP class."""
    dataset = pydicom.dcmread(path)
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    series = pydicom.Dataset()
    series.SeriesInstanceUID = "1.2.3"
    series.ContourImageSequence = [image_item(kind, uid) for uid in uids]
    study.RTReferencedSeriesSequence.append(series)
    dataset.save_as(path)
    return dataset


def image_item(kind, uid):
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, uid
    return item


MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"


@pytest.mark.parametrize("kind", [MR_CLASS, "1.2.840.10008.5.1.4.1.1.128", CT_CLASS])
def test_other_series_that_are_only_listed_need_not_be_there(files, kind):
    lists_another_series(files.structures, kind=kind)
    at_hand = read_ct(files.ct).image_uids
    assert read_structures(files.structures).refuse_other_images(at_hand) == ""
    with pytest.raises(InputError, match="refers to 17 images, 1 missing in the folder"):
        read_structures(files.structures).refuse_other_images(at_hand - {min(at_hand)})


def test_contours_on_another_ct_are_refused_and_on_an_mr_noted(files):
    at_hand = read_ct(files.ct).image_uids
    for kind in (MR_CLASS, CT_CLASS):
        dataset = lists_another_series(files.structures, kind=kind)
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourImageSequence = [image_item(kind, "1.2.3.1")]
        dataset.save_as(files.structures)
        structures = read_structures(files.structures)
        if kind == MR_CLASS:
            note = structures.refuse_other_images(at_hand)
            assert note == "contours were drawn on 1 image other than CT, in its frame of reference"
    with pytest.raises(InputError, match=r"refers to 18 images, 1 missing in the folder, for example 1\.2\.3\.1"):
        structures.refuse_other_images(at_hand)
    with pytest.raises(InputError, match="refers to 9 images, 8 missing in the folder"):
        structures.refuse_other_images(frozenset({"1.2.3.2"}))


def edit_contours(path, change, number=1):
    dataset = pydicom.dcmread(path)
    item = next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number)
    change(item)
    dataset.save_as(path)
    return read_structures(path)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("POINT", [1.0, 2.0, 3.0], "ROI 'Ball' encloses no volume: all it has are 8 POINT contours"),
        ("OPEN_PLANAR", [0, 0, 0, 1, 0, 0, 1, 1, 0], "8 OPEN_PLANAR contours"),
        ("CLOSED_PLANAR", [0, 0, 0, 5, 5, 0], "8 contours of one or two points"),
        ("CLOSED_PLANAR", [0, 0, 0, 5, 5, 0, 5, 5, 0, 0, 0, 0], "8 contours of one or two points"),
    ],
)
def test_contours_that_enclose_nothing_are_told(files, kind, data, message):
    def change(item):
        for contour in item.ContourSequence:
            contour.ContourGeometricType, contour.ContourData = kind, data
            contour.NumberOfContourPoints = len(data) // 3

    ball = edit_contours(files.structures, change).roi("Ball")
    with pytest.raises(InputError, match=message):
        ball.refuse_without_volume()


def test_a_part_of_the_contours_that_encloses_nothing_is_noted(files):
    def change(item):
        item.ContourSequence[2].ContourGeometricType = "POINT"

    ball = edit_contours(files.structures, change).roi("Ball")
    ball.refuse_without_volume()
    assert ball.note == "ROI 'Ball': left out 1 POINT contour"


def test_an_roi_that_was_never_drawn_is_told(files):
    def change(item):
        del item.ContourSequence

    structures = edit_contours(files.structures, change)
    with pytest.raises(InputError, match="ROI 'Ball' has no contours"):
        structures.roi("Ball").refuse_without_volume()


@pytest.mark.parametrize(("data", "message"), [([1.0, 2.0], "has 2 numbers, not three per point"), (None, "")])
def test_damaged_contour_data_are_refused(files, data, message):
    def change(item):
        item.ContourSequence[0].ContourData = data
        del item.ContourSequence[0].NumberOfContourPoints

    if data is None:
        assert edit_contours(files.structures, change).roi("Ball").unusable == {"contours of one or two points": 1}
    else:
        with pytest.raises(InputError, match=message):
            edit_contours(files.structures, change)


def test_two_rois_of_one_name_are_ambiguous_unless_one_is_empty(files):
    dataset = pydicom.dcmread(files.structures)
    dataset.StructureSetROISequence[1].ROIName = "Ball"
    dataset.save_as(files.structures)
    with pytest.raises(InputError, match=r"2 ROIs named 'Ball' \(numbers 1, 2\)"):
        read_structures(files.structures).roi("Ball")
    del dataset.ROIContourSequence[0].ContourSequence
    dataset.save_as(files.structures)
    structures = read_structures(files.structures)
    assert (structures.names, structures.empty_names) == (("Ball",), frozenset())
    assert structures.roi("Ball").number == 2
    assert structures.roi("Ball").note == "ROI 'Ball': 1 more of that name without contours ignored"


def test_references_to_images_that_are_not_there_are_told(files):
    structures, ct = read_structures(files.structures), read_ct(files.ct[:-2])
    with pytest.raises(InputError, match="refers to 17 images, 2 missing in the folder"):
        structures.refuse_other_images(frozenset(ct.sop_uids))


JPEG_LS = bytes.fromhex(  # (of the values below, written by CharLS)
    "ffd8fff7000b0b0008000801011100ffda00080101000000002f292947452947450000302a48464442402a000030fdf3d78ecd120a73260b"
    "962a508c5313244483ef910a579d75c71c21148db6d34d34301a6821088800000bc0ffd9"
)
VALUES = (np.arange(64).reshape(8, 8) * 37) % 2000 + 24


def test_jpeg_ls_is_decoded(files):
    image = pydicom.dcmread(files.ct[0])
    image.Rows, image.Columns, image.BitsStored, image.HighBit = 8, 8, 11, 10
    image.PixelData = pydicom.encaps.encapsulate([JPEG_LS])
    image["PixelData"].is_undefined_length = True
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    image.RescaleSlope, image.RescaleIntercept = 2, -1000
    image.save_as(files.ct[0])
    np.testing.assert_array_equal(read_slice(files.ct[0]).values_hu, 2 * VALUES - 1000)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_compressions_of_scanners_are_decoded(files, tmp_path, compressor, signed):
    stored = VALUES.astype(np.int16) - 1024 if signed else VALUES.astype(np.uint16)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "compressed.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(stored))
    compressed, image = pydicom.dcmread(tmp_path / "compressed.dcm"), pydicom.dcmread(files.ct[0])
    assert compressed.file_meta.TransferSyntaxUID.is_compressed
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
        image[keyword] = compressed[keyword]
    image.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
    image.save_as(files.ct[0])
    np.testing.assert_array_equal(read_slice(files.ct[0]).values_hu, stored - 1024.0)


@pytest.mark.parametrize("syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian])
def test_files_without_preamble_and_header_are_read(files, syntax):
    before = read_ct(files.ct), read_dose(files.doses), read_structures(files.structures), read_plan(files.plan)
    for path in files.folder.iterdir():
        dataset = pydicom.dcmread(path)
        bare = pydicom.Dataset(dataset)
        with path.open("wb") as file:
            pydicom.filewriter.write_dataset(_encoded(file, syntax), bare)
    after = read_ct(files.ct), read_dose(files.doses), read_structures(files.structures), read_plan(files.plan)
    for k in (0, 1):
        np.testing.assert_array_equal(after[k].volume.values, before[k].volume.values)
    assert after[2].names == before[2].names
    assert after[3] == before[3]
    entries = index_folder(files.folder).entries
    assert sorted(entry.modality for entry in entries) == ["CT"] * 17 + ["RTDOSE", "RTPLAN", "RTSTRUCT"]
    assert stored_range(files.doses[0])[1] == 65535


def _encoded(file, syntax):
    fp = pydicom.filebase.DicomFileLike(file)
    fp.is_implicit_VR, fp.is_little_endian = syntax.is_implicit_VR, True
    return fp


def test_a_backslash_in_a_name_is_a_character(files):
    dataset = pydicom.dcmread(files.structures)
    dataset.StructureSetROISequence[0].ROIName = "PTV\\60"
    dataset.save_as(files.structures)
    assert read_structures(files.structures).names == ("PTV\\60", "PTV")
