"""Real physics: pyRadPlan's dose, its TG-119 phantom and a small patient. Skips without the extra ``planning``."""

import importlib
import importlib.util
import warnings

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.openkbp import find_openkbp
from cdm_nnunet.evaluation.gamma import GammaRule, gamma_passes
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.planning.anatomy import Anatomy, read_anatomy
from cdm_nnunet.planning.engine import default_engine
from cdm_nnunet.planning.mimicking import Mimic
from cdm_nnunet.planning.planner import plan_patient
from cdm_nnunet.planning.protocol import Protocol
from cdm_nnunet.roi import Catalogue, Roi, pack

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("pyRadPlan") is None, reason="no pyRadPlan: the extra 'planning'"),
    pytest.mark.slow,
]
NODES_MM = 8


def changed(protocol, gantry_deg, *, bixel_mm=12, **changes):
    """A protocol with coarse beams from other sides."""
    beams = {"gantry_deg": gantry_deg, "bixel_mm": bixel_mm, "dose_grid_mm": NODES_MM}
    return Protocol.model_validate(protocol.model_dump() | {"beams": beams, **changes})


def water(n=30, mm=8.0):
    """A cube of water with a target in its middle."""
    at = (np.arange(n) - n // 2) * mm
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    body, target = np.abs(np.stack([z, y, x])).max(axis=0) <= 80, z**2 + y**2 + x**2 <= 24**2
    catalogue = Catalogue((Roi("PTV_6000", "target"), Roi("External", "external")))
    grid = Grid((n, n, n), (mm, mm, mm), np.full(3, at[0]))
    ct_hu = np.where(body, 0, -1000).astype(np.int16)
    return Anatomy("water", ct_hu, pack(np.stack([target, body])), catalogue, {"PTV_6000": 60.0}, grid)


def test_one_beam_comes_from_its_gantry_angle():
    patient, shipped = water(), Protocol.load("openkbp_hn")
    for angle, axis, comes_from in ((0, 1, -1), (90, 2, 1), (180, 1, 1), (270, 2, -1)):
        influence = default_engine().influence(patient, changed(shipped, [angle], limits=[]).beams)
        dose = influence.matrix @ np.ones(influence.matrix.shape[1], np.float32)
        place = np.unravel_index(influence.nodes, influence.grid.shape)[axis]
        at_mm = influence.grid.origin_zyx_mm[axis] + place * influence.grid.spacing_zyx_mm[axis]
        assert dose[comes_from * at_mm > 30].mean() > 1.5 * dose[comes_from * at_mm < -30].mean() > 0, angle


def test_dose_falls_off_with_depth_as_photons_of_6_mv_do():
    patient, shipped = water(), Protocol.load("openkbp_hn")
    influence = default_engine().influence(patient, changed(shipped, [0], limits=[]).beams)
    dose = np.zeros(influence.grid.shape)
    dose.ravel()[influence.nodes] = influence.matrix @ np.ones(influence.matrix.shape[1], np.float32)
    z, x = (int(np.argmin(np.abs(influence.grid.offsets_xyz_mm[k] + influence.grid.origin_xyz_mm[k]))) for k in (2, 0))
    along = dose[z, :, x][dose[z, :, x] > 0]
    per_cm = (along[-4] / along[4]) ** (10 / (NODES_MM * (along.size - 8)))
    assert 0.93 < per_cm < 0.97  # 6 MV in water, SAD 100 cm: about 5 % less a cm


def tg119():
    """pyRadPlan's C-shaped target around a core, of 50 Gy; every other voxel along each axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct, structures = importlib.import_module("pyRadPlan").load_tg119()
    masks = {voi.name: sitk.GetArrayFromImage(voi.mask)[::2, ::2, ::2] > 0 for voi in structures.vois}
    ct_hu = sitk.GetArrayFromImage(ct.cube_hu)[::2, ::2, ::2]
    catalogue = Catalogue((Roi("PTV_5000", "target"), Roi("Core", "oar"), Roi("External", "external")))
    bits = pack(np.stack([masks["OuterTarget"], masks["Core"], masks["BODY"]]))
    x, y, z = (2 * mm for mm in ct.cube_hu.GetSpacing())
    grid = Grid(ct_hu.shape, (z, y, x), np.array(ct.cube_hu.GetOrigin()))
    return Anatomy("tg119", ct_hu.astype(np.float32), bits, catalogue, {"PTV_5000": 50.0}, grid)


def gamma_percent(patient, wanted_gy, found_gy):
    passes = gamma_passes(
        wanted_gy,
        found_gy,
        GammaRule(3.0, 3.0),
        spacing_mm=patient.grid.spacing_zyx_mm,
        scale_gy=max(patient.prescriptions_gy.values()),
    )
    return 100 * passes.mean()


def test_a_dose_of_other_bixels_can_be_delivered_on_tg119():
    patient, shipped = tg119(), Protocol.load("openkbp_hn")
    core = {
        "limits": [{"roi": "Core", "upper_gy": 20, "weight": 5}],
        "optimiser": {"iterations": 1000, "tolerance": 1e-4, "far_mm": 60},
    }
    nine = shipped.beams.gantry_deg
    plan = plan_patient(patient, changed(shipped, nine, bixel_mm=11, **core), default_engine())
    in_target = np.sort(plan.dose_gy[patient.targets])
    assert np.quantile(in_target, 0.05) == pytest.approx(50, abs=0.2)
    assert plan.dose_gy[patient.mask("Core")].mean() < 0.8 * in_target.mean()
    mimic = Mimic(patient, changed(shipped, nine, bixel_mm=6, **core), default_engine())
    assert gamma_percent(patient, plan.dose_gy, mimic.closest_to(plan.dose_gy).dose_gy) >= 95


def test_a_patient_of_openkbp_is_planned(openkbp_patients, tmp_path):
    done = convert(find_openkbp(openkbp_patients), DatasetPlace(tmp_path, 501, "OpenKBP"))
    patient = read_anatomy(RawDataset(done.folder), "pt_201")
    rules = changed(Protocol.load("openkbp_hn"), list(range(0, 360, 72)))
    plan = plan_patient(patient, rules, default_engine())
    highest = np.sort(plan.dose_gy[patient.mask(patient.highest_target)])
    assert np.quantile(highest, 0.05) == pytest.approx(patient.prescriptions_gy[patient.highest_target], abs=0.2)
    assert np.quantile(highest, 0.99) < 1.25 * patient.prescriptions_gy[patient.highest_target]
