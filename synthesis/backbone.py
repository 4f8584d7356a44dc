"""A network as a pair of eyes: a picture of any size in, the maps of named layers out."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.memory import free_memory
from lightning_modules.layer_output import layer_of, layers_passed, map_of, recorded
from lightning_modules.shapes import on_shapes

PASSES = 2
"""Memory of a pass and its gradients over that of the layers' outputs: 1.0 to 2.0 were measured."""


@dataclass(frozen=True)
class Survey:
    """What a pass would give, found on shapes alone.

    Args:
        shapes: channels, height and width of each layer's map.
        bytes: of memory that the pass and its gradients need, roughly.
    """

    shapes: dict[str, tuple[int, int, int]]
    bytes: int


class Backbone:
    """The maps of layers, in evaluation mode; gradients reach the picture, and not the weights.

    Args:
        network: gives logits of normalised images ``(1, 3, H, W)``; is changed: evaluation mode, no gradients.
        shift: subtracted from pixels on the scale 0..255, ``(1, 3, h, w)``. A mean image, which would fit one size
            only, is replaced by its mean colour.
        scale: multiplies the difference, ``(1, 3, 1, 1)``.
    """

    def __init__(self, network: nn.Module, shift: Tensor, scale: Tensor) -> None:
        self.network = network.eval().requires_grad_(False)
        self.shift, self.scale = (each.float().mean(dim=(2, 3), keepdim=True) for each in (shift, scale))

    def to(self, device: str | torch.device) -> "Backbone":
        """The same, on a device."""
        self.network.to(device)
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    def maps(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The output ``(1, C, h, w)`` of each layer for pixels ``(1, 3, H, W)``, 0..255; one pass up to the last.

        A module that the network uses several times gives its first output.

        Raises:
            ValueError: there is no such layer (names near ones), or it gives no map.
        """
        return self._maps(self.network, (pixels - self.shift) * self.scale, layers)

    def survey(self, height: int, width: int, layers: Sequence[str]) -> Survey:
        """What ``maps`` would give for a picture of this size, without memory or arithmetic.

        Raises:
            ValueError: there is no such layer (names near ones), it gives no map, or the picture is too small.
        """
        with layers_passed(self.network) as passed:
            images = torch.empty(1, 3, height, width, device="meta")
            maps = self._maps(lambda images: on_shapes(self.network, *images.shape), images, layers)
        needed = PASSES * 4 * sum(math.prod(shape) for _, shape in passed)
        return Survey({name: tuple(each.shape[1:]) for name, each in maps.items()}, needed)

    def _maps(self, call: Callable[[Tensor], Any], images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if not layers:  # after which a pass could end
            return {}
        with ExitStack() as hooks:
            outputs = {name: hooks.enter_context(recorded(self.network, name)) for name in layers}
            hooks.enter_context(_stopped(self.network, outputs))
            try:
                with suppress(_Enough):
                    call(images)
            except (RuntimeError, ValueError, AssertionError) as error:
                if images.device.type != "meta":
                    raise
                height, width = images.shape[2:]
                raise ValueError(
                    f"a picture of {width}x{height} pixels does not pass the network up to the last of these layers, "
                    f"{', '.join(layers)}; take a larger picture, or layers before ({str(error).splitlines()[0]})"
                ) from error
        return {name: map_of(output[:1], name) for name, output in outputs.items()}


def refuse_too_little_memory(survey: Survey, height: int, width: int, device: str, remedy: str) -> None:
    """Stop before the system does.

    Raises:
        ValueError: a pass would need more than is free.
    """
    free = _free_on_gpu(device) if device.startswith("cuda") else free_memory()
    if survey.bytes > free:
        raise ValueError(
            f"memory is not enough: {width}x{height} pixels need about {survey.bytes / 1e9:.1f} GB at a time, and "
            f"{free / 1e9:.1f} GB are free; {remedy}"
        )


def _free_on_gpu(device: str) -> int:
    """Bytes that torch can still use: those that nobody has, and those that it holds for later."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


class _Enough(Exception):
    """All layers have been passed."""


@contextmanager
def _stopped(network: nn.Module, outputs: dict[str, list[Any]]) -> Iterator[None]:
    """End the pass, by an exception, once every layer has given its output."""

    def stop(*_: Any) -> None:
        if all(outputs.values()):
            raise _Enough

    hooks = [layer_of(network, name).register_forward_hook(stop) for name in outputs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
