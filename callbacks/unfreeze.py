"""Fine-tuning in stages: the head first, then named blocks of the body (Yosinski et al. 2014, arXiv 1411.1792)."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import OptimizerCallable
from torch.nn.modules.batchnorm import _BatchNorm

SWITCHED = "optimizer_of_the_unfrozen"  # key of a checkpoint


class Unfreeze(Callback):
    """Freezes parts of the network, and unfreezes some from given epochs on, with another optimizer if one is given.

    What is frozen follows from the epoch alone, so a continued run needs no memory of it. BatchNorm of frozen parts
    keeps its running statistics. All parameters are in the optimizer from the start, which leaves out what has no
    gradient.

    Args:
        frozen: names of the modules that are frozen from the start, like ``net.body``.
        unfrozen: names of modules by the epoch from which on they train, counted from 1:
            ``{26: [net.body.features.24]}``.
        optimizer: takes over at the first of those epochs; the module's own goes on by default.

    Raises:
        ValueError: at the start of training, if the network has no module of such a name, or several processes train
            with a strategy that expects a gradient of every parameter.
    """

    def __init__(
        self,
        frozen: list[str],
        unfrozen: dict[int, list[str]] | None = None,
        optimizer: OptimizerCallable | None = None,
    ) -> None:
        if not frozen:
            raise ValueError("frozen is empty; name the modules to freeze")
        if unfrozen and min(unfrozen) < 2:
            raise ValueError(f"unfrozen names epoch {min(unfrozen)}; what trains from epoch 1 on is never frozen")
        if optimizer and not unfrozen:
            raise ValueError("the optimizer is for what is unfrozen, and nothing is")
        self.frozen, self.unfrozen, self.optimizer = frozen, unfrozen or {}, optimizer
        self._switched = False
        self._begun: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work; freeze, now that each process knows all parameters."""
        names = dict(pl_module.named_modules())
        for name in [*self.frozen, *(name for blocks in self.unfrozen.values() for name in blocks)]:
            if name not in names:
                top = ", ".join(name for name in names if name and name.count(".") < 2)
                raise ValueError(f"the network has no module {name!r} to freeze; it has {top} and their parts")
        wrapped = getattr(trainer.strategy, "model", None)
        if trainer.world_size > 1 and not getattr(wrapped, "find_unused_parameters", False):
            raise ValueError(
                "several processes need --trainer.strategy ddp_find_unused_parameters_true where parts of the network "
                "are frozen"
            )
        self._apply(trainer.current_epoch, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what is due, and change the optimizer."""
        self._begin_epoch(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The same where Lightning starts no epoch, in an interrupted one."""
        if trainer.current_epoch != self._begun:
            self._begin_epoch(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whose state the checkpoint's optimizer state is."""
        checkpoint[SWITCHED] = self._switched

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the optimizer built whose state will be restored."""
        if trainer.state.fn == "fit" and checkpoint.get(SWITCHED):
            self._switched = True
            pl_module.optimizer = self.optimizer

    def _begin_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = trainer.current_epoch
        self._apply(self._begun, pl_module)
        due = bool(self.unfrozen) and self._begun + 1 >= min(self.unfrozen)
        if self.optimizer and due and not self._switched:
            self._switched = True
            pl_module.optimizer = self.optimizer
            trainer.strategy.setup_optimizers(trainer)

    def _apply(self, finished: int, pl_module: LightningModule) -> None:
        """Freeze and unfreeze for the epoch after so many finished ones."""
        _train(pl_module, self.frozen, False)
        for epoch, names in self.unfrozen.items():
            if finished + 1 >= epoch:
                _train(pl_module, names, True)


def _train(pl_module: LightningModule, names: Sequence[str], trains: bool) -> None:
    """Freeze modules or unfreeze them; Lightning leaves each in its mode after a validation."""
    for name in names:
        module = pl_module.get_submodule(name).requires_grad_(trains)
        for norm in filter(lambda part: isinstance(part, _BatchNorm), module.modules()):
            norm.train(trains)
