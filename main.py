"""The one entry: `fit`, `validate`, `test` and `predict` from an experiment's YAML or from a run's folder."""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from callbacks import run_folder
from cli import CLI
from messages import message, quieten
from processes import end_together, first_error

OWN = argparse.ArgumentParser("main.py", add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
OWN.add_argument("--run", type=Path, help="use a run's configuration and best checkpoint; fit continues from its last")
OWN.add_argument(
    "--name", help="of the folder to write, runs/<experiment>/<name>: the time of day, or the run, if not given"
)
OWN.add_argument("--then", choices=["test"], help="after fit, test the best checkpoint")
OWN.add_argument("--ckpt_path", help="another checkpoint than the run's")
OWN.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run_command(args: Sequence[str]) -> None:
    """Resolve the flags of a run, then leave the command to LightningCLI."""
    flags, command = OWN.parse_known_args(args)
    fit = command[:1] == ["fit"]
    if flags.run and fit and flags.name:
        raise argparse.ArgumentError(None, "fit --run goes on in the run's own folder; leave out --name")
    if flags.run:
        command[1:1] = ["--config", str(run_folder.config_of(flags.run))]
        which = run_folder.LAST if fit else run_folder.BEST
        flags.ckpt_path = flags.ckpt_path or str(run_folder.checkpoint_of(flags.run, which))
    if flags.ckpt_path:
        if not Path(flags.ckpt_path).is_file():  # Lightning would start from scratch if there is no "last"
            raise FileNotFoundError(f"{flags.ckpt_path} is no file; --run FOLDER finds the checkpoints of a run")
        command += ["--ckpt_path", flags.ckpt_path]
    configs = [Path(value) for flag, value in pairwise(command) if flag in ("-c", "--config")]
    run = flags.run
    if not run or flags.name:
        experiment = run.resolve().parent.name if run else configs[-1].stem if configs else "run"
        run = run_folder.new_run(experiment, flags.name, fit)
    cli = CLI(run, command, " ".join(["main.py", *args]), OWN.format_help())
    if fit and flags.then == "test":
        best = run_folder.checkpoint_of(Path(cli.trainer.default_root_dir))  # where all processes agree that it is
        cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=str(best))


def main() -> None:
    """Run one command; an error ends it with one short message, its traceback in the run's log."""
    log = quieten()
    end_together()
    try:
        run_command(sys.argv[1:])
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        log.debug("failed", exc_info=True)
        print(message(first_error(error)), file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, argparse.ArgumentError) else 1)


if __name__ == "__main__":
    main()
