"""A trained network's body under a new head (Donahue et al. 2014, arXiv 1310.1531; Yosinski et al. 2014, 1411.1792)."""

import copy
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import nn

from lightning_modules.base import Classifier, keras_defaults
from lightning_modules.saved import saved_network
from lightning_modules.shapes import on_shapes, smallest_size, takes

AUXILIARY = {"aux1", "aux2", "AuxLogits"}  # torchvision's names of classifiers within a network

logger = logging.getLogger("litvision")


def body_of(network: Classifier) -> nn.Module:
    """The same layers, with the same weights, up to the feature map or vector that the network's head classifies.

    Of a chain of layers that is what comes before it is flattened; of another network, all but the last of its direct
    children, the one with the last linear layer. Classifiers beside it (GoogLeNet's, Inception's) are left out. A
    fine-tuned network's is the body that it got.

    Raises:
        ValueError: it does not end so.
    """
    net = getattr(network, "net", None)
    if net is None:
        raise ValueError(f"{type(network).__name__} is not one network, so that it has no head to replace")
    if isinstance(network, FineTuner):
        return net.body
    if isinstance(net, nn.Sequential):
        flatten = next((i for i, layer in enumerate(net) if isinstance(layer, nn.Flatten)), None)
        if flatten is None:
            raise ValueError("the backbone never flattens its feature map, so that it has no head to replace")
        return net[:flatten]
    body = copy.copy(net)
    body._modules = dict(net._modules)
    heads = [name for name, child in net.named_children() if any(isinstance(m, nn.Linear) for m in child.modules())]
    if not heads:
        raise ValueError(f"{type(net).__name__} has no linear layer, so that it has no head to replace")
    setattr(body, heads[-1], nn.Identity())
    if getattr(net, "aux_logits", False):
        body.aux_logits = False
        for name in AUXILIARY & body._modules.keys():
            setattr(body, name, None)
    return body


def features_of(backbone: Classifier, body: nn.Module, image_size: int) -> int:
    """How many values the body of a backbone makes of a picture.

    Raises:
        ValueError: it cannot take pictures of this size; says which it takes.
    """
    if not takes(body, image_size):
        smallest = smallest_size(body)
        size = f"at least {smallest}" if takes(body, smallest) else str(backbone.image_size)
        name = getattr(backbone, "architecture", type(backbone).__name__)
        raise ValueError(f"the body of {name} takes an image_size of {size}, not {image_size}")
    return on_shapes(body, 2, 3, image_size, image_size).flatten(1).shape[1]


class FineTuner(Classifier):
    """``net.body`` and ``net.head``: flatten, a hidden layer with ReLU and dropout, a linear classifier.

    What trains when is the business of ``callbacks.Unfreeze``. The backbone's weights are read when a new fit starts; a
    finished run does not need them any more.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels.
        backbone: the network whose body is taken, as it was trained: with its own number of classes. Pretrained weights
            of torchvision are named in its ``weights``.
        weights: checkpoint or run's folder of the backbone, if it is one of this project's networks.
        hidden: units of the hidden layer.
        dropout: rate after the hidden layer, 0 to 1.
        rate_factors: what the learning rate is multiplied by in parts of the network, by the beginning of their names:
            ``{net.body: 0.1, net.body.layer4: 0.3}``; the longest beginning counts.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: a factor is negative or of no part, or the body cannot take the size.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        backbone: Classifier,
        weights: str | None = None,
        hidden: int = 256,
        dropout: float = 0.5,
        rate_factors: dict[str, float] | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        self.weights, self.rate_factors = weights, rate_factors or {}
        self._backbone = [backbone]  # in a list its head is no part of this network; empty once it is of no use
        body = body_of(backbone)
        head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features_of(backbone, body, image_size), hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        keras_defaults(head)
        self.net = nn.Sequential(OrderedDict(body=body, head=head))
        for name, factor in self.rate_factors.items():
            if factor < 0:
                raise ValueError(f"the rate factor of {name} is {factor}; it must not be negative")
            if not any(f"{each}.".startswith(f"{name}.") for each, _ in self.named_parameters()):
                raise ValueError(
                    f"rate_factors names {name}, of which no weight is a part; tools/inspect_model.py lists them"
                )

    def load_pretrained(self) -> None:
        """Load the backbone's weights, unless these or others were loaded before.

        A warning tells where layers are not as they were trained, or pictures not normalised as they were.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it cannot be read, or holds another network than the backbone.
        """
        if not self._backbone:
            return
        (backbone,) = self._backbone
        if not self.weights:
            backbone.trainer = self._trainer  # which knows the pictures
            backbone.load_pretrained()
        else:
            trained, seen = saved_network(self.weights)
            Classifier.on_load_checkpoint(backbone, {"state_dict": trained.state_dict()})  # refuses other networks
            backbone.load_state_dict(trained.state_dict())
            self.compare_normalization(self.weights, seen["normalization"])
            if self.global_rank == 0:
                self._compare_layers(trained)
        self._backbone.clear()

    def _compare_layers(self, trained: Classifier) -> None:
        """Warn of what weights do not hold: settings of layers, like BatchNorm's eps."""
        for there, here in zip(*(str(body).splitlines() for body in (body_of(trained), self.net.body)), strict=False):
            if there != here:
                layers = there.strip(), here.strip()
                logger.warning("%s was trained with %s where the backbone has %s", self.weights, *layers)
                break

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint's weights, which the backbone's must not replace."""
        self._backbone.clear()
        return super().load_state_dict(state_dict, strict, assign)

    def rate_factor_of(self, name: str) -> float:
        """The factor of the longest beginning of the parameter's name."""
        beginnings = [each for each in self.rate_factors if f"{name}.".startswith(f"{each}.")]
        return self.rate_factors[max(beginnings, key=len)] if beginnings else 1.0
