"""MiniVGGNet (Rosebrock, Deep Learning for Computer Vision with Python; after VGG, arXiv 1409.1556)."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import nn

from lightning_modules.base import Classifier, keras_defaults


def block(in_channels: int, channels: int, dropout: float) -> nn.Sequential:
    """Two 3x3 convolutions, each normalised after its ReLU, then a pool that halves the size."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(channels),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
    )


class MiniVGGNet(Classifier):
    """Two blocks of two convolutions (32 and 64 channels) and a hidden layer of 512.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, a multiple of 4.
        pool_dropout: dropout rate after each pool, 0 to 1.
        hidden_dropout: dropout rate after the hidden layer, 0 to 1.
        batch_norm_momentum: weight of a new batch in the moving statistics. The published network has Keras' 0.01,
            which takes hundreds of steps to settle; runs of a few epochs need torch's 0.1.
        batch_norm_eps: added to the variance; Keras has 0.001.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: if the two pools do not divide ``image_size`` evenly.
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
        if image_size < 4 or image_size % 4:
            raise ValueError(f"MiniVGGNet takes an image_size that is a positive multiple of 4, not {image_size}")
        self.net = nn.Sequential(
            block(3, 32, pool_dropout),
            block(32, 64, pool_dropout),
            nn.Flatten(),
            nn.Linear(64 * (image_size // 4) ** 2, 512),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(512),
            nn.Dropout(hidden_dropout),
            nn.Linear(512, num_classes),
        )
        keras_defaults(self.net, batch_norm_momentum, batch_norm_eps)
