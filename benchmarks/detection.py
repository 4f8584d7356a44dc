"""Sliding windows one by one against one convolution over the picture, and the networks for which both are the same.

    OMP_NUM_THREADS=1 python benchmarks/detection.py [NETWORK] >> benchmarks/RESULTS.md

NETWORK is a run of experiments/unpaddednet_pasted_digits.yaml; without one the weights are random. Both sides take
turns and must find the same boxes, before and after non-maximum suppression; a first round only warms up.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.step import spread
from callbacks.provenance import abbreviated, commit, hardware
from datamodules import Digits
from datamodules.pasted import scene
from detection import Boxes, Detector, Settings
from detection.convolutional import TOLERANCE, Convolutional
from detection.layers import Refused
from detection.pyramid import pyramid
from detection.windows import windows
from lightning_modules import (
    AlexNet,
    CifarResNet,
    CifarVGG,
    Classifier,
    DeeperGoogLeNet,
    MiniGoogLeNet,
    MiniVGGNet,
    ResNet,
    TorchvisionModel,
    UnpaddedNet,
)
from predictor import Predictor
from terminal import as_typed, command_line

ROUNDS = 5
SIZE = 350, 262  # of the picture in pixels: width, height
CLASSES = 11


@dataclass(frozen=True)
class Case:
    """A search: side of the network's windows in pixels, step, and the pyramid's factor."""

    window: int
    step: int
    factor: float


CASES = [Case(32, 4, 1.5), Case(32, 8, 1.5), Case(32, 16, 1.5), Case(64, 8, 1.5)]

NETWORKS: list[tuple[str, int, Callable[[int], Classifier]]] = [
    ("UnpaddedNet", 32, lambda size: UnpaddedNet(CLASSES, size)),
    ("MiniVGGNet", 32, lambda size: MiniVGGNet(CLASSES, size)),
    ("CifarVGG", 32, lambda size: CifarVGG(CLASSES, size)),
    ("CifarResNet, depth 20", 32, lambda size: CifarResNet(CLASSES, size, 20)),
    ("ResNet (1, 1, 1)", 32, lambda size: ResNet(CLASSES, size, [1, 1, 1], [64, 64, 128, 256])),
    ("MiniGoogLeNet", 32, lambda size: MiniGoogLeNet(CLASSES, size)),
    ("DeeperGoogLeNet", 64, lambda size: DeeperGoogLeNet(CLASSES, size)),
    ("AlexNet", 227, lambda size: AlexNet(CLASSES, size)),
    ("AlexNet of torchvision", 224, lambda size: TorchvisionModel(CLASSES, size, "alexnet")),
    ("VGG-11 of torchvision", 224, lambda size: TorchvisionModel(CLASSES, size, "vgg11")),
    ("ResNet-18 of torchvision", 224, lambda size: TorchvisionModel(CLASSES, size, "resnet18")),
]


def random_weights(network: Classifier) -> Predictor:
    """The network with preprocessing that brings pictures to about -2 to 2."""
    size = network.image_size
    preprocessing = {
        "classes": [str(number) for number in range(CLASSES)],
        "stored_size": size,
        "input_size": size,
        "shift": torch.full((1, 3, 1, 1), 128.0),
        "scale": torch.full((1, 3, 1, 1), 1 / 64),
    }
    return Predictor(network, preprocessing).eval()


def made_picture() -> np.ndarray:
    """One with digits on it, uint8 ``(262, 350, 3)``."""
    made = scene(Digits().read(Path())["train"], np.random.default_rng(1), (32, 96), 4, opaque=False).picture
    return np.array(Image.fromarray(made).resize(SIZE, Image.Resampling.BICUBIC))


def timed(detector: Detector, picture: np.ndarray) -> tuple[float, tuple[Boxes, Boxes]]:
    """Seconds, and all boxes and those that stay."""
    began = time.perf_counter()
    found = detector.detect(picture)
    return time.perf_counter() - began, found


def must_agree(alone: tuple[Boxes, Boxes], together: tuple[Boxes, Boxes]) -> float:
    """The greatest difference between probabilities of the same boxes.

    Raises:
        AssertionError: there are other boxes.
    """
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.corners, other.corners)
        assert torch.equal(one.labels, other.labels)
    return float((alone[0].probabilities - together[0].probabilities).abs().max())


def speeds(predictors: dict[int, Predictor], cases: list[Case]) -> list[str]:
    """A row for each search."""
    picture = made_picture()
    lines = [
        "| window | step | factor | windows | boxes | one by one, s | convolution, s | times as fast | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        settings = {"factor": case.factor, "step": case.step, "probability": 1.05 / CLASSES}
        slow, fast = (
            Detector(predictors[case.window], Settings(**settings, path=path)) for path in ("windows", "convolutional")
        )
        seconds, differences = [], []
        for number in range(ROUNDS + 1):
            (one, alone), (other, together) = timed(slow, picture), timed(fast, picture)
            differences.append(must_agree(alone, together))
            if number:
                seconds.append((one, other))
        cells = [
            *(str(case.window), str(case.step), str(case.factor), str(windows_of(case, picture)), str(len(alone[0]))),
            spread([one for one, _ in seconds], 2),
            spread([other for _, other in seconds], 3),
            f"**{statistics.median(one / other for one, other in seconds):.1f}** "
            f"({min(one / other for one, other in seconds):.1f} to {max(one / other for one, other in seconds):.1f})",
            f"{max(differences):.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def windows_of(case: Case, picture: np.ndarray) -> int:
    """Number of windows in all levels."""
    levels = pyramid(picture, None, case.factor, case.window)
    views = [windows(torch.tensor(level.pixels), case.window, case.step) for level in levels]
    return sum(view.shape[0] * view.shape[1] for view in views)


def exactness(networks: list[tuple[str, int, Callable[[int], Classifier]]]) -> list[str]:
    """A row for each network."""
    lines = ["| network | window | one convolution |", "| --- | --- | --- |"]
    for name, size, build in networks:
        torch.manual_seed(0)
        try:
            convolution = Convolutional(random_weights(build(size)), size)
            found = f"exact: differs by {convolution.difference:.0e} of the greatest logit, stride {convolution.stride}"
        except Refused as refused:
            found = f"no: it {refused}"
        lines.append(f"| {name} | {size}x{size} | {found} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = command_line(__doc__)
    parser.add_argument("network", metavar="NETWORK", nargs="?", help="a run; random weights if not given")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    predictors = {size: random_weights(UnpaddedNet(CLASSES, size)) for size in (32, 64)}
    if arguments.network:
        predictors[32] = Predictor.load(arguments.network)
    table, networks = speeds(predictors, CASES), exactness(NETWORKS)
    print("\n## Detection: windows one by one, or one convolution\n")
    print(f"`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}.")
    print(f"{hardware(torch.device('cpu'))}, Python {platform.python_version()}, torch {torch.__version__}.")
    weights = "of 32 pixels trained, of 64 with random weights" if arguments.network else "with random weights"
    print(f"Median (range) of {ROUNDS} rounds a side, taken in turns: UnpaddedNet {weights},")
    print(
        "over an image pyramid of one made picture of 350x262 pixels, in batches of 64. Both sides find the same boxes,"
    )
    print(
        "before and after suppression, in every round; the last column is the greatest difference of probabilities.\n"
    )
    print("\n".join(table))
    print("\nFor which networks both are the same, with random weights: logits of both ways, of windows of noise, may")
    print(f"differ by {TOLERANCE:g} of the greatest one.\n")
    print("\n".join(networks))


if __name__ == "__main__":
    main()
