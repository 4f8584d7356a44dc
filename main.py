"""The one entry: `fit`, `validate`, `test` and `predict` from an experiment's YAML or from a run's folder."""

import argparse
import logging
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import callbacks as cb
from callbacks import run_folder
from datamodules import ImageDataModule
from lightning_modules import Classifier

RUN_FLAGS = """flags of a run, besides those below:
  --run FOLDER   use the configuration and the best checkpoint of a run; `fit` continues it from its last checkpoint
  --name NAME    name of a new run; its folder is runs/<experiment>/<name>, the time of day if not given
  --then test    after `fit`, test the best checkpoint
  --debug        show the whole traceback of an error"""


class CLI(LightningCLI):
    """LightningCLI with a run's folder and the callbacks that every run has."""

    def __init__(self, run: Path, command: Sequence[str]) -> None:
        self.run, self.command = run, command
        quiet = {"exit_on_error": False}  # raise, so that `main` prints the mistake without a page of usage
        defaults = {"logger": False, "use_distributed_sampler": False}  # the datamodule samples for each process
        super().__init__(
            Classifier,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=defaults,
            seed_everything_default=42,
            parser_kwargs={**quiet, "epilog": RUN_FLAGS, **{name: quiet for name in self.subcommands()}},
            args=list(command),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the data decide is never typed twice."""
        for name in ("num_classes", "image_size"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """A trainer with the callbacks of the experiment, and those of every run that it does not configure itself."""
        config = self.config[self.subcommand].clone()
        config.ckpt_path = None
        text = self._parser(self.subcommand).dump(config, skip_none=False)
        chosen = self.config_init[self.subcommand].trainer.callbacks or []
        every_run = (
            *(
                cb.RunFolder(text, " ".join(["main.py", *self.command])),
                cb.StepSeed(),
                cb.MeanLoss(),
                cb.TopKAccuracy(),
            ),
            *(cb.TrainingMonitor(), cb.ClassReport(), cb.BestCheckpoint(), cb.LastCheckpoint()),
        )
        added = [callback for callback in every_run if not any(isinstance(c, type(callback)) for c in chosen)]
        # Means are logged before the callbacks that read them.
        ordered = sorted([*chosen, *added], key=lambda callback: not isinstance(callback, cb.EpochMeans))
        return super().instantiate_trainer(default_root_dir=str(self.run), callbacks=ordered)


def run_command(args: Sequence[str]) -> None:
    """Resolve the flags of a run, then leave the command to LightningCLI."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--run", type=Path)
    own.add_argument("--name")
    own.add_argument("--then", choices=["test"])
    flags, command = own.parse_known_args(args)
    fit = command[:1] == ["fit"]
    if flags.run:
        command[1:1] = ["--config", str(run_folder.config_of(flags.run))]
        if not any(argument.startswith("--ckpt_path") for argument in command):
            which = run_folder.LAST if fit else run_folder.BEST
            command += ["--ckpt_path", str(run_folder.checkpoint_of(flags.run, which))]
    configs = [Path(value) for flag, value in pairwise(command) if flag in ("-c", "--config")]
    run = flags.run or run_folder.new_run(configs[-1].stem if configs else "run", flags.name)
    cli = CLI(run, command)
    if fit and flags.then == "test":
        cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=str(run_folder.checkpoint_of(run)))


def main() -> None:
    """Run one command; an error ends it with one short message, its traceback in the run's log."""
    args = sys.argv[1:]
    debug = "--debug" in args
    log = logging.getLogger("litvision")
    log.setLevel(logging.DEBUG)
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.INFO)
    log.addHandler(console)
    try:
        run_command([argument for argument in args if argument != "--debug"])
    except Exception as error:
        if debug:
            raise
        log.debug("failed", exc_info=True)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        sys.exit("\n".join(["error: " + lines[0][:400], *(line[:400] for line in lines[-3:] if line is not lines[0])]))


if __name__ == "__main__":
    main()
