"""Any of torchvision's classifiers by name, with its pretrained weights or without."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchvision import models

from lightning_modules.base import Classifier
from lightning_modules.network import differing_tensors
from lightning_modules.published_weights import published_weights
from lightning_modules.shapes import smallest_size, takes
from tensor_file import read_tensors

logger = logging.getLogger("litvision")

AUXILIARY_WEIGHTS = {"googlenet": 0.3, "inception_v3": 0.4}  # Szegedy et al., arXiv 1409.4842 and 1512.00567
SYMMETRIC = {"googlenet", "inception_v3", "efficientnet_v2_l"}  # published weights of the others have seen ImageNet's
AUXILIARY_PARTS = ("aux1.", "aux2.", "AuxLogits.")


def normalization_of(architecture: str, weights: str | None) -> str:
    """That of the pictures which torchvision's weights were trained on, see ``datamodules.normalization``.

    Args:
        architecture: name of the network's builder.
        weights: one of torchvision's names for them; of a file, or of none, the architecture alone decides.
    """
    if weights == "IMAGENET1K_FEATURES":  # VGG16's from Caffe
        return "channel_mean"
    return "symmetric" if architecture in SYMMETRIC else "imagenet"


def multiple_of(architecture: str) -> int:
    """What the image size must be a multiple of, in pixels: the patch, or a window after all strides."""
    if architecture.startswith("vit_"):
        return int(architecture.rsplit("_", 1)[1])
    return 7 * 32 if architecture == "maxvit_t" else 1


def network(architecture: str, num_classes: int, image_size: int, auxiliary: bool) -> nn.Module:
    """The network with torchvision's initial weights."""
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if architecture in AUXILIARY_WEIGHTS:
        arguments |= {"aux_logits": auxiliary, "init_weights": True}
    elif architecture.startswith("vit_"):
        arguments["image_size"] = image_size
    elif architecture == "maxvit_t":
        arguments["input_size"] = (image_size, image_size)
    return models.get_model(architecture, weights=None, **arguments)


def heads(net: nn.Module) -> list[str]:
    """Names of the layers that end in logits, those of auxiliary classifiers included."""
    if isinstance(net, models.SqueezeNet):
        return ["classifier.1"]
    *_, last = (name for name, module in net.named_modules() if isinstance(module, nn.Linear))
    return [last, "aux1.fc2", "aux2.fc2", "AuxLogits.fc"]


def state_dict_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    state = read_tensors(file, "download it again")
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{file} holds no state dict: it must be what torch.save(network.state_dict(), file) writes")
    return state


def load_all_but_other_heads(net: nn.Module, state: dict[str, Tensor], origin: str) -> int | None:
    """Load weights, but for heads of another number of classes, which is returned if there are any.

    Raises:
        ValueError: the weights are of another network; names the first that differ. Nothing is loaded.
    """
    own = net.state_dict()
    other_heads, classes = set(), None
    for name in (f"{head}.{kind}" for head in heads(net) for kind in ("weight", "bias")):
        here, there = own.get(name), state.get(name)
        if here is None or there is None or here.ndim != there.ndim:
            continue
        if here.shape[1:] == there.shape[1:] and len(here) != len(there):
            classes = len(state.pop(name))
            other_heads.add(name)
    differing = [
        words
        for name, words in differing_tensors(state, own).items()
        if name not in other_heads
        and not (name.endswith("num_batches_tracked") and name in own)  # files from before torch 0.4.1 lack it
    ]
    if differing:
        raise ValueError(
            f"{origin} holds another network than this one: {len(differing)} tensors differ, {', '.join(differing[:3])}"
        )
    net.load_state_dict(state, strict=False)
    return classes


class TorchvisionModel(Classifier):
    """A network of ``torchvision.models`` whose head has C classes.

    Pretrained weights are read when a fit, or an evaluation without a checkpoint, starts, and not where a checkpoint
    takes their place: a finished run needs neither their file nor a network. Elsewhere, call ``load_pretrained``.

    Pretrained weights expect the input they were trained with: pixels scaled to 0..1, less ImageNet's mean, over its
    standard deviation (``normalization: imagenet``); those of GoogLeNet and Inception pixels scaled to -1..1
    (``symmetric``), since ``transform_input`` is off here, and those of EfficientNetV2-L too; VGG16's
    ``IMAGENET1K_FEATURES`` pixels 0..255 less a mean (``channel_mean``). A warning tells where torchvision's get
    others.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels. Vision transformers are built for this size.
        architecture: name of a builder, like ``resnet50`` or ``vit_b_16``.
        weights: ``DEFAULT`` or another of torchvision's names for the network's weights, like ``IMAGENET1K_V1``, which
            are downloaded; or the path of a file with a state dict of the network. A head of another number of classes
            is left out. None, or an empty word, trains from scratch.
        auxiliary: whether GoogLeNet and Inception train with their auxiliary classifiers, whose losses have a weight
            of 0.3 and 0.4; evaluation never looks at them, and other networks have none.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: there is no such network, or it cannot take the size.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        architecture: str = "resnet18",
        weights: str | None = None,
        auxiliary: bool = True,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        known = models.list_models(module=models)
        if architecture not in known:
            near = difflib.get_close_matches(architecture, known, n=5, cutoff=0.5) or known
            raise ValueError(f"torchvision has no classifier {architecture!r}; it has {', '.join(near)}")
        multiple = multiple_of(architecture)
        if image_size < 1 or image_size % multiple:
            raise ValueError(
                f"{architecture} takes an image_size that is a positive multiple of {multiple}, not {image_size}"
            )
        self.architecture = architecture
        self.auxiliary = auxiliary
        self.auxiliary_weight = AUXILIARY_WEIGHTS.get(architecture, 0.0)
        self.pretrained = weights or None  # None as soon as the network holds them, or others
        self.net = network(architecture, num_classes, image_size, auxiliary)
        if not takes(self.net, image_size):
            remedy = "; with auxiliary: false less is enough" if auxiliary and architecture == "inception_v3" else ""
            raise ValueError(
                f"{architecture} takes an image_size of at least {smallest_size(self.net)}, not {image_size}{remedy}"
            )

    @property
    def published(self) -> Mapping[str, models.WeightsEnum]:
        """Torchvision's weights of the network by name."""
        return models.get_model_weights(self.architecture).__members__

    @property
    def has_weights(self) -> bool:
        """Whether there are pretrained weights to load."""
        return self.pretrained is not None

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of normalised images ``(B, 3, H, W)``."""
        return self.training_logits(images)[0]

    def training_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits ``(B, C)``; in training mode then those of the auxiliary classifiers, if there are any."""
        outputs = self.net(images)
        return tuple(outputs) if isinstance(outputs, tuple) else (outputs,)

    def load_pretrained(self) -> None:
        """Load the weights that the constructor names, unless these or others were loaded before.

        Raises:
            FileNotFoundError: there is no such file.
            ConnectionError: torchvision's weights cannot be downloaded.
            ValueError: the file is damaged, could run code, or its weights are of another network.
        """
        if self.pretrained is None:
            return
        weights = self.pretrained
        if weights in self.published:
            auxiliary = self.auxiliary if self.architecture in AUXILIARY_WEIGHTS else None
            state = published_weights(self.published[weights], self.architecture, auxiliary)
            trained_on = normalization_of(self.architecture, weights)
            self.compare_normalization(f"{self.architecture}'s weights {weights}", trained_on)
        elif Path(weights).is_file():
            state = state_dict_of(Path(weights))
        else:
            raise FileNotFoundError(
                f"{weights} is no file, nor one of torchvision's weights of {self.architecture}: "
                f"{', '.join(self.published)}"
            )
        if not self.auxiliary:
            for name in [name for name in state if name.startswith(AUXILIARY_PARTS)]:
                del state[name]
        classes = load_all_but_other_heads(self.net, state, weights)
        if classes and self.global_rank == 0:
            logger.info(
                f"{weights}: the head of {classes} classes is left out, that of {self.num_classes} starts from scratch"
            )
        self.pretrained = None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint's weights, which pretrained ones must not replace."""
        self.pretrained = None
        return super().load_state_dict(state_dict, strict, assign)
