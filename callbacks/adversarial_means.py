"""How generator and discriminator stand against each other."""

from torch import Tensor
from torch.nn import functional as F

from callbacks.epoch_means import EpochMeans


class AdversarialMeans(EpochMeans):
    """Logs ``generator_loss``, ``discriminator_loss``, and ``discriminator``, the share of pictures it judges well.

    Reads logits ``(B,)``: ``real``, ``generated`` and, after the discriminator's step, ``fooled``.
    """

    def sums(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``EpochMeans.sums``."""
        real, generated, fooled = (outputs[name].float() for name in ("real", "generated", "fooled"))
        return {
            "generator_loss": F.softplus(-fooled).sum(),
            "discriminator_loss": (F.softplus(-real) + F.softplus(generated)).sum() / 2,
            "discriminator": ((real > 0).float() + (generated < 0)).sum() / 2,
        }
