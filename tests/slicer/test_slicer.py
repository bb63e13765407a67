"""Files for 3D Slicer, read back with SimpleITK, and the scene that names them."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import read_image
from cdm_nnunet.roi import Catalogue, Roi, mask_of, pack
from cdm_nnunet.slicer.nrrd import write_nrrd
from cdm_nnunet.slicer.segments import write_segments


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("slicer")
    convert(find_synthetic(2, 0, coarseness=2.2), DatasetPlace(root, 503, "Slicer"))
    return RawDataset(root / "Dataset503_Slicer")


@pytest.fixture
def predictions(dataset, tmp_path):
    """The reference doses, a little higher."""
    (tmp_path / "predictions").mkdir()
    for path in (dataset.folder / "labelsTr").glob("*.nii.gz"):
        image = sitk.Cast(sitk.ReadImage(str(path)) * 1.01, sitk.sitkFloat32)
        sitk.WriteImage(image, str(tmp_path / "predictions" / path.name))
    return tmp_path / "predictions"


def test_a_case_comes_back_as_it_was(dataset, predictions, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(dataset.folder.parent))
    assert main(["export", "slicer", str(predictions), "-d", "503", "-o", str(tmp_path / "out"), "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert [one["case"] for one in record["cases"]] == sorted(dataset.cases)
    case = sorted(dataset.cases)[1]
    folder, reference = tmp_path / "out" / case, read_image(dataset.dose_path(case))
    for name, factor in (("reference_dose.nrrd", 1), ("predicted_dose.nrrd", 1.01)):
        image = sitk.ReadImage(str(folder / name))
        assert np.allclose(sitk.GetArrayFromImage(image), factor * reference.values, rtol=1e-5)
        assert np.allclose(image.GetSpacing(), reference.grid.spacing_xyz_mm)
        assert np.allclose(image.GetOrigin(), reference.grid.origin_xyz_mm)
        assert np.allclose(image.GetDirection(), reference.grid.direction)
    ct = sitk.ReadImage(str(folder / "ct.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(ct), read_image(dataset.image_path(case, 0)).values)
    bits = read_image(dataset.image_path(case, 2)).values
    masks = segments_of(folder / "rois.seg.nrrd")
    assert set(masks) == set(dataset.record(case).rois)
    for name, (mask, _) in masks.items():
        assert np.array_equal(mask, mask_of(bits, dataset.catalogue.bit(name))), name
    assert len({colour for _, colour in masks.values()}) >= 4


def segments_of(path):
    """Masks and colours by name, from the header."""
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    values = values[..., None] if values.ndim == 3 else values
    found = {}
    for key in image.GetMetaDataKeys():
        if key.endswith("_Name"):
            own = key.removesuffix("Name")
            value, layer, extent, colour = (
                image.GetMetaData(own + what) for what in ("LabelValue", "Layer", "Extent", "Color")
            )
            mask = values[..., int(layer)] == int(value)
            x, last_x, y, last_y, z, last_z = map(int, extent.split())
            assert mask[z : last_z + 1, y : last_y + 1, x : last_x + 1].sum() == mask.sum()
            assert mask[z].any()
            assert mask[:, last_y].any()
            assert mask[:, :, last_x].any()
            found[image.GetMetaData(key)] = mask, colour
    assert image.GetMetaData("Segmentation_ContainedRepresentationNames") == "Binary labelmap|"
    return found


def test_the_scene_names_what_lies_beside_it(dataset, predictions, tmp_path):
    case = sorted(dataset.cases)[0]
    arguments = [str(predictions / f"{case}.nii.gz"), "-d", "503", "-o", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(dataset.folder.parent))
        assert main(["export", "slicer", *arguments]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [case]
    root = ElementTree.parse(tmp_path / "out" / case / "scene.mrml").getroot()
    files = {node.get("fileName") for node in root if node.get("fileName")}
    assert files | {"scene.mrml"} == {path.name for path in (tmp_path / "out" / case).iterdir()}
    known = {node.get("id") for node in root}
    assert len(known) == len(root)
    for node in root:
        for reference in filter(None, node.get("references", "").split(";")):
            named = reference.split(":")[1]
            assert named in known or named.startswith("vtkMRMLColorTableNode")
        assert node.get("backgroundVolumeID", "vtkMRMLScalarVolumeNode1") in known
    names = {node.get("name") for node in root.iter("Volume")}
    assert "dose (Gy), PREDICTED, NOT FOR TREATMENT" in names


def test_overlapping_segments_take_as_few_layers_as_they_can(tmp_path):
    grid = Grid.of_image((2, 3, 4), (3.0, 2.0, 1.0), (5.0, 6.0, 7.0), np.eye(3).ravel())
    masks = np.zeros((4, 2, 3, 4), bool)
    masks[0, 0, 0, :2] = masks[1, 0, 0, 1:3] = masks[2, 1, 2, 3] = True  # 0 and 1 overlap, 3 has no voxel
    catalogue = Catalogue(tuple(Roi(name, "oar") for name in ("A", "B", "C", "D")))
    assert write_segments(tmp_path / "a.seg.nrrd", pack(masks), catalogue, grid, {"A": "#ff0000"}) == ("A", "B", "C")
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    assert image.GetNumberOfComponentsPerPixel() == 2
    assert image.GetSpacing() == (1.0, 2.0, 3.0)
    found = segments_of(tmp_path / "a.seg.nrrd")
    for k, name in enumerate("ABC"):
        assert np.array_equal(found[name][0], masks[k])
    assert found["A"][1] == "1 0 0"
    head = (tmp_path / "a.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    assert "kinds: list domain domain domain" in head


def test_a_turned_grid_keeps_its_axes(tmp_path):
    axes = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    grid = Grid((2, 3, 4), (3.0, 2.0, 1.0), np.array([5.0, 6.0, 7.0]), axes)
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_nrrd(tmp_path / "a.nrrd", values, grid)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)), axes.T)
    for voxel in ((0, 0, 0), (3, 0, 0), (1, 2, 1)):
        assert np.allclose(
            image.TransformIndexToPhysicalPoint(voxel), grid.origin_xyz_mm + (np.array(voxel) * (1, 2, 3)) @ axes
        )
    with pytest.raises(InputError, match="'a' of an NRRD file can't be"):
        write_nrrd(tmp_path / "b.nrrd", values, grid, {"a": "one\ntwo"})


def test_what_an_evaluation_refuses_is_refused(dataset, predictions, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(dataset.folder.parent))
    case = sorted(dataset.cases)[0]
    shutil.copy(predictions / f"{case}.nii.gz", predictions / "other.nii.gz")
    assert main(["export", "slicer", str(predictions), "-d", "503", "-o", str(tmp_path / "out")]) == 2
    assert "has no case 'other'" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
