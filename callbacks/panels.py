"""Pictures and tables for the dashboards that can show them: Weights & Biases and TensorBoard."""

import io
from collections.abc import Sequence

import numpy as np
import yaml
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

COLUMNS = 4  # of a sheet of pictures


def log_config(logger: Logger, config: str) -> None:
    """A run's configuration, YAML."""
    logger.log_hyperparams(yaml.safe_load(config))
    if isinstance(logger, TensorBoardLogger):  # which shows no hyperparameters without metrics
        logger.experiment.add_text("config", f"```yaml\n{config}```", 0)


def log_pictures(logger: Logger, name: str, pictures: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
    """RGB pictures uint8 ``(H, W, 3)``: a gallery, or where captions cannot be shown beside them, one sheet."""
    if isinstance(logger, WandbLogger):
        logger.log_image(name, list(pictures), step=step, caption=list(captions))
    elif isinstance(logger, TensorBoardLogger):
        log_figure(logger, name, sheet(pictures, captions), step)


def log_figure(logger: Logger, name: str, figure: Figure, step: int) -> None:
    """A drawing."""
    if not isinstance(logger, (WandbLogger, TensorBoardLogger)):
        return
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    pixels = np.asarray(Image.open(file).convert("RGB"))
    if isinstance(logger, WandbLogger):
        logger.log_image(name, [pixels], step=step)
    else:
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")


def step_of(trainer: Trainer) -> int:
    """The training step, which is the axis of a dashboard: one a batch, however many optimizers step in it."""
    return trainer.global_step // max(1, len(trainer.optimizers))


def log_table(logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
    """A table, as Markdown where there are no tables."""
    if isinstance(logger, WandbLogger):
        logger.log_table(name, list(columns), [list(row) for row in rows], step=step)
    elif isinstance(logger, TensorBoardLogger):
        cells = [columns, ["---"] * len(columns), *rows]
        lines = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in cells]
        logger.experiment.add_text(name, "\n".join(lines), step)


def sheet(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Pictures in rows, each with its caption above."""
    lines = -(-len(pictures) // COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.2 * lines), dpi=100, layout="constrained")
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True), start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(caption, fontsize=8, parse_math=False)
        axes.set_axis_off()
    return figure


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
