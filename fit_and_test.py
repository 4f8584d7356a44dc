"""Training and testing an experiment in a process of its own: what tools do with several runs."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parent


def fit_and_test(experiment: str, name: str, seed: int, flags: Sequence[str]) -> Path:
    """Fit and test in a process of its own, or finish what was interrupted; the run's folder.

    Args:
        experiment: name of a file in ``experiments/``.
        name: of the run.
        seed: of everything.
        flags: of ``main.py``.

    Raises:
        FileNotFoundError: there is no such experiment.
        subprocess.CalledProcessError: the run failed.
        SystemExit: the run was paused.
    """
    config = PROJECT / "experiments" / f"{experiment}.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"there is no {config.relative_to(PROJECT)}")
    run = Path("runs") / experiment / name
    if (run / "report/metrics.json").exists():
        return run
    start = ["--config", str(config), "--name", name, "--seed_everything", str(seed), "--resume", "auto"]
    interrupt = signal.signal(signal.SIGINT, lambda *_: None)  # ctrl + c reaches the run too, which saves its state
    try:
        subprocess.run([sys.executable, str(PROJECT / "main.py"), "fit", *start, "--then", "test", *flags], check=True)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    if not (run / "report/metrics.json").exists():
        sys.exit("paused; the same command goes on")
    return run
