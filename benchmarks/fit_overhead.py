"""What `fit` costs beside a bare PyTorch loop over the same loader, with metrics, progress bar, log and checkpoints on.

    python benchmarks/fit_overhead.py > benchmarks/RESULTS.md

Windows of both sides take turns in one process. The ratio is measured on MiniVGGNet at 32x32; the milliseconds of a
step on a network that does almost nothing, where they show.
"""

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import WholeCheckpointIO, with_those_of_every_run
from callbacks.provenance import commit, hardware
from datamodules import ImageDataModule
from datamodules.pack import Samples
from lightning_modules import Classifier, MiniVGGNet

ROUNDS, WARM_UP = 7, 10
BATCH = 64


class RandomPictures(ImageDataModule):
    """Noise in the shape of CIFAR-10: what it shows costs nothing to learn about."""

    name = "random"
    classes = tuple("0123456789")
    default_image_size = 32
    batches = 100

    def read(self, raw: Path) -> dict[str, Samples]:
        """Just enough rows for the batches of a window."""
        rng = np.random.default_rng(0)
        sizes = {"train": self.batches * BATCH, "val": BATCH, "test": BATCH}
        return {s: Samples(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n) % 10) for s, n in sizes.items()}


class Tiny(Classifier):
    """A linear layer on the mean colour: a step without work."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__(num_classes, image_size)
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


class Stopwatch(Callback):
    """When each step of an epoch began, and when the epoch was over, its checkpoints written."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.began: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note a step."""
        self.began.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end."""
        self.ended = time.perf_counter()


def seconds_a_step(began: list[float]) -> float:
    """Mean time of the steps after the warm-up."""
    return (began[-1] - began[WARM_UP]) / (len(began) - 1 - WARM_UP)


def fit_step(network: Callable[[], Classifier], data: RandomPictures, folder: Path) -> tuple[float, float]:
    """Seconds of a step in `fit`, and of all that follows the last step's start at the end of an epoch."""
    watch = Stopwatch()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=str(folder),
        logger=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        callbacks=with_those_of_every_run([watch], "", ""),
    )
    with redirect_stdout(sys.stderr):
        trainer.fit(network(), datamodule=data)
    return seconds_a_step(watch.began), watch.ended - watch.began[-1]


def bare_step(network: Callable[[], Classifier], data: RandomPictures) -> float:
    """Seconds of a step in a loop that only trains."""
    net = network()
    optimizer = net.configure_optimizers()
    net.train()
    began = []
    for batch in data.train_dataloader():
        began.append(time.perf_counter())
        images, labels = data.on_after_batch_transfer(batch, 0)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return seconds_a_step(began)


def windows(network: Callable[[], Classifier], data: RandomPictures) -> Iterator[tuple[float, float, float]]:
    """Seconds of a step in `fit` and in the bare loop, and of the end of an epoch; a first round only warms up."""
    for round_number in range(ROUNDS + 1):
        with tempfile.TemporaryDirectory() as folder:
            fit, end = fit_step(network, data, Path(folder))
        bare = bare_step(network, data)
        if round_number:
            yield fit, bare, end


def spread(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as root:
        seed_everything(42)
        data = RandomPictures(root=root, batch_size=BATCH)
        with redirect_stdout(sys.stderr):
            data.prepare_data()
            rows = {}
            for name, network in (
                ("MiniVGGNet 32x32", lambda: MiniVGGNet(10, 32, optimizer=lambda p: torch.optim.SGD(p, lr=0.01))),
                ("no work", lambda: Tiny(10, 32)),
            ):
                rows[name] = list(windows(network, data))
    print("# What `fit` costs\n")
    print(f"`python benchmarks/fit_overhead.py`, commit {(commit(Path(__file__).parent) or 'unknown')[:10]}.")
    print(f"{hardware(torch.device('cpu'))}, Python {platform.python_version()}, torch {torch.__version__}.")
    print(f"Median (range) of {ROUNDS} windows a side, taken in turns, {RandomPictures.batches} steps of {BATCH} each.")
    print("On: loss and top-1, top-5 of every step, progress bar, log, history and plot, best and last checkpoint.\n")
    print("| network | bare, steps/s | `fit`, steps/s | `fit` / bare | `fit` - bare, ms a step | end of an epoch, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, measured in rows.items():
        columns = [
            spread([1 / bare for _, bare, _ in measured], 1),
            spread([1 / fit for fit, _, _ in measured], 1),
            spread([bare / fit for fit, bare, _ in measured], 3),
            spread([1000 * (fit - bare) for fit, bare, _ in measured], 2),
            spread([1000 * end for _, _, end in measured], 0),
        ]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
