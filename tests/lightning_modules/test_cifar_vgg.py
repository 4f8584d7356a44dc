"""VGG for CIFAR-10 against the list of its layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import CifarVGG

BLOCKS = [(64, [0.3, 0]), (128, [0.4, 0]), (256, [0.4, 0.4, 0]), (512, [0.4, 0.4, 0]), (512, [0.4, 0.4, 0])]
WIDTHS = [3] + [channels for channels, rates in BLOCKS for _ in rates]


@pytest.mark.parametrize(("image_size", "num_classes"), [(32, 10), (64, 200)])
def test_parameter_count(image_size: int, num_classes: int) -> None:
    convolutions = sum(9 * WIDTHS[i] * n + n + 2 * n for i, n in enumerate(WIDTHS[1:]))
    flat = 512 * (image_size // 32) ** 2
    linear = (flat * 512 + 512 + 2 * 512) + (512 * 512 + 512) + (512 * num_classes + num_classes)
    with torch.device("meta"):
        model = CifarVGG(num_classes, image_size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == convolutions + linear


@pytest.mark.parametrize("image_size", [32, 64])
def test_shapes(image_size: int) -> None:
    model, shapes = CifarVGG(10, image_size).eval(), []
    for layer in model.net:
        layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape[1:])))
    model(torch.randn(2, 3, image_size, image_size))
    maps = [(channels, image_size // 2**n, image_size // 2**n) for n, (channels, _) in enumerate(BLOCKS, start=1)]
    flat = (512 * (image_size // 32) ** 2,)
    assert shapes == [*maps, flat, flat, *[(512,)] * 5, (10,)]


def test_dropout_rates() -> None:
    with torch.device("meta"):
        model = CifarVGG(10, 32)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == [rate for _, block in BLOCKS for rate in block if rate] + [0.5, 0.5]


def test_dropout_follows_the_relu_but_in_the_last_layer_of_a_block() -> None:
    with torch.device("meta"):
        model = CifarVGG(10, 32)
    expected: list[type[nn.Module]] = []
    for _, rates in BLOCKS:
        for rate in rates:
            expected += [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] + [nn.Dropout] * bool(rate)
        expected.append(nn.MaxPool2d)
    expected += [nn.Flatten, nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear, nn.Linear]
    assert [type(module) for module in model.net.modules() if not list(module.children())] == expected


def test_order_of_the_layers() -> None:
    model = CifarVGG(5, 32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = images = torch.randn(3, 3, 32, 32)
    rest = iter(model.parameters())

    def norm_relu(x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, next(rest), next(rest), training=True).relu()

    for _, rates in BLOCKS:
        for _ in rates:
            x = norm_relu(F.conv2d(x, next(rest), next(rest), padding=1))
        x = F.max_pool2d(x, 2)
    x = norm_relu(F.linear(x.flatten(1), next(rest), next(rest)))
    x = F.linear(x, next(rest), next(rest))
    torch.testing.assert_close(model(images), F.linear(x, next(rest), next(rest)), rtol=1e-3, atol=1e-5)


def test_initial_weights_are_he_normal() -> None:
    torch.manual_seed(0)
    for module in CifarVGG(100, 32).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # The deviation of n normal draws is itself uncertain by 1 / sqrt(2n).
            allowed = 5 / math.sqrt(2 * module.weight.numel())
            expected = math.sqrt(2 / module.weight[0].numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=allowed)
            assert not module.bias.any()


@pytest.mark.parametrize("image_size", [0, 16, 48])
def test_impossible_sizes(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"positive multiple of 32, not {image_size}"):
        CifarVGG(10, image_size)
