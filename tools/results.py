"""Records of finished runs, and docs/results.md, which is made from them and from nothing else.

python tools/results.py RUN [RUN ...]    add or replace the records of tested runs, and rebuild the page
python tools/results.py                  rebuild the page
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parent.parent
MACHINE_FACTS = ("--data.source", "--data.root", "--data.num_workers", "--trainer.enable_progress_bar", "--name")

Record = dict[str, Any]


def record_of(run: Path) -> Record:
    """What a run says of itself.

    Raises:
        ValueError: it was not trained, or not tested.
    """
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        sessions = json.loads((run / "sessions.json").read_text(encoding="utf-8"))
        history = json.loads((run / "history.json").read_text(encoding="utf-8"))
        metrics = json.loads((run / "report/metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{run} is not a run that was trained and tested: {error.filename} is missing") from error
    last = sessions[-1]
    return {
        "experiment": run.resolve().parent.name,
        "name": run.resolve().name,
        "command": without_machine_facts(sessions[0]["command"]),
        "seed": config["seed_everything"],
        "validate_on_test": config["data"]["init_args"]["validate_on_test"],
        "epochs": history[-1]["epoch"],
        "metrics": metrics,
        "validation": {name: history[-1].get(name) for name in ("val/top1", "val/loss")},
        "seconds": round(sum(session["seconds"] for session in sessions)),
        **{name: last[name] for name in ("commit", "versions", "hardware", "processes", "precision")},
    }


def without_machine_facts(command: str) -> str:
    """The command that gives the same run on another machine."""
    words = command.split(" ")
    dropped = {i for i, word in enumerate(words) if word in MACHINE_FACTS}
    return " ".join(word for i, word in enumerate(words) if i not in dropped and i - 1 not in dropped)


def page(records: list[Record], experiments: list[Path]) -> str:
    """The results as Markdown: every experiment, with the figure its file quotes and the records there are."""
    lines = [
        "# Results",
        "",
        "Made by `python tools/results.py` from the records in [docs/records](records); no figure is typed by hand.",
        "Test accuracy is measured once, on the checkpoint that validation chose. Where a command has",
        "`--data.validate_on_test true`, as the published runs, the test split validates: nothing is chosen by it, and",
        "the checkpoint of the last epoch is tested. The deviation is that of a share of so many test pictures.",
        "",
        "| experiment | published | test top-1 | top-5 | epochs | seed | time | record |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves = []
    for experiment in experiments:
        text = experiment.read_text(encoding="utf-8")
        published = re.search(r"^# .*?Published[^:]*: (.*?)[.;]?$", text, re.MULTILINE)[1]
        planned = yaml.safe_load(text)["trainer"]["max_epochs"]
        mine = [record for record in records if record["experiment"] == experiment.stem]
        if not mine:
            lines.append(f"| {experiment.stem} | {published} | no record | | {planned} | | | |")
        for record in mine:
            lines.append(row(record, published, planned))
            curves += ["", *curve(record)]
    return "\n".join([*lines, "", "## Learning curves", *curves, ""])


def row(record: Record, published: str, planned: int) -> str:
    """A line of the table."""
    top1, samples = record["metrics"]["test/top1"], record["metrics"]["samples"]
    deviation = (top1 * (1 - top1) / samples) ** 0.5
    epochs = f"{planned}" if record["epochs"] >= planned else f"**shortened: {record['epochs']} of {planned}**"
    name = identity(record)
    top5 = f"{100 * record['metrics']['test/top5']:.2f} %"
    time = f"{record['seconds'] / 60:.0f} min"
    link = f"[{record['name']}](records/{name}.json)"
    figure = f"**{100 * top1:.2f} %** ± {100 * deviation:.1f}"
    return (
        f"| {record['experiment']} | {published} | {figure} | {top5} | {epochs} | {record['seed']} | {time} | {link} |"
    )


def curve(record: Record) -> list[str]:
    """How a record was made, and its learning curve."""
    name, versions = identity(record), record["versions"]
    commit = (record["commit"] or "unknown")[:10]
    return [
        f"### {record['experiment']}, {record['name']}",
        "",
        f"`python {record['command']}`",
        "",
        f"{record['hardware']}; processes: {record['processes']}; precision: {record['precision']}; "
        f"torch {versions['torch']}, pytorch-lightning {versions['pytorch-lightning']}; commit {commit}.",
        "",
        f"![Loss and accuracy over the epochs](records/{name}.png)",
    ]


def identity(record: Record) -> str:
    """File name of a record, without its ending."""
    return f"{record['experiment']}-{record['name']}"


def main() -> None:
    """Add the named runs' records, then rebuild the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a tested run")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where records/ and results.md are")
    arguments = parser.parse_args()
    folder = arguments.docs / "records"
    folder.mkdir(parents=True, exist_ok=True)
    for run in arguments.runs:
        try:
            record = record_of(run)
        except ValueError as error:
            sys.exit(f"error: {error}")
        (folder / f"{identity(record)}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(run / "history.png", folder / f"{identity(record)}.png")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    experiments = sorted((PROJECT / "experiments").rglob("*.yaml"))
    (arguments.docs / "results.md").write_text(page(records, experiments), encoding="utf-8")


if __name__ == "__main__":
    main()
