"""The pre-activation ResNet against the description of its layers, and Keras' padding against its definition."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import ResNet
from lightning_modules.resnet import Bottleneck, SameConv2d

CIFAR = {"stages": [9, 9, 9], "filters": [64, 64, 128, 256], "stem": "cifar"}
TINY_IMAGENET = {"stages": [3, 4, 6], "filters": [64, 128, 256, 512], "stem": "tiny_imagenet"}


def parameters(num_classes: int, stages: list[int], filters: list[int], stem: str) -> int:
    """Convolutions without biases, two numbers a channel for each BatchNorm before them."""
    total = 2 * 3 + (27 * filters[0] if stem == "cifar" else 75 * filters[0] + 2 * filters[0])
    for i, modules in enumerate(stages):
        before, after = filters[i], filters[i + 1]
        width = after // 4
        total += before * after  # the projection
        for module in range(modules):
            channels = after if module else before
            total += 2 * channels + channels * width + 2 * width + 9 * width * width + 2 * width + width * after
    return total + 2 * filters[-1] + filters[-1] * num_classes + num_classes


@pytest.mark.parametrize(
    ("num_classes", "image_size", "network"),
    [(10, 32, CIFAR), (200, 64, TINY_IMAGENET), (3, 16, {"stages": [2], "filters": [12, 8], "stem": "cifar"})],
)
def test_parameter_count(num_classes, image_size, network):
    model = ResNet(num_classes, image_size, **network)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters(num_classes, **network)


@pytest.mark.parametrize(
    ("network", "image_size", "expected"),
    [
        (CIFAR, 32, {"stem": (64, 32), "stages.0": (64, 32), "stages.1": (128, 16), "stages.2": (256, 8)}),
        (TINY_IMAGENET, 64, {"stem": (64, 32), "stages.0": (128, 32), "stages.1": (256, 16), "stages.2": (512, 8)}),
        (CIFAR, 27, {"stem": (64, 27), "stages.0": (64, 27), "stages.1": (128, 14), "stages.2": (256, 7)}),
        (TINY_IMAGENET, 59, {"stem": (64, 30), "stages.0": (128, 30), "stages.1": (256, 15), "stages.2": (512, 8)}),
    ],
)
def test_shapes(network, image_size, expected):
    model = ResNet(11, image_size, **{**network, "stages": [2, 2, 2]})
    shapes = {}
    for name in (*expected, "pool"):
        model.net.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 11)
    channels = network["filters"][-1]
    assert shapes == {**{name: (c, n, n) for name, (c, n) in expected.items()}, "pool": (channels, 1, 1)}


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (1, 2), (4, 3)])
def test_same_convolution_is_that_of_keras(size, kernel, stride):
    height, width = size, 7
    conv = SameConv2d(2, 3, kernel, stride)
    images = torch.randn(2, 2, height, width)
    # TensorFlow's own definition: by the remainder of the size, the smaller half before.
    total = [max(kernel - (n % stride or stride), 0) for n in (height, width)]
    padded = torch.zeros(2, 2, height + total[0], width + total[1])
    top, left = total[0] // 2, total[1] // 2
    padded[:, :, top : top + height, left : left + width] = images
    expected = F.conv2d(padded, conv.weight, conv.bias, stride)
    assert expected.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
    torch.testing.assert_close(conv(images), expected)


@pytest.mark.parametrize(("size", "first"), [(6, 1), (7, 0), (8, 1), (9, 0)])
def test_strided_convolution_starts_at_the_second_pixel_of_an_even_size(size, first):
    conv = SameConv2d(1, 1, 3, 2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()[..., 1, 1] = 1  # copies the pixel under the centre
    images = torch.randn(1, 1, size, size)
    assert torch.equal(conv(images), images[..., first::2, first::2])


@pytest.mark.parametrize(("stride", "reducing"), [(1, False), (1, True), (2, True)])
def test_bottleneck(stride, reducing):
    module = Bottleneck(8, 8, stride, reducing)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 6, 6)
    weights = iter(module.parameters())

    def norm_relu(x):
        return F.batch_norm(x, None, None, next(weights), next(weights), training=True, eps=2e-5).relu()

    act = norm_relu(x)
    residual = norm_relu(F.conv2d(act, next(weights)))
    padded = F.pad(residual, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))  # 6 is even
    residual = norm_relu(F.conv2d(padded, next(weights), stride=stride))
    residual = F.conv2d(residual, next(weights))
    shortcut = F.conv2d(act, next(weights), stride=stride) if reducing else x
    assert next(weights, None) is None
    torch.testing.assert_close(module(x), residual + shortcut)


def test_only_the_first_module_of_a_stage_is_reducing():
    model = ResNet(10, 32, [2, 3, 1], [16, 16, 32, 64])
    convolutions = [module.shortcut for module in model.modules() if isinstance(module, Bottleneck)]
    strides = [conv and conv.stride for conv in convolutions]
    assert strides == [(1, 1), None, (2, 2), None, None, (2, 2)]


def test_tiny_imagenet_stem_is_padded_with_zeros():
    model = ResNet(10, 16, [1], [8, 8], stem="tiny_imagenet").train()
    conv, norm, *_ = model.net.stem
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 16, 16)
    act = F.batch_norm(F.conv2d(x, conv.weight, padding=2), None, None, norm.weight, norm.bias, True, eps=2e-5).relu()
    torch.testing.assert_close(model.net.stem(x), F.max_pool2d(F.pad(act, (1, 1, 1, 1)), 3, 2))


@pytest.mark.parametrize("stem", ["cifar", "tiny_imagenet"])
def test_input_is_normalised_first_and_the_last_sum_last(stem):
    model = ResNet(10, 16, [1, 1], [8, 16, 32], stem)
    images = 5 + 3 * torch.randn(4, 3, 16, 16)
    first, last = model.net.stem, model.net.classifier
    seen = {}
    first.register_forward_pre_hook(lambda _module, inputs: seen.update(stem=inputs[0]))
    model.net.stages.register_forward_hook(lambda _module, _inputs, out: seen.update(stages=out.clone()))
    logits = model(images)
    torch.testing.assert_close(seen["stem"].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen["stem"].var(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    pooled = F.batch_norm(seen["stages"], None, None, training=True, eps=2e-5).relu().mean(dim=(2, 3))
    torch.testing.assert_close(logits, pooled @ last.weight.T + last.bias)


def test_batch_norm_settings_are_those_of_the_book():
    norms = [module for module in ResNet(10, 32, [1, 1], [8, 8, 16]).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {2e-5}
    for norm in norms:  # Keras: moving = 0.9 * moving + 0.1 * batch
        assert norm.momentum == pytest.approx(1 - 0.9)


def test_residual_modules_decay_by_themselves():
    model = ResNet(10, 32, [2, 2], [8, 16, 32], "tiny_imagenet", partial(torch.optim.SGD, lr=0.1), weight_decay=1e-3)
    decay_of = {
        id(parameter): group["weight_decay"]
        for group in model.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    within = [m for module in model.modules() if isinstance(module, Bottleneck) for m in module.modules()]
    kernels = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    decays = {module: decay_of[id(module.weight)] for module in kernels}
    assert {decay for module, decay in decays.items() if module in within} == {2 * 1e-4}
    outside = {module: decay for module, decay in decays.items() if module not in within}
    assert outside == {model.net.stem[0]: 1e-3, model.net.classifier: 1e-3}


def test_initial_convolutions_are_he_normal():
    torch.manual_seed(0)
    model = ResNet(10, 32, [1, 1], [64, 256, 512])
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            # The deviation of n normal draws is itself uncertain by 1 / sqrt(2n).
            allowed = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=allowed)
    assert not model.net.classifier.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [], "filters": [8]}, "at least one stage"),
        ({"stages": [1, 0], "filters": [8, 8, 8]}, "at least one module"),
        ({"stages": [1, 1], "filters": [8, 8]}, "3 numbers, not 2"),
        ({"stages": [1], "filters": [8, 10]}, "multiples of 4"),
        ({"stages": [1], "filters": [8, 0]}, "multiples of 4"),
        ({"stages": [1], "filters": [8, 8], "stem": "imagenet"}, "not 'imagenet'"),
        ({"stages": [1, 1, 1], "filters": [8] * 4, "image_size": 3}, "at least 4, not 3"),
        ({"stages": [1, 1, 1], "filters": [8] * 4, "image_size": 7, "stem": "tiny_imagenet"}, "at least 8, not 7"),
    ],
)
def test_impossible_networks(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**{"num_classes": 10, "image_size": 32, **arguments})


def test_smallest_sizes():
    for stem, image_size in [("cifar", 4), ("tiny_imagenet", 8)]:
        model = ResNet(10, image_size, [1, 1, 1], [8] * 4, stem)
        assert model(torch.randn(2, 3, image_size, image_size)).isfinite().all()


def test_a_negative_or_impossible_decay_of_the_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="block_weight_decay is -1; it must be at least 0"):
        ResNet(4, 16, [1], [8, 16], block_weight_decay=-1)
    with pytest.raises(ValueError, match="Rprop has no weight decay"):
        ResNet(4, 16, [1], [8, 16], optimizer=torch.optim.Rprop).configure_optimizers()
