"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842, table 1) cut for Tiny ImageNet, as Rosebrock builds it."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import Classifier, keras_defaults

# Channels of each module: 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, projection of the pool.
INCEPTION_3 = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
INCEPTION_4 = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)


def conv(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the size, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


def pool() -> nn.MaxPool2d:
    """Pool that halves an even size, its last window reaching over the edge: Keras' ``same``."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class Inception(nn.Module):
    """Four branches: 1x1, reduced 3x3, reduced 5x5, and a projected pool."""

    def __init__(
        self, in_channels: int, ones: int, reduce3: int, threes: int, reduce5: int, fives: int, projection: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv(in_channels, ones, 1),
                nn.Sequential(conv(in_channels, reduce3, 1), conv(reduce3, threes, 3)),
                nn.Sequential(conv(in_channels, reduce5, 1), conv(reduce5, fives, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(in_channels, projection, 1)),
            ]
        )
        self.channels = ones + threes + fives + projection

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H, W)``."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class DeeperGoogLeNet(Classifier):
    """A stem, inception modules 3a and 3b, and 4a to 4e, between pools that halve the size.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, a multiple of 16; the published network has 64.
        inception_4: whether the modules 4a to 4e are there; the first published runs leave them out, not their pools.
        dropout: rate before the classifier, 0 to 1.
        batch_norm_momentum: weight of a new batch in the moving statistics; the published runs have Keras' 0.01.
        batch_norm_eps: added to the variance; Keras has 0.001.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: the four pools do not divide ``image_size`` evenly.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        inception_4: bool = True,
        dropout: float = 0.4,
        batch_norm_momentum: float = 0.1,
        batch_norm_eps: float = 1e-5,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if image_size < 16 or image_size % 16:
            raise ValueError(f"DeeperGoogLeNet takes an image_size that is a positive multiple of 16, not {image_size}")
        layers: list[nn.Module] = [conv(3, 64, 5), pool(), conv(64, 64, 1), conv(64, 192, 3), pool()]
        channels = 192
        for stage in (INCEPTION_3, INCEPTION_4 if inception_4 else ()):
            for widths in stage:
                layers.append(Inception(channels, *widths))
                channels = layers[-1].channels
            layers.append(pool())
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes)]
        self.net = nn.Sequential(*layers)
        keras_defaults(self.net, batch_norm_momentum, batch_norm_eps)
