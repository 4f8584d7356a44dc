"""What an iteration of DeepDream costs, and an evaluation of style transfer, of which an iteration has up to 20.

    OMP_NUM_THREADS=1 python benchmarks/synthesis.py --rounds 9

Sides take turns, and a first round only warms up. Weights are random: they do not change the time. Seconds of the CPU
stand beside those of the clock, because they change little where other work runs beside.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.step import spread
from callbacks.provenance import abbreviated, commit, hardware
from lightning_modules import MiniVGGNet
from synthesis.backbone import Backbone
from synthesis.dream import Dream, DreamSettings
from synthesis.networks import NetworkSettings, backbone_of
from synthesis.style import StyleSettings, StyleTransfer
from terminal import as_typed, command_line

INCEPTION = {"net.Mixed_5d": 2.0, "net.Mixed_6a": 0.5}
VGG19 = {f"net.features.{index}": 0.2 for index in (1, 6, 11, 20, 29)}
MINI_VGG_NET = {f"net.{name}": 0.25 for name in ("0.1", "0.4", "1.1", "1.4")}

Work = Callable[[], object]


def dreaming(backbone: Backbone, layers: dict[str, float], size: int, tile: int = 0) -> Work:
    """An iteration on a square picture, without the time of adding the gradient."""
    dream = Dream(backbone, 255 * torch.rand(1, 3, size, size), DreamSettings("", layers, octaves=1, tile=tile))
    return lambda: dream.gradient(dream.original, 0)


def restyling(backbone: Backbone, content: str, style: dict[str, float], size: int) -> Work:
    """The loss and its gradient, once."""
    picture = 255 * torch.rand(1, 3, size, size)
    transfer = StyleTransfer(backbone, picture, picture.flip(2), StyleSettings("", "", {content: 1.0}, style))

    def evaluate() -> None:
        pixels = picture.clone().requires_grad_()
        torch.stack(list(transfer.terms(pixels).values())).sum().backward()

    return evaluate


def works() -> dict[tuple[str, str, str], Work]:
    """What is measured: task, network and size."""
    inception = backbone_of(NetworkSettings("inception_v3"))
    mini = Backbone(MiniVGGNet(10, 32), torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 1 / 255))
    vgg = backbone_of(NetworkSettings("vgg19"))
    return {
        ("dream, an iteration", "InceptionV3", "299x299"): dreaming(inception, INCEPTION, 299),
        ("dream, an iteration", "InceptionV3", "576x576"): dreaming(inception, INCEPTION, 576),
        ("dream, an iteration", "InceptionV3", "576x576, --tile 320"): dreaming(inception, INCEPTION, 576, tile=320),
        ("dream, an iteration", "MiniVGGNet", "256x256"): dreaming(mini, {"net.1.4": 1.0}, 256),
        ("style, an evaluation", "VGG19", "256x256"): restyling(vgg, "net.features.22", VGG19, 256),
        ("style, an evaluation", "MiniVGGNet", "256x256"): restyling(mini, "net.1.4", MINI_VGG_NET, 256),
    }


def main() -> None:
    """Measure, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    measured = works()
    clock: dict[tuple[str, str, str], list[float]] = {key: [] for key in measured}
    cpu: dict[tuple[str, str, str], list[float]] = {key: [] for key in measured}
    for number in range(arguments.rounds + 1):
        for key, work in measured.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            work()
            if number:
                clock[key].append(time.perf_counter() - began)
                cpu[key].append(time.process_time() - began_cpu)
    print(f"`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}.")
    print(f"{hardware(torch.device('cpu'))}, torch {torch.__version__}.")
    print(f"Median (range) of {arguments.rounds} rounds, taken in turns.\n")
    print("| task | network | picture | seconds | CPU seconds |\n| --- | --- | --- | --- | --- |")
    for key in measured:
        print(f"| {' | '.join(key)} | {spread(clock[key], 2)} | {spread(cpu[key], 2)} |")


if __name__ == "__main__":
    main()
