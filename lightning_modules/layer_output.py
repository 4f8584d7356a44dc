"""What a layer inside a network gives for a batch of pictures."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.base import Classifier
from lightning_modules.shapes import on_shapes
from lightning_modules.torchvision_model import heads

Pool = Literal["none", "average"]


def default_layer(model: Classifier) -> str:
    """The last layer before the head whose output is a map ``(B, C, H, W)`` or tokens ``(B, T, D)``.

    The head is the last linear layer, or SqueezeNet's last convolution. The network must be in evaluation mode.
    """
    return [name for name, shape in _before_the_head(model, leaves=True) if len(shape) > 2][-1]


def last_map(model: Classifier) -> str:
    """The last layer before the head whose output ``(B, C, H, W)`` still says where: not that of a global pool.

    Of a block with parts it is the block, which joins its branches. The network must be in evaluation mode.

    Raises:
        ValueError: there is none, as in a transformer.
    """
    several = [each for each in _before_the_head(model, leaves=False) if len(each[1]) > 2 and max(each[1][2:]) > 1]
    name, shape = several[-1] if several else ("", ())
    if len(shape) != 4:
        raise ValueError("the network ends in no feature map of more than one place; name a layer with --layer")
    return name


def _before_the_head(model: Classifier, leaves: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    with layers_passed(model, leaves) as passed:
        on_shapes(model, 1, 3, model.image_size, model.image_size)
    return takewhile(lambda each: each[0] != f"net.{heads(model.net)[0]}", passed)


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name.

    Raises:
        ValueError: there is none; names near ones.
    """
    layers = [each for each, _ in model.named_modules() if each]
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=5, cutoff=0.5) or layers[-5:]
        raise ValueError(f"the network has no layer {name!r}; near are {', '.join(near)}")
    return model.get_submodule(name)


@contextmanager
def recorded(model: nn.Module, name: str) -> Iterator[list[Any]]:
    """A list to which the layer's outputs are added while the context lasts, as they are in the graph of gradients."""
    outputs: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        outputs.append(output)
        return output.clone() if isinstance(output, Tensor) else None  # the next layer may work in place

    hook = layer_of(model, name).register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


def map_of(outputs: Sequence[Any], layer: str) -> Tensor:
    """The last map ``(B, C, H, W)`` that a layer gave (see ``recorded``): a network may pass it several times.

    Raises:
        ValueError: it gave none.
    """
    if not outputs or not isinstance(outputs[-1], Tensor) or outputs[-1].dim() != 4:
        raise ValueError(
            f"the layer {layer} gives no feature map (C, H, W); tools/inspect_model.py lists what each gives"
        )
    return outputs[-1]


@contextmanager
def layers_passed(network: nn.Module, leaves: bool = True) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Name and output's shape of each layer, in the order in which they are done while the context lasts.

    Args:
        leaves: only those without parts of their own.
    """
    passed: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            passed.append((name, tuple(output.shape)))

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in network.named_modules()
        if not (leaves and list(module.children()))
    ]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


class LayerOutput:
    """Gives the output of a layer, flattened.

    Args:
        model: the network, in evaluation mode.
        name: of the layer.
        pool: ``average`` over height and width of a map, or over tokens.

    Raises:
        ValueError: there is no such layer; names near ones.
    """

    def __init__(self, model: Classifier, name: str, pool: Pool) -> None:
        self.model, self.name, self.pool = model, name, pool
        layer_of(model, name)

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 ``(B, D)`` of normalised images ``(B, 3, H, W)``.

        Raises:
            ValueError: the layer gives no tensor, or nothing to average.
        """
        with torch.inference_mode(), recorded(self.model, self.name) as outputs:
            self.model(images)
        if not outputs or not isinstance(outputs[-1], Tensor) or len(outputs[-1]) != len(images):
            raise ValueError(f"the layer {self.name} gives no output for each picture in evaluation; take another")
        output = outputs[-1].float()
        if self.pool == "average":
            if output.dim() not in (3, 4):
                raise ValueError(
                    f"the layer {self.name} gives vectors, which have nothing to average; take --pool none"
                )
            output = output.mean(dim=1) if output.dim() == 3 else output.mean(dim=(2, 3))
        return output.flatten(1)
