"""The differentiable metrics against the exact NumPy values, by gradient checks, limits and laws."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.dvh.values import evaluate
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.metrics import dvh_metrics
from cdm_nnunet.losses.terms import EXACT, Smoothing, Term, Terms
from cdm_nnunet.roi import Catalogue, Roi

KEYS = ("D99%", "D95%", "D50%", "D2%", "D1%", "D0.03cc", "D0.1cc", "D0.1cc[openkbp]", "Dmean", "Dmin", "Dmax", "V20Gy",
        "V95%", "V20Gy[cc]", "V95%[cc]", "gEUD8", "gEUD1", "gEUD0.5", "gEUD-10", "HI", "D95%[openkbp]", "DC5%",
        "DC0.1cc", "CV20Gy", "CV95%[cc]")  # fmt: skip
TOO_SMALL = ("D0.1cc", "DC0.1cc")  # for an ROI of one voxel
N_ROIS = 20  # more than one word
VOXEL_CC = 0.0375


def terms_for(n_rois: int) -> Terms:
    return Terms(tuple(Term(bit, Metric.parse(key), 1.0, bit == 0) for bit in range(n_rois) for key in KEYS))


def patient(seed: int, shape=(6, 7, 8), dtype=torch.float64):
    generator = np.random.default_rng(seed)
    dose = generator.gamma(4.0, 10.0, shape)
    masks = generator.random((N_ROIS, *shape)) < generator.uniform(0.05, 0.9, (N_ROIS, 1, 1, 1))
    masks[3] = False  # absent
    masks[5] = False
    masks[5, 0, 0, 0] = True  # one voxel
    words = pack_words(torch.from_numpy(masks)[None])[0]
    prescription = generator.uniform(20, 70, N_ROIS)
    prescription[7] = np.nan
    return torch.from_numpy(dose).to(dtype), words, masks, prescription


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_exact_values_equal_the_numpy_reference(seed, dtype, tolerance):
    dose, words, masks, prescription = patient(seed, dtype=dtype)
    terms = terms_for(N_ROIS)
    values, n_voxels = dvh_metrics(dose, words, terms, prescription.tolist(), VOXEL_CC)
    compared = 0
    for term, value, n in zip(terms.terms, values.tolist(), n_voxels.tolist(), strict=True):
        roi_dose = dose.numpy()[masks[term.bit]]
        if len(roi_dose) == 0 or (term.metric.needs_prescription and np.isnan(prescription[term.bit])):
            assert n == 0
            assert value == 0
            continue
        if str(term.metric) in TOO_SMALL and len(roi_dose) == 1:
            assert (n, value) == (0, 0)
            continue
        rx = None if np.isnan(prescription[term.bit]) else float(prescription[term.bit])
        expected = evaluate(term.metric, roi_dose, voxel_volume_cc=VOXEL_CC, prescription_gy=rx)
        assert n == len(roi_dose)
        assert value == pytest.approx(expected, abs=tolerance), (term, n)
        compared += 1
    assert compared == (N_ROIS - 1) * len(KEYS) - 3 - len(TOO_SMALL)


@pytest.mark.parametrize("smoothing", [EXACT, Smoothing(), Smoothing(40.0, 3.0)])
def test_gradient_matches_finite_differences(smoothing):
    dose, words, _, prescription = patient(1, shape=(3, 3, 4))
    terms = Terms(tuple(t for t in terms_for(4).terms if smoothing.threshold_width_gy or not t.metric.is_volume))
    dose.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: dvh_metrics(d, words, terms, prescription.tolist(), VOXEL_CC, smoothing)[0], dose, eps=1e-7, atol=1e-5
    )


def test_soft_metrics_tend_to_the_exact_ones():
    dose, words, _, prescription = patient(2)
    terms = terms_for(N_ROIS)
    exact, _ = dvh_metrics(dose, words, terms, prescription.tolist(), VOXEL_CC)
    errors = []
    for width in (1.0, 0.1, 1e-5):
        smoothing = Smoothing(window_percent=20 * width, threshold_width_gy=width)
        soft, _ = dvh_metrics(dose, words, terms, prescription.tolist(), VOXEL_CC, smoothing)
        errors.append(float((soft - exact).abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_a_window_is_the_mean_of_the_quantile_function():
    dose = torch.tensor([0.0, 10.0, 30.0, 40.0, 100.0], dtype=torch.float64)
    terms = Terms((Term(0, Metric.parse("D50%"), 1.0, True),))
    words = torch.ones(1, 5)
    # ranks 1 to 3 around the median: the trapezoids (10 + 30) / 2 and (30 + 40) / 2
    values, _ = dvh_metrics(dose, words, terms, [0.0], 1.0, Smoothing(window_percent=50.0))
    assert float(values[0]) == pytest.approx((20 + 35) / 2)


def test_a_window_reaches_many_voxels():
    dose, words, masks, prescription = patient(3)
    dose.requires_grad_()
    bit = int(masks.sum((1, 2, 3)).argmax())
    terms = Terms((Term(bit, Metric.parse("D95%"), 1.0, True),))
    for smoothing, expected in ((EXACT, range(1, 2)), (Smoothing(50.0), range(masks[bit].sum() // 4, 336))):
        values, _ = dvh_metrics(dose, words, terms, prescription.tolist(), VOXEL_CC, smoothing)
        (gradient,) = torch.autograd.grad(values.sum(), dose)
        assert int((gradient != 0).sum()) in expected
        assert float(gradient.sum()) == pytest.approx(1.0)  # shifting all doses shifts D by as much


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(0, 30))
@settings(max_examples=30, deadline=None)
def test_laws(seed, factor, shift):
    dose, words, _, prescription = patient(seed, shape=(4, 4, 5))
    d_terms = Terms(tuple(t for t in terms_for(N_ROIS).terms if t.metric.unit == "Gy" and t.metric.kind != "geud"))
    scaled_terms = Terms(tuple(t for t in terms_for(N_ROIS).terms if t.metric.kind in ("geud", "homogeneity")))
    all_terms = terms_for(N_ROIS)
    rx = prescription.tolist()
    smoothing = Smoothing(10.0, 1.0)
    base, n = dvh_metrics(dose, words, d_terms, rx, VOXEL_CC, smoothing)
    # permutation of voxels
    order = torch.from_numpy(np.random.default_rng(seed).permutation(dose.numel()))
    permuted, _ = dvh_metrics(dose.flatten()[order], words.flatten(1)[:, order], d_terms, rx, VOXEL_CC, smoothing)
    torch.testing.assert_close(permuted, base)
    # scaling and shifting of dose
    changed, _ = dvh_metrics(dose * factor + shift, words, d_terms, rx, VOXEL_CC, smoothing)
    torch.testing.assert_close(changed, (base * factor + shift) * (n > 0))
    both = [dvh_metrics(d, words, scaled_terms, rx, VOXEL_CC, smoothing)[0] for d in (dose, dose * factor)]
    powers = torch.tensor([float(t.metric.kind == "geud") for t in scaled_terms.terms])
    above = torch.tensor([t.metric.kind == "geud" for t in scaled_terms.terms]) | (dose.min() * min(factor, 1) > 1)
    torch.testing.assert_close((both[0] * factor**powers)[above], both[1][above])
    # padding with voxels of no ROI
    padded, n_padded = dvh_metrics(
        torch.nn.functional.pad(dose, (2, 3)), torch.nn.functional.pad(words, (2, 3)), d_terms, rx, VOXEL_CC, smoothing
    )
    torch.testing.assert_close(padded, base)
    assert torch.equal(n, n_padded)
    # more dose never lowers a metric
    all_terms = Terms(tuple(t for t in all_terms.terms if t.metric.kind != "homogeneity"))
    before, _ = dvh_metrics(dose, words, all_terms, rx, VOXEL_CC)
    after, _ = dvh_metrics(dose + torch.rand_like(dose) * shift, words, all_terms, rx, VOXEL_CC)
    falls = torch.tensor([term.metric.is_cold and term.metric.is_volume for term in all_terms.terms])
    assert bool((after >= before - 1e-9)[~falls].all())
    assert bool((after <= before + 1e-9)[falls].all())


@given(st.integers(0, 2**32 - 1), st.floats(0.005, 1.0), st.floats(0.01, 99.9))
@settings(max_examples=30, deadline=None)
def test_d_and_v_are_inverse_of_each_other(seed, x_cc, percent):
    """V(D_x) >= x, and less than x gets more, as in NumPy."""
    dose, words, _, prescription = patient(seed, shape=(4, 4, 5))
    metrics = [Metric("dose_at_cc", x_cc), Metric("dose_at_percent", percent)]
    terms = Terms(tuple(Term(bit, metric, 1.0, False) for bit in range(N_ROIS) for metric in metrics))
    values, n = dvh_metrics(dose, words, terms, prescription.tolist(), VOXEL_CC)
    for term, d_gy, n_voxels in zip(terms.terms, values.tolist(), n.tolist(), strict=True):
        if not n_voxels:
            continue
        kind, x = ("cc_at_gy", x_cc) if term.metric.kind == "dose_at_cc" else ("volume_at_gy", percent)
        levels = Terms(tuple(Term(term.bit, Metric(kind, level), 1.0, False) for level in (d_gy, d_gy + 1e-9)))
        reached, above = dvh_metrics(dose, words, levels, prescription.tolist(), VOXEL_CC)[0].tolist()
        assert reached >= x * (1 - 1e-6)
        assert above <= x * (1 + 1e-6)


def test_a_window_tends_to_the_exact_near_maximum():
    """Soft to hard: whatever the place of the voxel between two volumes."""
    dose = torch.from_numpy(np.random.default_rng(5).gamma(4.0, 10.0, 200))
    terms = Terms(tuple(Term(0, Metric("dose_at_cc", x), 1.0, False) for x in (0.03, 0.0375, 0.075, 0.1, 1.0)))
    exact, _ = dvh_metrics(dose, torch.ones(1, 200), terms, [60.0], VOXEL_CC)
    for percent in (1e-2, 1e-4):
        soft, _ = dvh_metrics(dose, torch.ones(1, 200), terms, [60.0], VOXEL_CC, Smoothing(window_percent=percent))
        torch.testing.assert_close(soft, exact, rtol=0, atol=30 * percent)


def test_float32_under_autocast_and_from_half():
    dose, words, _, prescription = patient(4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, _ = dvh_metrics(dose, words, terms_for(N_ROIS), prescription.tolist(), VOXEL_CC, Smoothing())
    plain, _ = dvh_metrics(dose, words, terms_for(N_ROIS), prescription.tolist(), VOXEL_CC, Smoothing())
    assert values.dtype == torch.float32
    assert torch.equal(values, plain)
    half, _ = dvh_metrics(dose.half(), words, terms_for(N_ROIS), prescription.tolist(), VOXEL_CC)
    assert half.dtype == torch.float32


def test_no_roi_at_all():
    values, n = dvh_metrics(torch.rand(2, 2, 2), torch.zeros(2, 2, 2, 2), terms_for(N_ROIS), [70.0] * N_ROIS, VOXEL_CC)
    assert not values.any()
    assert not n.any()


def test_terms_of_a_template():
    template = Template.load("openkbp")
    catalogue = Catalogue(tuple(Roi(roi.name, roi.kind) for roi in template.rois))
    terms = Terms.of(template, catalogue, "loss")
    assert len(terms) == len({(goal.roi, goal.metric) for goal in template.goals_for("loss")})
    assert {term.is_target for term in terms.terms if catalogue.rois[term.bit].name.startswith("PTV")} == {True}
    with pytest.raises(InputError, match="no ROI 'PTV_7000'"):
        Terms.of(template, Catalogue((Roi("Brainstem", "oar"),)), "loss")


@pytest.mark.parametrize("change", [{"window_percent": -1}, {"window_percent": 101}, {"threshold_width_gy": -0.1}])
def test_smoothing_out_of_range_is_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(Smoothing(), **change)


@pytest.mark.parametrize("a", [-1000, -10, 0.5, 8, 1000])
@pytest.mark.parametrize("dose_gy", [[0.0, 0.0, 0.0], [0.0, 30.0, 60.0], [-2.0, 30.0, 60.0], [1e-4, 1e4, 1e4]])
def test_geud_and_its_gradient_stay_finite(a, dose_gy):
    """Without dose, with the negative dose of an untrained network, with powers beyond float32."""
    dose = torch.tensor(dose_gy, requires_grad=True)
    terms = Terms((Term(0, Metric.parse(f"gEUD{a}"), 1.0, True),))
    values, _ = dvh_metrics(dose, torch.ones(1, 3), terms, [60.0], VOXEL_CC)
    expected = evaluate(terms.terms[0].metric, np.maximum(dose_gy, 0), voxel_volume_cc=VOXEL_CC)
    assert float(values[0].detach()) == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(values.sum(), dose)
    assert torch.isfinite(gradient).all()
    assert (gradient >= 0).all()


def test_the_homogeneity_index_of_an_untrained_network_is_finite():
    dose = torch.tensor([-0.5, 0.0, 0.25], requires_grad=True)
    terms = Terms((Term(0, Metric.parse("HI"), 1.0, True),))
    values, _ = dvh_metrics(dose, torch.ones(1, 3), terms, [60.0], VOXEL_CC, Smoothing())
    (gradient,) = torch.autograd.grad(values.sum(), dose)
    assert torch.isfinite(values).all()
    assert float(gradient.abs().max()) <= 1.0


def test_only_voxels_near_the_threshold_are_looked_at_and_nothing_is_lost():
    """The sum over all voxels, in float64, follows the definition."""
    dose = torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 80
    terms = Terms((Term(0, Metric.parse("V46Gy"), 1.0, True),))
    for width in (0.1, 1.0, 30.0):
        values, _ = dvh_metrics(dose, torch.ones(1, 5000), terms, [60.0], VOXEL_CC, Smoothing(0.0, width))
        assert float(values[0]) == pytest.approx(100 * float(torch.sigmoid((dose - 46) / width).mean()), abs=1e-6)
