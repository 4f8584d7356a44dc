"""Packed data sets: look into them, prove them, make them, and take pictures out again.

python tools/shards.py info FOLDER                   what a set holds
python tools/shards.py verify FOLDER                 prove that nothing has changed; names damaged files and rows
python tools/shards.py pack EXPERIMENT.yaml          pack what an experiment's data section describes
python tools/shards.py export FOLDER OUT             pictures as files again, in a folder for each class
python tools/shards.py preview FOLDER OUT.png        samples of each class
python tools/shards.py preview EXPERIMENT.yaml OUT.png    one sample, as its augmentation shows it

FOLDER is that of a packed set, like data/digits-b66946b71665. After EXPERIMENT.yaml come flags of main.py, like
--data.source FOLDER or --data.encoding jpeg.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parent.parent))

from cli import experiment
from datamodules import BatchAugment, ImageDataModule
from datamodules.audit import audit
from datamodules.augmentation import AugmentedPictures, transformed_size
from datamodules.base import run_seed
from datamodules.batches import Batches
from datamodules.manifest import MANIFEST, Manifest, Shard, verify
from datamodules.shards import ShardDataset
from pictures import draw, require_new_folder
from terminal import at_least, command_line, plainly, screen

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}  # on Windows


def info(folder: Path) -> None:
    """Print what a set holds."""
    manifest = manifest_of(folder)
    splits = {split: dataset_of(folder, manifest, split) for split in manifest.splits}
    height, width, channels = splits["train"].image_shape
    encoding = splits["train"].encoding
    if quality := manifest.recipe.get("jpeg_quality"):
        encoding += f", quality {quality}"
    facts = Table("fact", "value", show_header=False, box=None)
    for fact, value in (
        ("data set", manifest.dataset + " from other files than the published ones" * (manifest.official is False)),
        ("classes", str(len(manifest.classes))),
        ("pictures", f"{height} x {width} x {channels}, {encoding}"),
        ("shards", f"{sum(map(len, manifest.splits.values()))}, {sum(f.bytes for f in manifest.files()):,} bytes"),
        ("mean", ", ".join(f"{value:.3f}" for value in manifest.channel_mean) + " (training split, 0 to 255)"),
        ("deviation", ", ".join(f"{value:.3f}" for value in manifest.channel_std)),
        ("recipe", json.dumps(manifest.recipe)),
    ):
        facts.add_row(fact, value)
    rows = Table("class", *splits)
    for column in rows.columns[1:]:
        column.justify = "right"
    counts = [np.bincount(split.labels, minlength=len(manifest.classes)) for split in splits.values()]
    for number, name in enumerate(manifest.classes):
        rows.add_row(name, *(str(count[number]) for count in counts), end_section=number == len(manifest.classes) - 1)
    rows.add_row("all", *(str(count.sum()) for count in counts))
    console = screen()
    console.print(facts)
    console.print(rows)


def check(folder: Path) -> None:
    """Print what is wrong with a set; the exit status says whether anything is."""
    findings = 0
    with Console(stderr=True).status(Text(f"reading {folder}")):
        for finding in audit(folder):
            findings += 1
            print(f"wrong: {finding}")
    if findings:
        print(f"{findings} findings: delete the folder {folder} and pack it anew")
        sys.exit(1)
    shards = [shard for shards in Manifest.load(folder).splits.values() for shard in shards]
    print(f"ok: {sum(shard.rows for shard in shards)} rows in {len(shards)} shards are what was packed")


def pack(config: Path, flags: Sequence[str]) -> None:
    """Pack the data of an experiment, unless they are packed, and print their folder."""
    data = data_of(config, flags)
    data.prepare_data()
    print(data.folder)


def export(folder: Path, out: Path) -> None:
    """Write each picture to ``out/<split>/<class>/<row>``: .png of pixels, .jpg as stored."""
    manifest = manifest_of(folder)
    require_new_folder(out)
    verify(folder, manifest)
    names = file_names(manifest.classes)
    for split, shards in manifest.splits.items():
        places = [out / split / name for name in names]
        for place in places:
            place.mkdir(parents=True)
        total = sum(shard.rows for shard in shards)
        digits = len(str(total - 1))
        rows = track(stored_rows(folder, shards), f"exporting {split}", total, console=Console(stderr=True))
        for row, (picture, label) in enumerate(rows):
            path = places[label] / f"{row:0{digits}d}"
            if picture.ndim == 1:
                path.with_suffix(".jpg").write_bytes(picture.tobytes())
            else:
                Image.fromarray(viewable(picture[None])[0].squeeze()).save(path.with_suffix(".png"))


def preview_set(folder: Path, out: Path, split: str, count: int) -> None:
    """Draw samples of a split with the names of their classes: the first of each class, the second of each, ..."""
    manifest = manifest_of(folder)
    if split not in manifest.splits:
        raise ValueError(f"{folder} has no split {split}; it has {', '.join(manifest.splits)}")
    dataset = dataset_of(folder, manifest, split)
    labels = dataset.labels
    turn = np.empty(len(labels), np.int64)  # how many of its class come before a row
    for label in range(len(manifest.classes)):
        mine = np.flatnonzero(labels == label)
        turn[mine] = np.arange(len(mine))
    rows = np.lexsort((labels, turn))[:count]
    images = dataset.__getitems__(rows.tolist())[0].numpy()
    draw(viewable(images), [manifest.classes[label] for label in labels[rows]], f"{manifest.dataset}, {split}", out)


def preview_experiment(config: Path, flags: Sequence[str], out: Path, row: int, count: int) -> None:
    """Draw one training sample, and how the experiment's augmentation shows it in its first epochs."""
    data = data_of(config, flags)
    data.prepare_data()
    data.setup("predict")
    train = data.splits["train"]
    if not 0 <= row < len(train):
        raise ValueError(f"sample {row} is not there; the training split has rows 0 to {len(train) - 1}")
    original, label = train[row]
    titles = ["stored", *(f"epoch {epoch}" for epoch in range(count))]
    draw(
        viewable(np.stack([original.numpy(), *sightings(data, row, count)])),
        titles,
        f"{config.stem}, row {row}: {data.classes[label]}",
        out,
    )


def sightings(data: ImageDataModule, row: int, count: int) -> np.ndarray:
    """A training picture as its first epochs show it, but for normalisation: uint8 ``(count, h, w, 3)``."""
    train, augment, seed = data.splits["train"], data.batch_augment or BatchAugment(), run_seed()
    keys = row + len(train) * np.arange(count)
    size = transformed_size(data.transforms, data.image_size)
    matrices = partial(augment.matrices, seed, size=size)
    pictures = AugmentedPictures(train, data.transforms, seed)
    images, labels, _ = Batches(
        pictures, data.input_size, matrices, augment.border, augment.interpolation
    ).__getitems__(keys)
    if augment.changes_colours:
        images = augment.colours(images, seed, keys)
    planes = images.permute(0, 3, 1, 2).float()
    planes, _ = augment.erase_and_mix(planes, labels, seed, keys, data.num_classes)
    return planes.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def viewable(rows: np.ndarray) -> np.ndarray:
    """Rows uint8 ``(N, H, W, C)`` as pictures of one channel or three: of a pair both, side by side."""
    return rows if rows.shape[3] in (1, 3) else np.concatenate(np.split(rows, 2, axis=3), axis=2)


def data_of(config: Path, flags: Sequence[str]) -> ImageDataModule:
    """The data of an experiment."""
    with tempfile.TemporaryDirectory() as folder:
        return experiment(config, flags, Path(folder)).datamodule


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a set that must be there."""
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} is no packed set: it has no {MANIFEST}")
    return Manifest.load(folder)


def dataset_of(folder: Path, manifest: Manifest, split: str) -> ShardDataset:
    """The rows of a split."""
    return ShardDataset([folder / shard.file for shard in manifest.splits[split]])


def stored_rows(folder: Path, shards: Sequence[Shard]) -> Iterator[tuple[np.ndarray, int]]:
    """Each row of a split as it is stored: pixels uint8 ``(H, W, 3)`` or JPEG bytes uint8 ``(n,)``, and its label."""
    for shard in shards:
        with h5py.File(folder / shard.file, "r", locking=False) as file:
            images, labels = file["images"], file["labels"][:].tolist()
            offsets = file["offsets"][:].tolist() if "offsets" in file else None
            for row, label in enumerate(labels):
                yield images[offsets[row] : offsets[row + 1]] if offsets else images[row], label


def file_names(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class: legal on every system, and different even where case does not count."""
    names: list[str] = []
    for label, name in enumerate(classes):
        plain = re.sub(r"[^\w .()+-]", "_", name)[:80].strip(" .")
        while not plain or plain.split(".")[0].lower() in RESERVED or plain.casefold() in map(str.casefold, names):
            plain = f"{label}_{plain}"
        names.append(plain)
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shown = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    top = command_line(__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, says: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=says, description=says, **shown)

    folder = {"type": Path, "metavar": "FOLDER", "help": "of a packed set"}
    command("info", "what a set holds").add_argument("folder", **folder)
    command("verify", "read every byte and name what is damaged; status 1 if anything is").add_argument(
        "folder", **folder
    )
    packing = command("pack", "pack what an experiment's data section describes; flags of main.py may follow")
    packing.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    exporting = command("export", "write the pictures as files: OUT/<split>/<class>/<row>.png, or .jpg as stored")
    exporting.add_argument("folder", **folder)
    exporting.add_argument("out", type=Path, metavar="OUT", help="an empty folder, or one that is made")
    preview = command("preview", "a PNG of samples; for an experiment, of one sample as it is augmented")
    preview.add_argument("what", type=Path, metavar="FOLDER|EXPERIMENT.yaml")
    preview.add_argument("out", type=Path, metavar="OUT.png")
    preview.add_argument("--split", default="train", help="of FOLDER (default: train)")
    preview.add_argument("--sample", type=int, default=0, help="row of EXPERIMENT's training split (default: 0)")
    preview.add_argument("--count", type=at_least(1), default=24, help="pictures to draw (default: 24)")
    return top


def run(arguments: argparse.Namespace, flags: Sequence[str]) -> None:
    """Run one command."""
    if arguments.command == "info":
        info(arguments.folder)
    elif arguments.command == "verify":
        check(arguments.folder)
    elif arguments.command == "pack":
        pack(arguments.experiment, flags)
    elif arguments.command == "export":
        export(arguments.folder, arguments.out)
    elif arguments.what.is_dir():
        preview_set(arguments.what, arguments.out, arguments.split, arguments.count)
    else:
        preview_experiment(arguments.what, flags, arguments.out, arguments.sample, arguments.count)


def main() -> None:
    """Run the command; an error ends it with one sentence and the exit status 1."""
    top = parser()
    arguments, flags = top.parse_known_args()
    reads_experiment = arguments.command == "pack" or (arguments.command == "preview" and not arguments.what.is_dir())
    if flags and not reads_experiment:
        top.error(f"{' '.join(flags)}: {arguments.command} takes no such flags")
    for library in ("pytorch_lightning", "lightning_fabric"):  # no trainer is used
        logging.getLogger(library).setLevel(logging.WARNING)
    with plainly():
        run(arguments, flags)


if __name__ == "__main__":
    main()
