"""The one entry: `fit`, `validate`, `test` and `predict` from an experiment's YAML or from a run's folder."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from callbacks import Paused, newest_whole, run_folder
from cli import CLI, require_settings
from messages import message, quieten
from processes import end_together, first_error

OWN = argparse.ArgumentParser("main.py", add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
OWN.add_argument("--run", type=Path, help="use a run's configuration and best checkpoint; fit continues the run")
OWN.add_argument("--continue", dest="run", type=Path, help="the same, as one says it of fit")
OWN.add_argument(
    "--resume", choices=["auto"], help="continue the run that the same fit command began, or begin it if none is there"
)
OWN.add_argument(
    "--name", help="of the folder to write, runs/<experiment>/<name>: the time of day, or the run, if not given"
)
OWN.add_argument("--lr", help="short for --model.optimizer.lr")
OWN.add_argument(
    "--then",
    choices=["test", "validate"],
    help="after fit, test the best checkpoint, or keep the probabilities that the last gives of the validation split",
)
OWN.add_argument("--ckpt_path", help="another checkpoint than the run's")
OWN.add_argument("--debug", action="store_true", help="show the traceback of an error")


def own_flags(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that are known here alone, and the others, which LightningCLI reads."""
    flags, others = OWN.parse_known_args(args)
    if flags.lr:
        others += ["--model.optimizer.lr", flags.lr]
    return flags, others


def run_command(args: Sequence[str]) -> None:
    """Resolve the flags of a run, then leave the command to LightningCLI."""
    flags, command = own_flags(args)
    typed = shlex.join(["main.py", *args])
    fit = command[:1] == ["fit"]
    _refuse_contradictions(flags, fit)
    configs = [Path(value) for flag, value in pairwise(command) if flag in ("-c", "--config")]
    configs += [Path(word.partition("=")[2]) for word in command if word.startswith("--config=")]
    for config in configs:
        require_settings(config)
    experiment = configs[-1].stem if configs else "run"
    run, checkpoint = flags.run, flags.ckpt_path
    if run:
        experiment = run.resolve().parent.name
        command[1:1] = ["--config", str(run_folder.config_of(run))]
        if not checkpoint:
            checkpoint = newest_whole(run) if fit else run_folder.checkpoint_of(run)
    elif flags.resume and (run := run_folder.begun(experiment, flags.name, typed)):
        checkpoint = newest_whole(run, none_is_fine=True)
    if checkpoint:
        if not Path(checkpoint).is_file():  # Lightning would start from scratch if there is no "last"
            raise FileNotFoundError(f"{checkpoint} is no file; --run FOLDER finds the checkpoints of a run")
        command += ["--ckpt_path", str(checkpoint)]
    if not run or (flags.name and not fit):
        trained, run = run, run_folder.new_run(experiment, flags.name, fit)
        if trained and trained.resolve() != run.resolve() and run_folder.holds_run(run):
            raise FileExistsError(f"{run} holds another run than {trained}; choose another --name")
    cli = CLI(run, command, typed, OWN.format_help(), flags.then or "")
    if fit and flags.then == "test":
        best = run_folder.checkpoint_of(Path(cli.trainer.default_root_dir))  # where all processes agree that it is
        cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=str(best))
    elif fit and flags.then == "validate":
        last = run_folder.checkpoint_of(Path(cli.trainer.default_root_dir), run_folder.LAST)
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, ckpt_path=str(last))


def _refuse_contradictions(flags: argparse.Namespace, fit: bool) -> None:
    if flags.run and fit and flags.name:
        raise argparse.ArgumentError(None, "fit --continue goes on in the run's own folder; leave out --name")
    if flags.then and not fit:
        raise argparse.ArgumentError(None, f"--then {flags.then} is of fit; leave it out")
    if flags.resume and not fit:
        raise argparse.ArgumentError(None, "--resume auto is of fit; test, validate and predict take --run FOLDER")
    if flags.resume and (flags.run or flags.ckpt_path):
        raise argparse.ArgumentError(None, "--resume auto finds run and checkpoint itself; leave out the other flag")


def main() -> None:
    """Run one command; an error ends it with one short message, its traceback in the run's log."""
    log = quieten()
    end_together()
    try:
        run_command(sys.argv[1:])
    except Paused as pause:
        if not rank_zero_only.rank:
            then = own_flags(sys.argv[1:])[0].then
            goes_on = f"python main.py fit --continue {shlex.quote(str(pause))}" + f" --then {then}" * bool(then)
            log.info("To continue:\n    %s", goes_on)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        log.debug("failed", exc_info=True)
        print(message(first_error(error)), file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, argparse.ArgumentError) else 1)


if __name__ == "__main__":
    main()
