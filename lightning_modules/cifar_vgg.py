"""VGG for CIFAR-10 (the ``vgg_bn_drop`` of the PaddlePaddle book; after VGG, arXiv 1409.1556)."""

from collections.abc import Sequence

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import nn

from lightning_modules.base import Classifier


def block(in_channels: int, channels: int, dropouts: Sequence[float]) -> nn.Sequential:
    """A 3x3 convolution for each dropout rate, then a pool that halves the size."""
    layers: list[nn.Module] = []
    for dropout in dropouts:
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(dropout)] if dropout else []
        in_channels = channels
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class CifarVGG(Classifier):
    """Five blocks with 13 convolutions and dropout between them, and two layers of 512.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, a multiple of 32.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: the five pools do not divide ``image_size`` evenly.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if image_size < 32 or image_size % 32:
            raise ValueError(f"CifarVGG takes an image_size that is a positive multiple of 32, not {image_size}")
        self.net = nn.Sequential(
            block(3, 64, [0.3, 0]),
            block(64, 128, [0.4, 0]),
            block(128, 256, [0.4, 0.4, 0]),
            block(256, 512, [0.4, 0.4, 0]),
            block(512, 512, [0.4, 0.4, 0]),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(512 * (image_size // 32) ** 2, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.Linear(512, num_classes),
        )
        for module in self.net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # the source names none; He et al. 2015, arXiv 1502.01852
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
