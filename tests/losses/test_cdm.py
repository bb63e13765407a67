"""The CDM loss against a naive NumPy loop, its laws, and the defects that public code of such losses has had."""

import math

import numpy as np
import pytest
import torch
from loss_batches import (
    ABSENT,
    ALL_TERMS,
    KEYS,
    N_ROIS,
    ONE_VOXEL,
    SCALE_GY,
    SHAPE,
    UNPRESCRIBED,
    VOXEL_CC,
    patients,
    terms_of,
)

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses import sorted_doses, steps
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.metrics import dvh_metrics
from cdm_nnunet.losses.roi_index import RoiIndex
from cdm_nnunet.losses.terms import EXACT, Smoothing, Term, Terms


def naive_metric(
    metric: Metric, dose: np.ndarray, prescription_gy: float, smoothing: Smoothing, voxel_cc: float = VOXEL_CC
) -> float:
    """The definitions of docs/conventions.md, "CDM loss", in NumPy: windows by trapezoids over every rank."""
    if metric.kind == "mean":
        return float(dose.mean())
    if metric.is_volume:
        threshold = metric.value if metric.kind == "volume_at_gy" else metric.value / 100 * prescription_gy
        return float(np.mean(100 / (1 + np.exp(-(dose - threshold) / smoothing.threshold_width_gy))))
    last = len(dose) - 1
    hottest = {"max": 1, "min": len(dose)}.get(metric.kind)
    if metric.kind == "dose_at_percent":
        hottest = math.ceil(metric.value * len(dose) / 100 - 1e-9)
    elif metric.kind == "dose_at_cc":
        hottest = math.ceil(metric.value / voxel_cc - 1e-6)
    place = len(dose) - max(1, hottest)
    half = smoothing.window_percent / 100 / 2 * last
    low, high = max(place - half, 0), min(place + half, last)
    if high - low < 1e-6:
        return float(np.sort(dose)[place])
    ranks = np.unique([low, *range(math.ceil(low), math.floor(high) + 1), high])
    return float(np.trapezoid(np.interp(ranks, np.arange(len(dose)), np.sort(dose)), ranks) / (high - low))


def naive_loss(terms, predicted, reference, masks, prescription, voxel_cc, roi_voxels=None, smoothing=None):
    smoothing = smoothing or Smoothing()
    total = weights = 0.0
    for b in range(len(predicted)):
        for term in terms.terms:
            mask = masks[b, term.bit]
            rx = prescription[b][term.bit]
            if not mask.any() or (term.metric.kind == "volume_at_percent" and not rx > 0):
                continue
            if term.metric.kind == "dose_at_cc" and mask.sum() * voxel_cc[b] < term.metric.value:
                continue
            share = 1.0 if roi_voxels is None else min(mask.sum() / max(roi_voxels[b][term.bit], 1), 1.0)
            weight = term.weight * share
            values = [
                naive_metric(term.metric, dose[b, 0].numpy()[mask].astype(np.float64), rx, smoothing, voxel_cc[b])
                for dose in (predicted, reference)
            ]
            total += weight * abs(values[0] - values[1]) / (100 if term.metric.is_volume else SCALE_GY)
            weights += weight
    return total / weights


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def either_way(request, monkeypatch):
    """RoiIndex, sorting and steps in NumPy, or in torch as on every other device."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(RoiIndex, "of", lambda words, bits: RoiIndex._of_torch(words.detach().flatten(2), bits))
        monkeypatch.setattr(RoiIndex, "ascending", lambda self, dose: self._ascending_torch(dose.detach()))
        monkeypatch.setattr(sorted_doses, "step_sums", steps._of_all)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("smoothing", [Smoothing(), Smoothing(40.0, 3.0), Smoothing(0.0, 0.5)])
@pytest.mark.parametrize("shares", [False, True])
def test_the_loss_equals_the_naive_loop(smoothing, shares):
    predicted, reference, words, masks, prescription = patients(0, batch=3)
    whole = None
    if shares:
        generator = np.random.default_rng(1)
        whole = np.rint(masks.sum((2, 3, 4)) * generator.uniform(0.9, 6, (3, N_ROIS))).astype(int).tolist()
    loss = CDMLoss(ALL_TERMS, SCALE_GY, smoothing)
    voxel_cc = [VOXEL_CC, 2 * VOXEL_CC, 0.01 * VOXEL_CC]
    found = loss(predicted, reference, words, prescription, voxel_cc, whole)
    expected = naive_loss(ALL_TERMS, predicted, reference, masks, prescription, voxel_cc, whole, smoothing)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, rel=2e-5)


def test_zero_exactly_where_the_metrics_agree():
    predicted, reference, words, _, prescription = patients(1)
    loss = CDMLoss(ALL_TERMS, SCALE_GY)
    assert float(loss(reference, reference, words, prescription, [VOXEL_CC])) == 0
    assert float(loss(predicted, reference, words, prescription, [VOXEL_CC])) > 0.01


@pytest.mark.parametrize("key", KEYS)
def test_every_metric_counts(key):
    """A shift of 1 Gy moves each D-metric by 1 Gy; a V-metric moves too."""
    _, reference, words, _, prescription = patients(2)
    loss = CDMLoss(terms_of((0, key)), SCALE_GY)
    value = float(loss(reference + 1.0, reference, words, prescription, [VOXEL_CC]))
    if key.startswith("D"):
        assert value == pytest.approx(1.0 / SCALE_GY, rel=1e-3)
    else:
        assert value > 1e-3


def test_only_the_dvh_counts_not_where_the_dose_lies():
    """Two doses with the same DVHs have no CDM loss, although their voxels differ: this is the task of the MAE."""
    _, reference, _, _, _ = patients(3)
    words = pack_words(torch.ones(1, 1, *SHAPE, dtype=torch.bool))
    shuffled = reference.flatten()[torch.randperm(reference.numel(), generator=torch.Generator().manual_seed(0))]
    loss = CDMLoss(terms_of(*((0, key) for key in KEYS)), SCALE_GY)
    value = loss(shuffled.view_as(reference), reference, words, [[60.0]], [VOXEL_CC])
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert (shuffled.view_as(reference) - reference).abs().mean() > 5


def test_absent_rois_have_neither_a_term_nor_a_gradient_nor_nan():
    predicted, reference, words, masks, prescription = patients(4)
    predicted.requires_grad_()
    present, absent = terms_of((0, "D95%"), (1, "Dmean")), [(ABSENT, key) for key in KEYS]
    both = terms_of((0, "D95%"), (1, "Dmean"), *absent, (UNPRESCRIBED, "V95%"))
    arguments = (predicted, reference, words, prescription, [VOXEL_CC])
    with_absent = CDMLoss(both, SCALE_GY)(*arguments)
    assert float(with_absent.detach()) == float(CDMLoss(present, SCALE_GY)(*arguments).detach())
    (gradient,) = torch.autograd.grad(with_absent, predicted)
    assert torch.isfinite(gradient).all()
    used = torch.from_numpy(masks[0, 0] | masks[0, 1])
    assert not gradient[0, 0][~used].any()

    nothing = CDMLoss(terms_of(*absent), SCALE_GY)(*arguments)
    assert float(nothing.detach()) == 0
    assert nothing.grad_fn is None or not torch.autograd.grad(nothing, predicted, allow_unused=True)[0].any()


def test_a_sample_without_any_roi_dilutes_nothing():
    predicted, reference, words, _, prescription = patients(5, batch=2)
    words[1] = 0
    loss = CDMLoss(ALL_TERMS, SCALE_GY)
    alone = loss(predicted[:1], reference[:1], words[:1], prescription[:1], [VOXEL_CC])
    both = loss(predicted, reference, words, prescription, [VOXEL_CC] * 2)
    assert float(both) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("key", ["D99%", "D2%", "D0.03cc", "Dmean", "Dmax"])
def test_an_roi_of_one_voxel_is_that_voxel(key):
    predicted, reference, words, _, prescription = patients(6)
    predicted.requires_grad_()
    value = CDMLoss(terms_of((ONE_VOXEL, key)), SCALE_GY)(predicted, reference, words, prescription, [VOXEL_CC])
    expected = float((predicted.detach() - reference)[0, 0, 1, 2, 3].abs()) / SCALE_GY
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(value, predicted)
    assert gradient.nonzero().tolist() == [[0, 0, 1, 2, 3]]
    assert float(gradient.abs().sum()) == pytest.approx(1 / SCALE_GY, rel=1e-5)


def test_an_roi_with_less_volume_than_the_metric_asks_for_has_no_term():
    predicted, reference, words, _, prescription = patients(6)
    arguments = (predicted, reference, words, prescription, [VOXEL_CC])
    with_it = CDMLoss(terms_of((ONE_VOXEL, "D0.1cc"), (ONE_VOXEL, "Dmean")), SCALE_GY)(*arguments)
    assert float(with_it) == float(CDMLoss(terms_of((ONE_VOXEL, "Dmean")), SCALE_GY)(*arguments))
    assert float(CDMLoss(terms_of((ONE_VOXEL, "D0.1cc")), SCALE_GY)(*arguments)) == 0


def test_an_roi_outside_the_dose_region_pulls_at_nothing():
    """Where the trainer has set both doses to zero, there is no loss and no finite gradient is lost on the way."""
    _, _, words, masks, prescription = patients(7)
    region = torch.from_numpy(~masks[0, 0])
    raw = torch.rand(1, 1, *SHAPE, requires_grad=True)
    value = CDMLoss(terms_of(*((0, key) for key in KEYS)), SCALE_GY)(
        raw * 70 * region, 50.0 * region.float()[None, None], words, prescription, [VOXEL_CC]
    )
    value.backward()
    assert float(value.detach()) == 0
    assert not raw.grad.any()


def test_a_batch_is_the_weighted_mean_of_its_samples():
    predicted, reference, words, masks, prescription = patients(8, batch=3)
    whole = (masks.sum((2, 3, 4)) * np.array([[1], [2], [4]])).tolist()
    loss = CDMLoss(ALL_TERMS, SCALE_GY)
    singles, weights = [], []
    for b in range(3):
        one = slice(b, b + 1)
        singles.append(
            float(loss(predicted[one], reference[one], words[one], prescription[one], [VOXEL_CC], whole[one]))
        )
        present = [
            term
            for term in ALL_TERMS.terms
            if masks[b, term.bit].any() and not (term.bit == UNPRESCRIBED and term.metric.needs_prescription)
        ]
        weights.append(sum(term.weight for term in present) / [1, 2, 4][b])
    together = loss(predicted, reference, words, prescription, [VOXEL_CC] * 3, whole)
    assert float(together) == pytest.approx(np.average(singles, weights=weights), rel=1e-5)


def test_a_cut_roi_counts_with_its_share():
    predicted, reference, words, masks, prescription = patients(9)
    terms = terms_of((0, "Dmean"), (1, "Dmean"))
    n = masks[0].sum((1, 2, 3))
    difference = [
        abs(float((predicted - reference)[0, 0][torch.from_numpy(masks[0, k])].double().mean())) / SCALE_GY
        for k in (0, 1)
    ]
    whole = [[int(n[0]), 4 * int(n[1]), *[0] * (N_ROIS - 2)]]
    value = CDMLoss(terms, SCALE_GY)(predicted, reference, words, prescription, [VOXEL_CC], whole)
    assert float(value) == pytest.approx((difference[0] + 0.25 * difference[1]) / 1.25, rel=1e-5)
    # augmentation can leave a voxel more than the patient had: no weight above 1
    fewer = [[int(n[0]) - 1, int(n[1]), *[0] * (N_ROIS - 2)]]
    value = CDMLoss(terms, SCALE_GY)(predicted, reference, words, prescription, [VOXEL_CC], fewer)
    assert float(value) == pytest.approx(sum(difference) / 2, rel=1e-5)


def test_template_weights_count():
    predicted, reference, words, _, prescription = patients(10)
    arguments = (predicted, reference, words, prescription, [VOXEL_CC])
    first, second = (float(CDMLoss(terms_of((bit, "D50%")), SCALE_GY)(*arguments)) for bit in (0, 1))
    weighted = CDMLoss(terms_of((0, "D50%"), (1, "D50%"), weights=(3.0, 1.0)), SCALE_GY)(*arguments)
    assert float(weighted) == pytest.approx((3 * first + second) / 4, rel=1e-5)


def test_float32_under_autocast():
    predicted, reference, words, _, prescription = patients(11)
    loss = CDMLoss(ALL_TERMS, SCALE_GY)
    plain = loss(predicted, reference, words, prescription, [VOXEL_CC])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = loss(predicted, reference, words, prescription, [VOXEL_CC])
    assert autocast.dtype == torch.float32
    assert torch.equal(plain, autocast)
    half = predicted.half().requires_grad_()
    value = loss(half, reference, words, prescription, [VOXEL_CC])
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(half.grad).all()


@pytest.mark.parametrize("smoothing", [Smoothing(), Smoothing(30.0, 2.0)])
def test_the_gradient_matches_finite_differences(smoothing):
    """In float64, through the metrics that the loss is made of (the loss itself is float32 by design)."""
    predicted, reference, words, masks, prescription = patients(12)
    loss = CDMLoss(ALL_TERMS, SCALE_GY, smoothing)
    predicted.requires_grad_()
    loss(predicted, reference, words, prescription, [VOXEL_CC]).backward()
    direction = torch.from_numpy(np.random.default_rng(13).standard_normal(predicted.shape))
    slope = float((predicted.grad.double() * direction).sum())

    def at(step: float) -> float:
        moved = predicted.detach().double() + step * direction
        return naive_loss(ALL_TERMS, moved, reference, masks, prescription, [VOXEL_CC], smoothing=smoothing)

    assert (at(1e-5) - at(-1e-5)) / 2e-5 == pytest.approx(slope, rel=2e-3)


def test_descending_the_loss_brings_the_metrics_together():
    predicted, reference, words, _, prescription = patients(14)
    loss = CDMLoss(terms_of((0, "D95%"), (0, "D2%"), (1, "Dmean")), SCALE_GY)
    dose = predicted.clone().requires_grad_()
    optimizer = torch.optim.Adam([dose], 0.5)
    before = float(loss(dose, reference, words, prescription, [VOXEL_CC]).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss(dose, reference, words, prescription, [VOXEL_CC]).backward()
        optimizer.step()
    assert float(loss(dose, reference, words, prescription, [VOXEL_CC]).detach()) < 0.1 * before


@pytest.mark.parametrize("scale", [0.0, -70.0, math.inf, math.nan])
def test_an_impossible_dose_scale_is_refused(scale):
    with pytest.raises(InputError, match="dose_scale_gy must be above zero"):
        CDMLoss(ALL_TERMS, scale)


class TestDefectsOfPublicCode:
    """Each has been seen in published code of DVH losses."""

    def test_the_reference_metric_is_not_taken_from_the_prediction(self):
        """... which makes the term zero whatever is predicted."""
        _, reference, words, _, prescription = patients(20)
        loss = CDMLoss(terms_of((0, "D99%")), SCALE_GY)
        assert float(loss(reference * 0, reference, words, prescription, [VOXEL_CC])) > 0.1

    @pytest.mark.parametrize("bit", [0, 15, 16, N_ROIS - 1])
    def test_no_roi_is_skipped_by_an_off_by_one(self, bit):
        _, reference, _, _, _ = patients(21)
        masks = torch.zeros(1, N_ROIS, *SHAPE, dtype=torch.bool)
        masks[0, bit, 2:4] = True
        loss = CDMLoss(Terms(tuple(Term(k, Metric.parse("Dmean"), 1.0, False) for k in range(N_ROIS))), SCALE_GY)
        value = loss(reference + 7.0, reference, pack_words(masks), [[60.0] * N_ROIS], [VOXEL_CC])
        assert float(value) == pytest.approx(7.0 / SCALE_GY, rel=1e-4)

    def test_the_mask_is_the_rois_own_not_the_whole_dose_region(self):
        _, reference, _, _, _ = patients(22)
        masks = torch.ones(1, 2, *SHAPE, dtype=torch.bool)  # bit 1: the dose region
        masks[0, 0, :3] = False
        outside = reference + 10.0 * (~masks[:, :1])
        loss = CDMLoss(terms_of(*((0, key) for key in KEYS)), SCALE_GY)
        arguments = (pack_words(masks), [[60.0, math.nan]], [VOXEL_CC])
        assert float(loss(outside, reference, *arguments)) == 0
        assert float(loss(reference + 10.0 * masks[:, :1], reference, *arguments)) > 0.05

    def test_voxels_without_dose_are_not_dropped(self):
        """... else n, and with it every percentile, would change with the prediction."""
        words = torch.ones(1, 10)
        dose = torch.tensor([0.0] * 4 + [50.0] * 6)
        terms = terms_of((0, "D50%"), (0, "D95%"), (0, "Dmean"), (0, "V20Gy"))
        values, n = dvh_metrics(dose, words, terms, [60.0], VOXEL_CC)
        assert n.tolist() == [10] * 4
        assert values.tolist() == pytest.approx([50.0, 0.0, 30.0, 60.0])

    def test_d95_is_the_cold_end_and_d5_the_hot_one(self):
        dose = torch.arange(101.0)
        values, _ = dvh_metrics(dose, torch.ones(1, 101), terms_of((0, "D95%"), (0, "D5%")), [60.0], VOXEL_CC)
        assert values.tolist() == pytest.approx([5.0, 95.0])

    def test_the_sigmoid_of_a_v_metric_is_neither_flat_nor_vanishing(self):
        """70 Gy wide, V hardly depends on dose; 0.1 Gy wide, a voxel 2 Gy from the threshold has no gradient."""
        dose = torch.tensor([44.0, 45.9, 46.1, 48.0], requires_grad=True)
        values, _ = dvh_metrics(dose, torch.ones(1, 4), terms_of((0, "V46Gy")), [60.0], VOXEL_CC, Smoothing())
        (gradient,) = torch.autograd.grad(values.sum(), dose)
        assert (gradient > 1.0).all()  # percentage points of volume per Gy
        # and still 10 % and 90 % of the volume are accurate to a percentage point with doses 5 Gy off
        for above in (1, 9):
            dose = torch.cat([torch.full((above,), 51.0), torch.full((10 - above,), 41.0)])
            values, _ = dvh_metrics(dose, torch.ones(1, 10), terms_of((0, "V46Gy")), [60.0], VOXEL_CC, Smoothing())
            assert float(values[0]) == pytest.approx(10 * above, abs=1.0)

    @pytest.mark.parametrize("key", KEYS)
    def test_every_metric_has_a_gradient(self, key):
        """... unlike one that is read off torch.histc."""
        predicted, reference, words, _, prescription = patients(23)
        predicted.requires_grad_()
        CDMLoss(terms_of((0, key)), SCALE_GY)(predicted, reference, words, prescription, [VOXEL_CC]).backward()
        assert predicted.grad.abs().sum() > 0

    @pytest.mark.parametrize("smoothing", [EXACT, Smoothing()])
    @pytest.mark.parametrize("n", [1, 10, 10_000])
    def test_dmax_has_no_bias_that_grows_with_the_number_of_voxels(self, smoothing, n):
        """A log-sum-exp is ln(n) / beta too high."""
        values, _ = dvh_metrics(
            torch.full((n,), 60.0), torch.ones(1, n), terms_of((0, "Dmax")), [60.0], VOXEL_CC, smoothing
        )
        assert float(values[0]) == pytest.approx(60.0, abs=1e-3)

    @pytest.mark.parametrize(("voxel_cc", "expected"), [(0.062, 99.0), (0.03, 99.0), (0.027, 98.0), (0.01, 97.0)])
    def test_a_near_maximum_dose_of_about_one_voxel_is_the_first_that_holds_the_volume(self, voxel_cc, expected):
        """One voxel of 0.062 or 0.03 cc holds 0.03 cc; two of 0.027 cc (3 mm) do."""
        dose = torch.arange(100.0)
        values, _ = dvh_metrics(dose, torch.ones(1, 100), terms_of((0, "D0.03cc")), [60.0], voxel_cc)
        assert float(values[0]) == expected
