"""Train, test and record an experiment; docs/results.md is made from such records and from nothing else.

python tools/reproduce.py --experiment NAME [--seeds 1 2 3] [--name NAME] [flags of main.py]
python tools/reproduce.py --record RUN [RUN ...]     records of runs that are trained and tested already
python tools/reproduce.py --table                    the page alone

An interrupted command goes on where it stopped when it is given again.
"""

import argparse
import importlib
import json
import re
import shutil
import statistics
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.provenance import abbreviated
from fit_and_test import PROJECT, fit_and_test
from run_record import chosen_epoch

MACHINE_FACTS = ("--data.source", "--data.root", "--data.num_workers", "--trainer.enable_progress_bar", "--name")
PUBLISHED = re.compile(r"Published(?: with (--[^:]+))?: (.*?)\.?$", re.MULTILINE)
FIGURE = re.compile(r"([\d.]+) % (test|validation) accuracy")

Record = dict[str, Any]


def record_of(run: Path) -> Record:
    """What a run says of itself.

    Raises:
        ValueError: it was not trained, or not tested.
    """
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        sessions, history, timings, metrics = (
            json.loads((run / name).read_text(encoding="utf-8"))
            for name in ("sessions.json", "history.json", "timings.json", "report/metrics.json")
        )
    except FileNotFoundError as error:
        raise ValueError(f"{run} is not a run that was trained and tested: {error.filename} is missing") from error
    last, settings = sessions[-1], config["data"]["init_args"]
    tested = chosen_epoch(history, settings["validate_on_test"])
    for name in ("source", "root", "num_workers"):
        settings.pop(name, None)
    config["trainer"].pop("default_root_dir", None)
    return {
        "experiment": run.resolve().parent.name,
        "name": run.resolve().name,
        "command": without_machine_facts(sessions[0]["command"]),
        "seed": config["seed_everything"],
        "epochs": history[-1]["epoch"],
        "metrics": metrics,
        "validation": {name: tested.get(name) for name in ("epoch", "val/top1", "val/top5", "val/loss")},
        "seconds": round(sum(session["seconds"] for session in sessions)),
        "images_per_second": statistics.median(timing["images_per_second"] for timing in timings),
        **{name: last[name] for name in ("samples", "commit", "versions", "hardware", "processes", "precision")},
        "config": config,
    }


def without_machine_facts(command: str) -> str:
    """The command that gives the same run on another machine."""
    words = re.sub(r"\S*/(?=experiments/\S+\.yaml)", "", command).split(" ")
    dropped = {i for i, word in enumerate(words) if word in MACHINE_FACTS}
    return " ".join(word for i, word in enumerate(words) if i not in dropped and i - 1 not in dropped)


def without_seed(record: Record) -> str:
    """The command that runs with other seeds share."""
    return re.sub(r" --seed_everything \d+", "", record["command"])


def page(records: list[Record], experiments: list[Path]) -> str:
    """The results as Markdown: every experiment, with the figure its file quotes and the records there are."""
    lines = [
        "# Results",
        "",
        "Made by `python tools/reproduce.py` from the records in [docs/records](records); no figure is typed by hand.",
        "Test accuracy is measured once, on the checkpoint that validation chose. Where a command has",
        "`--data.validate_on_test true`, as the published runs, the test split validates: nothing is chosen by it, and",
        "the checkpoint of the last epoch is tested. The deviation is that over the seeds; of one seed, that of a",
        "share of so many test pictures. Where less was trained than the experiment says, in epochs or pictures, that",
        "is in bold, and there is no difference to state.",
        "",
        "| experiment | published | ours | difference | top-5 | epochs | pictures | images/s | time | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves = []
    for experiment in experiments:
        text = experiment.read_text(encoding="utf-8")
        mine = sorted((r for r in records if r["experiment"] == experiment.stem), key=without_seed)
        if not mine:
            lines.append(f"| {experiment.stem} | {published(text, '')} | no record | | | | | | | |")
        for command, runs in groupby(mine, without_seed):
            group = list(runs)
            lines.append(row(group, published(text, command), yaml.safe_load(text)))
            for record in group:
                curves += ["", *curve(record)]
    return "\n".join([*lines, "", "## Records", *curves, ""])


def published(experiment: str, command: str) -> str:
    """The published figure that an experiment's file quotes, for these flags."""
    texts = {flags or "": text for flags, text in PUBLISHED.findall(experiment.replace("\n# ", "\n"))}
    return next((text for flags, text in texts.items() if flags and flags in command), texts.get("", ""))


def row(runs: list[Record], quoted: str, experiment: dict[str, Any]) -> str:
    """A line of the table, of runs that differ by their seeds."""
    record, samples = runs[0], runs[0]["metrics"]["samples"]
    planned, official = experiment["trainer"]["max_epochs"], official_samples(record)
    pictures = sum(record["samples"].values())
    if record["config"]["data"]["init_args"]["validate_on_test"]:
        pictures -= record["samples"]["val"]
    share = record["config"]["trainer"]["limit_train_batches"]
    short, few = record["epochs"] < planned or share, bool(official) and pictures < 0.99 * official

    figure = FIGURE.search(quoted)
    on_validation = bool(figure) and figure[2] == "validation"
    values = [run["validation"]["val/top1"] if on_validation else run["metrics"]["test/top1"] for run in runs]
    mean = statistics.mean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
    else:
        deviation = (mean * (1 - mean) / (record["samples"]["val"] if on_validation else samples)) ** 0.5
    speeds = [run["images_per_second"] for run in runs if run["images_per_second"]]  # early runs have none
    epochs = f"{planned}"
    if short:
        epochs = f"**shortened: {record['epochs']} of {planned}{f', of {share} batches' * bool(share)}**"
    cells = [
        record["experiment"],
        quoted,
        f"**{100 * mean:.2f} %** ± {100 * deviation:.1f}" + " in validation" * on_validation,
        f"{100 * mean - float(figure[1]):+.2f}" if figure and not short and not few else "",
        f"{100 * statistics.mean(run['metrics']['test/top5'] for run in runs):.2f} %"
        if "test/top5" in record["metrics"]
        else "",
        epochs,
        f"**{pictures} of {official}**" if few else f"{pictures}",
        f"{statistics.median(speeds):.0f}" if speeds else "",
        f"{statistics.mean(run['seconds'] for run in runs) / 60:.0f} min",
        f"{len(runs)}: " + ", ".join(f"[{run['name']}](records/{identity(run)}.json)" for run in runs),
    ]
    return f"| {' | '.join(cells)} |"


def official_samples(record: Record) -> int | None:
    """How many pictures the whole data set has."""
    module, name = record["config"]["data"]["class_path"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name).official_samples


def curve(record: Record) -> list[str]:
    """How a record was made, and its learning curve."""
    versions, commit = record["versions"], abbreviated(record["commit"])
    return [
        f"### {record['experiment']}, {record['name']}",
        "",
        f"`python {record['command']}`",
        "",
        f"Seed {record['seed']}; {record['hardware']}; processes: {record['processes']}; precision: "
        f"{record['precision']}; torch {versions['torch']}, pytorch-lightning {versions['pytorch-lightning']}; "
        f"commit {commit}.",
        "",
        f"![Loss and accuracy over the epochs](records/{identity(record)}.png)",
    ]


def identity(record: Record) -> str:
    """File name of a record, without its ending."""
    return f"{record['experiment']}-{record['name']}"


def main() -> None:
    """Reproduce or record what is asked for, then rebuild the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--experiment", metavar="NAME", help="of a file in experiments/")
    what.add_argument("--record", nargs="+", type=Path, default=[], metavar="RUN", help="folder of a tested run")
    what.add_argument("--table", action="store_true", help="only rebuild the page")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], metavar="SEED")
    parser.add_argument("--name", help="of the runs; the seed is appended")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where records/ and results.md are")
    arguments, flags = parser.parse_known_args()
    if flags and not arguments.experiment:
        parser.error(f"unknown: {' '.join(flags)}")
    folder = arguments.docs / "records"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        runs = arguments.record
        if arguments.experiment:
            prefix = f"{arguments.name}-" if arguments.name else ""
            runs = [fit_and_test(arguments.experiment, f"{prefix}seed{seed}", seed, flags) for seed in arguments.seeds]
        for run in runs:
            record = record_of(run)
            (folder / f"{identity(record)}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            shutil.copyfile(run / "history.png", folder / f"{identity(record)}.png")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    experiments = sorted((PROJECT / "experiments").rglob("*.yaml"))
    (arguments.docs / "results.md").write_text(page(records, experiments), encoding="utf-8")


if __name__ == "__main__":
    main()
