"""The one LightningModule that every classifier extends: its steps, its optimizer, nothing else."""

import inspect
import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.network import Network

DECAYED = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)


class Classifier(Network):
    """An image classifier trained with cross-entropy.

    A subclass builds ``self.net``, or overrides ``forward``. Metrics, schedules, logs and plots are callbacks that
    read what the steps return, so none of them is written here.

    Args:
        num_classes: number of classes C, at least 2; linked from the datamodule.
        image_size: height and width of the square input in pixels; linked from the datamodule.
        optimizer: maps parameter groups to an optimizer.
        weight_decay: decay of convolution, linear and attention weights, in the optimizer's own convention. Biases,
            normalisation parameters, tokens and position embeddings are never decayed. A Keras ``l2(r)`` is
            ``weight_decay = 2 * r`` in SGD. The default that an optimizer has itself, like AdamW's, does not count.
        label_smoothing: share of the target probability spread over all classes, 0 to 1.

    Raises:
        ValueError: there is no optimizer, or a number is out of its range; in a step, the network does not give logits.
    """

    monitor = "val/top1"
    net: nn.Module
    auxiliary_weight: float = 0.0  # of each auxiliary classifier's loss, beside 1 for the network's own

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(optimizer)
        if num_classes < 2:
            raise ValueError(
                f"a classifier tells at least two classes apart, not {num_classes}; are the data's pictures in a "
                "subfolder for each class?"
            )
        if weight_decay < 0:
            raise ValueError(f"weight_decay is {weight_decay}; it must be at least 0")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must lie between 0 and 1")
        self.num_classes = num_classes
        self.image_size = image_size
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None = None  # (C,), of the training loss; see callbacks.ClassWeights

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of normalised images ``(B, 3, H, W)``."""
        return self.net(images)

    def training_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """The network's logits ``(B, C)``, then those of its auxiliary classifiers, which only training has."""
        return (self(images),)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """``loss`` (a scalar), and ``logits`` and ``labels`` detached for callbacks to read."""
        images, labels = batch
        logits, *auxiliary = self.training_logits(images)
        loss = self._training_loss(logits, labels)
        for others in auxiliary:
            loss = loss + self.auxiliary_weight * self._training_loss(others, labels)
        return {"loss": loss, "logits": logits.detach(), "labels": labels}

    def _refuse_other_than_logits(self, given: Tensor, labels: Tensor) -> None:
        expected = (len(labels), self.num_classes)
        if not isinstance(given, Tensor) or given.shape != expected:  # cross-entropy takes more classes
            raise ValueError(
                f"{type(self).__name__} gives {tuple(given.shape) if isinstance(given, Tensor) else type(given)} for a "
                f"batch of {len(labels)} pictures; forward must give one tensor of logits {expected}, and "
                "training_logits those of auxiliary classifiers"
            )

    def _training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        self._refuse_other_than_logits(logits, labels)
        if self.class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        # torch would divide by the weights of the batch, so that its parts in other processes would not add up, and
        # would weigh the classes that smoothing names, so that each picture would be taken for one of a rare class
        shares = labels if labels.is_floating_point() else F.one_hot(labels, self.num_classes)
        weighed = shares * self.class_weights
        smooth = weighed.mean(dim=1, keepdim=True)
        return F.cross_entropy(logits, torch.lerp(weighed, smooth, self.label_smoothing))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """As in training, but the loss is the plain cross-entropy whatever the label smoothing."""
        images, labels = batch
        logits = self.logits_of_views(images)
        self._refuse_other_than_logits(logits, labels)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The same as in validation."""
        return self.validation_step(batch, batch_idx)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Class probabilities ``(B, C)``, in float32 whatever the precision."""
        images, _ = batch
        return self.logits_of_views(images).float().softmax(dim=1)

    def logits_of_views(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of ``(B, 3, H, W)``; of V views ``(B, V, 3, H, W)`` those of their mean probabilities."""
        return log_mean_probabilities([self(view) for view in images.unbind(1)]) if images.ndim == 5 else self(images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One parameter group for each distinct weight decay and factor of the learning rate.

        Raises:
            ValueError: the optimizer has no weight decay, or was given one that no group would have.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for module_name, module in self.named_modules():
            for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
                decayed = isinstance(module, DECAYED) and name.endswith("weight")
                groups[self.weight_decay_of(name) if decayed else 0.0, self.rate_factor_of(name)].append(parameter)
        optimizer = self.optimizer(
            [
                {"params": parameters, "weight_decay": decay, "rate_factor": factor}
                for (decay, factor), parameters in groups.items()
            ]
        )
        own = inspect.signature(type(optimizer)).parameters.get("weight_decay")
        if any(decay for decay, _ in groups) and "weight_decay" not in optimizer.defaults:
            raise ValueError(f"{type(optimizer).__name__} has no weight decay; take --model.weight_decay 0")
        if own and optimizer.defaults["weight_decay"] not in (0, own.default, self.weight_decay):
            raise ValueError(
                f"the optimizer's weight_decay {optimizer.defaults['weight_decay']} would count for no weight; take "
                "--model.weight_decay"
            )
        for group in optimizer.param_groups:
            group["lr"] *= group["rate_factor"]
        return optimizer

    def weight_decay_of(self, name: str) -> float:
        """Decay of the convolution, linear or attention weight called ``name``; parts may have their own."""
        return self.weight_decay

    def rate_factor_of(self, name: str) -> float:
        """What the learning rate of the parameter called ``name`` is multiplied by; parts may have their own."""
        return 1.0


def log_mean_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Logits ``(B, C)`` whose softmax is the mean of the softmax of all the given, in float32."""
    return torch.stack([each.float().log_softmax(dim=1) for each in logits]).logsumexp(dim=0) - math.log(len(logits))


def keras_defaults(net: nn.Module, batch_norm_momentum: float = 0.01, batch_norm_eps: float = 0.001) -> None:
    """Give a network what Keras' layers start with (Glorot-uniform weights, zero biases), and set its BatchNorm.

    Args:
        net: the network.
        batch_norm_momentum: weight of a new batch in the moving statistics; Keras has 0.01.
        batch_norm_eps: added to the variance; Keras has 0.001.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum, module.eps = batch_norm_momentum, batch_norm_eps
