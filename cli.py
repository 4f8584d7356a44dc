"""LightningCLI over this project's networks and data sets: what `main.py` runs and what tools read experiments with."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.model_helpers import is_overridden

from callbacks import WholeCheckpointIO, with_those_of_every_run
from datamodules import ImageDataModule
from lightning_modules import Classifier, Network
from messages import Help

NOT_TAKEN = {  # keys that would not count, or would break what every run has; values that are refused; what to do
    "optimizer": (None, "take --model.optimizer"),
    "lr_scheduler": (None, "take a schedule of callbacks/"),
    "seed_everything": (False, "every process needs the same seed; true draws one"),
    "trainer.overfit_batches": (None, "each epoch has other pictures; tools/doctor.py trains on one batch"),
    "trainer.default_root_dir": (None, "runs go to runs/<experiment>/<name> below the current folder; take --name"),
    "trainer.enable_checkpointing": (False, "every run keeps its best and its last checkpoint"),
    "trainer.barebones": (None, "every run keeps checkpoints and a history"),
}
LINKS = {"num_classes": "num_classes", "input_size": "image_size", "image_channels": "image_channels"}  # data, model


class CLI(LightningCLI):
    """LightningCLI with a run's folder and the callbacks that every run has.

    Args:
        folder: of the run.
        command: subcommand and flags; flags alone where ``runs`` is false.
        typed: the command line, for the run's log.
        epilog: end of the help text.
        then: what follows on fit, ``test`` or ``validate``, if anything does.
        runs: whether to run the subcommand; otherwise model, data and trainer are only built.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], typed: str = "", epilog: str = "", then: str = "", runs: bool = True
    ) -> None:
        self.folder, self.typed, self.then = folder, typed, then
        quiet = {"exit_on_error": False, "allow_abbrev": False}  # callers print mistakes, without a page of usage
        shown = {"epilog": epilog, "formatter_class": Help}
        super().__init__(
            Network,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults={"logger": False, "use_distributed_sampler": False},
            seed_everything_default=42,
            parser_kwargs={**quiet, **shown, **{name: quiet for name in self.subcommands() if runs}},
            args=list(command),
            run=runs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The dashboards' flag; what the data decide is never typed twice."""
        known = "dashboards of the run: wandb, tensorboard or csv; several with commas between them"
        parser.add_argument("--logger", type=str, default="", help=known)
        for data, model in LINKS.items():
            parser.link_arguments(f"data.{data}", f"model.init_args.{model}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Refuse settings that would not count.

        Raises:
            argparse.ArgumentError: one is given, or what the data decide.
        """
        config = self.config[self.subcommand] if self.subcommand else self.config
        for key, (refused, remedy) in NOT_TAKEN.items():
            value = config.get(key)
            if value is refused is False or (refused is None and value):
                raise argparse.ArgumentError(None, f"--{key} {value} is not taken here: {remedy}")
        if (batches := config.get("trainer.accumulate_grad_batches")) < 1:
            raise argparse.ArgumentError(None, f"--trainer.accumulate_grad_batches is {batches}; it must be at least 1")
        given = (config.get("model") or {}).get("init_args") or {}
        for model in LINKS.values():
            if given.get(model) is not None:
                cause = "--data.image_size" if model == "image_size" else "the data"
                raise argparse.ArgumentError(None, f"--model.{model} is not taken here; it follows from {cause}")

    def before_fit(self) -> None:
        """Refuse what could not follow, and a training of nothing.

        Raises:
            argparse.ArgumentError: names it.
        """
        if self.trainer.limit_train_batches == 0:
            raise argparse.ArgumentError(None, "--trainer.limit_train_batches 0 would train nothing; take at least 1")
        if self.then:
            self._refuse_without_step(self.then)

    def before_test(self) -> None:
        """Refuse weights that nobody has trained.

        Raises:
            argparse.ArgumentError: the network has no step for it.
            ValueError: there is no checkpoint, and the network has none of its own.
        """
        self._refuse_without_step(self.subcommand)
        if not self._get(self.config_init, "ckpt_path") and not self.model.has_weights:
            raise ValueError(
                f"there are no trained weights to {self.subcommand} with: --run FOLDER takes a run's best, --ckpt_path "
                "FILE those of a checkpoint; fit --then test trains first"
            )

    before_validate = before_test

    def before_predict(self) -> None:
        """The same; predictions go to a file, and need not all be kept besides."""
        self.before_test()
        self.config_init[self.subcommand]["return_predictions"] = False

    def _refuse_without_step(self, command: str) -> None:
        step = "validation_step" if command == "validate" else f"{command}_step"
        if not is_overridden(step, self.model):
            raise argparse.ArgumentError(
                None,
                f"{type(self.model).__name__} has no {step}: there is nothing to {command}; README names, under Beyond "
                "classification, the tools for networks that are no classifiers",
            )

    def instantiate_trainer(self) -> Trainer:
        """A trainer that writes into the run's folder, with the callbacks of every run of such a network."""
        settings = self._get(self.config_init, "trainer")
        chosen, plugins = settings.callbacks or [], settings.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(each, CheckpointIO) for each in plugins):
            plugins = [*plugins, WholeCheckpointIO()]
        slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()  # torchrun counts in either
        if slurm and not any(isinstance(each, ClusterEnvironment) for each in plugins):
            plugins = [*plugins, SLURMEnvironment(auto_requeue=False)]  # else a signal in a test requeues the job
        loggers = self._get(self.config_init, "logger") or ("" if settings.logger else None)
        return super().instantiate_trainer(
            default_root_dir=str(self.folder),
            callbacks=with_those_of_every_run(
                chosen if isinstance(chosen, list) else [chosen],
                self.resolved(),
                self.typed,
                loggers,
                classifies=isinstance(self.model, Classifier),
            ),
            plugins=plugins,
        )

    def resolved(self) -> str:
        """All settings of the run as YAML text: a run's configuration."""
        config = (self.config[self.subcommand] if self.subcommand else self.config).clone()
        for name in ("ckpt_path", "weights_only"):  # of a command, not of the run
            config.pop(name, None)
        return self._parser(self.subcommand).dump(config, skip_none=False)

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: what YAML and flags say is what runs."""


def require_settings(file: Path) -> None:
    """Refuse a file that holds no settings, or one of them twice: YAML would take the last and drop the other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, holds something else, or names a setting again.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no experiment's YAML file")
    try:
        root = yaml.compose(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML in UTF-8: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{file} is no experiment's YAML file: it holds no settings")
    _refuse_repeated(root, file)


def _refuse_repeated(node: yaml.Node, file: Path) -> None:
    children = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [value for _, value in node.value]
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"{file} has {name} in lines {lines[name]} and {line}; leave one of them out")
            lines[name] = line
    for child in children:
        _refuse_repeated(child, file)


def experiment(config: Path, flags: Sequence[str], folder: Path) -> CLI:
    """Network, data and trainer as an experiment's YAML file and flags describe them, built but not run.

    Args:
        folder: where the trainer writes, if it is used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no settings.
    """
    require_settings(config)
    return CLI(folder, ["--config", str(config), *flags], runs=False)


class _Parsed(CLI):
    """A command line that is read and checked, of which nothing is built."""

    def _set_seed(self) -> None:
        """Nothing is random here."""

    def instantiate_classes(self) -> None:
        """Leave it at the settings."""


def settings(config: Path, flags: Sequence[str]) -> dict[str, Any]:
    """The configuration that a run of an experiment's YAML file and flags would have, at a small part of its cost.

    Raises:
        FileNotFoundError: there is no such file.
        argparse.ArgumentError: there is no such key, or it cannot have such a value.
        ValueError: it holds no settings.
    """
    require_settings(config)
    return yaml.safe_load(_Parsed(Path("runs"), ["--config", str(config), *flags], runs=False).resolved())
