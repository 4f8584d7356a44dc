"""MiniGoogLeNet against figure 3 of its paper."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import MiniGoogLeNet
from lightning_modules.mini_googlenet import downsample, inception

# Channels in, and of the branches: (1x1, 3x3) of an inception module, (3x3,) of a downsampling.
MODULES = [
    *[(96, (32, 32)), (64, (32, 48)), (80, (80,))],
    *[(160, (112, 48)), (160, (96, 64)), (160, (80, 80)), (160, (48, 96)), (144, (96,))],
    *[(240, (176, 160)), (336, (176, 160))],
]


def conv(in_channels: int, channels: int, kernel: int) -> int:
    """Weights and biases of a convolution, and its BatchNorm."""
    return kernel**2 * in_channels * channels + channels + 2 * channels


@pytest.mark.parametrize(("num_classes", "image_size"), [(10, 32), (17, 64)])
def test_parameter_count(num_classes: int, image_size: int) -> None:
    expected = conv(3, 96, 3) + 336 * num_classes + num_classes
    for in_channels, (*ones, threes) in MODULES:
        expected += sum(conv(in_channels, n, 1) for n in ones) + conv(in_channels, threes, 3)
    model = MiniGoogLeNet(num_classes, image_size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize(("image_size", "half", "quarter"), [(32, 15, 7), (33, 16, 7), (64, 31, 15), (7, 3, 1)])
def test_shapes(image_size: int, half: int, quarter: int) -> None:
    model, shapes = MiniGoogLeNet(10, image_size), []
    for layer in model.net:
        layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 10)
    assert shapes == [
        *[(n, image_size, image_size) for n in (96, 64, 80)],
        *[(n, half, half) for n in (160, 160, 160, 160, 144)],
        *[(n, quarter, quarter) for n in (240, 336, 336)],
        *[(336, 1, 1), (336,), (336,), (10,)],
    ]


def test_modules() -> None:
    """Branches next to each other, each convolution, then BatchNorm, then ReLU."""
    x = torch.randn(2, 6, 9, 9)
    for module, strides, pool in [(inception(6, 4, 5), (1, 1), False), (downsample(6, 4), (2,), True)]:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        weights, branches = iter(module.parameters()), []
        for stride in strides:
            kernel, bias = next(weights), next(weights)
            y = F.conv2d(x, kernel, bias, stride, padding=1 if stride == 1 and kernel.shape[2] == 3 else 0)
            branches.append(F.batch_norm(y, None, None, next(weights), next(weights), training=True).relu())
        if pool:
            branches.append(F.max_pool2d(x, 3, 2))
        assert next(weights, None) is None
        torch.testing.assert_close(module(x), torch.cat(branches, dim=1))


def test_network() -> None:
    """Each module in its place: several have the same size, and only their branches differ."""
    model = MiniGoogLeNet(5, 15, dropout=0).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    rest = iter(model.parameters())

    def conv_norm_relu(x: torch.Tensor, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> torch.Tensor:
        weight, bias = next(rest), next(rest)
        assert weight.shape == (channels, x.shape[1], kernel, kernel)
        x = F.conv2d(x, weight, bias, stride, padding)
        return F.batch_norm(x, None, None, next(rest), next(rest), training=True).relu()

    images = torch.randn(3, 3, 15, 15, dtype=torch.float64)
    x = conv_norm_relu(images, 96, 3, padding=1)
    for in_channels, (*ones, threes) in MODULES:
        assert x.shape[1] == in_channels
        if ones:
            branches = [conv_norm_relu(x, ones[0], 1), conv_norm_relu(x, threes, 3, padding=1)]
        else:
            branches = [conv_norm_relu(x, threes, 3, stride=2), F.max_pool2d(x, 3, 2)]
        x = torch.cat(branches, dim=1)
    expected = F.linear(x.mean(dim=(2, 3)), next(rest), next(rest))
    assert next(rest, None) is None
    torch.testing.assert_close(model(images), expected)


def test_dropout_is_a_half_unless_told_otherwise() -> None:
    assert [module.p for module in MiniGoogLeNet(10, 7).modules() if isinstance(module, nn.Dropout)] == [0.5]


def test_keras_settings() -> None:
    torch.manual_seed(0)
    model = MiniGoogLeNet(10, 32, dropout=0.3, batch_norm_momentum=0.01, batch_norm_eps=0.001)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 0.001)}
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.3]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            area = module.weight[0, 0].numel()
            bound = math.sqrt(6 / (area * (module.weight.shape[0] + module.weight.shape[1])))
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()


@pytest.mark.parametrize("image_size", [0, 6])
def test_impossible_sizes(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 7, not {image_size}"):
        MiniGoogLeNet(10, image_size)


def test_smallest_size() -> None:
    model = MiniGoogLeNet(3, 7)
    assert model(torch.randn(2, 3, 7, 7)).isfinite().all()
    with pytest.raises(RuntimeError, match="greater than actual input size"):
        model(torch.randn(2, 3, 6, 6))
