"""MiniGoogLeNet (Zhang et al. 2017, arXiv 1611.03530, figure 3)."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import Classifier, keras_defaults

SMALLEST = 7  # pixels; one fewer, and the second downsampling has nothing to pool


def conv(in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


class Concat(nn.Module):
    """Branches side by side, their channels one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` to the branches' outputs, joined along the channels."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception(in_channels: int, ones: int, threes: int) -> Concat:
    """``ones`` channels of 1x1 convolutions beside ``threes`` of 3x3."""
    return Concat(conv(in_channels, ones, 1), conv(in_channels, threes, 3, padding=1))


def downsample(in_channels: int, channels: int) -> Concat:
    """A strided convolution beside a max pool: half the size, more channels."""
    return Concat(conv(in_channels, channels, 3, stride=2), nn.MaxPool2d(3, 2))


class MiniGoogLeNet(Classifier):
    """Eight inception modules of two branches, two downsamplings, an average pool over the whole map.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, at least 7; the paper has 32.
        dropout: rate before the classifier, 0 to 1.
        batch_norm_momentum: weight of a new batch in the moving statistics; the published runs have Keras' 0.01.
        batch_norm_eps: added to the variance; Keras has 0.001.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: the input is too small for the two downsamplings.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        dropout: float = 0.5,
        batch_norm_momentum: float = 0.1,
        batch_norm_eps: float = 1e-5,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if image_size < SMALLEST:
            raise ValueError(f"MiniGoogLeNet takes an image_size of at least {SMALLEST}, not {image_size}")
        self.net = nn.Sequential(
            conv(3, 96, 3, padding=1),
            inception(96, 32, 32),
            inception(64, 32, 48),
            downsample(80, 80),
            inception(160, 112, 48),
            inception(160, 96, 64),
            inception(160, 80, 80),
            inception(160, 48, 96),
            downsample(144, 96),
            inception(240, 176, 160),
            inception(336, 176, 160),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(336, num_classes),
        )
        keras_defaults(self.net, batch_norm_momentum, batch_norm_eps)
