"""The network decodes the words on the device, keeps the dose in float32, and is nnU-Net's in everything else."""

import copy
import json

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from cdm_nnunet.cpu.instance_norm import InstanceNorm3d
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.nnunet.compute import prepare_network, to_device
from cdm_nnunet.nnunet.first_guess import falling_off
from cdm_nnunet.nnunet.network import BitDecodeUNet, Float32Conv3d, depth_to_space
from cdm_nnunet.roi import pack, to_words, unpack

PATCH = (8, 16, 16)
FALL_OFF = (0.5, 0.8, 0.8)
N_ROIS = 20


def architecture(**changes) -> dict:
    return {
        "n_stages": 3,
        "features_per_stage": (4, 8, 16),
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }


def make(seed: int = 0, n_rois: int = N_ROIS, **changes) -> BitDecodeUNet:
    torch.manual_seed(seed)
    return BitDecodeUNet(3, num_classes=1, n_rois=n_rois, **architecture(**changes))


def inputs(seed: int, n_rois: int = N_ROIS, batch: int = 2):
    generator = np.random.default_rng(seed)
    masks = generator.random((batch, n_rois, *PATCH)) < 0.4
    masks[:, -1] = True
    words = np.stack([to_words(pack(sample), n_rois) for sample in masks])
    images = generator.standard_normal((batch, 2, *PATCH)).astype(np.float32)
    return torch.from_numpy(np.concatenate([images, words], 1)), masks


@pytest.mark.parametrize("n_rois", [1, 8, 16, 17, 33, 64])
def test_the_decoded_masks_are_those_of_numpy(n_rois):
    """The first convolution sees CT, prescription, and each ROI as zeros and ones, in catalogue order."""
    network = make(n_rois=n_rois)
    x, masks = inputs(1, n_rois)
    seen = []
    network.encoder.stages[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    with torch.no_grad():
        network(x)
    assert seen[0].shape == (2, 2 + n_rois, *PATCH)
    assert torch.equal(seen[0][:, :2], x[:, :2])
    np.testing.assert_array_equal(seen[0][:, 2:].numpy(), masks.astype(np.float32))
    np.testing.assert_array_equal(unpack(pack(masks[0]), n_rois), seen[0][0, 2:].numpy().astype(bool))


def test_it_equals_nnunets_network_on_one_hot_channels():
    network = make(seed=3)
    torch.manual_seed(3)
    stock = PlainConvUNet(2 + N_ROIS, num_classes=1, **architecture())
    stock.load_state_dict(network.state_dict())
    x, masks = inputs(2)
    with torch.no_grad():
        expected = stock(torch.cat([x[:, :2], torch.from_numpy(masks).float()], 1))
        assert torch.equal(network(x), expected)


def test_every_roi_reaches_the_output():
    network = make(seed=4)
    x, masks = inputs(3, batch=1)
    with torch.no_grad():
        base = network(x)
        for k in range(N_ROIS):
            changed = torch.from_numpy(masks.copy())
            changed[:, k] ^= True
            assert not torch.equal(network(torch.cat([x[:, :2], pack_words(changed)], 1)), base), k


@pytest.mark.parametrize("n_rois", [1, 20, 64])
def test_the_number_of_inputs_follows_the_catalogue(n_rois):
    network = make(n_rois=n_rois)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    assert first.in_channels == 2 + n_rois


def test_the_output_is_float32_under_autocast_and_not_rounded():
    """Neighbours of 70 in bfloat16 are 0.25 to 0.5 apart: a head in bfloat16 could not say 70.1 Gy."""
    network = make(seed=5, deep_supervision=True)
    x, _ = inputs(4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(x)
    assert {output.dtype for output in outputs} == {torch.float32}
    assert not torch.equal(outputs[0], outputs[0].bfloat16().float())
    assert all(isinstance(layer, Float32Conv3d) for layer in network.decoder.seg_layers)
    layer = Float32Conv3d(1, 1, 1)
    nn.init.constant_(layer.weight, 1.0)
    nn.init.constant_(layer.bias, 0.1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(layer(torch.full((1, 1, 2, 2, 2), 70.0, dtype=torch.bfloat16))[0, 0, 0, 0, 0]) == pytest.approx(
            70.1
        )


def test_deep_supervision_gives_one_output_a_scale_finest_first():
    x, _ = inputs(5)
    outputs = make(deep_supervision=True)(x)
    assert [tuple(output.shape) for output in outputs] == [(2, 1, 8, 16, 16), (2, 1, 8, 8, 8)]
    single = make()(x)
    assert torch.equal(single, outputs[0])


def test_weights_pass_between_training_and_prediction(planned):
    """Training has deep supervision, prediction does not; nnU-Net loads one's weights into the other."""
    plans = json.loads((planned.preprocessed / "nnUNetPlans.json").read_text())
    built = plans["configurations"]["3d_fullres"]["architecture"]
    arguments = (built["network_class_name"], built["arch_kwargs"], built["_kw_requires_import"], 3, 1)
    training = get_network_from_plans(*arguments, allow_init=True, deep_supervision=True)
    prediction = get_network_from_plans(*arguments, allow_init=True, deep_supervision=False)
    assert type(training) is type(prediction) is BitDecodeUNet
    assert training.n_rois == 20
    prediction.load_state_dict(training.state_dict())
    x = torch.cat([torch.randn(1, 2, 20, 20, 24), torch.full((1, 2, 20, 20, 24), 9.0)], 1)
    with torch.no_grad():
        assert torch.equal(prediction(x), training(x)[0])
    training.load_state_dict(prediction.state_dict())


def test_channels_last_gives_the_same_output():
    network = make(seed=6).eval()
    x, _ = inputs(6)
    with torch.no_grad():
        plain = network(x)
        network = network.to(memory_format=torch.channels_last_3d)
        last = network(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)


def test_no_layer_changes_the_channels_last_layout_on_the_way():
    """A CPU gets this layout, whatever its precision."""
    network = prepare_network(make(seed=7), torch.device("cpu"))
    x, _ = inputs(7)
    layouts = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.InstanceNorm3d):
            module.register_forward_hook(
                lambda module, args, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last_3d))
            )
    network(to_device(x, torch.device("cpu")))
    assert len(layouts) > 10
    assert all(layouts)


@pytest.mark.parametrize("layer", [InstanceNorm3d(5, affine=True), Float32Conv3d(5, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_both_layouts_give_the_same_numbers_and_gradients(layer, dtype):
    torch.manual_seed(8)
    precise = dtype == torch.float64 and isinstance(layer, InstanceNorm3d)
    layer = copy.deepcopy(layer).to(torch.float64 if precise else torch.float32)
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    values = (3 + 2 * torch.randn(3, 5, 6, 7, 8, dtype=torch.float64)).to(dtype)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        x = values.clone(memory_format=layout).requires_grad_()
        layer.zero_grad()
        y = layer(x)
        (y.double() * torch.arange(y.numel()).reshape(y.shape) / y.numel()).sum().backward()
        results.append((y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    tolerance = 1e-10 if precise else 1e-5 if dtype == torch.float64 else 2e-2
    for plain, last in zip(*results, strict=True):
        torch.testing.assert_close(last, plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_the_normalisation_of_a_large_patch_is_exact(offset):
    """Plain float32 sums over so many voxels are off by 1 in 1 500, and by another amount with other threads."""
    generator = torch.Generator().manual_seed(9)
    x = offset + torch.randn(1, 8, 48, 64, 64, generator=generator).relu()
    gradient = torch.randn(x.shape, generator=generator) + x / 2
    layer = InstanceNorm3d(8, affine=True)
    nn.init.uniform_(layer.weight, 0.5, 1)
    exact = copy.deepcopy(layer).double()
    results = []
    for module, dtype, layout in (
        (layer, torch.float32, torch.channels_last_3d),
        (exact, torch.float64, torch.contiguous_format),
    ):
        values = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
        y = module(values)
        y.backward(gradient.to(dtype).contiguous(memory_format=layout))
        results.append([one.double() for one in (y.detach(), values.grad, module.weight.grad)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= 3e-5 * expected.abs().max()


def test_the_normalisation_refuses_a_second_derivative():
    """Through its own mean and variance it would be wrong."""
    x = torch.randn(1, 5, 6, 7, 8).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    (gradient,) = torch.autograd.grad((InstanceNorm3d(5)(x) ** 3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_dose_does_not_depend_on_the_number_of_threads():
    network = prepare_network(make(seed=10, n_rois=3, features_per_stage=(8, 8, 8)), torch.device("cpu")).eval()
    nn.init.normal_(network.decoder.seg_layers[-1].weight)
    x = torch.cat([torch.randn(1, 1, 48, 64, 64) ** 2, torch.zeros(1, 2, 48, 64, 64)], 1)
    threads = torch.get_num_threads()
    doses = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with torch.inference_mode():
                doses.append(network(to_device(x, torch.device("cpu"))))
    finally:
        torch.set_num_threads(threads)
    assert doses[0].std() > 0.5
    assert (doses[0] - doses[1]).abs().max() < 1e-4


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_whole_network_can_be_compiled(backend, deep_supervision):
    """torch.compile captures the bit decode and the float32 head in one graph (fullgraph: no silent break)."""
    torch._dynamo.reset()
    network = make(seed=7, deep_supervision=deep_supervision, fall_off=FALL_OFF, details=True)
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    x, _ = inputs(7)

    def run(module):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = module(x)
        outputs = outputs if deep_supervision else [outputs]
        sum(output.mean() for output in outputs).backward()
        return outputs, [p.grad.clone() for p in network.parameters() if p.grad is not None]

    (plain, gradients), (captured, captured_gradients) = run(network), run(compiled)
    for a, b in zip(plain, captured, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b)
    assert len(gradients) == len(captured_gradients) > 0
    for a, b in zip(gradients, captured_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)
    torch._dynamo.reset()


def test_the_memory_measure_counts_masks_head_and_loss():
    stock = PlainConvUNet(3, num_classes=1, **architecture()).compute_conv_feature_map_size(PATCH)
    voxels = np.prod(PATCH)
    sizes = [make(n_rois=n).compute_conv_feature_map_size(PATCH) for n in (1, 2, 64)]
    per_roi = (sizes[1] - sizes[0]) / voxels
    assert 0.5 + 1.3 / 8 < per_roi < 1.0  # a mask, and at least the 1.3 bytes of the loss that were measured
    assert sizes[2] - sizes[0] == pytest.approx(63 * per_roi * voxels, rel=1e-3)
    assert sizes[0] > stock


@pytest.mark.parametrize("cell", [(2, 2, 2), (1, 2, 2)])
def test_a_folded_network_keeps_the_resolution_of_inputs_and_outputs(cell):
    network = make(seed=9, cell=cell, deep_supervision=True).eval()
    x, masks = inputs(9)
    seen = []
    network.encoder.stages[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    outputs = network(x)
    assert tuple(seen[0].shape[2:]) == tuple(n // voxels for n, voxels in zip(PATCH, cell, strict=True))
    assert [tuple(output.shape) for output in outputs] == [(2, 1, 8, 16, 16), (2, 1, 8, 8, 8)]
    decoded = torch.cat([x[:, :2], torch.from_numpy(masks).float()], 1)
    torch.testing.assert_close(seen[0], nn.functional.conv3d(decoded, network.fold.weight, network.fold.bias, cell))
    last = network.to(memory_format=torch.channels_last_3d)(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last[0], outputs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", [(2, 2, 2), (1, 2, 3), (1, 1, 1)])
def test_depth_to_space_puts_each_voxel_of_a_cell_in_its_place(cell):
    """Each voxel of an image, given as a channel of its cell, returns to its position."""
    image = torch.arange(2 * 8 * 12 * 6.0).reshape(2, 1, 8, 12, 6)
    offsets = np.ndindex(*cell)
    z, y, x = cell
    channels = torch.cat([image[:, :, i::z, j::y, k::x] for i, j, k in offsets], 1)
    assert torch.equal(depth_to_space(channels, cell), image)


def test_every_voxel_of_a_cell_has_a_dose_of_its_own():
    """One voxel's mask, moved within its cell, changes the output: nothing is averaged away."""
    network = make(seed=10, n_rois=1, cell=(2, 2, 2)).eval()
    outputs = []
    for voxel in ((4, 8, 8), (5, 9, 9)):
        masks = torch.zeros(1, 1, *PATCH, dtype=torch.bool)
        masks[(0, 0, *voxel)] = True
        with torch.no_grad():
            outputs.append(network(torch.cat([torch.zeros(1, 2, *PATCH), pack_words(masks)], 1)))
    assert not torch.equal(*outputs)
    assert len(outputs[0][0, 0, 4:6, 8:10, 8:10].unique()) == 8


@pytest.mark.parametrize("fall_off", [None, FALL_OFF])
def test_details_add_nothing_until_they_are_trained(fall_off):
    options = {"cell": (2, 2, 2), "fall_off": fall_off, "deep_supervision": True}
    network, plain = make(seed=15, details=True, **options).eval(), make(seed=15, **options).eval()
    network.apply(network.initialize)
    assert not network.details.weight.any()
    network.load_state_dict(plain.state_dict(), strict=False)
    x, _ = inputs(15)
    with torch.no_grad():
        for one, two in zip(network(x), plain(x), strict=True):
            assert torch.equal(one, two)


def test_details_are_a_linear_function_of_the_inputs_of_a_cell_and_of_the_first_guess():
    """They reach the finest dose alone, through no feature, and each voxel of a cell has weights of its own."""
    network = make(seed=16, cell=(2, 2, 2), fall_off=FALL_OFF, details=True, deep_supervision=True).eval()
    network.apply(network.initialize)
    layers = (network.details, network.guess_details)
    x, masks = inputs(16)
    x[:, 1] = 0
    x[..., 4:8][:, 1], x[..., 8:12][:, 1] = 0.5, 1.0
    with torch.no_grad():
        before = network(x)
        for layer in layers:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
        after = network(x)
    for coarse, same in zip(before[1:], after[1:], strict=True):
        assert torch.equal(coarse, same)
    prescription = x[:, 1:2]
    guess_inputs = before[0] - prescription  # what falls off from higher targets
    decoded = torch.cat([x[:, :2], torch.from_numpy(masks).float()], 1)
    here = (1, slice(None), slice(4, 6), slice(6, 8), slice(6, 8))  # a cell beside the higher target
    assert guess_inputs[here].any()
    added = torch.zeros(16)
    for layer, values in zip(layers, (decoded, guess_inputs), strict=True):
        added += (layer.weight.detach() * values[here]).sum((1, 2, 3, 4)) + layer.bias.detach()
    outside, inside = added.reshape(2, 2, 2, 2)
    expected = torch.where(prescription[here][0] > 0, inside, outside)
    torch.testing.assert_close((after[0] - before[0])[here][0], expected, atol=1e-4, rtol=1e-4)


def test_the_memory_measure_of_a_folded_network():
    """Masks and loss count in voxels, feature maps in cells; to these the folding layer and the heads add."""
    size, voxels = (32, 32, 32), 32**3
    whole, packed = (make(cell=cell, n_rois=4).compute_conv_feature_map_size(size) for cell in ((1, 1, 1), (2, 2, 2)))
    decoded_and_loss = voxels * (0.5 * 6 + 1.6 * 4 / 7)
    maps = (whole - decoded_and_loss) / 8
    packing_layer, seven_more_heads = 4 * voxels / 8, 7 * voxels / 8
    assert packed - decoded_and_loss == pytest.approx(maps + packing_layer + seven_more_heads, rel=0.02)


@pytest.mark.parametrize("cell", [(1, 1, 1), (2, 2, 2)])
def test_an_anchored_network_starts_from_the_prescription_and_keeps_its_edge(cell):
    """With heads that say nothing, targets get the first guess to the voxel, and the rest gets none."""
    network = make(seed=11, cell=cell, fall_off=FALL_OFF, deep_supervision=True).eval()
    for layer in network.decoder.seg_layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x, _ = inputs(11)
    x[:, 1] = 0
    x[..., 2:8][:, 1], x[..., 8:14][:, 1] = 0.5, 1.0
    with torch.no_grad():
        fine, coarse = network(x)
    guess = torch.where(x[:, 1:2] > 0, falling_off(x[:, 1:2], FALL_OFF), 0)
    assert torch.equal(fine, guess)
    first, second = fine[..., 2:8], fine[..., 8:14]
    assert first[0, 0, 0, 0].diff().gt(0).sum() == 1  # one voxel is nearer to 1.0 than 0.5 reaches
    assert (second == 1).all()
    torch.testing.assert_close(coarse, nn.functional.avg_pool3d(guess, (1, 2, 2)))


def test_an_anchored_network_has_an_output_for_targets_and_one_for_the_rest():
    """At every scale, a voxel's dose mixes both by its share in the targets."""
    network = make(seed=12, fall_off=(100, 100, 100), deep_supervision=True).eval()
    for layer in network.decoder.seg_layers:
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor([0.25, -0.125])  # outside, and difference inside
    x, _ = inputs(12)
    x[:, 1] = 0
    x[:, 1, :, :, 5:] = 0.5
    with torch.no_grad():
        fine, coarse = network(x)
    assert torch.equal(fine[:, 0, :, :, 5:], torch.full((2, 8, 16, 11), 0.375))
    assert torch.equal(fine[:, 0, :, :, :5], torch.full((2, 8, 16, 5), 0.25))
    torch.testing.assert_close(
        coarse[0, 0, 0, 0], torch.tensor([0.25, 0.25, 0.3125, 0.375, 0.375, 0.375, 0.375, 0.375])
    )


def test_the_heads_of_an_anchored_network_learn_where_they_count():
    network = make(seed=13, fall_off=FALL_OFF).eval()
    x, _ = inputs(13)
    x[:, 1] = 0
    network(x).sum().backward()
    weights = network.decoder.seg_layers[-1].weight.grad
    assert weights[0].abs().sum() > 0
    assert weights[1].abs().sum() == 0  # no voxel is in a target
