"""The ResNet for CIFAR-10 against section 4.2 of its paper."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import CifarResNet
from lightning_modules.cifar_resnet import BasicBlock


def parameters(depth: int, num_classes: int) -> int:
    """3x3 convolutions of 6n + 1 layers, two projections, a BatchNorm after each, and the classifier."""
    n = (depth - 2) // 6
    widths = [3, 16] + [16] * 2 * n + [32] * 2 * n + [64] * 2 * n
    layers = sum(9 * widths[i] * widths[i + 1] + 2 * widths[i + 1] for i in range(len(widths) - 1))
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    return layers + projections + 64 * num_classes + num_classes


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameter_count(depth, millions):
    model = CifarResNet(10, 32, depth)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == parameters(depth, 10)
    assert count == pytest.approx(millions * 1e6, rel=0.03)  # the paper rounds, and has no projections


@pytest.mark.parametrize("depth", [8, 20])
def test_depth_counts_the_layers_with_weights(depth):
    model = CifarResNet(10, 32, depth)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    layers += [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) == depth


@pytest.mark.parametrize(("image_size", "sizes"), [(32, (32, 16, 8)), (30, (30, 15, 8)), (4, (4, 2, 1))])
def test_shapes(image_size, sizes):
    model, shapes = CifarResNet(7, image_size, depth=14), []
    for module in model.modules():
        if isinstance(module, (BasicBlock, nn.AdaptiveAvgPool2d)):
            module.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 7)
    blocks = [(channels, n, n) for channels, n in zip((16, 32, 64), sizes, strict=True) for _ in range(2)]
    assert shapes == [*blocks, (64, 1, 1)]


@pytest.mark.parametrize(("in_channels", "channels", "stride"), [(4, 4, 1), (4, 8, 2)])
def test_basic_block(in_channels, channels, stride):
    block = BasicBlock(in_channels, channels, stride)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, in_channels, 6, 6)
    weights = iter(block.parameters())

    def conv_norm(x, stride, padding):
        x = F.conv2d(x, next(weights), stride=stride, padding=padding)
        return F.batch_norm(x, None, None, next(weights), next(weights), training=True)

    residual = conv_norm(conv_norm(x, stride, 1).relu(), 1, 1)
    shortcut = x if in_channels == channels else conv_norm(x, stride, 0)
    assert next(weights, None) is None
    torch.testing.assert_close(block(x), (residual + shortcut).relu())


def test_network():
    """Convolution, BatchNorm, ReLU before the stages, and after them the mean of the map."""
    model = CifarResNet(5, 8, depth=8).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    rest = iter(model.parameters())

    def conv_norm(x, channels, kernel, stride=1):
        weight = next(rest)
        assert weight.shape == (channels, x.shape[1], kernel, kernel)
        x = F.conv2d(x, weight, stride=stride, padding=kernel // 2)
        return F.batch_norm(x, None, None, next(rest), next(rest), training=True)

    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    x = conv_norm(images, 16, 3).relu()
    for channels, stride in [(16, 1), (32, 2), (64, 2)]:
        residual = conv_norm(conv_norm(x, channels, 3, stride).relu(), channels, 3)
        x = (residual + (x if stride == 1 else conv_norm(x, channels, 1, stride))).relu()
    expected = F.linear(x.mean(dim=(2, 3)), next(rest), next(rest))
    assert next(rest, None) is None
    torch.testing.assert_close(model(images), expected)


def test_initial_weights_are_he_normal():
    torch.manual_seed(0)
    model = CifarResNet(100, 32, 8)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            # The deviation of n normal draws is itself uncertain by 1 / sqrt(2n).
            allowed = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=allowed)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize(
    ("depth", "nearest"),
    [(55, "50 and 56"), (57, "56 and 62"), (18, "14 and 20"), (9, "8 and 14"), (7, "8"), (2, "8"), (-4, "8")],
)
def test_impossible_depths(depth, nearest):
    with pytest.raises(ValueError, match=rf"6n \+ 2.*not {depth}; the nearest (is|are) {nearest}$"):
        CifarResNet(10, 32, depth)


def test_impossible_size():
    with pytest.raises(ValueError, match="at least 4, not 3"):
        CifarResNet(10, 3)
