"""Top-k accuracy."""

import torch
from pytorch_lightning.utilities.rank_zero import WarningCache
from torch import Tensor

from callbacks.epoch_means import EpochMeans


class TopKAccuracy(EpochMeans):
    """Logs ``top<k>``: the share of samples whose label is among the k classes with the largest logits.

    Of equal logits the lower class comes first, as in ``numpy.argmax``. A sample with a logit that is not finite is a
    miss for every k. The label of a mixed sample is its largest component.

    Args:
        ks: the values of k; one above the number of classes is left out.
    """

    def __init__(self, ks: tuple[int, ...] = (1, 5)) -> None:
        if not ks or min(ks) < 1:
            raise ValueError(f"ks is {list(ks)}; it must hold at least one k, and each at least 1")
        self.ks = ks
        self._notes = WarningCache()

    def sums(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``EpochMeans.sums``."""
        ranks = ranks_of_labels(outputs["logits"], outputs["labels"])
        classes = outputs["logits"].shape[1]
        for k in self.ks:
            if k > classes:
                self._notes.info(f"top{k} is not measured: there are only {classes} classes")
        return {f"top{k}": (ranks < k).sum() for k in self.ks if k <= classes}


def ranks_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of classes that come before the label, ``(B,)``; C where a logit of the row is not finite.

    ``labels`` are class numbers ``(B,)`` or mixed ones ``(B, C)``.
    """
    if labels.ndim == 2:
        labels = labels.argmax(dim=1)
    labels = labels.unsqueeze(1)
    classes = logits.shape[1]
    own = logits.gather(1, labels)
    lower = torch.arange(classes, device=logits.device) < labels
    ranks = ((logits > own) | ((logits == own) & lower)).sum(dim=1)
    finite = logits.abs().amax(dim=1).isfinite()  # many times faster than isfinite().all(dim=1)
    return ranks.where(finite, classes)
