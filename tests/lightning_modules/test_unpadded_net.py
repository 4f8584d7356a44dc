"""UnpaddedNet against the table of its layers."""

import pytest
import torch
from torch import nn

from lightning_modules import UnpaddedNet


def parameters(image_size: int, num_classes: int, widths: tuple[int, int], hidden: int) -> int:
    """Weights of each layer, a bias of the last alone, and two numbers a channel for BatchNorm."""
    first, second = widths
    convolutions = 9 * (3 * first + first * first + first * second + second * second)
    size = ((image_size - 2 - 2) // 2 - 2 - 2) // 2
    return convolutions + 4 * first + 4 * second + second * size**2 * hidden + 2 * hidden + (hidden + 1) * num_classes


@pytest.mark.parametrize(
    ("image_size", "num_classes", "widths", "hidden"),
    [(32, 11, (32, 64), 128), (16, 10, (32, 64), 128), (64, 5, (8, 12), 20)],
)
def test_parameter_count(image_size, num_classes, widths, hidden):
    model = UnpaddedNet(num_classes, image_size, widths, hidden)
    expected = parameters(image_size, num_classes, widths, hidden)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_parameter_count_by_hand():
    assert sum(parameter.numel() for parameter in UnpaddedNet(11, 32).parameters()) == 272_235


def test_shapes():
    model, shapes = UnpaddedNet(11, 32), []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.Linear)):
            module.register_forward_hook(lambda module, _, out: shapes.append((type(module), tuple(out.shape[1:]))))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [
        (nn.Conv2d, (32, 30, 30)),
        (nn.Conv2d, (32, 28, 28)),
        (nn.MaxPool2d, (32, 14, 14)),
        (nn.Conv2d, (64, 12, 12)),
        (nn.Conv2d, (64, 10, 10)),
        (nn.MaxPool2d, (64, 5, 5)),
        (nn.Linear, (128,)),
        (nn.Linear, (11,)),
    ]


def test_nothing_is_padded():
    assert not any(any(layer.padding) for layer in UnpaddedNet(11, 32).modules() if isinstance(layer, nn.Conv2d))


def test_order_of_the_layers():
    kinds = [type(layer) for layer in UnpaddedNet(11, 32).modules() if not list(layer.children())]
    assert kinds == [
        *[*[nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2, nn.MaxPool2d] * 2,
        *[nn.Flatten, nn.Dropout],
        *[nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout],
        nn.Linear,
    ]


def test_dropout_rates():
    for model, expected in [(UnpaddedNet(5, 16), 0.25), (UnpaddedNet(5, 16, dropout=0.1), 0.1)]:
        assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [expected] * 2


@pytest.mark.parametrize("image_size", [-4, 0, 12, 30])
def test_impossible_sizes(image_size):
    with pytest.raises(ValueError, match=f"multiple of 4 and at least 16, not {image_size}"):
        UnpaddedNet(10, image_size)
