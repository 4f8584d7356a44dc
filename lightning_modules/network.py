"""What every LightningModule of this project shares, whatever it is trained for: how it goes on from a checkpoint."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.nn.parameter import is_lazy

logger = logging.getLogger("litvision")


class Network(LightningModule):
    """A network that refuses the weights of another, and trains on with the settings it is given.

    A subclass has the steps. Each returns ``loss``, a scalar, and tensors with a row for each sample of the batch;
    callbacks read them.

    Args:
        optimizer: maps parameters, or groups of them, to an optimizer.

    Raises:
        ValueError: there is no optimizer.

    Attributes:
        monitor: the metric whose highest value makes the best checkpoint; None where the last is the best.
        has_weights: whether it can be tested without a checkpoint, as its settings name trained weights.
    """

    monitor: str | None = None
    has_weights: bool = False

    def __init__(self, optimizer: OptimizerCallable) -> None:
        super().__init__()
        if not callable(optimizer):
            raise ValueError(f"optimizer is {optimizer}; name one, like torch.optim.SGD")
        self.optimizer = optimizer

    def setup(self, stage: str) -> None:
        """Refuse weights without a shape, which trained would fit into no network that is built anew.

        Raises:
            ValueError: names the first of them.
        """
        for name, tensor in self.state_dict(keep_vars=True).items():
            if is_lazy(tensor):
                raise ValueError(
                    f"{name} of {type(self).__name__} has no shape yet, so that no checkpoint could be loaded into it; "
                    "at the end of __init__, let the network see a picture of zeros, or name its layers' sizes"
                )

    def load_pretrained(self) -> None:
        """Load the trained weights that the settings name, unless these or others were loaded before."""

    def on_fit_start(self) -> None:
        """Load such weights; a checkpoint's would have been loaded by now."""
        self.load_pretrained()

    # without a checkpoint, an evaluation is one of the pretrained weights
    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def compare_normalization(self, weights: str, normalization: str) -> None:
        """Warn where a run's pictures are not normalised as those that its weights were trained on.

        Args:
            weights: what they are called.
            normalization: of the pictures that they were trained on, see ``datamodules.normalization``.
        """
        data = self._trainer and self._trainer.datamodule
        here = getattr(data, "normalization", normalization)
        if here != normalization and self.global_rank == 0:
            logger.warning("%s: trained on pictures with normalization %s; here it is %s", weights, normalization, here)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network before any is loaded.

        Raises:
            ValueError: names the first weights that differ.
        """
        if "state_dict" not in checkpoint:  # a strategy that shards weights has loaded them, and compared names
            return
        if differing := differing_tensors(checkpoint["state_dict"], self.state_dict()):
            here = getattr(self, "image_size", None)
            trained = checkpoint.get("preprocessing", {}).get("input_size", here)
            sizes = "" if trained == here else f", one for pictures of {trained} pixels, not {here}"
            raise ValueError(
                f"the checkpoint holds another network than this {type(self).__name__}{sizes}: {len(differing)} "
                f"tensors differ, {', '.join(list(differing.values())[:3])}"
            )

    def on_train_start(self) -> None:
        """Give a continued run the optimizer settings it is configured with, not those that its checkpoint holds."""
        for optimizer, fresh in zip(self.trainer.optimizers, self.configured_optimizers(), strict=True):
            for group, configured in zip(optimizer.param_groups, fresh.param_groups, strict=True):
                group.update({name: value for name, value in configured.items() if name != "params"})

    def refuse_other_optimizers(self, states: Sequence[dict[str, Any]]) -> None:
        """Refuse the state of another optimizer, or one that its settings cannot go on from, before it is loaded.

        Raises:
            ValueError: names the settings of the other one, or what the state lacks.
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
            index, kept = next(iter(state["state"].items()), (0, {}))
            if kept and (lacking := names_of_state(fresh, index) - kept.keys()):
                raise ValueError(
                    f"the checkpoint's optimizer kept {', '.join(sorted(kept))}, but {type(fresh).__name__} with its "
                    f"settings of now goes on from {', '.join(sorted(lacking))} too; go on with the same optimizer, "
                    "or begin another run"
                )

    def configured_optimizers(self) -> list[torch.optim.Optimizer]:
        """New ones, as many as there are."""
        configured = self.configure_optimizers()
        return list(configured) if isinstance(configured, (list, tuple)) else [configured]


def differing_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """In words, what differs between two state dicts: tensors of another shape, or in one of them alone, by name."""
    there, here = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (found, expected))
    return {
        name: f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in here | there
        if there.get(name) != here.get(name)
    }


def names_of_state(optimizer: torch.optim.Optimizer, index: int) -> set[str]:
    """What an optimizer keeps of its parameter of this number from step to step; it is of no other use afterwards.

    Nothing of one that cannot step here: weights are on the CPU before a checkpoint is loaded, and some need a GPU.
    """
    with suppress(Exception):
        group, parameter = [(group, each) for group in optimizer.param_groups for each in group["params"]][index]
        stand_in = torch.zeros_like(parameter)
        stand_in.grad = torch.zeros_like(stand_in)
        optimizer.state = defaultdict(dict, {stand_in: optimizer.state.get(parameter, {})})
        optimizer.param_groups = [{**group, "params": [stand_in]}]
        optimizer.step(lambda: 0.0)
        return set(optimizer.state[stand_in])
    return set()
