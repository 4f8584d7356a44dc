"""The mean loss of an epoch."""

from torch import Tensor

from callbacks.epoch_means import EpochMeans


class MeanLoss(EpochMeans):
    """Logs ``loss``: the mean over all samples, each batch weighted by its size."""

    def sums(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``EpochMeans.sums``."""
        return {"loss": outputs["loss"].float() * len(outputs["labels"])}
