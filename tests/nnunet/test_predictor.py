"""Prediction against closed forms: windows, mirroring, folds, borders, files; and nnU-Net's own predictor."""

import copy
import dataclasses
import itertools
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Constant
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.losses.bits import pack_words, unpack_words
from cdm_nnunet.nnunet.predictor import CasesRefusedError, DosePredictor
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.nnunet.registration import _PREDICTING_METHODS, register
from cdm_nnunet.roi import Catalogue

PATCH = [8, 12, 16]
SHAPE = (19, 23, 30)


class CT(nn.Module):
    """The CT channel as it came."""

    def forward(self, x):
        return x[:, :1]


class Lopsided(nn.Module):
    """Depends on the place in the window and on every bit, and is not symmetric: seams and unswapped bits show."""

    def forward(self, x):
        bits = unpack_words(x[:, 2:], 20).float()
        weights = torch.linspace(0.1, 2.0, 20).view(1, -1, 1, 1, 1)
        ramp = torch.linspace(0, 1, x.shape[4]) + torch.linspace(0, 3, x.shape[2]).view(-1, 1, 1)
        return (bits * weights).sum(1, keepdim=True) + ramp * x[:, :1]


@pytest.fixture
def manager(planned) -> PlansManager:
    plans = json.loads((planned.preprocessed / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = PATCH
    return PlansManager(plans)


@pytest.fixture
def predictor(manager):
    """Make a predictor of a network."""

    def make(network: nn.Module, cls=DosePredictor, plans=None, parameters=None, **options):
        made = cls(device=torch.device("cpu"), allow_tqdm=False, **options)
        used = plans or manager
        made.manual_initialization(
            network,
            used,
            used.get_configuration("3d_fullres"),
            parameters,
            {"labels": {"background": 0}, "file_ending": ".nii.gz", "channel_names": {"0": "a", "1": "b", "2": "c"}},
            "nnUNetTrainerCDM",
            None,
        )
        return made

    return make


def image(seed: int, shape=SHAPE) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    masks = torch.from_numpy(generator.random((1, 20, *shape)) < 0.4)
    images = torch.from_numpy(generator.standard_normal((2, *shape)).astype(np.float32))
    return torch.cat([images, pack_words(masks)[0]])


def by_hand(network: nn.Module, data: torch.Tensor, step: float = 0.5, gaussian: bool = True) -> np.ndarray:
    """Windows summed in float64 with nnU-Net's weights and steps."""
    weight = np.ones(PATCH)
    if gaussian:
        weight = compute_gaussian(tuple(PATCH), 1 / 8, dtype=torch.float64, device=torch.device("cpu")).numpy()
    total, weights = np.zeros(data.shape[1:]), np.zeros(data.shape[1:])
    for start in itertools.product(*compute_steps_for_sliding_window(data.shape[1:], PATCH, step)):
        window = tuple(slice(a, a + n) for a, n in zip(start, PATCH, strict=True))
        with torch.no_grad():
            output = network(data[(slice(None), *window)][None])[0, 0].double().numpy()
        total[window] += output * weight
        weights[window] += weight
    return total / weights


def test_a_constant_is_constant_without_seams(predictor):
    output = predictor(Constant(0.987654)).predict_sliding_window_return_logits(image(0))
    assert output.dtype == torch.float32
    assert output.shape == (1, *SHAPE)
    torch.testing.assert_close(output, torch.full_like(output, 0.987654), rtol=1e-6, atol=0)


def test_the_identity_gives_the_image_back(predictor):
    data = image(1)
    output = predictor(CT(), use_mirroring=True).predict_sliding_window_return_logits(data)
    torch.testing.assert_close(output[0], data[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("step", "gaussian"), [(0.5, True), (0.3, True), (1.0, False)])
def test_windows_are_weighted_as_nnunet_weights_them(predictor, step, gaussian):
    data = image(2)
    made = predictor(Lopsided(), use_mirroring=False, tile_step_size=step, use_gaussian=gaussian)
    output = made.predict_sliding_window_return_logits(data)
    np.testing.assert_allclose(output[0].numpy(), by_hand(Lopsided(), data, step, gaussian), rtol=1e-5, atol=1e-5)


def test_a_catalogue_with_one_side_only_is_predicted_without_mirroring(predictor, planned, monkeypatch):
    data = image(3)
    plain = predictor(Lopsided(), use_mirroring=False).predict_sliding_window_return_logits(data)
    mirrored = predictor(Lopsided(), use_mirroring=True)
    assert not torch.equal(mirrored.predict_sliding_window_return_logits(data), plain)
    monkeypatch.setattr(Catalogue, "mirror_permutation", None)
    one_sided = predictor(Lopsided(), use_mirroring=True)
    assert torch.equal(one_sided.predict_sliding_window_return_logits(data), plain)


def test_mirroring_averages_with_the_mirror_image_whose_bits_are_swapped(predictor, planned):
    data = image(3)
    permutation = list(planned.raw.catalogue.mirror_permutation)
    assert permutation != list(range(20))

    def mirrored(x):
        masks = unpack_words(x[:, 2:], 20)[:, permutation]
        swapped = torch.cat([x[:, :2], pack_words(masks)], 1).flip(4)
        return (Lopsided()(x) + Lopsided()(swapped).flip(4)) / 2

    with_mirroring = predictor(Lopsided(), use_mirroring=True).predict_sliding_window_return_logits(data)
    without = predictor(Lopsided(), use_mirroring=False).predict_sliding_window_return_logits(data)
    np.testing.assert_allclose(with_mirroring[0].numpy(), by_hand(mirrored, data), rtol=1e-5, atol=1e-5)
    assert (with_mirroring - without).abs().max() > 0.1


def test_an_image_smaller_than_the_patch_stands_in_air(predictor, manager):
    seen = []

    class Spy(CT):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    data = image(4, (5, 30, 9))
    made = predictor(Spy(), use_mirroring=False)
    output = made.predict_sliding_window_return_logits(data)
    torch.testing.assert_close(output[0], data[0], rtol=1e-5, atol=1e-5)
    window = seen[0][0]
    inside = (slice(None), slice(1, 6), slice(None), slice(3, 12))
    assert torch.equal(window[inside], data[:, :, :12])
    outside = torch.ones(window.shape[1:], dtype=torch.bool)
    outside[inside[1:]] = False
    assert (window[0][outside] == made.dose_plans.padding[0]).all()
    assert not window[1:, outside].any()


def test_folds_are_averaged(predictor):
    folds = [Constant(value).state_dict() for value in (0.2, 0.5, 1.4)]
    output = predictor(Constant(9.0), parameters=folds).predict_logits_from_preprocessed_data(image(5))
    torch.testing.assert_close(output, torch.full((1, *SHAPE), 0.7), rtol=1e-6, atol=0)
    assert output.device.type == "cpu"
    with pytest.raises(InputError, match="no fold of the model was loaded"):
        predictor(Constant(9.0), parameters=[]).predict_logits_from_preprocessed_data(image(5))


def test_an_input_of_other_channels_is_refused(predictor):
    with pytest.raises(
        InputError, match=r"shape \(3, 19, 23, 30\); the plans ask for 4 channels \(CT, prescription, 2 "
    ):
        predictor(CT()).predict_sliding_window_return_logits(image(6)[:3])


@pytest.fixture
def input_folder(planned, tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for channel in range(3):
        shutil.copy(planned.raw.image_path("test_0", channel), folder)
    shutil.copy(planned.raw.folder / "dataset.json", folder)
    return folder


def test_nothing_is_printed_but_what_this_software_says(predictor, input_folder, tmp_path, capfd):
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    capfd.readouterr()
    DosePredictor(device=torch.device("cpu"), allow_tqdm=False)
    made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=0)
    assert capfd.readouterr().out == ""


def test_from_files_to_files(predictor, planned, input_folder, tmp_path):
    """A constant dose comes out in Gy, in the input's geometry, zero outside the dose region."""
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    for sequential in (True, False):
        out = tmp_path / f"out_{sequential}"
        if sequential:
            made.predict_from_files_sequential(str(input_folder), str(out))
        else:
            made.predict_from_files(str(input_folder), str(out), num_processes_preprocessing=0)
        images = [str(planned.raw.image_path("test_0", channel)) for channel in range(3)]
        data, dose, _ = CDMReaderWriter().read_case(images, str(out / "test_0.nii.gz"))
        region = unpack_words(torch.from_numpy(data[None, 2:]), 20)[0, 19].numpy()
        np.testing.assert_allclose(dose[0][region], 35.0, rtol=1e-5)
        assert not dose[0][~region].any()


def test_doses_are_returned_where_no_folder_is_given(predictor, planned, input_folder):
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    (dose,) = made.predict_from_files(str(input_folder), None, num_processes_preprocessing=0)
    assert dose.dtype == np.float32
    assert dose.shape == (20, 24, 28)
    assert dose.max() == pytest.approx(35.0, rel=1e-5)


def test_a_diverged_network_is_refused_by_case_and_writes_nothing(predictor, input_folder, tmp_path):
    made = predictor(Constant(float("nan")), parameters=[Constant(float("nan")).state_dict()])
    with pytest.raises(InputError, match="case 'test_0': the network's output is not finite; the model diverged"):
        made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=0)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_broken_case_is_refused_by_name(predictor, input_folder, tmp_path):
    (input_folder / "test_0_0002.nii.gz").write_bytes(b"")
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    with pytest.raises(InputError, match=r"case 'test_0': .*test_0_0002\.nii\.gz is empty"):
        made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=0)


def test_bits_of_another_catalogue_are_refused_before_anything_is_written(predictor, input_folder, tmp_path):
    content = json.loads((input_folder / "dataset.json").read_text())
    rois = content["cdm"]["catalogue"]
    rois[0]["name"], rois[1]["name"] = rois[1]["name"], rois[0]["name"]
    (input_folder / "dataset.json").write_text(json.dumps(content))
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    for predict in (made.predict_from_files, made.predict_from_files_sequential):
        with pytest.raises(InputError, match="bit 0 is 'PTV_Low' there and 'PTV_High' in the model"):
            predict(str(input_folder), str(tmp_path / "out"))
    (input_folder / "dataset.json").unlink()
    with pytest.raises(InputError, match="nothing says which ROI is which bit"):
        made.predict_from_files(str(input_folder), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_probabilities_are_refused(predictor, input_folder, tmp_path):
    made = predictor(Constant(0.5))
    with pytest.raises(InputError, match="--save_probabilities: a dose model has no class probabilities"):
        made.predict_from_files(str(input_folder), str(tmp_path / "out"), save_probabilities=True)
    with pytest.raises(InputError, match="no class probabilities"):
        made.predict_from_data_iterator(iter([]), save_probabilities=True)
    assert not (tmp_path / "out").exists()


def copy_case(folder: Path, name: str) -> None:
    for channel in range(3):
        shutil.copy(folder / f"test_0_{channel:04d}.nii.gz", folder / f"{name}_{channel:04d}.nii.gz")


def change_image(path: Path, change) -> None:
    image = read_image(path)
    write_image(dataclasses.replace(image, values=change(image.values).astype(image.values.dtype)))


@pytest.mark.parametrize("n_processes", [0, 1])
def test_a_case_that_cannot_be_right_is_refused_and_the_others_are_predicted(
    predictor, input_folder, tmp_path, n_processes
):
    for name in ("a", "b"):
        copy_case(input_folder, name)
    change_image(input_folder / "a_0001.nii.gz", lambda map_gy: 100 * map_gy)
    (input_folder / "b_0000.nii.gz").write_bytes(b"")
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    with pytest.raises(
        CasesRefusedError, match=r"refused 2 of 3 cases, predicted the others: case 'a': .* 7000 Gy"
    ) as raised:
        made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=n_processes)
    assert list(raised.value.reasons) == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["test_0.nii.gz"]


def test_what_is_unusual_is_said_and_kept(predictor, input_folder, tmp_path, capfd):
    copy_case(input_folder, "other")
    change_image(input_folder / "other_0001.nii.gz", lambda map_gy: np.where(map_gy == 70, 77, map_gy))
    made = predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])
    made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=0)
    note = "unusual: 77 Gy for 'PTV_High' (in training 70 Gy)"
    assert f"case 'other': {note}" in capfd.readouterr().err
    records = {
        name: json.loads((tmp_path / "out" / f"{name}.prediction.json").read_text()) for name in ("other", "test_0")
    }
    assert records["other"]["prescriptions_gy"] == {"PTV_High": 77.0, "PTV_Low": 56.0}
    assert note in records["other"]["notes"]
    assert records["test_0"]["prescriptions_gy"] == {"PTV_High": 70.0, "PTV_Low": 56.0}
    assert (records["test_0"]["case"], records["test_0"]["notes"]) == ("test_0", [])


def test_plans_without_a_cohort_say_that_nothing_was_compared(predictor, manager, input_folder, tmp_path, capfd):
    plans = copy.deepcopy(manager.plans)
    del plans["cdm"]["cohort"]
    made = predictor(Constant(0.5), plans=PlansManager(plans), parameters=[Constant(0.5).state_dict()])
    change_image(input_folder / "test_0_0001.nii.gz", lambda map_gy: np.where(map_gy == 70, 77, map_gy))
    made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=0)
    assert "plans do not describe its training cases" in capfd.readouterr().err
    change_image(input_folder / "test_0_0001.nii.gz", lambda map_gy: map_gy * 100)
    with pytest.raises(InputError, match="the prescription of PTV_High is 7700 Gy"):
        made.predict_from_files(str(input_folder), str(tmp_path / "out"), num_processes_preprocessing=0)


class TestThreads:
    """One network takes the weights of one fold after the other: two threads must not mix them."""

    class Slow(Constant):
        def forward(self, x):
            time.sleep(0.005)
            return super().forward(x)

    @pytest.mark.parametrize("shared", ["predictor", "network"])
    def test_predictions_of_two_threads_do_not_mix(self, predictor, shared):
        network = self.Slow(9.0)
        folds = [
            [Constant(value).state_dict() for value in (0.2, 0.8)],
            [Constant(value).state_dict() for value in (3.0, 5.0)],
        ]
        first = predictor(network, parameters=folds[0])
        second = first if shared == "predictor" else predictor(network, parameters=folds[1])
        expected = (0.5, 0.5 if shared == "predictor" else 4.0)
        with ThreadPoolExecutor(2) as pool:
            outputs = pool.map(lambda made: made.predict_logits_from_preprocessed_data(image(5)), (first, second))
            for output, value in zip(outputs, expected, strict=True):
                torch.testing.assert_close(output, torch.full((1, *SHAPE), value), rtol=1e-6, atol=0)


class TestArrays:
    @pytest.fixture
    def made(self, predictor) -> DosePredictor:
        return predictor(Constant(0.5), parameters=[Constant(0.5).state_dict()])

    @pytest.fixture
    def array(self, planned):
        files = [str(planned.raw.image_path("test_0", channel)) for channel in range(3)]
        data, properties = CDMReaderWriter().read_images(files)
        return data, {**properties, "catalogue": planned.raw.catalogue.to_json()}

    def test_a_case_in_memory_gets_the_dose_of_a_case_in_files(self, made, array, input_folder, tmp_path):
        (expected,) = made.predict_from_files(str(input_folder), None, num_processes_preprocessing=0)
        assert np.array_equal(made.predict_single_npy_array(*array), expected)
        (again,) = made.predict_from_list_of_npy_arrays([array[0]], None, [array[1]], None)
        assert np.array_equal(again, expected)
        assert made.predict_single_npy_array(*array, None, str(tmp_path / "case")) is None
        assert np.array_equal(read_image(tmp_path / "case.nii.gz").values, expected)

    def test_it_is_checked_as_one(self, made, array):
        data, properties = array
        with pytest.raises(InputError, match=r"case 'array 0': the prescription of PTV_High is 7000 Gy"):
            made.predict_single_npy_array(data * np.array([1, 100, 1, 1], np.float32)[:, None, None, None], properties)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p: p.pop("catalogue"), "its properties lack catalogue"),
            (lambda p: p.pop("sitk_stuff"), "its properties lack sitk_stuff"),
            (
                lambda p: p.update(spacing=[4.0, 4.0, 3.0]),
                r"spacing is \(4, 4, 3\) mm \(z, y, x\) and \(3, 4, 4\) in 'sitk",
            ),
            (lambda p: p["catalogue"].reverse(), "claims bit 19"),
            (
                lambda p: p["sitk_stuff"].update(direction=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)),
                "the array is not on an axial grid in LPS orientation",
            ),
        ],
    )
    def test_geometry_and_names_are_needed(self, made, array, change, message):
        data, properties = array
        change(properties)
        with pytest.raises(InputError, match=message):
            made.predict_single_npy_array(data, properties)

    def test_another_type_or_shape_is_refused(self, made, array):
        for data in (array[0].astype(np.float64), array[0][:3], array[0][0]):
            with pytest.raises(InputError, match="an array of a case is float32 with 4 channels"):
                made.predict_single_npy_array(data, array[1])


BARE_ARRAY = (np.zeros((4, 4, 4, 4), np.float32), {"spacing": [1, 1, 1]})
ARGUMENTS = {
    "predict_from_files": (lambda folder: (folder, None, False, True, 0), None),
    "predict_from_files_sequential": (lambda folder: (folder, None), None),
    "predict_from_data_iterator": (lambda _: (iter([]),), None),
    "predict_single_npy_array": (lambda _: BARE_ARRAY, "carries no geometry"),
    "predict_from_list_of_npy_arrays": (
        lambda _: ([BARE_ARRAY[0]], None, [BARE_ARRAY[1]], None),
        "carries no geometry",
    ),
    "get_data_iterator_from_raw_npy_data": (
        lambda _: (BARE_ARRAY[0], None, BARE_ARRAY[1], None),
        "carries no geometry",
    ),
    "predict_logits_from_preprocessed_data": (lambda _: (image(7),), None),
    "predict_sliding_window_return_logits": (lambda _: (image(7),), None),
}


@pytest.mark.parametrize("method", _PREDICTING_METHODS)
def test_nnunets_predictor_becomes_ours_where_the_plans_are_for_dose(predictor, input_folder, method):
    """Whichever of its methods is called first. Without this, doses would be summed in half precision."""
    make, refusal = ARGUMENTS[method]
    stock = predictor(Constant(0.5), nnUNetPredictor, parameters=[Constant(0.5).state_dict()])
    assert type(stock) is nnUNetPredictor
    if refusal:
        with pytest.raises(InputError, match=refusal):
            getattr(stock, method)(*make(str(input_folder)))
    else:
        result = getattr(stock, method)(*make(str(input_folder)))
        if isinstance(result, torch.Tensor):
            assert result.dtype == torch.float32
    assert type(stock) is DosePredictor


def test_nnunets_predictor_is_left_alone_where_the_plans_are_for_segmentation(predictor, manager):
    plans = copy.deepcopy(manager.plans)
    del plans["cdm"]
    plans["label_manager"] = "LabelManager"
    stock = predictor(
        Constant(0.5), nnUNetPredictor, PlansManager(plans), [Constant(0.5).state_dict()], use_mirroring=False
    )
    output = stock.predict_logits_from_preprocessed_data(image(8))
    assert type(stock) is nnUNetPredictor
    assert output.dtype == torch.float16  # nnU-Net's own way
    assert output.shape == (1, *SHAPE)


def test_registering_twice_changes_nothing():
    before = {name: getattr(nnUNetPredictor, name) for name in _PREDICTING_METHODS}
    register()
    assert {name: getattr(nnUNetPredictor, name) for name in _PREDICTING_METHODS} == before


def test_a_subclass_of_nnunets_predictor_keeps_its_class(predictor):
    class Own(nnUNetPredictor):
        def predict_sliding_window_return_logits(self, input_image):
            return "own"

    own = predictor(Constant(0.5), Own)
    assert own.predict_sliding_window_return_logits(image(9)) == "own"
    assert type(own) is Own
