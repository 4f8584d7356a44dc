"""Is it worth starting? Proves in about a minute what hours of training rely on.

python tools/doctor.py experiments/EXPERIMENT.yaml [flags of main.py, like --data.source FOLDER]
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.text import Text
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import WholeCheckpointIO
from cli import CLI, experiment
from datamodules import ImageDataModule, crops
from datamodules.batches import Batches
from datamodules.stand_in_trainer import seen_by_a_trainer
from lightning_modules import Network
from messages import message
from terminal import command_line, plainly, screen

BATCHES, STEPS = 4, 20


class Ill(Exception):
    """What is wrong, in a sentence that says what to do."""


def data_are_there(cli: CLI) -> str:
    """Raw files or shards; they are packed and verified here."""
    data = cli.datamodule
    began, packed = time.perf_counter(), data.folder.exists()
    data.prepare_data()
    data.setup("fit")
    splits = ", ".join(f"{len(dataset)} {split}" for split, dataset in data.splits.items())
    how = "verified" if packed else "packed"
    return f"{data.folder}: {splits}; {how} in {time.perf_counter() - began:.1f} s"


def an_epoch_shows_each_row_once(cli: CLI) -> str:
    """In one process and in two."""
    data = cli.datamodule
    rows = len(data.splits["train"])
    for processes in (1, 2) if data.batch_size % 2 == 0 else (1,):
        for epoch in (0, 1):
            keys = np.concatenate([keys_of(data, epoch, rank, processes) for rank in range(processes)])
            seen, counts = np.unique(keys % rows, return_counts=True)
            if counts.max() > 1:
                raise Ill(f"row {seen[counts.argmax()]} is shown {counts.max()} times in an epoch")
            if len(seen) <= rows - data.batch_size:
                raise Ill(f"only {len(seen)} of {rows} rows are shown in an epoch")
    return f"{len(seen)} of {rows} rows; fewer than a batch of {data.batch_size} is left out"


def workers_and_epochs_augment_as_they_should(cli: CLI) -> str:
    """The same pictures with and without loader processes, others in the next epoch, others for each sample."""
    data = cli.datamodule
    if not data.transforms and not data.batch_augment:
        return "the experiment has no augmentation"
    alone = [batches_of(data, epoch, workers=0) for epoch in (0, 1)]
    helped = [batches_of(data, epoch, workers=2) for epoch in (0, 1)]
    for epoch in (0, 1):
        if (alone[epoch] - helped[epoch]).abs().max() > 1e-3:
            raise Ill(f"two loader processes augment epoch {epoch} otherwise than none")
    train = data.splits["train"]
    sightings = sightings_of(data, row=0, epochs=range(32))
    if len(train) > 1 and len({tensor.numpy().tobytes() for tensor in sightings}) < 2:
        raise Ill("a picture is augmented alike in 32 epochs: the transforms change nothing")
    return f"{BATCHES} batches alike with 0 and 2 processes; a picture is seen anew in each epoch"


def a_checkpoint_loads_safely(cli: CLI) -> str:
    """What the trainer saves holds weights and plain values only, and brings the same weights back."""
    with tempfile.TemporaryDirectory() as folder:
        path, files = Path(folder) / "model.ckpt", WholeCheckpointIO()
        optimizers = [optimizer.state_dict() for optimizer in cli.model.configured_optimizers()]
        state = {"state_dict": cli.model.state_dict(), "optimizer_states": optimizers}
        files.save_checkpoint(state, str(path))
        size = path.stat().st_size
        loaded = files.load_checkpoint(str(path))["state_dict"]
    for name, weights in cli.model.state_dict().items():
        if not torch.equal(weights, loaded[name]):
            raise Ill(f"{name} is another after a checkpoint was saved and loaded")
    return f"{size / 1e6:.1f} MB, read with weights_only"


def one_batch_can_be_learned(cli: CLI) -> str:
    """A few steps on one batch lower its loss."""
    data, network = cli.datamodule, cli.model
    if not network.automatic_optimization:
        return f"not tried: a {type(network).__name__} has more than one loss, and they need not fall"
    images, labels = first_batch(data)
    losses = list(losses_of(network, images, labels))
    if not all(map(math.isfinite, losses)):
        raise Ill(f"the loss is not finite after {len(losses)} steps on one batch: lower the learning rate")
    if min(losses[1:]) >= losses[0]:
        raise Ill(f"{STEPS} steps on one batch do not lower the loss ({losses[0]:.3f} to {losses[-1]:.3f})")
    return f"loss {losses[0]:.3f} to {min(losses):.3f} in {len(losses) - 1} steps"


CHECKS: tuple[Callable[[CLI], str], ...] = (
    data_are_there,
    an_epoch_shows_each_row_once,
    workers_and_epochs_augment_as_they_should,
    a_checkpoint_loads_safely,
    one_batch_can_be_learned,
)


def keys_of(data: ImageDataModule, epoch: int, rank: int, processes: int) -> np.ndarray:
    """Keys of the samples that one process sees in an epoch."""
    sampler = seen_by_a_trainer(data, rank, processes).train_dataloader().batch_sampler.sampler
    sampler.set_epoch(epoch)
    return np.fromiter(sampler, np.int64)


def batches_of(data: ImageDataModule, epoch: int, workers: int) -> Tensor:
    """Pictures of the first batches of an epoch, as the network sees them."""
    data.num_workers = workers
    loader = seen_by_a_trainer(data).train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    batches = [data.on_after_batch_transfer(batch, 0)[0] for batch, _ in zip(loader, range(BATCHES), strict=False)]
    return torch.cat(batches)


def sightings_of(data: ImageDataModule, row: int, epochs: range) -> list[Tensor]:
    """One picture as the network sees it in several epochs."""
    data.num_workers = 1
    batches: Batches = seen_by_a_trainer(data).train_dataloader().dataset
    rows = len(data.splits["train"])
    return [data.on_after_batch_transfer(batches.__getitems__([row + e * rows] * 2), 0)[0][0] for e in epochs]


def first_batch(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """Images and labels of a first training batch."""
    data.num_workers = 0
    batch = next(iter(seen_by_a_trainer(data).train_dataloader()))
    return data.on_after_batch_transfer(batch, 0)


def losses_of(network: Network, images: Tensor, labels: Tensor) -> Iterator[float]:
    """Training loss on one batch before each step, until it has clearly fallen."""
    optimizer = network.configure_optimizers()
    network.train()
    first = None
    for _ in range(STEPS + 1):
        torch.manual_seed(0)  # the same dropout in all steps, so that only learning changes the loss
        loss = network.training_step((images, labels), 0)["loss"]
        yield loss.item()
        first = first or loss.item()
        if not math.isfinite(loss.item()) or loss.item() < 0.8 * first:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(args: Sequence[str] | None = None) -> None:
    """Run all checks; the exit status is 1 if one of them fails."""
    parser = command_line(__doc__)
    parser.add_argument("experiment", type=Path, help="an experiment's YAML file")
    arguments, flags = parser.parse_known_args(args)
    console, ill = screen(), False
    with plainly(), tempfile.TemporaryDirectory() as folder:
        cli = experiment(arguments.experiment, flags, Path(folder))
        seen_by_a_trainer(cli.datamodule)
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            try:
                console.print(Text.assemble(("ok", "green"), f"     {name}: {check(cli)}"), soft_wrap=True)
            except Exception as error:
                ill = True
                console.print(Text.assemble(("wrong", "red"), f"  {name}: {message(error)}"), soft_wrap=True)
                if check is data_are_there:
                    break
    if not crops.compiled:
        hint = "hint   numba is not installed; with it, small pictures are loaded two to four times as fast"
        console.print(Text(hint, "dim"), soft_wrap=True)
    sys.exit(int(ill))


if __name__ == "__main__":
    main()
