"""Training runs of an experiment in processes of their own, or finishing them: what tools do with several runs."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType
from typing import Any, Literal

import yaml

import cli
from callbacks.prediction_store import OF_VALIDATION, PROBABILITIES
from callbacks.provenance import differences
from callbacks.run_folder import METRICS, holds_run, require_plain, settings_of
from lightning_modules import Classifier
from main import own_flags
from run_record import is_outdated

PROJECT = Path(__file__).parent
NO_MATTER = (  # facts of a machine, not of the figures
    *("logger", "trainer.enable_progress_bar", "trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
    *("data.init_args.root", "data.init_args.num_workers", "data.init_args.resident"),
)
HOW_LONG = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")  # may differ until a run is finished
OF_THE_TOOL = ("-c", "--config", "--name", "--then", "--resume", "--run", "--continue", "--ckpt_path")
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

Then = Literal["test", "validate"]


def experiment_file(name: str) -> Path:
    """The file of an experiment in ``experiments/``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a tool runs it; nothing is trained.
    """
    config = PROJECT / "experiments" / f"{name}.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"there is no {config.relative_to(PROJECT)}")
    if not is_trained(config):
        raise ValueError(
            f"{config.relative_to(PROJECT)} holds the settings of a tool; its first lines name the command"
        )
    return config


def is_trained(config: Path) -> bool:
    """Whether ``main.py fit`` runs this YAML file, which then names a model and a trainer; a tool does otherwise."""
    return {"model", "trainer"} <= yaml.safe_load(config.read_text(encoding="utf-8")).keys()


def is_classifier(experiment: dict[str, Any]) -> bool:
    """Whether an experiment trains one, so that it has an accuracy."""
    return issubclass(resolve_name(experiment["model"]["class_path"]), Classifier)


def runs_of_seeds(
    config: Path, seeds: Sequence[int], name: str | None, flags: Sequence[str], then: Then = "test"
) -> list[Path]:
    """Folders of runs that differ by their seeds alone, each finished by ``finished_run``.

    Args:
        name: of the runs; the seed is appended.

    Raises:
        ValueError: a seed is there twice, and would count twice, or among the flags, too.
        ValueError, argparse.ArgumentError, subprocess.CalledProcessError: see ``finished_run``.
    """
    if len(set(seeds)) < len(seeds):
        raise ValueError("--seeds: each seed once; a run that is there twice would count twice")
    refuse(flags, "--seed_everything")
    prefix = f"{name}-" if name else ""
    return [finished_run(config, f"{prefix}seed{s}", ["--seed_everything", str(s), *flags], then) for s in seeds]


def refuse(flags: Sequence[str], *names: str) -> None:
    """Refuse among the flags for a run those that a tool gives itself: the last of two would count.

    Raises:
        ValueError: says which.
    """
    for flag in flags:
        name = flag.partition("=")[0].replace(".init_args", "")
        if name in names:
            raise ValueError(f"leave out {name}: this tool gives it to each run itself")


class Hopeless(Exception):
    """A run was stopped because it is not worth finishing."""


def finished_run(
    config: Path,
    name: str,
    flags: Sequence[str],
    then: Then,
    held: Sequence[int] = (),
    hopeless: Callable[[], bool] | None = None,
) -> Path:
    """Fit, then test or validate, in a process of its own, or finish what was interrupted; the run's folder.

    Ends this program, too, if the run is paused.

    Args:
        config: the experiment's YAML file.
        name: of the run.
        flags: of ``main.py``.
        then: what proves that the run is finished: a test of its best checkpoint, or a validation of its last.
        held: open files that the process keeps open as long as it lives.
        hopeless: asked again and again whether to stop the run.

    Raises:
        subprocess.CalledProcessError: the run failed.
        ValueError: the experiment trains no classifier, the run was begun with other settings, its name is none, or the
            flags say what is said here.
        argparse.ArgumentError: there is no such flag.
        Hopeless: it was stopped.
    """
    require_plain(name)
    refuse(flags, *OF_THE_TOOL)
    settings = cli.settings(config, own_flags(flags)[1])
    if not is_classifier(settings):
        raise ValueError(f"{config} trains no classifier, and nothing else has an accuracy to compare")
    run = Path("runs") / config.stem / name
    proof = run / (METRICS if then == "test" else OF_VALIDATION)
    if proof.exists() or holds_run(run):
        require_same_settings(run, settings, NO_MATTER if proof.exists() else (*NO_MATTER, *HOW_LONG))
    if proof.exists() and not is_outdated(run, PROBABILITIES if then == "test" else OF_VALIDATION):
        return run
    start = ["--config", str(config), "--name", name, "--resume", "auto"]
    run_main(["fit", *start, "--then", then, *flags], held, hopeless)
    if not proof.exists():
        paused()
    return run


def tested_with_views(run: Path, views: str) -> Path:
    """Test a trained run with several views of each picture; the folder of that test.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    folder = Path("runs", run.resolve().parent.name, f"{run.resolve().name}-{views}")
    run_main(["test", "--run", str(run), "--data.views", views, "--name", folder.name])
    return folder


def require_same_settings(run: Path, settings: dict[str, Any], no_matter: Sequence[str]) -> None:
    """Refuse a run whose figures are of other settings than those asked for now, by flags or in the experiment's file.

    Args:
        no_matter: settings that may differ.

    Raises:
        ValueError: says which.
    """
    for name, was, now in differences(settings_of(run), settings):
        if name not in no_matter:
            raise ValueError(f"{run} was begun with {name} {was}, not {now}; choose another --name")


def run_main(arguments: Sequence[str], held: Sequence[int] = (), hopeless: Callable[[], bool] | None = None) -> None:
    """Run ``main.py``, passing on the signals that ask this program to end.

    Raises:
        subprocess.CalledProcessError: it failed.
        Hopeless: it was stopped.
    """
    command = [sys.executable, str(PROJECT / "main.py"), *arguments]
    process = subprocess.Popen(command, pass_fds=held, process_group=0)  # else it would get some signals twice
    asked = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if process.poll() is None:
            process.send_signal(number)

    heeded = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        while (code := ended(process)) is None:
            if hopeless and not asked and hopeless():
                raise Hopeless
    except BaseException:  # nobody would look after it any more
        process.terminate()
        process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        paused()
    if code:
        raise subprocess.CalledProcessError(code, command)


def ended(process: subprocess.Popen) -> int | None:
    """The exit code of a process, None if it still runs after a second."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=1)


def paused() -> None:
    """End this program: the user, or whoever gave it its time, wants that."""
    print("paused; the same command goes on")
    sys.exit()
