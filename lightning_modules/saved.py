"""A trained network as its checkpoint keeps it: weights, configuration, and how its pictures are prepared."""

import json
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightning_modules.base import Classifier
from lightning_modules.network import Network
from sections import built
from tensor_file import read_tensors

BEST = "checkpoints/best.ckpt"  # in a run's folder

Preprocessing = dict[str, Any]
"""``classes``, their names; ``stored_size`` and ``input_size`` in pixels; ``shift`` and ``scale``, tensors
``(1, 3, h, w)``; and where they come from: ``packed_set`` and ``normalization``, names."""

Kind = TypeVar("Kind", bound=Network)


def saved_network(place: str | Path, kind: type[Kind] = Classifier) -> tuple[Kind, Preprocessing]:
    """The network of a checkpoint, of a run's best checkpoint, or of exported weights; no code in the file can run.

    Args:
        kind: what it must be.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, does not hold all that is needed, or holds another kind of network.
    """
    path = Path(place, BEST) if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; name a checkpoint, or the folder of a trained run")
    saved = _weights_file(path) if path.suffix == ".safetensors" else _checkpoint(path)
    preprocessing = saved["preprocessing"]
    settings = yaml.safe_load(saved["config"])["model"]
    module, _, name = settings["class_path"].rpartition(".")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"{path} holds a {name}, which is no {kind.__name__}; name a run that trained one")
    of_data = {
        "num_classes": len(preprocessing["classes"]),
        "image_size": preprocessing["input_size"],
        "image_channels": preprocessing.get("image_channels", 3),
    }
    linked = {name: of_data[name] for name in of_data.keys() & signature(found).parameters.keys()}
    settings["init_args"] = settings.get("init_args", {}) | linked  # none are written where all are linked
    network = built(kind, "model", settings)
    network.on_load_checkpoint(saved)  # refuses the weights of another network
    network.load_state_dict(saved["state_dict"])
    return network.eval(), preprocessing


def save_weights(place: str | Path, file: Path) -> None:
    """Write what ``saved_network`` needs into a safetensors file: tensors, and the rest as text beside them."""
    from safetensors.torch import save

    path = Path(place, BEST) if Path(place).is_dir() else Path(place)
    saved = _checkpoint(path)
    preprocessing = dict(saved["preprocessing"])
    tensors = {f"preprocessing.{name}": preprocessing.pop(name) for name in ("shift", "scale")}
    tensors |= {f"network.{name}": tensor for name, tensor in saved["state_dict"].items()}
    metadata = {"config": saved["config"], "preprocessing": json.dumps(preprocessing)}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    file.write_bytes(content)  # where the disk is full, the library's own error would not say which file


def _checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = read_tensors(path, "take another of the run's checkpoints")
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    if missing := {"config", "state_dict", "preprocessing"} - set(checkpoint):
        raise ValueError(
            f"{path} does not say which network it holds: it lacks {' and '.join(sorted(missing))}; main.py fit writes "
            "checkpoints that do"
        )
    return checkpoint


def _weights_file(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        preprocessing = json.loads(metadata["preprocessing"])
        preprocessing |= {name: tensors[f"preprocessing.{name}"] for name in ("shift", "scale")}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or was not written by tools/export.py ({error})") from error
    weights = {name.removeprefix("network."): v for name, v in tensors.items() if name.startswith("network.")}
    return {"config": metadata["config"], "preprocessing": preprocessing, "state_dict": weights}
