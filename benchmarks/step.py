"""What `fit` costs beside a bare PyTorch loop, network by network, and what the speed switches bring.

    python benchmarks/step.py [--networks NAME ...] [--on SWITCH] [--switches NAME ...] > benchmarks/RESULTS.md

Windows of all sides take turns in one process: `fit` with metrics, log, history and checkpoints on, and a loop that
only trains, over the same loader, in the same precision and memory format. On a GPU a third side trains on one batch
that is there already: what the real loader takes longer is the time for which the device waits for data. The network
without work shows the milliseconds of a step.
"""

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import EMA, ChannelsLast, Compile, WholeCheckpointIO, with_those_of_every_run
from callbacks.provenance import abbreviated, commit, hardware
from datamodules import BatchAugment, ImageDataModule
from datamodules.samples import Samples
from lightning_modules import (
    AlexNet,
    CifarResNet,
    CifarVGG,
    Classifier,
    DeeperGoogLeNet,
    GoogLeNet,
    MiniGoogLeNet,
    MiniVGGNet,
    ResNet,
    TorchvisionModel,
)
from terminal import as_typed, command_line

ROUNDS, WARM_UP = 5, 3
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")

Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
Batch = tuple[Tensor, Tensor]
Network = Callable[[int, Optimizer], Classifier]


class NoWork(Classifier):
    """A linear layer on the mean colour."""

    def __init__(self, num_classes: int, image_size: int, optimizer: Optimizer) -> None:
        super().__init__(num_classes, image_size, optimizer)
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


@dataclass(frozen=True)
class Case:
    """A network in training: its input in pixels, its batch, and how many steps a window has."""

    name: str
    network: Network
    size: int
    batch: int
    steps: int
    gpu_batch: int
    gpu_steps: int = 60


CASES = [
    Case("no work", lambda n, o: NoWork(10, n, o), 32, 64, 100, 64, 300),
    Case("MiniVGGNet", lambda n, o: MiniVGGNet(10, n, optimizer=o), 32, 64, 30, 512, 100),
    Case("MiniGoogLeNet", lambda n, o: MiniGoogLeNet(10, n, optimizer=o), 32, 32, 10, 256),
    Case("CifarVGG", lambda n, o: CifarVGG(10, n, optimizer=o), 32, 32, 10, 512),
    Case("CifarResNet, depth 56", lambda n, o: CifarResNet(10, n, 56, optimizer=o), 32, 32, 10, 512),
    Case("ResNet (9, 9, 9)", lambda n, o: ResNet(10, n, [9, 9, 9], [64, 64, 128, 256], optimizer=o), 32, 16, 8, 256),
    Case(
        "ResNet (3, 4, 6)",
        lambda n, o: ResNet(200, n, [3, 4, 6], [64, 128, 256, 512], "tiny_imagenet", optimizer=o),
        *(64, 16, 8, 256),
    ),
    Case("DeeperGoogLeNet", lambda n, o: DeeperGoogLeNet(200, n, optimizer=o), 64, 16, 10, 256),
    Case("AlexNet", lambda n, o: AlexNet(2, n, optimizer=o), 227, 16, 8, 256),
    Case("GoogLeNet", lambda n, o: GoogLeNet(10, n, optimizer=o), 96, 16, 8, 128),
    Case("ResNet-50 of torchvision", lambda n, o: TorchvisionModel(10, n, "resnet50", optimizer=o), 96, 8, 8, 128),
]


@dataclass(frozen=True)
class Switches:
    """What a user may turn on."""

    name: str
    precision: str = "32-true"
    accumulate: int = 1
    resident: bool = False
    callbacks: Sequence[Callable[[], Callback]] = ()


PLAIN = Switches("none")
SWITCHES = [
    PLAIN,
    Switches("channels_last", callbacks=[ChannelsLast]),
    Switches("bf16-mixed", precision="bf16-mixed"),
    Switches("bf16-mixed, channels_last", precision="bf16-mixed", callbacks=[ChannelsLast]),
    Switches("torch.compile", callbacks=[Compile]),
    Switches("bf16-mixed, channels_last, torch.compile", precision="bf16-mixed", callbacks=[ChannelsLast, Compile]),
    Switches("gradients of 4 batches", accumulate=4),
    Switches("EMA", callbacks=[EMA]),
    Switches("resident data", resident=True),
]
IN_BARE_LOOP = ("none", "channels_last", "bf16-mixed", "bf16-mixed, channels_last")


class RandomPictures(ImageDataModule):
    """Noise in the shape of a data set: what it shows costs nothing to learn about."""

    classes = tuple("01")
    default_image_size = 32

    def __init__(self, root: str, case: Case, resident: bool = False) -> None:
        self.rows = case.batch * (case.steps + WARM_UP)
        self.name = f"random-{case.name.replace(' ', '-')}-{case.batch}-{self.rows}"
        augment = BatchAugment(padding=4, flip=0.5)
        super().__init__(
            root, image_size=case.size, batch_size=case.batch, batch_augment=augment, resident=resident, num_workers=0
        )

    def read(self, raw: Path) -> dict[str, Samples]:
        """Just enough rows for the steps of a window."""
        rng, shape = np.random.default_rng(0), (self.image_size, self.image_size, 3)
        sizes = {"train": self.rows, "val": self.batch_size, "test": 2}
        return {s: Samples(rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 2) for s, n in sizes.items()}


def now(device: torch.device) -> float:
    """Seconds, once the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Stopwatch(Callback):
    """When the steps after the warm-up began and ended, and what the epoch's end took beside validation."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin after the warm-up."""
        if batch_idx == WARM_UP:
            self.began = now(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the last step."""
        if batch_idx == trainer.num_training_batches - 1:
            self.stepped = now(trainer.strategy.root_device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out."""
        self.validates = now(trainer.strategy.root_device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows counts: the best checkpoint is written after this."""
        self.validated = now(trainer.strategy.root_device) - self.validates

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end."""
        self.ending = now(trainer.strategy.root_device) - self.stepped - self.validated


def sgd(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer of all sides."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def fit(case: Case, data: RandomPictures, switches: Switches) -> tuple[float, float]:
    """Seconds of a step in `fit`, and of all that follows the last step at the end of an epoch, but for validation."""
    watch = Stopwatch()
    callbacks = [*(make() for make in switches.callbacks), watch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator=DEVICE.type,
            devices=1,
            precision=switches.precision,
            accumulate_grad_batches=switches.accumulate,
            default_root_dir=folder,
            logger=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            plugins=[WholeCheckpointIO()],
            callbacks=with_those_of_every_run(callbacks, "", ""),
        )
        trainer.fit(case.network(case.size, sgd), datamodule=data)
    return (watch.stepped - watch.began) / case.steps, watch.ending


def batches_on_device(data: RandomPictures) -> Iterator[Batch]:
    """What reaches the network in an epoch of training, by a trainer that has ended one."""
    data.trainer.training = True
    for batch in data.train_dataloader():
        moved = (part.to(DEVICE, non_blocking=True) if torch.is_tensor(part) else part for part in batch)
        yield data.on_after_batch_transfer(tuple(moved), 0)


def bare(case: Case, switches: Switches, batches: Iterable[Batch]) -> float:
    """Seconds of a step in a loop that only trains."""
    net = case.network(case.size, sgd).to(DEVICE).train()
    if ChannelsLast in switches.callbacks:
        net.to(memory_format=torch.channels_last)
    optimizer = net.configure_optimizers()
    precision = torch.autocast(DEVICE.type, torch.bfloat16, enabled=switches.precision == "bf16-mixed")
    began = 0.0
    for step, (images, labels) in enumerate(batches):
        if step == WARM_UP:
            began = now(DEVICE)
        with precision:
            logits, *auxiliary = net.training_logits(images)
            loss = F.cross_entropy(logits, labels)
            for others in auxiliary:
                loss = loss + net.auxiliary_weight * F.cross_entropy(others, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (now(DEVICE) - began) / case.steps


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def networks_table(cases: Sequence[Case], root: str, switches: Switches = PLAIN) -> list[str]:
    """A row for each network; sides take turns, and a first round only warms up."""
    heads = [
        "network",
        "input",
        "batch",
        "bare, images/s",
        "`fit`, images/s",
        "`fit` / bare",
        "`fit` - bare, ms a step",
    ]
    heads += ["waiting for data, %"] * GPU
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    ends = []
    for case in cases:
        data = RandomPictures(root, case)
        rounds = []
        for number in range(ROUNDS + 1):
            step, end = fit(case, data, switches)
            plain = bare(case, switches, batches_on_device(data))
            first = next(batches_on_device(data))
            there = bare(case, switches, repeat(first, WARM_UP + case.steps)) if GPU else plain
            if number:
                rounds.append((step, plain, there))
                ends.append(end)
        cells = [
            *(case.name, f"{case.size}x{case.size}", str(case.batch)),
            spread([case.batch / plain for _, plain, _ in rounds], 0),
            spread([case.batch / step for step, _, _ in rounds], 0),
            spread([plain / step for step, plain, _ in rounds], 3),
            spread([1000 * (step - plain) for step, plain, _ in rounds], 2),
        ]
        if GPU:
            cells.append(spread([100 * max(0.0, 1 - there / plain) for _, plain, there in rounds], 1))
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return [*lines, "", f"The end of an epoch takes {spread([1000 * end for end in ends], 0)} ms beside validation."]


def switches_table(case: Case, chosen: Sequence[Switches], root: str) -> list[str]:
    """A row for each switch, in one `fit` each round."""
    lines = [f"| switch | `fit` of {case.name}, images/s | of that without |", "| --- | --- | --- |"]
    speeds: dict[str, list[float]] = {switches.name: [] for switches in chosen}
    for number in range(ROUNDS + 1):
        for switches in chosen:
            torch.compiler.reset()
            step, _ = fit(case, RandomPictures(root, case, switches.resident), switches)
            if number:
                speeds[switches.name].append(case.batch / step)
    for name, values in speeds.items():
        ratios = [value / plain for value, plain in zip(values, speeds[PLAIN.name], strict=True)]
        lines.append(f"| {name} | {spread(values, 0)} | {spread(ratios, 2)} |")
        print(lines[-1], file=sys.stderr)
    return lines


def main() -> None:
    """Print the tables."""
    parser = command_line(__doc__)
    parser.add_argument("--networks", nargs="*", default=[case.name for case in CASES], metavar="NAME")
    parser.add_argument("--switches", nargs="*", default=[each.name for each in SWITCHES], metavar="NAME")
    parser.add_argument("--switched", default="ResNet (9, 9, 9)" if GPU else "MiniVGGNet", metavar="NETWORK")
    parser.add_argument("--on", choices=IN_BARE_LOOP, default=PLAIN.name, help="switch of the first table")
    parser.add_argument("--steps", type=int, default=None, help="in a window of the second table")
    arguments = parser.parse_args()
    cases = {case.name: replace(case, batch=case.gpu_batch, steps=case.gpu_steps) if GPU else case for case in CASES}
    switches = {each.name: each for each in SWITCHES if GPU or not each.resident}
    for name in [*arguments.networks, arguments.switched]:
        if name not in cases:
            parser.error(f"there is no network {name!r}; there are {', '.join(cases)}")
    seed_everything(42, verbose=False)
    print("# What `fit` costs\n")
    print(f"`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}.")
    print(f"{hardware(DEVICE)}, Python {platform.python_version()}, torch {torch.__version__}.")
    print(f"Median (range) of {ROUNDS} windows a side, taken in turns. Switch: {arguments.on}.")
    print("On: loss and top-1, top-5 of every step, progress bar, log, history and plot, best and last checkpoint.\n")
    with tempfile.TemporaryDirectory() as root:
        if arguments.networks:
            with redirect_stdout(sys.stderr):
                lines = networks_table([cases[name] for name in arguments.networks], root, switches[arguments.on])
            print("\n".join(lines), flush=True)
        chosen = [switches[name] for name in arguments.switches if name in switches]
        if chosen:
            case = cases[arguments.switched]
            steps = arguments.steps or (case.steps if GPU else 12)  # most CPUs are very slow in 16 bits
            case = replace(case, steps=steps)
            with redirect_stdout(sys.stderr):
                lines = switches_table(case, chosen, root)
            print("\n## Speed switches\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
