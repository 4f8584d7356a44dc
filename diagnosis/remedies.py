"""What to try against each cause of error, given what a run already does, as switches of this project."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnosis.gaps import Cause, Sign

LARGER = {
    "MiniVGGNet": "--model lightning_modules.MiniGoogLeNet, or lightning_modules.CifarResNet",
    "MiniGoogLeNet": "--model lightning_modules.CifarResNet",
    "CifarResNet": "a greater --model.depth, now {depth}",
    "ResNet": "more blocks or filters, --model.stages and --model.filters, now {stages} and {filters}",
    "TorchvisionModel": "a larger --model.architecture, now {architecture}",
    "FineTuner": "a larger backbone, or more hidden units, --model.hidden, now {hidden}",
}
COLOURS = ("brightness", "contrast", "saturation")
SMALL = 10_000  # pictures


@dataclass(frozen=True)
class Settings:
    """Those of a run's resolved configuration that decide what can still be tried."""

    network: str
    arguments: dict[str, Any]
    data: dict[str, Any]
    callbacks: tuple[str, ...]
    max_epochs: int | None
    run: Path

    @classmethod
    def of(cls, config: dict[str, Any], run: Path) -> "Settings":
        """Those of the content of the ``config.yaml`` in a run's folder."""
        model, trainer = config["model"], config.get("trainer", {})
        return cls(
            name_of(model),
            model.get("init_args") or {},
            config["data"].get("init_args") or {},
            tuple(name_of(callback) for callback in trainer.get("callbacks") or []),
            trainer.get("max_epochs"),
            run,
        )

    @property
    def augment(self) -> dict[str, float]:
        """What ``BatchAugment`` is set to do."""
        arguments = (self.data.get("batch_augment") or {}).get("init_args") or {}
        return {name: value for name, value in arguments.items() if isinstance(value, (int, float)) and value}

    @property
    def transforms(self) -> list[str]:
        """Names of the transforms of single pictures."""
        return [name_of(transform) for transform in self.data.get("transforms") or []]

    def above_zero(self, *endings: str) -> dict[str, float]:
        """Arguments of the network with such a name that are in use."""
        numbers = {name: value for name, value in self.arguments.items() if isinstance(value, (int, float))}
        return {name: value for name, value in numbers.items() if name.endswith(endings) and value > 0}

    @property
    def learning_rate(self) -> float | None:
        """The optimizer's, as configured; None where it is left to the optimizer."""
        return ((self.arguments.get("optimizer") or {}).get("init_args") or {}).get("lr")

    @property
    def hardships(self) -> list[str]:
        """What makes training pictures harder to name in training than they are."""
        augmented = [*self.transforms, *(f"batch_augment.{name}" for name in self.augment)]
        dropped = [f"{name} {value}" for name, value in self.above_zero("dropout").items()]
        return augmented + dropped


def remedies(cause: Cause, settings: Settings, signs: Sequence[Sign], pictures: int | None) -> list[str]:
    """What to try, in order; ``pictures`` is the number of training pictures, where known."""
    if cause == "bias":
        return list(against_bias(settings, signs))
    if cause == "variance":
        return list(against_variance(settings, signs, pictures))
    if cause == "data mismatch":
        return list(against_mismatch(settings))
    return [
        "keep more pictures for validation (--data.val_fraction) and choose fewer settings by it, because the best "
        "epoch and settings of many tries are partly the luckiest",
        "split anew (--data.split_seed) and see whether the gap stays; if it does, the test has other pictures than "
        "training: see data mismatch, with --train-val",
        "judge the final choice once, by pictures that no choice has seen",
    ]


def against_bias(settings: Settings, signs: Sequence[Sign]) -> Iterator[str]:
    """Against not fitting the training pictures."""
    if "still falling" in signs:
        yield longer(settings)
    if "Unfreeze" in settings.callbacks:
        yield "let more of the body train (unfrozen of callbacks.Unfreeze; tools/inspect_model.py lists the parts)"
    larger = LARGER.get(settings.network, "--model lightning_modules.ResNet or lightning_modules.TorchvisionModel")
    yield f"a larger network ({larger.format_map(Shown(settings.arguments))}), as this one cannot hold what it is shown"
    decays = settings.above_zero("weight_decay", "label_smoothing", "dropout")
    brakes = [f"--model.{name}, now {value:g}" for name, value in decays.items()]
    brakes += [f"--data.batch_augment.{name}, now {settings.augment[name]:g}" for name in mixing(settings)]
    brakes += [f"the transform {name}" for name in settings.transforms]
    if brakes:
        yield f"less of what holds it back ({'; '.join(brakes)}), one at a time"
    now = f", now {settings.learning_rate:g}" if settings.learning_rate else ""
    yield f"another learning rate, a third and three times as high (--model.optimizer.lr{now})"
    if not {"CosineDecay", "PolyDecay", "SnapshotEnsemble", "StepSchedule", "InverseTimeDecay"} & {*settings.callbacks}:
        yield "a rate that falls (--trainer.callbacks+=callbacks.CosineDecay), as a constant one keeps jumping about"


def against_variance(settings: Settings, signs: Sequence[Sign], pictures: int | None) -> Iterator[str]:
    """Against knowing only the training pictures."""
    switch = "--data.batch_augment"
    new = "" if settings.augment else f"{switch} datamodules.BatchAugment "
    unused = [name for name in ("mixup", "cutmix", "erasing") if name not in settings.augment]
    colours = [name for name in COLOURS if name not in settings.augment]
    if not settings.augment and not settings.transforms:
        yield (
            f"augmentation, as there is none ({new}{switch}.padding 4, and {switch}.flip 0.5 unless mirrored pictures "
            "mean something else)"
        )
    elif unused:
        values = {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.25}
        yield (
            f"stronger augmentation than the present {', '.join([*settings.transforms, *settings.augment])} "
            f"({new}{' or '.join(f'{switch}.{name} {values[name]}' for name in unused)})"
        )
    elif colours:
        yield f"augmentation of colours as well ({' '.join(f'{switch}.{name} 0.2' for name in colours)})"
    else:
        present = ", ".join(f"{name} {value:g}" for name, value in settings.augment.items())
        yield f"greater values of the augmentation that is on ({switch}: {present})"
    decays = settings.above_zero("weight_decay")
    now = ", ".join(f"--model.{name} {3 * value:g} instead of {value:g}" for name, value in decays.items())
    more = "more " if decays else ""
    yield f"{more}weight decay ({now or '--model.weight_decay 0.0005'}), which keeps weights small"
    if not settings.above_zero("label_smoothing"):
        yield "label smoothing (--model.label_smoothing 0.1), which keeps it from being too sure"
    if "EMA" not in settings.callbacks:
        yield "the mean of its weights over the last epochs (--trainer.callbacks+=callbacks.EMA)"
    if pictures and pictures < SMALL and settings.network != "FineTuner":
        yield (
            f"a pretrained body, as {pictures} pictures are few (lightning_modules.FineTuner, or "
            "tools/extract_features.py and tools/train_linear.py)"
        )
    if "overfits" in signs:
        yield "fewer epochs (--trainer.max_epochs), as validation loss rises again after its lowest"
    yield "more training pictures, or the mean of several networks (tools/train_ensemble.py)"


def against_mismatch(settings: Settings) -> Iterator[str]:
    """Against validation pictures of another kind than those of training."""
    yield (
        "look at the validation and test pictures that it gets wrong (report/per_class.csv, tools/compare.py "
        "--pictures) and say what the training pictures lack"
    )
    yield "collect training pictures of that kind, even a few, and train on both"
    missing = [name for name in COLOURS if name not in settings.augment]
    new = "" if settings.augment else "--data.batch_augment datamodules.BatchAugment "
    changes = " ".join(f"--data.batch_augment.{name} 0.3" for name in missing)
    how = f"{new}{changes}" if changes else "greater values of --data.batch_augment"
    yield f"make training pictures more like them ({how}, if it is the light; tools/shards.py preview shows it)"


def longer(settings: Settings) -> str:
    """Training on."""
    epochs = settings.max_epochs
    switch = f"--trainer.max_epochs {2 * epochs}" if epochs and epochs > 0 else "a higher --trainer.max_epochs"
    command = f"python main.py fit --continue {shlex.quote(str(settings.run))} {switch}"
    return f"train longer ({command}), because the loss was still falling at the end"


def mixing(settings: Settings) -> list[str]:
    """What of the augmentation makes pictures hardest."""
    return [name for name in ("mixup", "cutmix", "erasing") if name in settings.augment]


class Shown(dict):
    """Arguments as they are written; one that is not there is called the default."""

    def __missing__(self, key: str) -> str:
        return "the default"


def name_of(section: dict[str, Any] | str) -> str:
    """The class's name, without its modules."""
    return (section if isinstance(section, str) else section["class_path"]).rpartition(".")[2]
