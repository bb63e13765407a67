"""The CDM loss as one graph: equal to the reference, compiled as a whole, and without synchronisation."""

import contextlib
import math

import numpy as np
import pytest
import torch
from loss_batches import ABSENT, ALL_TERMS, N_ROIS, ONE_VOXEL, SCALE_GY, VOXEL_CC, patients, terms_of

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.captured import CapturedCDMLoss
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.terms import EXACT, Smoothing

MORE = terms_of(
    *(
        (bit, key)
        for bit in (0, 1, 2, 4, ABSENT, ONE_VOXEL)
        for key in ("HI", "CV20Gy", "V30Gy[cc]", "CV90%[cc]", "DC5%", "DC0.1cc", "Dmin", "D0.03cc", "V40Gy", "D33.3%")
    )
)


def whole_voxels(masks, seed=1):
    """More voxels in the whole patient than in the patch, by different factors."""
    generator = np.random.default_rng(seed)
    return np.rint(masks.sum((2, 3, 4)) * generator.uniform(0.8, 2, masks.shape[:2])).astype(int).tolist()


def value_and_gradient(loss, predicted, *arguments):
    predicted = predicted.clone().requires_grad_()
    value = loss(predicted, *arguments)
    value.backward()
    return value.detach(), predicted.grad


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("terms", [ALL_TERMS, MORE], ids=["usual", "more"])
@pytest.mark.parametrize("v_form", ["sigmoid", "dose", "both"])
@pytest.mark.parametrize(
    ("smoothing", "partial"),
    [(Smoothing(), "weighted"), (Smoothing(40.0, 3.0), "whole"), (Smoothing(0.0, 0.5), "all"), (EXACT, "weighted")],
    ids=["usual", "wide", "narrow", "exact"],
)
def test_value_and_gradient_are_the_reference_s(terms, v_form, smoothing, partial):
    predicted, reference, words, masks, prescription = patients(4, batch=3, dtype=torch.float64)
    voxel_cc = [VOXEL_CC, 2 * VOXEL_CC, 0.1 * VOXEL_CC]
    arguments = (reference, words, prescription, voxel_cc, whole_voxels(masks))
    loss = CDMLoss(terms, SCALE_GY, smoothing, v_form=v_form, partial_rois=partial)
    value, gradient = value_and_gradient(loss, predicted, *arguments)
    captured, captured_gradient = value_and_gradient(CapturedCDMLoss(loss), predicted, *arguments)
    assert float(captured) == pytest.approx(float(value), rel=1e-6)
    assert torch.allclose(captured_gradient, gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
    assert float(gradient.abs().max()) > 0 or smoothing is EXACT


def test_half_precision_and_whole_patients():
    predicted, reference, words, _, prescription = patients(5, batch=2)
    arguments = (reference, words, prescription, [VOXEL_CC] * 2)
    loss = CDMLoss(ALL_TERMS, SCALE_GY)
    value, gradient = value_and_gradient(loss, predicted.half(), *arguments)
    captured, captured_gradient = value_and_gradient(CapturedCDMLoss(loss), predicted.half(), *arguments)
    assert captured.dtype == torch.float32
    assert float(captured) == pytest.approx(float(value), rel=1e-6)
    assert torch.allclose(
        captured_gradient.float(), gradient.float(), rtol=1e-2, atol=1e-3 * float(gradient.abs().max())
    )


def test_a_compiler_takes_it_whole():
    """Without code for a machine, which takes minutes to make."""
    predicted, reference, words, masks, prescription = patients(6, batch=2)
    arguments = (reference, words, prescription, [VOXEL_CC] * 2, whole_voxels(masks))
    loss = CDMLoss(terms_of((0, "D95%"), (0, "V95%"), (5, "D0.1cc"), (6, "Dmean")), SCALE_GY)
    value, gradient = value_and_gradient(loss, predicted, *arguments)
    captured = CapturedCDMLoss(loss)
    captured.run = torch.compile(captured.graph, dynamic=False, fullgraph=True, backend="aot_eager")
    found, found_gradient = value_and_gradient(captured, predicted, *arguments)
    assert float(found) == pytest.approx(float(value), rel=1e-6)
    assert torch.allclose(found_gradient, gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


class TestWithoutNumbers:
    """Tensors with shapes and no numbers, so that an operation that needs a number on the host is an error."""

    @pytest.fixture
    def batch(self, monkeypatch):
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # not made for such a device
        predicted, reference, words, masks, prescription = patients(7, batch=2)
        tensors = [tensor.to("meta") for tensor in (predicted, reference, words)]
        return tensors, (prescription, [VOXEL_CC] * 2, whole_voxels(masks))

    def test_none_is_asked_for(self, batch):
        tensors, known = batch
        tensors[0].requires_grad_()
        loss = CapturedCDMLoss(CDMLoss(ALL_TERMS, SCALE_GY, v_form="both")).to("meta")(*tensors, *known)
        loss.backward()
        assert loss.device.type == tensors[0].grad.device.type == "meta"

    def test_the_reference_asks(self, batch):
        """Else the test above could not fail."""
        tensors, known = batch
        with pytest.raises(NotImplementedError, match="nonzero"):
            CDMLoss(ALL_TERMS, SCALE_GY)(*tensors, *known)


def test_room_is_made_for_larger_rois_and_kept():
    predicted, reference, words, masks, prescription = patients(8, batch=2)
    captured = CapturedCDMLoss(CDMLoss(ALL_TERMS, SCALE_GY))
    one = (predicted[:1], reference[:1], words[:1], prescription[:1], [VOXEL_CC])
    assert math.isfinite(captured(*one, [[10] * N_ROIS]))
    small = captured.graph.capacity
    assert math.isfinite(captured(predicted, reference, words, prescription, [VOXEL_CC] * 2, whole_voxels(masks)))
    large = captured.graph.capacity
    assert math.isfinite(captured(*one))
    assert small < large <= captured.graph.capacity


@pytest.mark.parametrize(("more", "is_known"), [(0, True), (-1, False)])
def test_more_voxels_than_there_is_room_for_are_no_silent_number(more, is_known, monkeypatch):
    predicted, reference, words, masks, prescription = patients(8)
    captured = CapturedCDMLoss(CDMLoss(ALL_TERMS, SCALE_GY))
    monkeypatch.setattr(captured, "_room", lambda *_: int(masks.sum()) + more)
    assert math.isfinite(captured(predicted, reference, words, prescription, [VOXEL_CC])) == is_known


def test_a_batch_without_a_term_contributes_nothing():
    predicted, reference, words, _, prescription = patients(9)
    captured = CapturedCDMLoss(CDMLoss(terms_of((ABSENT, "D95%"), (ABSENT, "V20Gy")), SCALE_GY))
    value, gradient = value_and_gradient(captured, predicted, reference, words, prescription, [VOXEL_CC])
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parametrize("key", ["gEUD8", "D0.1cc[openkbp]"])
def test_a_metric_without_a_formula_here_is_refused(key):
    with pytest.raises(InputError, match="fixed shapes can't train on"):
        CapturedCDMLoss(CDMLoss(terms_of((0, key)), SCALE_GY))
