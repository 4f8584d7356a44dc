"""ResNet with pre-activation bottlenecks (He et al. 2016, arXiv 1603.05027), as Rosebrock builds it in Keras."""

from collections import OrderedDict
from typing import Literal

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.base import Classifier


class SameConv2d(nn.Conv2d):
    """Convolution with Keras' ``same`` padding at any stride: ceil(n / stride) out, padded more right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, ceil(H / stride), ceil(W / stride))``."""
        padding: list[int] = []
        for dim in (1, 0):  # F.pad starts from the last dimension
            size, kernel, stride = x.shape[2 + dim], self.kernel_size[dim], self.stride[dim]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with Keras' momentum 0.9 and eps 2e-5."""
    return nn.BatchNorm2d(channels, eps=2e-5, momentum=0.1)


class Bottleneck(nn.Module):
    """Pre-activation residual module; a reducing one projects its shortcut from the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int, reducing: bool) -> None:
        super().__init__()
        width = channels // 4
        if stride == 1:  # the padding is symmetric and needs no copy
            conv3x3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        else:
            conv3x3 = SameConv2d(width, width, 3, stride, bias=False)
        self.act = nn.Sequential(batch_norm(in_channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            batch_norm(width),
            nn.ReLU(inplace=True),
            conv3x3,
            batch_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if reducing else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        act = self.act(x)
        shortcut = x if self.shortcut is None else self.shortcut(act)
        return self.residual(act).add_(shortcut)


def stage(in_channels: int, channels: int, size: int, stride: int) -> nn.Sequential:
    """``size`` modules, the first of them reducing, with the stride."""
    return nn.Sequential(
        Bottleneck(in_channels, channels, stride, reducing=True),
        *(Bottleneck(channels, channels, 1, reducing=False) for _ in range(size - 1)),
    )


class ResNet(Classifier):
    """A stem, stages of bottlenecks that each halve the size but for the first, and a linear classifier.

    Convolutions start as in the authors' code, He-normal by fan-out; Keras' own layers would start Glorot-uniform.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, at least the product of the strides.
        stages: number of residual modules in each stage.
        filters: output channels of the stem, then of each stage; multiples of 4.
        stem: ``cifar`` keeps the size, ``tiny_imagenet`` halves it.
        optimizer: see ``Classifier``.
        weight_decay: decay of the stem and the classifier; see ``Classifier``.
        block_weight_decay: decay of the residual modules; the published runs have l2(1e-4) there.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: if stages, filters and stem do not describe a network, the input is too small for its strides, or
            a decay is negative.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        stages: list[int],
        filters: list[int],
        stem: Literal["cifar", "tiny_imagenet"] = "cifar",
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        block_weight_decay: float = 2e-4,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if block_weight_decay < 0:
            raise ValueError(f"block_weight_decay is {block_weight_decay}; it must be at least 0")
        self.block_weight_decay = block_weight_decay
        if not stages or min(stages) < 1:
            raise ValueError(f"stages must name at least one stage, of at least one module each, not {stages}")
        if len(filters) != len(stages) + 1:
            raise ValueError(
                f"filters must name the stem and then each of the {len(stages)} stages: "
                f"{len(stages) + 1} numbers, not {len(filters)}"
            )
        if any(channels < 4 or channels % 4 for channels in filters):
            raise ValueError(f"filters must be positive multiples of 4, not {filters}")
        if stem not in ("cifar", "tiny_imagenet"):
            raise ValueError(f"stem must be 'cifar' or 'tiny_imagenet', not {stem!r}")
        smallest = 2 ** (len(stages) - 1 + (stem == "tiny_imagenet"))
        if image_size < smallest:
            raise ValueError(f"This ResNet takes an image_size of at least {smallest}, not {image_size}")

        if stem == "cifar":
            stem_layers = [nn.Conv2d(3, filters[0], 3, padding=1, bias=False)]
        else:
            stem_layers = [
                nn.Conv2d(3, filters[0], 5, padding=2, bias=False),
                batch_norm(filters[0]),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, padding=1),  # after a ReLU the same as zero padding
            ]
        self.net = nn.Sequential(
            OrderedDict(
                input_norm=batch_norm(3),
                stem=nn.Sequential(*stem_layers),
                stages=nn.Sequential(
                    *(stage(filters[i], filters[i + 1], size, 2 if i else 1) for i, size in enumerate(stages))
                ),
                act=nn.Sequential(batch_norm(filters[-1]), nn.ReLU(inplace=True)),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Linear(filters[-1], num_classes),
            )
        )
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d):  # fan_out, as in the authors' code
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.net.classifier.bias)

    def weight_decay_of(self, name: str) -> float:
        """Residual modules have a decay of their own."""
        return self.block_weight_decay if ".stages." in name else self.weight_decay
