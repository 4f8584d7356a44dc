"""What a dashboard shows of a classifier's run beside its curves: classes, confusions, pictures."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.class_report import MOST, Scores, class_names, counted, drawn_confusion, with_columns
from callbacks.panels import log_figure, log_pictures, log_table


class Dashboard(Callback):
    """Gives the trainer's loggers what they can show; without any it does nothing.

    At the start ``train/augmented``, a batch as the network sees it; every ``log_every_n_steps`` the learning rate; at
    the end of training (of the last validation) and of a test, ``<stage>/classes`` with precision, recall and F1,
    ``<stage>/confusion`` and ``<stage>/predictions``. No step waits for the device. Pictures need a datamodule with
    ``preprocessing``, which says what pixels an input was made of.

    Args:
        pictures: how many of a kind; 0 sends none.
    """

    def __init__(self, pictures: int = 16) -> None:
        if pictures < 0:
            raise ValueError(f"pictures is {pictures}; it must be 0 or more")
        self.pictures = pictures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin from nothing."""
        self._watched = False  # by any logger of the first process
        self._trained = False
        self._step = 0  # so far
        self._begin_evaluation()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether anybody looks."""
        self._watched = trainer.strategy.broadcast(bool(trainer.loggers))

    on_test_start = on_fit_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Show the first batch."""
        if not self._trained and trainer.loggers:
            images, labels = (tensor[: self.pictures].cpu() for tensor in batch)
            names = class_names(trainer, pl_module.num_classes)
            self._log_pictures(trainer, "train/augmented", images, mixtures(labels, names))
        self._trained = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Log the learning rate now and then."""
        step, every = trainer.global_step, trainer.log_every_n_steps
        if trainer.loggers and every and step % every == 0 and step != self._step:
            for logger in trainer.loggers:
                logger.log_metrics({"lr": trainer.optimizers[0].param_groups[0]["lr"]}, step=step)
        self._step = step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the one before."""
        self._begin_evaluation()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and keep a few of its pictures."""
        if not trainer.sanity_checking:
            self._keep(trainer, outputs, batch[0], batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and keep a few of its pictures."""
        self._keep(trainer, outputs, batch[0], batch_idx, trainer.num_test_batches[dataloader_idx])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up the processes."""
        self._add_up(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up the processes, and show what the test found."""
        self._add_up(trainer)
        self._show("test", trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the last validation found."""
        self._show("val", trainer)

    def _begin_evaluation(self) -> None:
        self._confusion: Tensor | None = None
        self._samples: list[tuple[Tensor, Tensor, Tensor]] = []  # images, logits, labels

    def _keep(self, trainer: Trainer, outputs: dict[str, Tensor], images: Tensor, batch_idx: int, batches: int) -> None:
        if not self._watched:
            return
        logits, labels = outputs["logits"], outputs["labels"]
        self._confusion = counted(self._confusion, logits, labels)
        first, last = (self.pictures * number // batches for number in (batch_idx, batch_idx + 1))
        if trainer.loggers and first < last:  # as many from each batch as lets the last one end with all
            few = slice(0, None, max(1, int(len(labels) // (last - first))))
            kept = (tensor[few][: int(last - first)] for tensor in (images, logits, labels))
            self._samples.append(tuple(tensor.clone() for tensor in kept))

    def _add_up(self, trainer: Trainer) -> None:
        if self._confusion is not None:
            self._confusion = trainer.strategy.reduce(self._confusion, reduce_op="sum")

    def _show(self, stage: str, trainer: Trainer) -> None:
        if self._confusion is None or not trainer.loggers:
            return
        confusion, names = self._confusion.cpu().numpy(), class_names(trainer, len(self._confusion))
        matrix, predictable = with_columns(confusion, names)
        figure = drawn_confusion(matrix, names, predictable) if len(names) <= MOST else None
        columns = ("class", "precision", "recall", "F1", "samples")
        for logger in trainer.loggers:
            log_table(logger, f"{stage}/classes", columns, Scores.of(confusion).rows(names), trainer.global_step)
            if figure:
                log_figure(logger, f"{stage}/confusion", figure, trainer.global_step)
        if self._samples:
            images, logits, labels = (torch.cat(tensors).cpu() for tensors in zip(*self._samples, strict=True))
            probabilities, said = logits.float().softmax(dim=1).max(dim=1)
            found = zip(said.tolist(), probabilities.tolist(), labels.tolist(), strict=True)
            captions = [f"predicted {names[i]}, {100 * p:.0f} %\ntrue {names[label]}" for i, p, label in found]
            first_views = images[:, 0] if images.ndim == 5 else images
            self._log_pictures(trainer, f"{stage}/predictions", first_views, captions)

    def _log_pictures(self, trainer: Trainer, name: str, images: Tensor, captions: list[str]) -> None:
        """Show pictures of the network's input ``(N, 3, H, W)``."""
        preprocessing = getattr(trainer.datamodule, "preprocessing", None)
        if not captions or preprocessing is None:
            return
        scaled = images.float().cpu() / preprocessing["scale"] + preprocessing["shift"]
        pictures = scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        for logger in trainer.loggers:
            log_pictures(logger, name, pictures, captions, trainer.global_step)


def mixtures(labels: Tensor, names: list[str]) -> list[str]:
    """What each training picture is of, int64 ``(N,)`` or mixed labels ``(N, C)``: the two most of it."""
    if labels.ndim == 1:
        return [names[label] for label in labels.tolist()]
    shares, classes = labels.topk(min(2, labels.shape[1]), dim=1)
    found = [zip(*pair, strict=True) for pair in zip(shares.tolist(), classes.tolist(), strict=True)]
    return ["\n".join(f"{names[label]} {100 * share:.0f} %" for share, label in pair if share > 0) for pair in found]
