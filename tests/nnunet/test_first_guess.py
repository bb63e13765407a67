"""The first guess falls off as defined, and its width is the one that fits the plans of a data set best."""

import numpy as np
import pytest
import torch

from cdm_nnunet.nnunet import first_guess
from cdm_nnunet.nnunet.first_guess import WIDTHS_MM, best_width_mm, falling_off, misfits_gy

SHAPE = (8, 16, 16)
SPACING_MM = (3.0, 2.0, 2.5)


def test_the_first_guess_in_targets_is_the_largest_prescription_weighted_by_distance():
    generator = np.random.default_rng(14)
    fall_off, prescription = (0.4, 0.7, 0.9), torch.zeros(2, 1, *SHAPE)
    for one in prescription[:, 0]:
        for dose in (45.0, 50.0, 56.0, 63.0, 70.0, 10.0):  # the most that the reach allows for is 7.4 times the least
            one[tuple(slice(start, start + 3) for start in generator.integers(0, np.array(SHAPE) - 3))] = dose
    expected = torch.zeros_like(prescription)
    position = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    for guess, one in zip(expected[:, 0], prescription[:, 0], strict=True):
        for voxel in one.nonzero().tolist():
            weight = np.exp(-(((position - voxel) * fall_off) ** 2).sum(-1) / 2)
            guess.copy_(torch.maximum(guess, one[tuple(voxel)] * torch.from_numpy(weight)))
    given, found, in_target = prescription.clone(), falling_off(prescription, fall_off), prescription > 0
    torch.testing.assert_close(found[in_target], expected[in_target], atol=0, rtol=1e-5)
    assert (found > prescription)[in_target].any()
    assert (found >= prescription).all()
    assert (found <= expected * (1 + 1e-5)).all()
    assert torch.equal(prescription, given)


def test_prescriptions_fall_off_in_a_large_image_as_they_do_alone():
    whole, corner = torch.zeros(2, 1, 30, 40, 50), torch.zeros(2, 1, 14, 12, 14)
    corner[0, 0, 5:8, 4:6, 3], corner[1, 0, 4, 4:6, 4] = 70.0, 56.0  # (4, 4 and 7 voxels reach)
    whole[..., 16:30, 20:32, :14] = corner
    expected = torch.zeros_like(whole)
    expected[..., 16:30, 20:32, :14] = falling_off(corner, (0.5, 0.5, 0.3))
    assert torch.equal(falling_off(whole, (0.5, 0.5, 0.3)), expected)
    assert not falling_off(torch.zeros_like(whole), (0.5, 0.5, 0.3)).any()


def levels(shape: tuple[int, int, int] = (20, 30, 24)) -> np.ndarray:
    """Targets of 56 and 63 Gy beside one of 70 Gy, with a gap to the last one."""
    prescription = np.zeros(shape, np.float32)
    prescription[4:16, 3:27, 4:20] = 56
    prescription[6:14, 8:22, 6:16] = 63
    prescription[8:12, 12:18, 8:12] = 70
    prescription[:, 20:22] = 0
    return prescription


def guess_gy(prescription: np.ndarray, width_mm: float) -> np.ndarray:
    fall_off = [mm / width_mm for mm in SPACING_MM]
    return falling_off(torch.from_numpy(prescription)[None, None], fall_off)[0, 0].numpy()


@pytest.mark.parametrize("width_mm", [5.0, 9.0, 13.0, 18.0])
def test_the_width_of_a_plan_is_found_although_the_plan_is_hotter_than_prescribed(width_mm):
    noise = np.random.default_rng(2).normal(0, 0.5, (3, 20, 30, 24))
    plans = [guess_gy(levels(), width_mm) + 2.5 + one for one in noise]
    assert best_width_mm(misfits_gy(levels(), plan, SPACING_MM) for plan in plans) == width_mm


def test_a_misfit_is_the_difference_of_the_guess_that_the_network_gets(monkeypatch):
    prescription = levels()
    dose = np.random.default_rng(3).uniform(50, 75, prescription.shape)
    found = misfits_gy(prescription, dose, SPACING_MM)
    for width_mm, misfit in zip(WIDTHS_MM, found, strict=True):
        difference = (dose - guess_gy(prescription, width_mm))[prescription > 0]
        assert misfit == pytest.approx(np.abs(difference - np.median(difference)).mean(), rel=1e-5)
    monkeypatch.setattr(first_guess, "_SAMPLES", 700)
    np.testing.assert_allclose(misfits_gy(prescription, dose, SPACING_MM), found, rtol=0.1)


def test_plans_with_targets_of_one_level_say_nothing_about_the_width():
    prescription = np.where(levels() > 0, np.float32(60), 0)
    assert misfits_gy(prescription, prescription, SPACING_MM) is None
    assert misfits_gy(np.zeros(SHAPE), np.zeros(SHAPE), SPACING_MM) is None
