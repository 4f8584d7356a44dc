"""The layers of a classifier as convolutions, pools and functions of single places, of which any picture can be large.

A linear layer over a flattened map of h x w is a convolution with an h x w kernel, and a pool over the whole map is a
pool that moves on (Sermanet et al. 2013, arXiv 1312.6229; Long et al. 2015, arXiv 1411.4038).
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Identity)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


class Refused(ValueError):
    """Why a network cannot slide over a picture: the rest of a sentence that begins with `the network`."""


def sliding(network: nn.Module, window: int) -> nn.Sequential:
    """The network as layers that take pictures from ``window`` pixels up: ``(B, 3, H, W)`` in, ``(B, C, h, w)`` out.

    Args:
        network: a ``Classifier`` whose layers are one chain, for pictures of ``window`` pixels; it is left as it is.

    Raises:
        Refused: they are not, or one of them can be no such layer.
    """
    layers: list[nn.Module] = []
    flattened = None  # the map that the next linear layer sees as one row
    with torch.inference_mode():
        device = next((parameter.device for parameter in network.parameters()), None)
        seen = torch.zeros(1, 3, window, window, device=device)
        for layer in _chain(network):
            before, seen = seen, layer(seen)
            if isinstance(layer, nn.Flatten):
                flattened = before.shape[1:]
            elif isinstance(layer, nn.Linear) and before.dim() == 2:
                layers.append(_convolution(layer, flattened or (before.shape[1], 1, 1)))
                flattened = None
            elif not isinstance(layer, DROPOUTS):
                layers.append(_of_maps(layer, before, seen, flattened))
    if seen.dim() != 2 or (flattened and flattened[1:] != (1, 1)):
        raise Refused("does not end in one row of logits")
    return nn.Sequential(*layers).eval()


def padded_layer(network: nn.Module) -> str | None:
    """Name of the first layer that pads the map it is given, None if there is none."""
    for name, module in network.named_modules():
        padding = getattr(module, "padding", 0)
        if padding == "same" or (not isinstance(padding, str) and torch.tensor(padding).any()):
            return name
    return None


def _chain(network: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order of use, those of nested chains one by one."""
    net = getattr(network, "net", None)
    if all(hasattr(net, name) for name in ("features", "avgpool", "classifier")):  # AlexNet and VGG of torchvision
        net = nn.Sequential(net.features, net.avgpool, nn.Flatten(), net.classifier)
    if not isinstance(net, nn.Sequential):
        raise Refused("is not one chain of layers")
    return _unpacked(net)


def _unpacked(chain: nn.Sequential) -> Iterator[nn.Module]:
    for layer in chain:
        if isinstance(layer, nn.Sequential):
            yield from _unpacked(layer)
        else:
            yield layer


def _convolution(linear: nn.Linear, size: tuple[int, int, int]) -> nn.Conv2d:
    """The linear layer over a flattened map ``(C, h, w)``."""
    layer = nn.Conv2d(size[0], linear.out_features, size[1:], bias=linear.bias is not None)
    layer.weight = nn.Parameter(linear.weight.detach().reshape(layer.weight.shape), requires_grad=False)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    return layer


def _of_maps(layer: nn.Module, before: Tensor, after: Tensor, flattened: tuple[int, ...] | None) -> nn.Module:
    """The same layer for larger maps.

    Args:
        before: what it is given of one window.
        after: what it gives for that.
        flattened: size of the map that ``before`` is a flattened form of, if it is.
    """
    if isinstance(layer, ELEMENTWISE):
        return layer
    if before.dim() == 2:
        if isinstance(layer, nn.BatchNorm1d) and (not flattened or flattened[1:] == (1, 1)):
            norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum, layer.affine)
            norm.load_state_dict(layer.state_dict(), assign=True)  # on their device
            return norm
        raise Refused(f"has a {type(layer).__name__} among its linear layers, which has no place on a map")
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        if after.shape == before.shape:
            return nn.Identity()
        if after.shape[2:] == (1, 1):
            return nn.AvgPool2d(before.shape[2:], stride=1)
        raise Refused("has an adaptive pool to several values")
    if isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d)) and after.shape[2:] == (1, 1):
        moving = copy.copy(layer)  # over the whole map of one window: any stride would do there
        moving.stride = 1
        return moving
    return layer
