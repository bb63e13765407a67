"""Options of the CDM loss: V-metrics as a dose, ROIs that the patch cuts; and supported devices and modes."""

import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.terms import EXACT, Smoothing, Term, Terms

SCALE_GY = 70.0
VOXEL_CC = 0.03
SHARP_V = Smoothing(window_percent=0.0, threshold_width_gy=1.0)


def terms_of(*keys: str) -> Terms:
    return Terms(tuple(Term(0, Metric.parse(key), 1.0, True) for key in keys))


def loss_of(predicted, reference, key, smoothing=SHARP_V, **options) -> torch.Tensor:
    """Loss of one ROI that is the whole grid, prescribed 60 Gy."""
    predicted, reference = (
        torch.as_tensor(d, dtype=torch.float32).view(1, 1, 1, 1, -1) for d in (predicted, reference)
    )
    loss = CDMLoss(terms_of(key), SCALE_GY, smoothing, **options)
    return loss(predicted, reference, torch.ones_like(reference), [[60.0]], [VOXEL_CC])


class TestDoseForm:
    reference = np.arange(101.0)  # V60Gy is 41 of 101

    def test_it_is_the_distance_of_the_doses_at_the_references_volume(self):
        for shift in (-30.0, -3.0, 2.0):
            for key in ("V60Gy", "V100%", "V60Gy[cc]"):
                value = loss_of(self.reference + shift, self.reference, key, v_form="dose")
                assert float(value) == pytest.approx(abs(shift) / SCALE_GY, rel=1e-5)

    def test_only_that_volume_counts(self):
        other = np.where(self.reference >= 60, self.reference + 7, self.reference - 7)
        other[59:61] = self.reference[59:61]
        assert float(loss_of(other, self.reference, "V60Gy", v_form="dose")) == 0

    @pytest.mark.parametrize(("form", "reaches"), [("dose", True), ("sigmoid", False)])
    def test_its_gradient_does_not_fade_far_from_the_threshold(self, form, reaches):
        predicted = torch.linspace(0, 20, 101, requires_grad=True)
        loss_of(predicted, self.reference, "V60Gy", v_form=form).backward()
        assert (float(predicted.grad.abs().sum()) > 0.5 / SCALE_GY) == reaches

    @pytest.mark.parametrize("smoothing", [SHARP_V, Smoothing()])
    def test_full_coverage_asks_for_no_more_than_the_threshold(self, smoothing):
        covered = self.reference + 65
        assert float(loss_of(covered - 4, covered, "V60Gy", smoothing, v_form="dose")) == 0
        assert float(loss_of(covered + 9, covered, "V60Gy", smoothing, v_form="dose")) == 0
        cold = loss_of(covered - 10, covered, "V60Gy", SHARP_V, v_form="dose")
        assert float(cold) == pytest.approx(5 / SCALE_GY, rel=1e-5)

    @pytest.mark.parametrize("smoothing", [SHARP_V, Smoothing()])
    def test_no_volume_asks_for_no_less_than_the_threshold(self, smoothing):
        spared = self.reference / 2
        assert float(loss_of(spared + 9, spared, "V60Gy", smoothing, v_form="dose")) == 0
        assert float(loss_of(spared * 0, spared, "V60Gy", smoothing, v_form="dose")) == 0
        hot = loss_of(spared + 15, spared, "V60Gy", SHARP_V, v_form="dose")
        assert float(hot) == pytest.approx(5 / SCALE_GY, rel=1e-5)

    @pytest.mark.parametrize("form", ["sigmoid", "dose", "both"])
    def test_the_reference_itself_has_no_loss(self, form):
        generator = np.random.default_rng(0)
        for n in (1, 2, 7, 500):
            dose = generator.uniform(40, 80, n)
            assert float(loss_of(dose, dose, "V60Gy", Smoothing(), v_form=form)) == 0

    def test_both_is_the_mean_of_both(self):
        predicted = self.reference * 0.8
        values = [float(loss_of(predicted, self.reference, "V60Gy", v_form=f)) for f in ("sigmoid", "dose", "both")]
        assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-5)

    @pytest.mark.parametrize("key", ["D95%", "Dmean", "gEUD8", "HI"])
    def test_other_metrics_are_left_alone(self, key):
        values = {
            float(loss_of(self.reference * 0.9, self.reference, key, v_form=f)) for f in ("sigmoid", "dose", "both")
        }
        assert len(values) == 1


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("V60Gy", 10 / 101),
        ("V60Gy[cc]", 10 / 101),  # the volume as a share of the ROI, like V in percent
        ("gEUD1", 10 / SCALE_GY),
        ("HI", 96 / 50 - 96 / 60),
    ],
)
def test_units_of_the_loss(key, expected):
    reference = np.arange(101.0)
    value = loss_of(reference + 10, reference, key, Smoothing(0.0, 1e-3))
    assert float(value) == pytest.approx(expected, rel=2e-2 if key.startswith("V") else 1e-5)


class TestPartialRois:
    """Two ROIs: the first is complete and 3 Gy off, of the second a quarter is inside and 8 Gy off."""

    def value(self, partial_rois: str, whole: list[int]) -> float:
        masks = torch.zeros(1, 2, 2, 2, 10, dtype=torch.bool)
        masks[0, 0, 0], masks[0, 1, 1] = True, True
        reference = torch.full((1, 1, 2, 2, 10), 50.0)
        predicted = reference + 3.0 * masks[:, :1] + 8.0 * masks[:, 1:]
        terms = Terms(tuple(Term(bit, Metric.parse("Dmean"), 1.0, False) for bit in (0, 1)))
        loss = CDMLoss(terms, SCALE_GY, EXACT, partial_rois=partial_rois)
        arguments = (pack_words(masks), [[math.nan] * 2], [VOXEL_CC], [whole])
        return float(loss(predicted, reference, *arguments)) * SCALE_GY

    @pytest.mark.parametrize(
        ("option", "expected"), [("weighted", (3 + 0.25 * 8) / 1.25), ("whole", 3.0), ("all", (3 + 8) / 2)]
    )
    def test_weight_of_a_cut_roi(self, option, expected):
        assert self.value(option, [20, 80]) == pytest.approx(expected, rel=1e-5)

    def test_rotation_does_not_make_an_roi_partial(self):
        assert self.value("whole", [21, 20]) == pytest.approx((3 + 8) / 2, rel=1e-5)

    def test_no_whole_roi_is_no_loss(self):
        assert self.value("whole", [80, 80]) == 0


@pytest.mark.parametrize("option", [{"v_form": "step"}, {"partial_rois": "none"}])
def test_unknown_options_are_refused(option):
    (name,) = option
    with pytest.raises(InputError, match=f"{name} is one of .*, not '{option[name]}'"):
        CDMLoss(terms_of("D95%"), SCALE_GY, **option)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks
@pytest.mark.slow  # (for the import of torch's compiler)
def test_torch_compile_takes_it():
    dose = torch.rand(1, 1, 3, 4, 5) * 70
    loss = CDMLoss(terms_of("D95%", "V20Gy", "gEUD8"), SCALE_GY)
    arguments = (torch.full_like(dose, 50.0), torch.ones_like(dose), [[60.0]], [VOXEL_CC])
    gradients = []
    for function in (loss, torch.compile(loss, backend="eager")):
        predicted = dose.clone().requires_grad_()
        function(predicted * 1.0, *arguments).backward()
        gradients.append(predicted.grad)
    assert torch.equal(*gradients)
    assert gradients[0].any()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, dose: torch.Tensor) -> torch.Tensor:
        return dose * self.factor


def _of_one_process(rank: int, port: int, folder: str) -> None:
    """Process 1 has a sample without any ROI: its loss has no graph, and the others must not wait for it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Scaled())
    reference = torch.linspace(0, 70, 60).view(1, 1, 3, 4, 5)
    words = torch.ones_like(reference) * (1 - rank)
    predicted = model(reference * 0.9)
    cdm = CDMLoss(terms_of("D95%", "V20Gy"), SCALE_GY)(predicted, reference, words, [[60.0]], [VOXEL_CC])
    ((predicted - reference).abs().mean() / SCALE_GY + cdm).backward()
    torch.save(model.module.factor.grad, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_on_the_gradient(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_of_one_process, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    assert float(first) < 0
