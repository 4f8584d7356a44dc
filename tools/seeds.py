"""Several seeds of one experiment: mean, standard deviation and 95 % confidence interval of what they reach.

python tools/seeds.py --config EXPERIMENT.yaml --seeds 1 2 3 4 5 [--test] [--name NAME] [flags of main.py]

Validation is that of the epoch with the best accuracy, and therefore a little too good; --test adds the test of that
epoch's checkpoint. The interval is Student's, of the mean over seeds: how far other seeds might move it, not other
pictures. Runs are called seed1, seed2, ..., as those of tools/train_ensemble.py and tools/reproduce.py; the figures go
to runs/EXPERIMENT/seeds/seeds.json. An interrupted command goes on where it stopped when it is given again.
"""

import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.whole_file import write_json
from confidence import Metrics, spreads, table
from fit_and_test import runs_of_seeds
from run_record import RunRecord, chosen_epoch
from terminal import command_line, plainly, screen


def metrics_of(run: Path, tested: bool) -> Metrics:
    """Validation metrics of the epoch that a test takes, and those of the test if there was one."""
    record = RunRecord.load(run)
    found = chosen_epoch(record.history, record.validates_on_test) | (record.metrics if tested else {})
    return {name: value for name, value in found.items() if name.startswith(("val/", "test/"))}


def main() -> None:
    """Train the seeds, print and write what they reach."""
    parser = command_line(__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="EXPERIMENT.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, required=True, metavar="SEED")
    parser.add_argument("--test", action="store_true", help="test each run as well")
    parser.add_argument("--name", help="of the runs; the seed, or `seeds`, is appended")
    arguments, flags = parser.parse_known_args()
    with plainly():
        then = "test" if arguments.test else "validate"
        runs = runs_of_seeds(arguments.config, arguments.seeds, arguments.name, flags, then)
        metrics = {run.name: metrics_of(run, arguments.test) for run in runs}
        found = spreads(metrics)
        file = runs[0].with_name(f"{arguments.name}-seeds" if arguments.name else "seeds") / "seeds.json"
        figures = {"runs": metrics, "metrics": {name: asdict(spread) for name, spread in found.items()}}
        write_json(figures, file)
        title = f"{len(runs)} seeds of {arguments.config.stem}"
        screen().print(table(title, metrics, found))
        print(f"figures: {file}")


if __name__ == "__main__":
    main()
