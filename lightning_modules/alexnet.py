"""AlexNet (Krizhevsky et al. 2012) with BatchNorm instead of its local normalisation, as Rosebrock builds it."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import nn

from lightning_modules.base import Classifier, keras_defaults

SMALLEST = 67  # pixels; one fewer, and nothing is left after the third pool


def conv(in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """A convolution, normalised after its ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding), nn.ReLU(inplace=True), nn.BatchNorm2d(channels)
    )


def pool(dropout: float) -> nn.Sequential:
    """Overlapping max pool that halves the size."""
    return nn.Sequential(nn.MaxPool2d(3, 2), nn.Dropout(dropout))


def hidden(in_features: int, features: int, dropout: float) -> nn.Sequential:
    """A hidden layer, normalised after its ReLU."""
    return nn.Sequential(
        nn.Linear(in_features, features), nn.ReLU(inplace=True), nn.BatchNorm1d(features), nn.Dropout(dropout)
    )


class AlexNet(Classifier):
    """Five convolutions, three pools, two hidden layers of 4096.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, at least 67; the published network has 227.
        pool_dropout: dropout rate after each pool, 0 to 1.
        hidden_dropout: dropout rate after each hidden layer, 0 to 1.
        batch_norm_momentum: weight of a new batch in the moving statistics; the published network has Keras' 0.01.
        batch_norm_eps: added to the variance; Keras has 0.001.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: the input is too small for the three pools.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        pool_dropout: float = 0.25,
        hidden_dropout: float = 0.5,
        batch_norm_momentum: float = 0.1,
        batch_norm_eps: float = 1e-5,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if image_size < SMALLEST:
            raise ValueError(f"AlexNet takes an image_size of at least {SMALLEST}, not {image_size}")
        size = (image_size - 11) // 4 + 1
        for _ in range(3):
            size = (size - 3) // 2 + 1
        self.net = nn.Sequential(
            conv(3, 96, 11, stride=4),
            pool(pool_dropout),
            conv(96, 256, 5, padding=2),
            pool(pool_dropout),
            conv(256, 384, 3, padding=1),
            conv(384, 384, 3, padding=1),
            conv(384, 256, 3, padding=1),
            pool(pool_dropout),
            nn.Flatten(),
            hidden(256 * size**2, 4096, hidden_dropout),
            hidden(4096, 4096, hidden_dropout),
            nn.Linear(4096, num_classes),
        )
        keras_defaults(self.net, batch_norm_momentum, batch_norm_eps)
