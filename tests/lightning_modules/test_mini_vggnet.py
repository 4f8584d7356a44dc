"""MiniVGGNet against the table of its layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import MiniVGGNet


def parameters(image_size: int, num_classes: int) -> int:
    """Weights and biases of each layer, two numbers a channel for BatchNorm."""
    convolutions = sum(9 * a * b + b + 2 * b for a, b in [(3, 32), (32, 32), (32, 64), (64, 64)])
    flat = 64 * (image_size // 4) ** 2
    return convolutions + flat * 512 + 512 + 2 * 512 + 512 * num_classes + num_classes


def test_published_parameter_count():
    assert sum(p.numel() for p in MiniVGGNet(10, 32).parameters()) == 2_169_770


@pytest.mark.parametrize(("image_size", "num_classes"), [(4, 2), (28, 10), (32, 10), (64, 17)])
def test_parameter_count(image_size, num_classes):
    model = MiniVGGNet(num_classes, image_size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters(image_size, num_classes)


@pytest.mark.parametrize("image_size", [32, 64])
def test_shapes(image_size):
    model, half, quarter = MiniVGGNet(17, image_size), image_size // 2, image_size // 4
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.Flatten, nn.Linear)
    shapes = []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda module, _, out: shapes.append((type(module), tuple(out.shape[1:]))))
    model(torch.randn(2, 3, image_size, image_size))
    assert shapes == [
        *[(nn.Conv2d, (32, image_size, image_size))] * 2,
        (nn.MaxPool2d, (32, half, half)),
        *[(nn.Conv2d, (64, half, half))] * 2,
        (nn.MaxPool2d, (64, quarter, quarter)),
        (nn.Flatten, (64 * quarter**2,)),
        (nn.Linear, (512,)),
        (nn.Linear, (17,)),
    ]


def test_batch_norm_follows_the_relu():
    model = MiniVGGNet(5, 8, pool_dropout=0, hidden_dropout=0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = images = torch.randn(3, 3, 8, 8)
    rest = iter(model.parameters())

    def relu_norm(x):
        return F.batch_norm(x.relu(), None, None, next(rest), next(rest), training=True)

    for _ in range(2):
        for _ in range(2):
            x = relu_norm(F.conv2d(x, next(rest), next(rest), padding=1))
        x = F.max_pool2d(x, 2)
    x = relu_norm(F.linear(x.flatten(1), next(rest), next(rest)))
    torch.testing.assert_close(model(images), F.linear(x, next(rest), next(rest)))


def test_dropout_rates():
    def rates(model):
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert rates(MiniVGGNet(5, 8)) == [0.25, 0.25, 0.5]
    assert rates(MiniVGGNet(5, 8, pool_dropout=0.1, hidden_dropout=0.2)) == [0.1, 0.1, 0.2]


def test_dropout_follows_each_pool_and_the_hidden_layer():
    kinds = [type(module) for module in MiniVGGNet(5, 8).modules() if not list(module.children())]
    block = [*[nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2, nn.MaxPool2d, nn.Dropout]
    assert kinds == [*block * 2, nn.Flatten, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear]


def test_batch_norm_settings():
    for given, expected in [({}, (0.1, 1e-5)), ({"batch_norm_momentum": 0.01, "batch_norm_eps": 1e-3}, (0.01, 1e-3))]:
        norms = [m for m in MiniVGGNet(5, 8, **given).modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        assert [(norm.momentum, norm.eps) for norm in norms] == [expected] * 5


def test_initial_weights_are_glorot_uniform():
    torch.manual_seed(0)
    for module in MiniVGGNet(10, 32).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            area = module.weight[0, 0].numel()
            bound = math.sqrt(6 / (area * (module.weight.shape[0] + module.weight.shape[1])))
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()


@pytest.mark.parametrize("image_size", [-4, 0, 2, 30])
def test_impossible_sizes(image_size):
    with pytest.raises(ValueError, match=f"multiple of 4, not {image_size}"):
        MiniVGGNet(10, image_size)
