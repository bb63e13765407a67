"""A DVH metric is added by one row, plus a formula if a loss trains on it: here in a separate file."""

import re
import runpy

import numpy as np
import pytest
import torch

from cdm_nnunet.dvh import KINDS, Metric, Template, evaluate, evaluate_weighted
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.metrics import DIFFERENTIABLE, dvh_metrics
from cdm_nnunet.losses.terms import EXACT, Smoothing, Term, Terms

MIDDLE_HALF = """
from cdm_nnunet.dvh import Kind, add_kind
from cdm_nnunet.losses.metrics import DIFFERENTIABLE, Formula, from_order_statistics

def spread(metric, doses):
    high_gy, low_gy = map(doses.order_statistic_gy, metric.order_statistics)
    return high_gy - low_gy

add_kind(Kind(name="middle_half", word="DMiddle", parts=("D25%", "D75%"), formula=spread))
DIFFERENTIABLE["middle_half"] = Formula(from_order_statistics, lambda ends_gy: ends_gy[0] - ends_gy[1])
"""
NEAR = """
from cdm_nnunet.dvh import Kind, add_kind
from cdm_nnunet.dvh.kinds import GY

add_kind(Kind(
    name="near", word="N", number=GY, unit="%", in_loss=False,
    formula=lambda metric, doses: doses.in_unit(doses.near(metric.number, 1.0), "%"),
))
"""
DOSE_GY = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0])


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    """Both metrics are registered during a test."""
    for table in (KINDS, DIFFERENTIABLE):
        for name in ("middle_half", "near"):
            monkeypatch.setitem(table, name, None)  # so that they are gone after the test
            del table[name]
    for name, text in (("middle_half", MIDDLE_HALF), ("near", NEAR)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        runpy.run_path(str(tmp_path / f"{name}.py"))


def test_its_key_is_read_and_its_value_computed():
    spread, near = Metric.parse("DMiddle"), Metric.parse("N3950cGy[%]")
    assert (str(spread), str(near), near.unit) == ("DMiddle", "N39.5Gy", "%")
    assert evaluate(spread, DOSE_GY, voxel_volume_cc=0.1) == 40.0
    assert evaluate(near, DOSE_GY, voxel_volume_cc=0.1) == 12.5
    volumes_cc = np.array([0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert evaluate_weighted([spread, near], DOSE_GY, volumes_cc) == pytest.approx((50.0, 10.0))
    with pytest.raises(InputError, match="'N0Gy' asks for a dose that is not above zero"):
        Metric.parse("N0Gy")
    with pytest.raises(InputError, match=re.escape("is not a DVH metric; expected D<x>%") + ".*DMiddle, N<x>Gy"):
        Metric.parse("DMiddel")


def template(**goal):
    roi = {"name": "Liver", "kind": "oar"}
    return Template.from_json(
        {"format_version": 1, "name": "t", "rois": [roi], "goals": [{"roi": "Liver", **goal}]}, "t"
    )


def test_a_template_may_ask_for_it():
    goal = template(metric="DMiddle", relation="<=", value=45.0, unit="Gy").goals[0]
    assert (goal.verdict(40.0), goal.use) == ("pass", ("loss", "evaluation"))
    assert template(metric="N40Gy", relation="<=", value=5.0, unit="%").goals[0].use == ("evaluation",)
    with pytest.raises(InputError, match="a loss can't train on this metric"):
        template(metric="N40Gy", use=["loss"])


@pytest.mark.parametrize("smoothing", [EXACT, Smoothing()])
def test_a_loss_trains_on_it(smoothing):
    terms = Terms((Term(0, Metric.parse("DMiddle"), 1.0, False), Term(0, Metric.parse("D95%"), 1.0, False)))
    words = pack_words(torch.ones(1, 1, 2, 2, 2, dtype=torch.bool))
    reference = torch.from_numpy(DOSE_GY).view(1, 1, 2, 2, 2)
    values, _ = dvh_metrics(reference[0, 0], words[0], terms, [float("nan")], 0.1)
    assert values.tolist() == [40.0, 10.0]
    predicted = (1.1 * reference).requires_grad_()
    loss = CDMLoss(terms, 70.0, smoothing)(predicted, reference, words, [[float("nan")]], [0.1])
    loss.backward()
    assert loss.item() == pytest.approx((0.1 * 40 + 0.1 * 10) / 2 / 70, rel=0.2)
    assert predicted.grad.abs().sum() > 0


def test_every_kind_has_a_formula_for_the_loss_or_is_for_the_evaluation_alone():
    assert set(DIFFERENTIABLE) == {name for name, kind in KINDS.items() if kind.in_loss}


def test_a_loss_says_when_the_formula_is_missing(monkeypatch):
    monkeypatch.delitem(DIFFERENTIABLE, "middle_half")
    terms = Terms((Term(0, Metric.parse("DMiddle"), 1.0, False),))
    words = pack_words(torch.ones(1, 1, 2, 2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="no loss can train on DMiddle: its kind has no differentiable formula"):
        dvh_metrics(torch.ones(2, 2, 2), words[0], terms, [float("nan")], 0.1)


def test_a_kind_that_is_there_already_is_no_new_one():
    with pytest.raises(ValueError, match="there is a kind 'near' with keys N<x>Gy already"):
        exec(NEAR.replace('"near"', '"other"'))
