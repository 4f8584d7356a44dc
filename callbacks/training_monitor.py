"""The history of a run: a record, a picture and a log line for each epoch."""

import json
import logging
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.epoch_means import EpochMeans, samples
from callbacks.panels import step_of
from callbacks.provenance import changes
from callbacks.step_clock import StepClock
from callbacks.whole_file import dispensable_file

HISTORY, PICTURE, TIMINGS = "history.json", "history.png", "timings.json"
TRAIN, VAL, BEST, CHANGE = "#4477aa", "#ee6677", "#888888", "#228833"
OUTLIER = 20  # times the median loss: beside such an epoch the others would be a flat line
PAUSE = 10.0  # seconds from one drawing to the next
LONG_WAIT = 0.1  # share of the training time that, spent waiting for data, is worth a word

Record = dict[str, float | None]


@dataclass(frozen=True)
class Score:
    """A metric that is the better the higher it is: its name in a record, and how people read it.

    ``tested`` says whether a test measures it.
    """

    metric: str
    title: str
    short: str
    unit: str
    factor: float
    tested: bool = True

    def shown(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.factor * value:.2f} {self.unit}"


SCORES = (
    Score("top1", "Top-1 accuracy", "top-1", "%", 100),
    Score("psnr", "PSNR", "PSNR", "dB", 1),
    Score("discriminator", "Accuracy of the discriminator", "discriminator", "%", 100, tested=False),
)

logger = logging.getLogger("litvision")


class TrainingMonitor(Callback):
    """Writes ``history.json`` and ``history.png`` into the run's folder, and a line into its log, after each epoch.

    Short epochs share a drawing, which takes longer than a GPU needs for hundreds of steps.

    A record holds ``epoch`` (finished ones, counted from 1), ``step``, ``lr`` (of the last step) and every ``train/``
    and ``val/`` metric of that epoch, null where it is not finite. No clock time is among them: a run that was
    interrupted and resumed has the same history as one that was not. ``timings.json`` has the ``seconds`` of each
    epoch, and of its training the ``images_per_second`` and ``data_wait``, the share of time that it waited for data.
    Loggers get both as ``speed/images_per_second`` and ``speed/data_wait``, and the learning rate as ``lr``.

    Raises:
        ValueError: at setup, if a metric is listed after the monitor and so would miss its own epoch.
    """

    def __init__(self) -> None:
        self.history: list[Record] = []
        self._drawn, self._drawn_at = 0, -math.inf  # how many epochs, and when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse an order of callbacks in which training metrics come too late."""
        self._begin_epoch()
        for callback in trainer.callbacks[trainer.callbacks.index(self) :]:
            if isinstance(callback, EpochMeans):
                raise ValueError(f"TrainingMonitor records {type(callback).__name__}; list it after that callback")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the history where the checkpoint left it."""
        # not current_epoch: with max_steps, a resumed trainer counts the last epoch as unfinished for a moment
        finished = trainer.fit_loop.epoch_progress.current.processed
        folder = Path(trainer.default_root_dir)
        self.timings: list[Record] = []
        if trainer.is_global_zero:
            self.history, self.timings = (earlier(folder / name, finished) for name in (HISTORY, TIMINGS))
        self._begin_epoch()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that the batch is there."""
        self._clock.step_begins()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._clock.step_ends(samples(outputs))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep validation out of the training speed."""
        self._clock.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on training."""
        self._clock.go_on()
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch."""
        clock = self._clock
        if not trainer.is_global_zero or not clock.images:  # no images: an epoch that a resume found finished
            return
        seconds, data_wait = clock.seconds, clock.data_wait
        images_per_second = clock.images_per_second * trainer.world_size

        # a metric of an earlier validation stays among the callback metrics; it is none of this epoch
        stages = ("train/", "val/") if self._validated else ("train/",)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(stages)}
        record: Record = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            **{name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())},
        }
        self.history.append(record)
        speed = {"images_per_second": round(images_per_second, 1), "data_wait": round(data_wait, 4)}
        self.timings.append({"epoch": record["epoch"], "seconds": round(seconds, 2), **speed})

        folder = Path(trainer.default_root_dir)
        write(self.history, folder / HISTORY)
        write(self.timings, folder / TIMINGS)
        self._draw(trainer, 0.0 if record["epoch"] == trainer.max_epochs else PAUSE)  # before the last checkpoint
        for dashboard in trainer.loggers:
            logged = {"lr": record["lr"], **{f"speed/{name}": value for name, value in speed.items()}}
            dashboard.log_metrics(logged, step=step_of(trainer))
        shown = [line(record, trainer.max_epochs), f"{images_per_second:,.0f} images/s".replace(",", " ")]
        shown += [f"{seconds:.1f} s", *[f"waited for data {100 * data_wait:.0f} %"] * (data_wait > LONG_WAIT)]
        logger.info("  ".join(shown))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last epochs."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same of a training that does not end well."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer, pause: float = 0.0) -> None:
        """Draw the history, if it has grown, and so many seconds after the last time."""
        if len(self.history) > self._drawn and time.monotonic() - self._drawn_at >= pause:
            folder = Path(trainer.default_root_dir)
            draw(self.history, folder / PICTURE, changes(folder))
            self._drawn, self._drawn_at = len(self.history), time.monotonic()

    def _begin_epoch(self) -> None:
        self._clock = StepClock()
        self._validated = False


def line(record: Record, max_epochs: int | None) -> str:
    """How an epoch went: epoch, loss and score (training / validation) where measured, learning rate."""
    epoch = f"epoch {record['epoch']}"
    if max_epochs is not None and max_epochs > 0:
        epoch = f"epoch {record['epoch']:>{len(str(max_epochs))}}/{max_epochs}"
    loss = " / ".join(f"{value:.4f}" for value in both_stages(record, "loss"))
    score = score_of([record])
    scores = " / ".join(f"{score.factor * value:.1f}" for value in both_stages(record, score.metric))
    shown = f"{score.short} {scores} {score.unit}"
    parts = [epoch, loss and f"loss {loss}", scores and shown, f"lr {record['lr']:.4g}"]
    return "  ".join(part for part in parts if part)


def score_of(history: Sequence[Record]) -> Score:
    """The score of a run, which tells what it trains: the first of ``SCORES`` that it measured."""
    measured = {name.partition("/")[2] for record in history for name in record}
    return next((score for score in SCORES if score.metric in measured), SCORES[0])


def both_stages(record: Record, metric: str) -> list[float]:
    """The metric in training and in validation, as far as it was measured."""
    measured = [record[name] for name in (f"train/{metric}", f"val/{metric}") if name in record]
    return [math.nan if value is None else value for value in measured]


def earlier(path: Path, finished: int) -> list[Record]:
    """Records of the finished epochs of a run that goes on."""
    records = json.loads(path.read_text(encoding="utf-8")) if finished and path.exists() else []
    return [record for record in records if record["epoch"] <= finished]


def write(history: list[Record], path: Path) -> None:
    """One record a line, never seen half-written."""
    records = ",\n".join(json.dumps(record, allow_nan=False) for record in history)
    with dispensable_file(path) as partial:
        partial.write_text(f"[\n{records}\n]\n", encoding="utf-8")


def draw(history: list[Record], path: Path, changes: Sequence[float] = ()) -> None:
    """Loss and score over the epochs, and the learning rate if it varied; a line where settings changed."""
    rate_varied = len({record["lr"] for record in history}) > 1
    widths = [5, 5, 3] if rate_varied else [5, 5]
    figure = Figure(figsize=(sum(widths), 4), dpi=100)
    loss, scores, *rate = figure.subplots(1, len(widths), width_ratios=widths)
    # by hand, in inches: a layout engine would draw everything twice
    figure.subplots_adjust(left=0.6 / sum(widths), right=1 - 0.2 / sum(widths), bottom=0.14, top=0.92, wspace=0.22)

    best, score = best_epoch(history), score_of(history)
    draw_metric(loss, history, "loss", 1, best)
    draw_metric(scores, history, score.metric, score.factor, best)
    losses = [value for stage in ("train", "val") for value in curve(history, f"{stage}/loss")[1]]
    if losses and min(losses) > 0 and max(losses) > OUTLIER * statistics.median(losses):
        loss.set_yscale("log")
    loss.set_title("Loss")
    scores.set_title(score.title)
    scores.set_ylabel(score.unit)
    if rate_varied:
        epochs, rates = curve(history, "lr")
        rate[0].plot(epochs, rates, color=BEST)
        if max(rates) > 10 * min(rates):
            rate[0].set_yscale("log")
        else:  # a logarithmic scale within a decade has long numbers
            rate[0].ticklabel_format(axis="y", style="scientific", scilimits=(0, 0))
        rate[0].set_title("Learning rate")
    for axes in figure.axes:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for epochs in changes:
            axes.axvline(epochs, color=CHANGE, linewidth=1, linestyle="--")
            text = {"rotation": 90, "fontsize": "small", "color": CHANGE, "va": "bottom", "ha": "right"}
            axes.text(epochs, 0.02, "settings changed ", transform=axes.get_xaxis_transform(), **text)

    with dispensable_file(path) as partial:
        figure.savefig(partial, format="png")


def draw_metric(axes: Axes, history: list[Record], metric: str, scale: float, best: int | None) -> None:
    """A metric in training and in validation, with the best epoch marked."""
    marker = "." if len(history) <= 30 else ""
    for stage, label, color in (("train", "training", TRAIN), ("val", "validation", VAL)):
        epochs, measured = curve(history, f"{stage}/{metric}")
        if epochs:
            axes.plot(epochs, [scale * value for value in measured], color=color, marker=marker, label=label)
    value = next((record.get(f"val/{metric}") for record in history if record["epoch"] == best), None)
    if value is not None:
        label = f"epoch {best}: {scale * value:.4g}"
        axes.plot(best, scale * value, "o", color=VAL, markeredgecolor="black", label=label, zorder=3)
        axes.axvline(best, color=BEST, linewidth=1, linestyle=":")
    if axes.has_data():
        axes.legend(frameon=False, loc="upper right" if metric == "loss" else "lower right")


def curve(history: Sequence[Record], name: str) -> tuple[list[float], list[float]]:
    """Epochs in which a metric was measured and finite, and its values."""
    points = [(record["epoch"], record[name]) for record in history if record.get(name) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]


def best_epoch(history: Sequence[Record]) -> int | None:
    """The first epoch with the highest score in validation, or with the lowest validation loss without one."""
    for name, sign in ((f"val/{score_of(history).metric}", 1), ("val/loss", -1)):
        epochs, measured = curve(history, name)
        if epochs:
            return max(zip(epochs, measured, strict=True), key=lambda point: sign * point[1])[0]
    return None
