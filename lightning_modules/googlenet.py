"""GoogLeNet with its two auxiliary classifiers (Szegedy et al. 2014, arXiv 1409.4842), as torchvision builds it."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torchvision import models

from lightning_modules.base import Classifier


class GoogLeNet(Classifier):
    """Nine inception modules; classifiers after 4a and 4d join the loss of training with a weight of 0.3 each.

    torchvision normalises each convolution, and has 3x3 kernels where the paper has 5x5.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, at least 15; the paper has 224.
        auxiliary: whether there are auxiliary classifiers; evaluation never looks at them.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: the input is too small for a stride of 2 and three pools.
    """

    auxiliary_weight = 0.3

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        auxiliary: bool = True,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        if image_size < 15:
            raise ValueError(f"GoogLeNet takes an image_size of at least 15, not {image_size}")
        self.net = models.googlenet(num_classes=num_classes, aux_logits=auxiliary, init_weights=True)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of normalised images ``(B, 3, H, W)``."""
        return self.training_logits(images)[0]

    def training_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits ``(B, C)``; in training mode then those of the auxiliary classifiers, the deeper one first."""
        outputs = self.net(images)
        return tuple(outputs) if isinstance(outputs, tuple) else (outputs,)
