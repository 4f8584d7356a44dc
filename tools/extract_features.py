"""What a trained network sees in pictures: the output of one of its layers, for every picture, in one HDF5 file.

python tools/extract_features.py OUT.h5 --backbone vgg16 --weights DEFAULT --data datamodules.Flowers17 \\
    --data.image_size 224 --data.normalization imagenet
python tools/extract_features.py OUT.h5 --backbone CHECKPOINT --config experiments/EXPERIMENT.yaml [flags of main.py]

The layer is by default the last before the head (the last linear layer, or SqueezeNet's last convolution) that gives a
map (B, C, H, W), or tokens (B, T, D): VGG16's average pool, 25 088 values at 224 pixels; ResNet50's, 2 048; in the
networks here that are chains of layers, what is then flattened. tools/inspect_model.py lists the layers of an
experiment's network. A layer that is used several times in a pass counts with its last output.

Pictures are taken as in evaluation: in stored order, scaled to the input size, normalised, not augmented. Given again,
an interrupted command goes on where it stopped.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from pytorch_lightning import seed_everything
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import run_folder
from callbacks.provenance import commit
from cli import require_settings
from datamodules import ImageDataModule
from datamodules.batches import Batches
from datamodules.features import FeatureTable, FeatureWriter, Made, create, require_same_settings
from datamodules.geometry import resize_matrices
from datamodules.loader import BatchLoader
from datamodules.manifest import Manifest
from datamodules.normalization import Normalization
from lightning_modules import Classifier, TorchvisionModel
from lightning_modules.layer_output import LayerOutput, default_layer
from lightning_modules.saved import saved_network
from lightning_modules.torchvision_model import normalization_of
from predictor import default_device
from sections import built
from terminal import command_line, plainly

SPLITS = ("train", "val", "test")
PACKAGES = ("torch", "torchvision", "numpy", "h5py")


def data_of(config: Path | None, flags: Sequence[str]) -> ImageDataModule:
    """The data of an experiment, if there is one, changed by flags.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing names the data, or the file has no data section, or a setting twice.
    """
    section = None
    if config:
        require_settings(config)
        if not (section := yaml.safe_load(config.read_text(encoding="utf-8-sig")).get("data")):
            raise ValueError(f"{config} is no experiment's YAML file: it has no section data")
    elif not any(flag.partition("=")[0] in ("--data", "--data.class_path") for flag in flags):
        raise ValueError("name the pictures: --config experiments/EXPERIMENT.yaml, or --data datamodules.Flowers17")
    return built(ImageDataModule, "data", section, flags)


def network_of_checkpoint(path: Path, image_size: int, normalization: str) -> Classifier:
    """A network with the weights of a checkpoint, rebuilt from the configuration in it.

    Raises:
        ValueError: the file is damaged or has no configuration, or its network takes pictures of another size, or
            normalized otherwise.
    """
    model, preprocessing = saved_network(path)
    if preprocessing["normalization"] != normalization:
        raise ValueError(
            f"the network of {path} was trained on pictures normalized as {preprocessing['normalization']}, not "
            f"{normalization}; take --data.normalization {preprocessing['normalization']}"
        )
    if model.image_size != image_size:
        raise ValueError(
            f"the network of {path} takes pictures of {model.image_size} pixels, not {image_size}; take "
            f"--data.image_size {model.image_size}"
        )
    return model


def network_of(backbone: str, weights: str | None, image_size: int, normalization: str) -> tuple[Classifier, Made]:
    """The network in evaluation mode, and what it is: ``backbone``, ``weights``, ``weights_sha256``.

    Raises:
        FileNotFoundError: there is no such checkpoint or file of weights.
        ValueError: it is damaged, or was trained on pictures of another size or normalized otherwise.
        ConnectionError: published weights cannot be downloaded.
    """
    if (path := Path(backbone)).exists():
        if weights:
            raise ValueError(f"{backbone} holds its own weights; leave out --weights")
        path = run_folder.checkpoint_of(path) if path.is_dir() else path
        model = network_of_checkpoint(path, image_size, normalization)
        names = {"backbone": type(model).__name__, "weights": str(path)}
    elif path.suffix == ".ckpt" or len(path.parts) > 1:
        raise FileNotFoundError(f"{backbone} is neither a checkpoint nor a run's folder")
    else:
        model = TorchvisionModel(1000, image_size, backbone, weights, auxiliary=False)
        if weights in model.published and normalization != (trained_on := normalization_of(backbone, weights)):
            raise ValueError(
                f"the weights {weights} of {backbone} were trained on pictures normalized as {trained_on}, not "
                f"{normalization}; take --data.normalization {trained_on}"
            )
        model.load_pretrained()
        names = {"backbone": backbone, "weights": weights or "none: random"}
    return model.eval(), {**names, "weights_sha256": checksum(model)}


def checksum(model: nn.Module) -> str:
    """SHA-256 of all weights with their names, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def batches(data: ImageDataModule, split: str, start: int) -> Iterator[Tensor]:
    """Pictures uint8 ``(B, H, W, 3)`` of the input size from a row on, in stored order."""
    pictures, size = data.splits[split], data.input_size
    matrices = partial(resize_matrices, data.image_size, size) if size != data.image_size else None
    rows = range(start, len(pictures), data.batch_size)
    keys = [list(range(first, min(first + data.batch_size, len(pictures)))) for first in rows]
    for images, _, _ in BatchLoader(Batches(pictures, size, matrices).__getitems__, keys):
        yield images


def chosen_splits(data: ImageDataModule, asked: Sequence[str] | None) -> list[str]:
    """The splits asked for, else all, in the order train, val, test.

    Raises:
        ValueError: a split is not there.
    """
    there = [name for name in SPLITS if name in data.splits and not (name == "val" and data.validate_on_test)]
    for name in asked or ():
        if name not in there:
            reason = ": the test split validates" * (name == "val" and data.validate_on_test)
            raise ValueError(f"{data.name} has no split {name!r}{reason}; there are {', '.join(there)}")
    return [name for name in there if name in (asked or there)]


def extract(arguments: argparse.Namespace, flags: Sequence[str]) -> FeatureTable:
    """Make or finish the file."""
    seed_everything(arguments.seed, verbose=False)
    data = data_of(arguments.config, flags)
    model, made = network_of(arguments.backbone, arguments.weights, data.input_size, data.normalization)
    layer = LayerOutput(model, arguments.layer or default_layer(model), arguments.pool)
    values = layer(torch.zeros(1, 3, data.input_size, data.input_size)).shape[1]
    data.prepare_data()
    data.setup("test")
    splits, manifest = chosen_splits(data, arguments.splits), Manifest.load(data.folder)
    sizes = [len(data.splits[name]) for name in splits]
    device = torch.device(arguments.device)
    made |= {
        "layer": layer.name,
        "pool": layer.pool,
        "input_size": data.input_size,
        "normalization": data.normalization,
        "data": f"{type(data).__module__}.{type(data).__name__}",
        "recipe": json.dumps(data.recipe, sort_keys=True),
        "pictures_sha256": manifest.source_sha256,
        "device": device.type,
        "versions": json.dumps({"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}),
        "commit": commit(Path(__file__).parent) or "unknown",
    }
    labels = np.concatenate([data.splits[name].labels for name in splits])
    table = FeatureTable(
        (sum(sizes), values),
        arguments.dtype,
        labels,
        list(manifest.classes),
        np.repeat(np.arange(len(splits)), sizes),
        splits,
        made,
    )
    out: Path = arguments.out
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        create(out, table)
    require_same_settings(out, table)
    model.to(device)
    write(out, table, data, layer, Normalization(data.normalization, data.folder, manifest), device)
    return table


def write(
    out: Path,
    table: FeatureTable,
    data: ImageDataModule,
    layer: LayerOutput,
    normalize: Normalization,
    device: torch.device,
) -> None:
    """Append the rows that are missing."""
    with FeatureWriter(out) as writer:
        begin = writer.done

        def missing() -> Iterator[Tensor]:
            for name in table.split_names:
                rows = table.rows([name])
                yield from batches(data, name, max(writer.done - int(rows[0]), 0))

        steps = sum(-(-int(np.sum(table.rows([name]) >= begin)) // data.batch_size) for name in table.split_names)
        console = Console(stderr=True)
        for images in track(missing(), "extracting", steps, console=console, disable=not console.is_terminal):
            features = layer(normalize(images.to(device), torch.float32))
            writer.append(features.cpu().numpy())


def main() -> None:
    """Make or finish a feature file, and say what it holds."""
    parser = command_line(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.h5")
    parser.add_argument("--backbone", required=True, help="torchvision's name, a checkpoint, or a run's folder")
    parser.add_argument(
        "--weights", help="of torchvision's network: DEFAULT, another name, or a file; random if not given"
    )
    parser.add_argument("--seed", type=int, default=42, help="of random weights")
    parser.add_argument("--layer", help="like net.features.30; the last map before the head if not given")
    parser.add_argument("--pool", choices=["none", "average"], default="none")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="of train, val, test; all if not given")
    parser.add_argument("--config", type=Path, metavar="EXPERIMENT.yaml", help="take its data section")
    parser.add_argument("--device", default=default_device())
    arguments, flags = parser.parse_known_args()
    with plainly():
        table = extract(arguments, flags)
        rows, values = table.shape
        counts = ", ".join(f"{name} {len(table.rows([name]))}" for name in table.split_names)
        print(f"{arguments.out}: {rows} rows ({counts}) of {values} values, {table.dtype}, from {table.made['layer']}")


if __name__ == "__main__":
    main()
