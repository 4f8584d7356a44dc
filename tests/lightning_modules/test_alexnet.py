"""AlexNet against the table of its layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules import AlexNet

CONVOLUTIONS = [(3, 96, 11), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)]
TABLE = [  # of the published network
    *[(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13)],
    *[(256, 6, 6), (4096,), (4096,), (2,)],
]


def parameters(size: int, num_classes: int) -> int:
    """Weights, biases, and two numbers a channel for BatchNorm; ``size`` is that of the last map."""
    convolutions = sum(kernel**2 * a * b + b + 2 * b for a, b, kernel in CONVOLUTIONS)
    hidden = sum(a * 4096 + 4096 + 2 * 4096 for a in (256 * size**2, 4096))
    return convolutions + hidden + 4096 * num_classes + num_classes


@pytest.mark.parametrize(("image_size", "size", "num_classes"), [(227, 6, 2), (227, 6, 1000), (67, 1, 10), (98, 1, 3)])
def test_parameter_count(image_size: int, size: int, num_classes: int) -> None:
    with torch.device("meta"):
        model = AlexNet(num_classes, image_size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters(size, num_classes)


def test_shapes() -> None:
    model, shapes = AlexNet(2, 227).eval(), []
    for layer in model.net:
        if not isinstance(layer, nn.Flatten):
            layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape[1:])))
    model(torch.randn(1, 3, 227, 227))
    assert shapes == TABLE


def test_batch_norm_follows_the_relu() -> None:
    model = AlexNet(5, 67, pool_dropout=0, hidden_dropout=0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = images = torch.randn(3, 3, 67, 67)
    rest = iter(model.parameters())

    def relu_norm(x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x.relu(), None, None, next(rest), next(rest), training=True)

    for stride, padding, pooled in [(4, 0, True), (1, 2, True), (1, 1, False), (1, 1, False), (1, 1, True)]:
        x = relu_norm(F.conv2d(x, next(rest), next(rest), stride, padding))
        x = F.max_pool2d(x, 3, 2) if pooled else x
    x = x.flatten(1)
    for _ in range(2):
        x = relu_norm(F.linear(x, next(rest), next(rest)))
    torch.testing.assert_close(model(images), F.linear(x, next(rest), next(rest)), rtol=1e-4, atol=1e-4)


def test_dropout_rates() -> None:
    with torch.device("meta"):
        models = AlexNet(5, 67), AlexNet(5, 67, pool_dropout=0.1, hidden_dropout=0.2)
    rates = [[module.p for module in model.modules() if isinstance(module, nn.Dropout)] for model in models]
    assert rates == [[0.25] * 3 + [0.5] * 2, [0.1] * 3 + [0.2] * 2]


def test_dropout_follows_each_pool_and_each_hidden_layer() -> None:
    with torch.device("meta"):
        model = AlexNet(5, 67)
    kinds = [type(module) for module in model.net.modules() if not list(module.children())]
    convolution = [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    pool, hidden = [nn.MaxPool2d, nn.Dropout], [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout]
    assert kinds == [
        *[*convolution, *pool] * 2,
        *convolution * 3,
        *pool,
        nn.Flatten,
        *hidden * 2,
        nn.Linear,
    ]


def test_keras_settings() -> None:
    torch.manual_seed(0)
    model = AlexNet(10, 67, batch_norm_momentum=0.01, batch_norm_eps=0.001)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            area = module.weight[0, 0].numel()
            bound = math.sqrt(6 / (area * (module.weight.shape[0] + module.weight.shape[1])))
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert (module.momentum, module.eps) == (0.01, 0.001)


@pytest.mark.parametrize("image_size", [-1, 0, 66])
def test_impossible_sizes(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 67, not {image_size}"):
        AlexNet(10, image_size)


def test_smallest_size() -> None:
    model = AlexNet(3, 67)
    assert model(torch.randn(2, 3, 67, 67)).isfinite().all()
    with pytest.raises(RuntimeError, match="too small"):
        model(torch.randn(2, 3, 66, 66))
