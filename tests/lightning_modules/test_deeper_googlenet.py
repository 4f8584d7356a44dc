"""DeeperGoogLeNet against the table of its modules."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import DeeperGoogLeNet
from lightning_modules.deeper_googlenet import Inception, pool

TABLE = {  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection, out
    "3a": (64, 96, 128, 16, 32, 32, 256),
    "3b": (128, 128, 192, 32, 96, 64, 480),
    "4a": (192, 96, 208, 16, 48, 64, 512),
    "4b": (160, 112, 224, 24, 64, 64, 512),
    "4c": (128, 128, 256, 24, 64, 64, 512),
    "4d": (112, 144, 288, 32, 64, 64, 528),
    "4e": (256, 160, 320, 32, 128, 128, 832),
}


def conv(in_channels: int, channels: int, kernel: int) -> int:
    """Weights and biases of a convolution, and its BatchNorm."""
    return kernel**2 * in_channels * channels + channels + 2 * channels


@pytest.mark.parametrize("inception_4", [True, False])
@pytest.mark.parametrize("num_classes", [10, 200])
def test_parameter_count(num_classes: int, inception_4: bool) -> None:
    expected, channels = conv(3, 64, 5) + conv(64, 64, 1) + conv(64, 192, 3), 192
    for name, (ones, reduce3, threes, reduce5, fives, projection, out) in TABLE.items():
        if name.startswith("3") or inception_4:
            expected += conv(channels, ones, 1) + conv(channels, projection, 1)
            expected += conv(channels, reduce3, 1) + conv(reduce3, threes, 3)
            expected += conv(channels, reduce5, 1) + conv(reduce5, fives, 5)
            channels = out
    model = DeeperGoogLeNet(num_classes, 64, inception_4)
    assert sum(p.numel() for p in model.parameters()) == expected + channels * num_classes + num_classes


@pytest.mark.parametrize(("image_size", "inception_4"), [(64, True), (64, False), (16, True), (96, False)])
def test_shapes(image_size: int, inception_4: bool) -> None:
    model, shapes = DeeperGoogLeNet(11, image_size, inception_4), []
    for layer in model.net:
        layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 11)
    sizes = [image_size // 2**n for n in range(5)]
    expected = [(64, sizes[0]), (64, sizes[1]), (64, sizes[1]), (192, sizes[1]), (192, sizes[2])]
    expected += [(256, sizes[2]), (480, sizes[2]), (480, sizes[3])]
    if inception_4:
        expected += [(TABLE[name][-1], sizes[3]) for name in TABLE if name.startswith("4")]
    expected.append((expected[-1][0], sizes[4]))
    maps = [(channels, size, size) for channels, size in expected]
    last = expected[-1][0]
    assert shapes == [*maps, (last, 1, 1), (last,), (last,), (11,)]


@pytest.mark.parametrize("size", [4, 8, 10])
def test_pool_is_that_of_keras(size: int) -> None:
    """At an even size ``same`` pads one pixel, right and bottom, with nothing that could be the largest."""
    x = torch.randn(2, 3, size, size)
    expected = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
    assert torch.equal(pool()(x), expected)


def test_inception() -> None:
    module, x = Inception(8, 2, 3, 4, 5, 6, 7), torch.randn(2, 8, 6, 6)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    weights = iter(module.parameters())

    def conv_norm_relu(x: torch.Tensor) -> torch.Tensor:
        kernel, bias = next(weights), next(weights)
        x = F.conv2d(x, kernel, bias, padding=kernel.shape[2] // 2)
        return F.batch_norm(x, None, None, next(weights), next(weights), training=True).relu()

    branches = [conv_norm_relu(x), conv_norm_relu(conv_norm_relu(x)), conv_norm_relu(conv_norm_relu(x))]
    branches.append(conv_norm_relu(F.max_pool2d(x, 3, 1, padding=1)))
    assert next(weights, None) is None
    assert [branch.shape[1] for branch in branches] == [2, 4, 6, 7]
    torch.testing.assert_close(module(x), torch.cat(branches, dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inception_4", [True, False])
def test_network(inception_4: bool) -> None:
    """Each module in its place: several have the same size, and only their branches differ."""
    model = DeeperGoogLeNet(5, 32, inception_4, dropout=0).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    rest = iter(model.parameters())

    def conv_norm_relu(x: torch.Tensor, channels: int, kernel: int) -> torch.Tensor:
        weight, bias = next(rest), next(rest)
        assert weight.shape == (channels, x.shape[1], kernel, kernel)
        x = F.conv2d(x, weight, bias, padding=kernel // 2)
        return F.batch_norm(x, None, None, next(rest), next(rest), training=True).relu()

    def halved(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)

    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    x = halved(conv_norm_relu(images, 64, 5))
    x = halved(conv_norm_relu(conv_norm_relu(x, 64, 1), 192, 3))
    for name, (ones, reduce3, threes, reduce5, fives, projection, out) in TABLE.items():
        if name.startswith("4") and not inception_4:
            continue
        branches = [conv_norm_relu(x, ones, 1)]
        branches.append(conv_norm_relu(conv_norm_relu(x, reduce3, 1), threes, 3))
        branches.append(conv_norm_relu(conv_norm_relu(x, reduce5, 1), fives, 5))
        branches.append(conv_norm_relu(F.max_pool2d(x, 3, 1, padding=1), projection, 1))
        x = torch.cat(branches, dim=1)
        assert x.shape[1] == out
        x = halved(x) if name == "3b" else x
    x = halved(x)
    expected = F.linear(x.mean(dim=(2, 3)), next(rest), next(rest))
    assert next(rest, None) is None
    torch.testing.assert_close(model(images), expected)


def test_keras_settings() -> None:
    torch.manual_seed(0)
    model = DeeperGoogLeNet(10, 64, batch_norm_momentum=0.01, batch_norm_eps=0.001)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 0.001)}
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.4]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            area = module.weight[0, 0].numel()
            bound = math.sqrt(6 / (area * (module.weight.shape[0] + module.weight.shape[1])))
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()


@pytest.mark.parametrize("image_size", [-16, 0, 8, 72])
def test_impossible_sizes(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"positive multiple of 16, not {image_size}"):
        DeeperGoogLeNet(10, image_size)
