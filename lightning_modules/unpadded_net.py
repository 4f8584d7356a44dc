"""UnpaddedNet: a small VGG-like classifier without padding, which can slide over larger pictures as one convolution.

After the blocks of VGG (Simonyan & Zisserman 2014, arXiv 1409.1556) and the sliding windows of OverFeat (Sermanet et
al. 2013, arXiv 1312.6229). Where nothing is padded, what a layer gives at a place depends on the pixels there alone and
not on where the picture ends, so a window gets the same logits whether it is cut out or not.
"""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import nn

from lightning_modules.base import Classifier

STRIDE = 4  # of the two pools together


def block(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions without padding, each normalised before its ReLU, then a pool that halves the size."""
    return nn.Sequential(
        *(nn.Conv2d(in_channels, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
        *(nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
    )


class UnpaddedNet(Classifier):
    """Two blocks of two convolutions and a hidden layer; 32x32 pixels become 14x14, then 5x5.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, a multiple of 4 and at least 16.
        widths: channels of both blocks.
        hidden: units of the hidden layer.
        dropout: rate before and after the hidden layer, 0 to 1.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: the input leaves nothing to the second pool, or the pools do not divide it evenly.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        widths: tuple[int, int] = (32, 64),
        hidden: int = 128,
        dropout: float = 0.25,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if image_size < 16 or image_size % STRIDE:
            raise ValueError(
                f"UnpaddedNet takes an image_size that is a multiple of 4 and at least 16, not {image_size}"
            )
        size = ((image_size - 4) // 2 - 4) // 2
        self.net = nn.Sequential(
            block(3, widths[0]),
            block(widths[0], widths[1]),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(widths[1] * size**2, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
