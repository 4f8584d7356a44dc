"""The mean of several networks' probabilities (Hansen & Salamon 1990, Neural Network Ensembles, IEEE TPAMI 12)."""

import glob
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor, nn

from lightning_modules.base import Classifier, log_mean_probabilities

BEST = "checkpoints/best.ckpt"  # in a run's folder


class EnsembleClassifier(Classifier):
    """Networks that were trained one by one, and are tested as one. It is not trained itself.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels.
        checkpoints: of the members; for a run's folder, its best one; for a pattern like ``snapshot-*.ckpt``, all that
            it matches. Each is rebuilt from the configuration that its checkpoint holds.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: there are none, one cannot be read, or has other classes or another input size.
    """

    def __init__(self, num_classes: int, image_size: int, checkpoints: list[str]) -> None:
        super().__init__(num_classes, image_size)
        if not checkpoints:
            raise ValueError("checkpoints is empty; an ensemble needs at least one")
        checkpoints = [place for pattern in checkpoints for place in matching(pattern)]
        built = [member_of(checkpoint) for checkpoint in checkpoints]
        for checkpoint, (member, _) in zip(checkpoints, built, strict=True):
            found = member.num_classes, member.image_size
            if found != (num_classes, image_size):
                raise ValueError(
                    f"{checkpoint} tells {found[0]} classes apart in pictures of {found[1]} pixels, the ensemble "
                    f"{num_classes} in pictures of {image_size}; members share both"
                )
        self.members = nn.ModuleList(member for member, _ in built)
        self.checkpoints = checkpoints
        self._seen = [normalized_pictures(data) for _, data in built]

    def setup(self, stage: str) -> None:
        """Refuse pictures that a member would take for something else.

        Raises:
            ValueError: a member was trained on another data set, or its pictures were normalised otherwise.
        """
        here = normalized_pictures(self.trainer.datamodule)
        for checkpoint, seen in zip(self.checkpoints, self._seen, strict=True):
            if seen != here:
                raise ValueError(f"{checkpoint} was trained on {seen}; here are {here}")

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms of the mean probabilities ``(B, C)``, float32, of normalised images ``(B, 3, H, W)``."""
        return log_mean_probabilities([member(images) for member in self.members])

    def configure_optimizers(self) -> NoReturn:
        """Refuse to be trained.

        Raises:
            ValueError: always.
        """
        raise ValueError("an ensemble is tested, not trained; tools/train_ensemble.py trains its members")


def matching(pattern: str) -> list[str]:
    """The files that a pattern matches, sorted, or what is none."""
    return sorted(glob.glob(pattern)) or [pattern]


def member_of(place: str) -> tuple[Classifier, LightningDataModule]:
    """The network of a checkpoint or a run's folder, with its weights, and the data it was trained on, not read yet."""
    path = Path(place, BEST) if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; checkpoints names those of trained runs, or the runs' folders")
    checkpoint = contents(path)
    config = yaml.safe_load(checkpoint["config"])
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(Classifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    for data, model in (("num_classes", "num_classes"), ("input_size", "image_size")):
        parser.link_arguments(f"data.{data}", f"model.init_args.{model}", apply_on="instantiate")
    built = parser.instantiate_classes(parser.parse_object({name: config[name] for name in ("model", "data")}))
    built.model.on_load_checkpoint(checkpoint)  # refuses the weights of another network
    built.model.load_state_dict(checkpoint["state_dict"])
    return built.model, built.data


def contents(path: Path) -> dict[str, Any]:
    """Weights and configuration of a checkpoint; no code in it can run."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"{path} is damaged, or is not a checkpoint ({str(error).splitlines()[0][:100]})") from error
    if "config" not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(f"{path} does not say which network it holds; main.py fit writes checkpoints that do")
    return checkpoint


def normalized_pictures(data: LightningDataModule) -> str:
    """What decides which pictures reach a network: data set and split, their stored size, and the normalisation."""
    return f"the packed set {data.folder.name} with normalization {data.normalization}"
