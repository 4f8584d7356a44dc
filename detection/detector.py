"""A classifier as a detector: its windows over a picture at several sizes become boxes."""

import difflib

import numpy as np
import torch
from torch import Tensor

from detection.boxes import Boxes, joined
from detection.convolutional import TOLERANCE, Convolutional
from detection.layers import Refused
from detection.pyramid import Level, pyramid
from detection.settings import Settings
from detection.windows import logits_of_windows, places
from predictor import Predictor


class Detector:
    """Finds objects of a classifier's classes in pictures of any size.

    Args:
        predictor: network, normalisation and classes.
        settings: how pictures are searched.

    Raises:
        ValueError: there is no such class, or the network cannot be used as the settings want.
    """

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.predictor = predictor
        self.settings = settings
        self.window = settings.window or predictor.input_size
        unknown = [name for name in settings.background if name not in predictor.classes]
        if unknown:
            near = difflib.get_close_matches(unknown[0], predictor.classes, n=3) or predictor.classes[:10]
            raise ValueError(f"--background {unknown[0]} is no class of this network; such are {', '.join(near)}")
        self.reported = torch.tensor([name not in settings.background for name in predictor.classes])
        self.convolution, self.reason = self._path()

    @property
    def path(self) -> str:
        """Which way windows pass the network, and why."""
        return f"{'convolutional' if self.convolution else 'windows'}: {self.reason}"

    def detect(self, picture: np.ndarray) -> tuple[Boxes, Boxes]:
        """All boxes of a picture uint8 ``(H, W, 3)`` that are probable enough, and those left of overlapping ones.

        Raises:
            ValueError: the picture is smaller than a window, or memory is not enough; says what to do.
        """
        levels = pyramid(picture, self.settings.resize, self.settings.factor, self.window)
        try:
            found = joined([self._boxes(level) for level in levels])
        except (RuntimeError, MemoryError) as error:  # torch has no class of its own for a CPU's memory
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            side = f"--tile {max(self.window, self.settings.tile // 2)}"
            less = side if self.convolution else f"--batch_size {max(1, self.settings.batch_size // 2)}"
            raise ValueError(f"memory is not enough for so much at a time; {less} takes less") from error
        return found, found.without_overlaps(self.settings.overlap)

    def probabilities(self, level: Level) -> Tensor:
        """Those of all classes for all windows of a level: float32 ``(rows, columns, C)``."""
        pixels = torch.tensor(level.pixels).to(self.predictor.shift.device)
        step = self.settings.step
        if self.convolution:
            logits = self.convolution.logits_of_windows(pixels, step, self.settings.tile)
        else:
            size, batch_size = self.predictor.input_size, self.settings.batch_size
            logits = logits_of_windows(self.predictor.logits, pixels, self.window, size, step, batch_size)
        return logits.softmax(dim=-1).cpu()

    def _boxes(self, level: Level) -> Boxes:
        probabilities = self.probabilities(level)
        corners = level.boxes(places(*probabilities.shape[:2], self.settings.step), self.window)
        probabilities = probabilities.flatten(0, 1)
        windows, labels = torch.nonzero((probabilities >= self.settings.probability) & self.reported, as_tuple=True)
        return Boxes(corners[windows], labels, probabilities[windows, labels])

    def _path(self) -> tuple[Convolutional | None, str]:
        """The convolution, if it is used, and why it is or not."""
        wanted, step = self.settings.path, self.settings.step
        if wanted == "windows":
            return None, "as asked for"
        try:
            convolution = Convolutional(self.predictor, self.window)
            if step % convolution.stride:
                steps = ", ".join(str(times * convolution.stride) for times in range(1, 5))
                raise Refused(f"has a stride of {convolution.stride}, so the step can be {steps} and so on, not {step}")
        except Refused as error:
            if wanted == "convolutional":
                raise ValueError(f"the convolutional path is not possible: the network {error}") from error
            return None, f"the network {error}"
        return convolution, (
            f"logits differ from those of windows by {convolution.difference:.1g} of the greatest, less than "
            f"{TOLERANCE:g}; the network's stride is {convolution.stride}"
        )
