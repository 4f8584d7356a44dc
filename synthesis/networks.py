"""Which network looks: one of torchvision's, with or without its weights, or a trained one of this project."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from datamodules.normalization import IMAGENET_MEAN, IMAGENET_STD
from lightning_modules import Classifier, TorchvisionModel
from lightning_modules.saved import saved_network
from lightning_modules.torchvision_model import normalization_of
from synthesis.backbone import Backbone

CLASSES, IMAGE_SIZE = 1000, 299  # of ImageNet's networks; 299 is the least that all of them take


@dataclass(frozen=True)
class NetworkSettings:
    """Which network looks at the picture: one of torchvision's, or a trained one of this project.

    Args:
        architecture: name of a torchvision classifier, like vgg19.
        weights: DEFAULT or another of torchvision's names, which are downloaded; or the path of a file with a state
            dict of the network. Without them the weights are random, and follow from the seed.
        checkpoint: a run's folder, a checkpoint or a .safetensors file; it takes the place of architecture and weights.
        average_pools: whether each layer of maximum pooling averages instead (Gatys et al., section 2).
    """

    architecture: str | None = None
    weights: str | None = None
    checkpoint: str | None = None
    average_pools: bool = False


@lru_cache(maxsize=1)  # the draws of a walk look through the same one
def seeded_backbone(settings: NetworkSettings, seed: int, device: str) -> Backbone:
    """The same as ``backbone_of`` on a device, with a seed that random weights follow from."""
    torch.manual_seed(seed)
    return backbone_of(settings).to(device)


def backbone_of(settings: NetworkSettings) -> Backbone:
    """The network that the settings name, with its own normalisation.

    Raises:
        ValueError: they name none, or the weights are damaged or of another network.
        FileNotFoundError: there is no such file.
        ConnectionError: weights cannot be downloaded.
    """
    if settings.architecture is None and settings.checkpoint is None:
        raise ValueError("name a network, by --network.checkpoint or by --network.architecture")
    if settings.checkpoint is not None:
        network, preprocessing = saved_network(settings.checkpoint)
        shift, scale = preprocessing["shift"], preprocessing["scale"]
    else:
        network, shift, scale = _of_torchvision(settings.architecture, settings.weights)
    if settings.average_pools:
        _average(network)
    return Backbone(network, shift, scale)


def _of_torchvision(architecture: str, weights: str | None) -> tuple[Classifier, Tensor, Tensor]:
    """The network with the normalisation that its published weights expect, see ``TorchvisionModel``."""
    network = TorchvisionModel(CLASSES, IMAGE_SIZE, architecture, weights, auxiliary=False)
    network.load_pretrained()
    if normalization_of(architecture, weights) == "symmetric":
        return network, torch.full((1, 3, 1, 1), 127.5), torch.full((1, 3, 1, 1), 1 / 127.5)
    seen = network.published[weights].transforms() if weights in network.published else None
    scaling = (seen.mean, seen.std) if seen else (IMAGENET_MEAN, IMAGENET_STD)
    mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in scaling)
    return network, 255 * mean, 1 / (255 * deviation)


def _average(network: nn.Module) -> None:
    """Put average pools in the place of maximum pools.

    Raises:
        ValueError: there is none.
    """
    pools = [name for name, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
    if not pools:
        raise ValueError("the network has no layer of maximum pooling; leave out --network.average_pools")
    for name in pools:
        pool = network.get_submodule(name)
        network.set_submodule(
            name,
            nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, count_include_pad=False),
        )
