"""Many runs of one experiment that differ by chosen keys: a grid, a random search, or Optuna's TPE.

python tools/sweep.py --config EXPERIMENT.yaml --grid KEY=A,B,C [--grid ...] [--name NAME] [flags of main.py]
python tools/sweep.py --config EXPERIMENT.yaml --random KEY=LOW:HIGH --random KEY=log:LOW:HIGH --trials 20
python tools/sweep.py --config EXPERIMENT.yaml --tpe KEY=A,B,C --tpe KEY=log:LOW:HIGH --trials 50

KEY is any key of the YAML file, as a flag of main.py names it: model.optimizer.lr. A grid takes all combinations of
lists of values. A random search and TPE take lists and ranges, of whole numbers where both ends are, and logarithmic
ones. What decides is the best value of a validation metric over the epochs of a run (--metric, val/top1); nothing here
sees the test split.

Each trial is a run of its own, runs/EXPERIMENT/NAME-000 and so on. The trials are kept in runs/EXPERIMENT/NAME/, with
the table of results as CSV and JSON, and a picture. A trial that fails is recorded, and the sweep goes on. An
interrupted command goes on where it stopped when it is given again, and given several times at once it shares the
trials out: see docs/sweeps.md. Needs `pip install -e '.[sweep]'`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

import cli
from callbacks.run_folder import CONFIG, require_plain
from callbacks.training_monitor import HISTORY
from fit_and_test import Hopeless, finished_run, is_classifier
from sweeps.pruning import hopeless
from sweeps.results import Result, best_of, in_order, metrics_of, reason_in, table_of, write, write_picture
from sweeps.space import Choices, Values, as_flags, parsed
from terminal import at_least, command_line, plainly, screen

try:
    from optuna.trial import TrialState

    from sweeps.trials import Claim, Sweep
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed; pip install -e '.[sweep]'")

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def check(config: Path, flags: list[str], space: dict[str, Values]) -> None:
    """Read the experiment with every value of every key, the others at their first.

    Raises:
        argparse.ArgumentError: there is no such key, or it cannot have such a value.
        ValueError: validation would be on the test split; the experiment trains no classifier.
    """
    first = {key: values.extremes[0] for key, values in space.items()}
    changes = [{key: text} for key, values in space.items() for text in values.extremes[1:]]
    for change in [{}, *changes]:
        settings = cli.settings(config, [*flags, *as_flags(first | change)])
        if not is_classifier(settings):
            raise ValueError(f"{config} trains no classifier; a sweep compares classifiers")
        if settings["data"]["init_args"].get("validate_on_test"):
            raise ValueError("validate_on_test lets the test split choose among trials; --data.validate_on_test false")


def work(sweep: Sweep, claim: Claim, arguments: argparse.Namespace, flags: list[str], killed: set[int]) -> None:
    """Run a trial, or finish it, and record what it reaches.

    Args:
        killed: numbers of trials whose training was killed once, which may be for want of memory; such a trial goes on
            where it stopped, and fails the second time.
    """
    print(f"trial {claim.number} of {sweep.trials}: {' '.join(as_flags(claim.values))}", flush=True)
    run, metric, maximize = sweep.run_of(claim.number), arguments.metric, arguments.direction == "max"

    judged = 0.0  # when the history was written that was looked at last

    def is_hopeless() -> bool:
        nonlocal judged
        written = (run / HISTORY).stat().st_mtime if (run / HISTORY).exists() else 0.0
        if written == judged:
            return False
        judged = written
        if metrics_of(run):
            best_of(run, metric, maximize)  # raises where there is no such metric
        if not arguments.prune:
            return False
        finished = [sweep.run_of(each.number) for each in sweep.known() if each.state == TrialState.COMPLETE]
        return hopeless(run, finished, metric, maximize)

    value, state = None, TrialState.FAIL
    given = [*flags, *as_flags(claim.values)]
    try:
        finished_run(arguments.config, run.name, given, "validate", [claim.held], is_hopeless)
    except Hopeless:
        print(f"trial {claim.number} is worse than the median so far, and is stopped", flush=True)
        state = TrialState.PRUNED
    except subprocess.CalledProcessError as error:
        print(f"trial {claim.number} has failed ({error.returncode}); the sweep goes on", flush=True)
        if error.returncode < 0 and claim.number not in killed:
            killed.add(claim.number)
            sweep.leave(claim)
            return
    else:
        if best := best_of(run, metric, maximize):
            value, state = best[0], TrialState.COMPLETE
    sweep.finish(claim, value, state)


def results_of(sweep: Sweep, metric: str, maximize: bool) -> list[Result]:
    """Of all trials that have begun."""
    results = []
    for trial in sweep.known():
        run, state = sweep.run_of(trial.number), STATES[trial.state]
        best = best_of(run, metric, maximize) if state in ("complete", "stopped") else None
        note = reason_in(run) if state == "failed" else ""
        results.append(Result(trial.number, run.name, state, *(best or (None, None)), sweep.values(trial), note))
    return in_order(results, maximize)


def main() -> None:
    """Run the trials, print and write what they reach."""
    parser = command_line(__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="EXPERIMENT.yaml")
    for kind, what in (("grid", "all combinations"), ("random", "values at random"), ("tpe", "promising values")):
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="KEY=VALUES", help=f"{what}; repeatable")
    parser.add_argument("--trials", type=at_least(1), help="how many, of a random search and TPE")
    parser.add_argument("--metric", default="val/top1", help="of validation, in the history of a run")
    parser.add_argument("--direction", choices=["max", "min"], help="min for a metric that ends in loss, else max")
    parser.add_argument("--prune", action="store_true", help="stop trials that are worse than the median so far")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of random values")
    parser.add_argument("--name", default="sweep", help="of the sweep and of its runs")
    parser.add_argument("--journal", action="store_true", help="no SQLite: for a network file system")
    arguments, flags = parser.parse_known_args()
    kinds = [kind for kind in ("grid", "random", "tpe") if getattr(arguments, kind)]
    if len(kinds) != 1:
        parser.error("give keys by --grid, by --random or by --tpe, and by one of them only")
    if (kinds[0] == "grid") != (arguments.trials is None):
        parser.error("--random and --tpe need --trials; a grid has as many as there are combinations")
    if not arguments.metric.startswith("val/"):
        parser.error(f"--metric {arguments.metric} is not of validation, like val/top1 or val/loss")
    arguments.direction = arguments.direction or ("min" if arguments.metric.endswith("loss") else "max")
    with plainly():
        given = getattr(arguments, kinds[0])
        space = dict(map(parsed, given))
        if len(space) < len(given):
            raise ValueError("each key once")
        if kinds[0] == "grid" and not all(isinstance(values, Choices) for values in space.values()):
            raise ValueError("a grid needs lists of values, KEY=A,B,C; ranges are for --random and --tpe")
        require_plain(arguments.name)
        check(arguments.config, flags, space)
        folder = Path("runs") / arguments.config.stem / arguments.name
        if (folder / CONFIG).exists():
            raise FileExistsError(f"{folder} is a run; choose another --name for the sweep")
        settings = {
            "kind": kinds[0],
            "seed": arguments.seed,
            "order of keys": list(space),
            "keys": {key: text.partition("=")[2] for key, text in zip(space, given, strict=True)},
            "metric": arguments.metric,
            "direction": arguments.direction,
            "prune": arguments.prune,
            "flags": flags,
            "experiment": yaml.safe_load(arguments.config.read_text(encoding="utf-8")),
        }
        maximize, seed = arguments.direction == "max", arguments.seed
        sweep = Sweep(folder, kinds[0], space, arguments.trials or 0, maximize, seed, settings, arguments.journal)
        killed: set[int] = set()
        while claim := sweep.claim():
            work(sweep, claim, arguments, flags, killed)
            with sweep.alone():
                write(results_of(sweep, arguments.metric, maximize), arguments.metric, list(space), folder)
        with sweep.alone():
            results = results_of(sweep, arguments.metric, maximize)
            write(results, arguments.metric, list(space), folder)
            write_picture(results, arguments.metric, space, folder)
        title = f"{arguments.name} of {arguments.config.stem}, {kinds[0]}"
        screen().print(table_of(results, arguments.metric, list(space), title))
        if running := sum(each.state == "running" for each in results):
            print(f"another process works on {running} of {sweep.trials} trials; the same command shows them again")
        print(f"results: {folder / 'results.csv'}, .json, .png")


if __name__ == "__main__":
    main()
