"""A result's folder: the picture, its way there, the loss of every iteration, and the settings that make it again."""

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from callbacks.whole_file import whole_file
from synthesis.dream import DreamSettings
from synthesis.step import Step
from synthesis.style import StyleSettings

PICTURE, LOSSES, CURVES, SETTINGS = "picture.png", "losses.json", "losses.png", "settings.yaml"
WIDE = 30  # curves whose greatest value is so many times the least are drawn logarithmically


@dataclass(frozen=True)
class Speed:
    """Seconds of an iteration at full size: the median of so many, and the quartiles."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return (
            f"{self.median:.3g} s an iteration (median of {self.count}, quartiles {self.low:.3g} and {self.high:.3g})"
        )


def as_array(pixels: Tensor) -> np.ndarray:
    """Pixels ``(1, 3, H, W)``, 0..255, as a picture uint8 ``(H, W, 3)``; what is beyond is cut off."""
    return pixels[0].clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()


def write_result(
    folder: Path,
    settings: DreamSettings | StyleSettings,
    steps: Iterable[Step],
    total: int,
    save_every: int,
    profile: Mapping[str, bytes],
) -> tuple[np.ndarray, Speed]:
    """Go through the steps, and write all that a result has; the picture uint8 ``(H, W, 3)`` and the speed.

    Whatever ends the steps early, ctrl + c too, the picture and the losses of those that were made are written, which
    is said.

    Args:
        folder: an empty one, which is made if it is not there.
        settings: that the steps follow from.
        steps: at least one.
        total: how many there are, at most.
        save_every: the picture of every so many iterations is kept in ``iterations/``; none with 0.
        profile: of the pictures, see ``profile_of``.

    Raises:
        ValueError: a loss is no finite number, as where steps are too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(yaml.safe_dump(asdict(settings), sort_keys=False), encoding="utf-8")
    records: list[Step] = []
    seconds: list[tuple[int, float]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, TextColumn("{task.fields[told]}")) as progress:
            task = progress.add_task(folder.name, total=total, told="")
            last = time.perf_counter()
            for step in steps:
                now = time.perf_counter()
                if not math.isfinite(step.loss):
                    remedy = "a smaller --step" if isinstance(settings, DreamSettings) else "--line_search strong_wolfe"
                    raise ValueError(
                        f"the loss is {step.loss} in iteration {step.number}; take {remedy}, or smaller weights"
                    )
                pixels = step.pixels
                records.append(replace(step, pixels=pixels.new_empty(0)))  # a view would keep the picture in memory
                if step.number:
                    seconds.append((step.octave, now - last))
                    progress.update(task, advance=1, told=f"loss {step.loss:.4g}, {now - last:.2f} s an iteration")
                if save_every and step.number % save_every == 0:
                    _write_picture(folder / "iterations" / f"{step.number:05d}.png", pixels, profile)
                last = time.perf_counter()
            progress.update(task, total=len(seconds))
    except BaseException:  # of ctrl + c, too
        if records and records[-1].number:  # an iteration, and no start
            _write(folder, pixels, records, profile)
            height, width = pixels.shape[2:]
            print(
                f"{folder}: ended after iteration {records[-1].number} of at most {total}; {PICTURE}, of "
                f"{width}x{height} pixels, and {LOSSES} show how far it came",
                file=sys.stderr,
            )
        raise
    _write(folder, pixels, records, profile)
    of_full_size = [each for octave, each in seconds if octave == records[-1].octave]
    low, middle, high = np.percentile(of_full_size, [25, 50, 75])
    return as_array(pixels), Speed(middle, low, high, len(of_full_size))


def _write(folder: Path, pixels: Tensor, records: list[Step], profile: Mapping[str, bytes]) -> None:
    """The picture as far as it came, and the losses on its way."""
    _write_picture(folder / PICTURE, pixels, profile)
    _write_losses(folder, records)


def _write_picture(file: Path, pixels: Tensor, profile: Mapping[str, bytes]) -> None:
    with whole_file(file) as partial:
        Image.fromarray(as_array(pixels)).save(partial, format="PNG", **profile)


def _write_losses(folder: Path, records: list[Step]) -> None:
    """A line for each iteration, and the curves: the sum thick, its terms thin, a dotted line between octaves."""
    lines = [{"iteration": s.number, "octave": s.octave, "loss": s.loss, **s.losses} for s in records]
    text = ",\n ".join(json.dumps(line) for line in lines)
    with whole_file(folder / LOSSES) as partial:
        partial.write_text(f"[{text}]\n", encoding="utf-8")
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_axes((0.13, 0.14, 0.84, 0.79))
    axes.plot([s.number for s in records], [s.loss for s in records], color="black", linewidth=2, label="loss")
    for name in records[0].losses if len(records[0].losses) > 1 else ():
        axes.plot([s.number for s in records], [s.losses[name] for s in records], linewidth=1, label=name)
    if max(s.loss for s in records) > WIDE * min(s.loss for s in records) > 0:
        axes.set_yscale("log")
    for before, after in pairwise(records):
        if before.octave != after.octave:
            axes.axvline(after.number - 0.5, color="grey", linestyle=":")
    axes.set(xlabel="iteration", ylabel="loss")
    axes.legend()
    with whole_file(folder / CURVES) as partial:
        figure.savefig(partial, format="png", dpi=100)
