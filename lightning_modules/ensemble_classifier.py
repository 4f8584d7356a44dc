"""The mean of several networks' probabilities (Hansen & Salamon 1990, Neural Network Ensembles, IEEE TPAMI 12)."""

import glob
from typing import NoReturn

from torch import Tensor, nn

from lightning_modules.base import Classifier, log_mean_probabilities
from lightning_modules.saved import saved_network


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

    has_weights = True

    def __init__(self, num_classes: int, image_size: int, checkpoints: list[str]) -> None:
        super().__init__(num_classes, image_size)
        if not checkpoints:
            raise ValueError("checkpoints is empty; an ensemble needs at least one")
        checkpoints = [place for pattern in checkpoints for place in matching(pattern)]
        built = [saved_network(checkpoint) for checkpoint in checkpoints]
        for checkpoint, (member, _) in zip(checkpoints, built, strict=True):
            found = member.num_classes, member.image_size
            if found != (num_classes, image_size):
                raise ValueError(
                    f"{checkpoint} tells {found[0]} classes apart in pictures of {found[1]} pixels, the ensemble "
                    f"{num_classes} in pictures of {image_size}; members share both"
                )
        self.members = nn.ModuleList(member for member, _ in built)
        self.checkpoints = checkpoints
        self._seen = [prepared(seen["packed_set"], seen["normalization"]) for _, seen in built]

    def setup(self, stage: str) -> None:
        """Refuse pictures that a member would take for something else.

        Raises:
            ValueError: a member was trained on another data set, or its pictures were normalised otherwise.
        """
        data = self.trainer.datamodule
        here = prepared(data.folder.name, data.normalization)
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


def prepared(packed_set: str, normalization: str) -> str:
    """What decides which pictures reach a network: data set and split, their stored size, and the normalisation."""
    return f"the packed set {packed_set} with normalization {normalization}"
