"""See what a layer of a trained network gives for a picture, or the filters of its first convolution.

python tools/feature_maps.py NETWORK PICTURE FILE.png [--layer NAME] [--channels 64]
python tools/feature_maps.py NETWORK --filters FILE.png [--channels 64]

NETWORK is a run's folder, a checkpoint or a .safetensors file. Each channel is drawn from its own least value (black)
to its greatest (white), which its title gives, so brightness does not compare between channels. The default layer is
the last one whose map has more than one place; tools/inspect_model.py --run FOLDER lists all.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from lightning_modules.layer_output import last_map, map_of, recorded
from pictures import draw, named_picture, refuse_to_replace
from predictor import Predictor
from terminal import at_least, command_line, plainly

COLUMNS = 8


@torch.inference_mode()
def feature_maps(predictor: Predictor, layer: str, image: np.ndarray) -> Tensor:
    """What a layer gives for a picture uint8 ``(S, S, 3)``: float32 ``(C, H, W)``.

    Raises:
        ValueError: there is no such layer (names near ones), or it gives no map.
    """
    with recorded(predictor.network, layer) as outputs:
        predictor(torch.tensor(image[None]))
    return map_of(outputs, layer)[0].float()


def first_filters(network: nn.Module) -> tuple[str, Tensor]:
    """Name and weights ``(C, 3, h, w)`` of the first convolution that sees colours.

    Raises:
        ValueError: there is none.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            return name, module.weight.detach().float()
    raise ValueError("the network has no convolution that sees colours")


def draw_maps(maps: Tensor, heading: str, out: Path) -> None:
    """Each channel of ``(C, H, W)`` in grey, with its number, least and greatest value."""
    titles = [f"{number}\n{each.min():.2g} to {each.max():.2g}" for number, each in enumerate(maps)]
    draw(list(maps.numpy()), titles, heading, out, COLUMNS)


def draw_filters(weights: Tensor, heading: str, out: Path) -> None:
    """Each of ``(C, 3, h, w)`` in colours, grey being zero, all on one scale."""
    colours = 0.5 + 0.5 * weights / weights.abs().max()
    images = list((255 * colours).byte().permute(0, 2, 3, 1).numpy())
    draw(images, [str(number) for number in range(len(images))], heading, out, COLUMNS)


def main() -> None:
    """Draw one of both."""
    parser = command_line(__doc__)
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("picture", metavar="PICTURE", nargs="?", type=Path)
    parser.add_argument("out", metavar="FILE.png", type=Path)
    parser.add_argument("--filters", action="store_true", help="draw the filters of the first convolution")
    parser.add_argument("--layer", help="the layer to look at")
    parser.add_argument("--channels", type=at_least(1), default=64, help="the first of them are drawn (default 64)")
    arguments = parser.parse_args()
    if arguments.filters != (arguments.picture is None):
        parser.error("name either a picture or --filters")
    with plainly():
        refuse_to_replace(arguments.out, [] if arguments.filters else [arguments.picture])
        predictor = Predictor.load(arguments.network)
        if arguments.filters:
            name, weights = first_filters(predictor.network)
            shown = weights[: arguments.channels]
            draw_filters(shown, f"{name}: {len(shown)} of {len(weights)} filters", arguments.out)
        else:
            image = named_picture(arguments.picture, predictor.stored_size)
            layer = arguments.layer or last_map(predictor.network)
            maps = feature_maps(predictor, layer, image)
            shown = maps[: arguments.channels]
            size = "x".join(map(str, maps.shape[1:]))
            draw_maps(shown, f"{layer}: {len(shown)} of {len(maps)} channels of {size}", arguments.out)
        print(arguments.out)


if __name__ == "__main__":
    main()
