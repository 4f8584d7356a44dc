"""What every LightningModule of this project shares, whatever it is trained for: how it goes on from a checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule


class Network(LightningModule):
    """A network that refuses the weights of another, and trains on with the settings it is given.

    A subclass has the steps. Each returns ``loss``, a scalar, and tensors with a row for each sample of the batch;
    callbacks read them.

    Attributes:
        monitor: the metric whose highest value makes the best checkpoint; None where the last is the best.
        has_weights: whether it can be tested without a checkpoint, as its settings name trained weights.
    """

    monitor: str | None = None
    has_weights: bool = False

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network before any is loaded.

        Raises:
            ValueError: names the first weights that differ.
        """
        if "state_dict" not in checkpoint:  # a strategy that shards weights has loaded them, and compared names
            return
        found = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
        expected = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        differing = [name for name in (expected | found) if expected.get(name) != found.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"the checkpoint holds another network than this {type(self).__name__}: {len(differing)} tensors "
                f"differ, {name} is {found.get(name, 'missing')} there and {expected.get(name, 'missing')} here"
            )

    def on_train_start(self) -> None:
        """Give a continued run the optimizer settings it is configured with, not those that its checkpoint holds."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer, fresh in zip(optimizers, self.configured_optimizers(), strict=True):
            for group, configured in zip(optimizer.param_groups, fresh.param_groups, strict=True):
                group.update({name: value for name, value in configured.items() if name != "params"})

    def refuse_other_optimizers(self, states: Sequence[dict[str, Any]]) -> None:
        """Refuse the state of another optimizer than there is now, before it is loaded.

        Raises:
            ValueError: names the settings of the other one.
        """
        for state, fresh in zip(states, self.configured_optimizers(), strict=False):
            then, now = state["param_groups"], fresh.param_groups
            if len(then) != len(now):
                raise ValueError(
                    f"the checkpoint's optimizer has {len(then)} groups of weights and this one {len(now)}: which "
                    "weights have decay or a rate of their own cannot change within a run; begin another"
                )
            lost, new = then[0].keys() - now[0].keys() - {"initial_lr"}, now[0].keys() - then[0].keys()
            if lost and new:  # one of both alone is another version of the same
                raise ValueError(
                    f"the checkpoint holds the state of another optimizer than {type(fresh).__name__}, with "
                    f"{', '.join(sorted(lost))}; go on with that one, or begin another run"
                )

    def configured_optimizers(self) -> list[torch.optim.Optimizer]:
        """New ones, as many as there are."""
        configured = self.configure_optimizers()
        return list(configured) if isinstance(configured, (list, tuple)) else [configured]
