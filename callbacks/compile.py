"""torch.compile of the network."""

from typing import Literal

from pytorch_lightning import Callback, LightningModule, Trainer


class Compile(Callback):
    """Compiles the network in place, so that the names in checkpoints stay as they are.

    The first steps take a minute or so. Whether later ones are faster depends on network and device: benchmarks/step.py
    measures it. On a CPU MiniVGGNet gains nothing.

    Args:
        mode: of ``torch.compile``. Those with CUDA graphs are left out: they would overwrite the logits that metrics
            are still to read.
        dynamic: whether to compile for any batch size at once; by default torch decides, and compiles again for the
            smaller last batch of an evaluation.
    """

    def __init__(
        self,
        mode: Literal["default", "max-autotune-no-cudagraphs"] = "default",
        dynamic: bool | None = None,
    ) -> None:
        self.mode, self.dynamic = mode, dynamic
        self._compiled = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile ``pl_module.net``, once; nothing happens before the first batch.

        Raises:
            ValueError: there is none: it is no network of a single part.
        """
        if not hasattr(pl_module, "net"):
            raise ValueError(f"callbacks.Compile takes networks of one part, which {type(pl_module).__name__} is not")
        if not self._compiled:
            pl_module.net.compile(mode=self.mode, dynamic=self.dynamic)
            self._compiled = True
