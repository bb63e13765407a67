"""DVH metrics inside contours against closed forms, parts outside the dose grid, and the command."""

import dataclasses
import json

import numpy as np
import pydicom
import pytest
from scipy.optimize import brentq

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.dvh import roi_dvh
from cdm_nnunet.dicom.phantom import GaussianDose, LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box, Cylinder, Sphere, Torus
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.dvh import Metric
from cdm_nnunet.dvh.values import evaluate_all
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contour_dvh import at_samples, interpolate, sample
from cdm_nnunet.geometry.contours import stack_of
from cdm_nnunet.geometry.grid import Grid, Volume
from cdm_nnunet.geometry.rasteriser import rasterise
from cdm_nnunet.geometry.slices import drawn_slices

KEYS = ("D95%", "D2%", "Dmean", "D0.03cc", "V60Gy")
METRICS = [Metric.parse(key) for key in KEYS]
TOLERANCE = (0.1, 0.1, 0.1, 0.3, 0.5)  # Gy, Gy, Gy, Gy, percentage points; at 1 Gy/mm
SOLIDS = {
    "cube": Box((0.3, 0.2, 0.0), (24.0, 24.0, 24.0)),
    "sphere": Sphere((1.3, -2.1, 0.0), 15.75),
    "shell": Sphere((0.0, 0.4, 0.0), 16.75, 9.0),
    "cylinder": Cylinder((0.3, 0.1, 0.0), 10.0, 30.0),
    "cone": Cylinder((0.0, 0.2, 0.0), 15.0, 30.0, 4.0),
    "torus": Torus((0.2, 0.1, 0.0), 12.0, 4.75),
    "straw": Cylinder((3.1, 2.2, 0.0), 1.5, 30.0),
}
ACROSS_ALSO = ("cube", "sphere", "shell", "cylinder", "straw")  # the others have a closed form along z only
PHANTOM = Phantom(
    SOLIDS,
    LinearDose(0, 1.0, 60.0),
    slices_z_mm=tuple(np.arange(-18.5, 19.0)),  # flat ends half-way between two slices
    pixels=(28, 32),
    dose_margin_mm=-2.0,
    prescriptions_gy={"cube": 60.0},
    kinds={"cube": "PTV"},
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Phantoms with a dose that rises along x, y and z."""
    phantoms = [dataclasses.replace(PHANTOM, dose=LinearDose(axis, 1.0, 60.0)) for axis in range(3)]
    return [write_phantom(phantom, tmp_path_factory.mktemp("phantom")) for phantom in phantoms]


def in_linear_dose(solid, axis):
    def quantile(share_below):
        return 60 + brentq(lambda at: solid.fraction_below(axis, at) - share_below, -60, 60)

    edges = np.linspace(-40, 40, 16001)
    below = np.array([solid.fraction_below(axis, at) for at in edges])
    mean = 60 + float((edges[:-1] + edges[1:]) / 2 @ np.diff(below))
    hottest = quantile(1 - 0.03 / solid.volume_cc)
    return quantile(0.05), quantile(0.98), mean, hottest, 100 * (1 - solid.fraction_below(axis, 0.0))


def evaluated(files, name, metrics=METRICS, **options):
    structures = read_structures(files.structures)
    return roi_dvh(structures.roi(name), structures, read_dose(files.doses), metrics, **options)


@pytest.mark.parametrize(
    ("name", "axis"), [(name, axis) for name in SOLIDS for axis in range(3) if axis == 2 or name in ACROSS_ALSO]
)
def test_metrics_at_1_gy_per_mm(written, name, axis):
    result = evaluated(written[axis], name)
    for key, expected, tolerance in zip(KEYS, in_linear_dose(SOLIDS[name], axis), TOLERANCE, strict=True):
        relative = 0.005 if key in ("D95%", "D2%", "Dmean") else 0.0
        assert result.values[key] == pytest.approx(expected, abs=tolerance, rel=relative), key
    assert result.volume_cc == pytest.approx(SOLIDS[name].volume_cc, rel=0.005)
    assert result.lost_cc == 0


def test_metrics_in_a_gaussian_dose(tmp_path):
    sphere, dose = SOLIDS["sphere"], GaussianDose(SOLIDS["sphere"].centre_mm, 20.0, 70.0)
    files = write_phantom(dataclasses.replace(PHANTOM, dose=dose, dose_spacing_mm=(1.0, 1.0, 1.0)), tmp_path)
    values = evaluated(files, "sphere").values

    def at_radius(share_outside):  # the dose falls with the distance from the centre
        radius = sphere.radius_mm * (1 - share_outside) ** (1 / 3)
        return 70 * np.exp(-(radius**2) / 800)

    assert values["D95%"] == pytest.approx(at_radius(0.05), abs=0.1)
    assert values["D2%"] == pytest.approx(at_radius(0.98), abs=0.1)
    assert values["V60Gy"] == pytest.approx(100 * (np.sqrt(800 * np.log(70 / 60)) / sphere.radius_mm) ** 3, abs=0.5)


def test_metrics_in_a_uniform_dose(tmp_path):
    phantom = dataclasses.replace(PHANTOM, dose=GaussianDose((0, 0, 0), 1e6, 50.0))
    values = evaluated(write_phantom(phantom, tmp_path), "torus").values
    assert [values[key] for key in KEYS] == pytest.approx([50.0, 50.0, 50.0, 50.0, 0.0], abs=0.01)


@pytest.mark.parametrize("planes_mm", [[-20.0, -9.0, -8.0, 1.0, 30.0], [0.25]], ids=["uneven planes", "one plane"])
def test_doses_along_lines_are_those_of_points(written, planes_mm):
    structures = read_structures(written[0].structures)
    samples = sample(stack_of(structures.roi("torus"), drawn_slices(structures.rois, np.eye(3))))
    offsets_mm = [np.arange(9) * 3.0, np.arange(14) * 2.5, np.array(planes_mm) - planes_mm[0]]
    grid = Grid.of_offsets(np.array([-5.0, -16.0, planes_mm[0]]), np.eye(3), offsets_mm)
    values = np.random.default_rng(0).uniform(0, 70, grid.shape).astype(np.float32)
    found, expected = at_samples(Volume(values, grid), samples), interpolate(Volume(values, grid), samples.points_mm)
    assert 0 < np.isnan(expected).mean() < 1  # the grid ends within the ROI
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_uniform_dose_is_exact_at_every_sample(written):
    structures = read_structures(written[0].structures)
    samples = sample(stack_of(structures.roi("sphere"), drawn_slices(structures.rois, np.eye(3))))
    grid = Grid.of_offsets(np.full(3, -40.0), np.eye(3), [np.arange(30) * 2.7] * 3)
    assert (at_samples(Volume(np.full(grid.shape, np.float32(50.1)), grid), samples) == np.float32(50.1)).all()


def test_samples_lie_inside_and_fill_the_roi(written):
    structures = read_structures(written[0].structures)
    for name, solid in SOLIDS.items():
        samples = sample(stack_of(structures.roi(name), drawn_slices(structures.rois, np.eye(3))))
        outwards = samples.points_mm - np.array(solid.centre_mm)
        inside = [solid.contains(samples.points_mm + change * outwards) for change in (-0.01, 0.01)]  # to 0.1 mm
        assert np.average(np.any(inside, axis=0), weights=samples.volumes_cc) > 0.998, name
        assert samples.volumes_cc.max() < 0.01


@pytest.mark.parametrize(
    ("end_caps", "height_mm"), [("none", 23), ("rounded", 23), ("half-slab", 24), ("rounded-half-slab", 24)]
)
def test_a_flat_end_lies_at_its_contour_or_half_a_slice_beyond(written, end_caps, height_mm):
    result = evaluated(written[2], "cube", end_caps=end_caps)
    assert result.volume_cc == pytest.approx(height_mm * 24**2 / 1000, rel=1e-3)
    assert result.values["D2%"] == pytest.approx(60 + 0.48 * height_mm, abs=0.03)


@pytest.mark.parametrize(
    ("end_caps", "end_mm"), [("none", 15.5), ("rounded", 15.75), ("half-slab", 16.0), ("rounded-half-slab", 15.75)]
)
def test_where_a_round_end_lies(written, end_caps, end_mm):
    values = evaluated(written[2], "sphere", [Metric.parse("Dmax")], end_caps=end_caps).values
    assert values["Dmax"] == pytest.approx(60 + end_mm, abs=0.12)


@pytest.mark.parametrize("name", ["sphere", "shell", "cube"])
def test_prone_and_tilted_slices(tmp_path, name):
    phantom = dataclasses.replace(PHANTOM, position="HFP", tilt_degrees=15.0, solids={name: SOLIDS[name]}, kinds={})
    result = evaluated(write_phantom(dataclasses.replace(phantom, prescriptions_gy={}), tmp_path), name)
    for key, expected, tolerance in zip(KEYS, in_linear_dose(SOLIDS[name], 0), TOLERANCE, strict=True):
        assert result.values[key] == pytest.approx(expected, abs=tolerance), key
    assert result.volume_cc == pytest.approx(SOLIDS[name].volume_cc, rel=0.005)


def test_it_agrees_with_evaluate_on_a_fine_mask(written):
    structures, dose = read_structures(written[2].structures), read_dose(written[2].doses)
    x_mm, z_mm = np.arange(-17.5, 18), np.arange(-17.9, 18, 0.2)  # fine along the gradient
    grid = Grid.of_offsets(
        np.array([x_mm[0], x_mm[0], z_mm[0]]), np.eye(3), (x_mm - x_mm[0], x_mm - x_mm[0], z_mm - z_mm[0])
    )
    for name in ("sphere", "shell", "torus"):
        z, y, x = np.nonzero(rasterise(structures.roi(name), grid).mask)
        doses_gy = interpolate(dose.volume, np.stack([x_mm[x], x_mm[y], z_mm[z]], axis=1))
        expected = evaluate_all(METRICS, doses_gy, voxel_volume_cc=0.2 / 1000)
        assert list(evaluated(written[2], name).values.values()) == pytest.approx(list(expected), abs=0.12), name


def test_what_lies_outside_the_dose_grid_is_lost_and_told(tmp_path):
    phantom = dataclasses.replace(
        PHANTOM, solids={"half": Box((25.0, 0.0, 0.0), (20.0, 8.0, 8.0))}, prescriptions_gy={}
    )
    files = write_phantom(dataclasses.replace(phantom, dose_margin_mm=2.0), tmp_path)
    grid = read_dose(files.doses).volume.grid
    edge_mm = grid.origin_xyz_mm[0] + grid.offsets_xyz_mm[0][-1]
    result = evaluated(files, "half")
    assert result.lost_cc == pytest.approx((35 - edge_mm) * 64 / 1000, rel=0.01)
    assert result.values["Dmean"] == pytest.approx(60 + (15 + edge_mm) / 2, abs=0.05)
    assert result.notes[0].startswith("ROI 'half': 0.")
    assert "lie outside the dose grid" in result.notes[0]
    files = write_phantom(dataclasses.replace(phantom, dose_margin_mm=16.5), tmp_path / "far")
    with pytest.raises(InputError, match="ROI 'half' lies entirely outside the dose grid"):
        evaluated(files, "half")


def test_different_frames_of_reference_are_refused(written, tmp_path):
    other = write_phantom(dataclasses.replace(PHANTOM, seed=1), tmp_path)
    structures = read_structures(written[0].structures)
    with pytest.raises(InputError, match="lie in different frames of reference"):
        roi_dvh(structures.roi("cube"), structures, read_dose(other.doses), METRICS)


@pytest.fixture
def command(written, capfd):
    files = written[0]

    def run(*arguments, plan=False):
        paths = ["--rtstruct", str(files.structures), "--rtdose", str(files.doses[0])]
        plans = ["--rtplan", str(files.plan)] if plan else []
        code = cli.main(["dvh", *paths, *plans, *arguments])
        return code, *capfd.readouterr()

    return run


def test_the_command_prints_json(command):
    code, out, err = command("--json", "--metrics", "D95%", "Dmean", "--roi", "cube", "--roi", "straw")
    assert code == 0
    record = json.loads(out)
    assert {name: list(row) for name, row in record.items()} == {
        name: ["end_caps", "volume_cc", "D95%", "Dmean"] for name in ("cube", "straw")
    }
    assert record["cube"]["Dmean"] == pytest.approx(60.3, abs=0.05)
    assert record["cube"]["end_caps"] == "rounded-half-slab"
    assert err == ""


def test_the_command_takes_end_caps(command):
    for mode, height_mm in (("rounded-half-slab", 24), ("rounded", 23), ("none", 23), ("half-slab", 24)):
        _, out, _ = command("--json", "--metrics", "Dmean", "--roi", "cube", "--end-caps", mode)
        cube = json.loads(out)["cube"]
        assert cube["volume_cc"] == pytest.approx(height_mm * 24**2 / 1000, rel=1e-3)
        assert cube["end_caps"] == mode


def test_what_a_small_roi_cannot_have_is_told(command):
    code, out, err = command("--json", "--metrics", "D0.03cc", "D1cc", "--roi", "cube", "--roi", "straw")
    assert code == 0
    record = json.loads(out)
    assert list(record["straw"]) == ["end_caps", "volume_cc", "D0.03cc", "undefined"]
    assert record["straw"]["undefined"] == {"D1cc": "the ROI has 0.2121 cc, less than 1 cc"}
    assert "ROI 'straw': D1cc is not defined: the ROI has 0.2121 cc, less than 1 cc" in err
    code, out, _ = command("--metrics", "D1cc", "--roi", "straw")
    assert code == 0
    assert out.splitlines()[-1].split()[-2:] == ["not", "defined"]


def test_a_percentage_of_the_prescription_needs_the_plan(command):
    code, out, err = command("--json", "--metrics", "V95%", "--roi", "cube", plan=True)
    assert code == 0
    assert json.loads(out)["cube"]["V95%"] == pytest.approx(100 * (12.3 + 3) / 24, abs=0.5)
    code, _, err = command("--metrics", "V95%", "--roi", "cube")
    assert code == 2
    assert "V95% is a percentage of the prescription, and none is known; give the plan (--rtplan)" in err


def test_a_prescription_to_one_roi_is_not_that_of_another(command):
    code, out, err = command("--json", "--metrics", "V95%", "Dmean", "--roi", "cube", "--roi", "straw", plan=True)
    assert code == 0
    assert {name: list(row)[2:] for name, row in json.loads(out).items()} == {
        "cube": ["V95%", "Dmean"],
        "straw": ["Dmean"],
    }
    assert "ROI 'straw' has no prescription: V95% left out" in err


def test_a_level_for_no_roi_is_named(tmp_path, capfd):
    files = write_phantom(PHANTOM, tmp_path)
    plan = pydicom.dcmread(files.plan)
    del plan.DoseReferenceSequence[0].ReferencedROINumber
    plan.DoseReferenceSequence[0].DoseReferenceDescription = ""
    plan.save_as(files.plan)
    options = ["--rtplan", str(files.plan), "--metrics", "V95%", "--roi", "straw"]
    dose = ["--rtstruct", str(files.structures), "--rtdose", str(files.doses[0])]
    assert cli.main(["dvh", *dose, *options]) == 0
    assert "percent of the prescription refer to 60 Gy, which the plan states without an ROI" in capfd.readouterr().err


def test_the_command_takes_a_template(command, tmp_path):
    template = {
        "format_version": 1,
        "name": "one",
        "rois": [{"name": "Tube", "kind": "oar", "aliases": ["STRAW"]}],
        "goals": [{"roi": "Tube", "metric": "Dmean"}],
    }
    (tmp_path / "one.json").write_text(json.dumps(template))
    code, out, _ = command("--json", "--template", str(tmp_path / "one.json"))
    assert code == 0
    keys = ["end_caps", "volume_cc", "template_roi", "Dmean"]
    assert {name: list(row) for name, row in json.loads(out).items()} == {"straw": keys}
    assert json.loads(out)["straw"]["template_roi"] == "Tube"
    code, _, err = command("--template", "openkbp")
    assert code == 2
    assert "no ROI can be evaluated: the template has none of cube, sphere" in err


def test_metrics_of_the_whole_plan_are_not_those_of_contours(command, tmp_path):
    code, _, err = command("--metrics", "D2cm", "--roi", "cube")
    assert code == 2
    assert "D2cm needs the whole dose, not only that in the ROI; 'cdm-nnunet evaluate' gives it" in err
    rois = [{"name": "cube", "kind": "target", "prescription_gy": 60}]
    goals = [{"roi": "cube", "metric": key} for key in ("PaddickCI", "CV95%", "Dmean")]
    (tmp_path / "plan.json").write_text(json.dumps({"format_version": 1, "name": "p", "rois": rois, "goals": goals}))
    code, out, err = command("--json", "--template", str(tmp_path / "plan.json"))
    assert code == 0
    assert list(json.loads(out)["cube"]) == ["end_caps", "volume_cc", "template_roi", "CV95%", "Dmean"]
    assert "ROI 'cube': PaddickCI left out; 'cdm-nnunet evaluate' gives them, on masks" in err


@pytest.mark.parametrize(
    ("rois", "found"),
    [
        ([{"name": "A", "kind": "oar", "regex": ["str.*"]}], "straw"),
        ([{"name": "A", "kind": "oar", "regex": ["s.*"]}], "'A' may be any of"),
        ([{"name": "A", "kind": "oar", "aliases": ["straw"]}, {"name": "Straw", "kind": "oar"}], "both"),
    ],
)
def test_the_command_finds_rois_as_evaluate_does(command, tmp_path, rois, found):
    goals = [{"roi": roi["name"], "metric": "Dmean"} for roi in rois]
    file = tmp_path / "rois.json"
    file.write_text(json.dumps({"format_version": 1, "name": "rois", "rois": rois, "goals": goals}))
    code, out, err = command("--json", "--template", str(file))
    if found == "straw":
        assert (code, json.loads(out)["straw"]["template_roi"]) == (0, "A")
    else:
        assert (code, out) == (2, "")
        assert found in err


def test_the_command_words_a_table(command):
    code, out, _ = command("--metrics", "D95%", "V60Gy", "--roi", "cube")
    assert code == 0
    assert out.splitlines()[0] == "ends of ROIs: rounded-half-slab"
    assert out.splitlines()[1].split() == ["ROI", "volume", "(cc)", "D95%", "(Gy)", "V60Gy", "(%)"]
    assert out.splitlines()[2].split()[:2] == ["cube", "13.82"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--metrics", "V20"), "'V20' has no unit"), (("--roi", "Heart"), "has no ROI 'Heart'; it has cube")],
)
def test_the_command_refuses(command, arguments, message):
    code, _, err = command(*arguments)
    assert code == 2
    assert message in err
