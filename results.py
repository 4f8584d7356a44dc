"""The page of results, made from records alone: published figures beside ours."""

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jsonargparse import get_loader

from callbacks.provenance import abbreviated
from comparison import (
    FIGURE,
    Record,
    changed,
    changed_in_training,
    changed_since,
    epochs_of,
    few_pictures,
    figures_of,
    flags_with_figure,
    is_whole,
    other_files,
    other_flags,
    pictures_of,
    recipe_of,
    trained,
)
from fit_and_test import is_classifier

INTRODUCTION = """\
# Results

Made by `python tools/reproduce.py` from the records in [docs/records](records); no figure is typed by hand.
Test accuracy is measured once, on the checkpoint that validation chose. Where a command has
`--data.validate_on_test true`, as the published runs, the test split validates: nothing is chosen by it, and the
checkpoint of the last epoch is tested. The deviation is that over the seeds; of one seed, that of a share of so many
test pictures. Flags that a run had besides are named in its row, and in bold the settings of the experiment's file that
have changed since, or that were not recorded. A difference is given only where the run is still the published
experiment."""
WHOLE = """\
All the epochs, pictures and classes of the experiment. Of CIFAR-10 the checksums of the published files are known:
runs on other pictures, or on pictures of unknown origin, say so in bold. Copies that were compressed again have lost
something, and the difference includes what that costs."""
SCALED_DOWN = """\
Fewer epochs, pictures or classes than the experiment has, which is in bold: such a run shows that the experiment
trains, and its accuracy is not to be compared with the published one."""
read = get_loader("yaml")  # as main.py reads it: 1e-3 is a number
HEADS = ["experiment", "published", "ours", "difference", "top-5", "epochs", "pictures", "images/s", "time", "seeds"]


def page(records: list[Record], experiments: list[Path], more: list[str]) -> str:
    """Markdown: every experiment with the figure that its file quotes and the records there are; then ``more``."""
    whole, scaled_down, missing, curves = [], [], [], []
    for experiment in experiments:
        text = experiment.read_text(encoding="utf-8")
        settings = read(text)
        if not is_classifier(settings) or "EnsembleClassifier" in text:  # see below
            continue
        recipe = partial(recipe_of, settings)
        mine = sorted((r for r in records if r["experiment"] == experiment.stem), key=recipe)
        figures = figures_of(text)
        for _, runs in groupby(mine, recipe):
            group = list(runs)
            flags = flags_with_figure(figures, group[0]["command"])
            rows = whole if is_whole(group[0], settings) else scaled_down
            seeds = {record["seed"]: record for record in reversed(group)}  # a seed that was trained again has a row
            again = [[record] for record in group if record not in seeds.values()]
            for each in [[*reversed(seeds.values())], *again]:
                rows.append(row(each, figures[flags], settings, flags))
            for record in group:
                curves += ["", *curve(record)]
        had = {flags_with_figure(figures, record["command"]) for record in mine}
        for flags, figure in figures.items():
            if flags not in had:
                missing.append(f"| {experiment.stem}{f' `{flags}`' * bool(flags)} | {figure} | no record |")
    sections = [
        INTRODUCTION.splitlines(),
        ["## Whole runs", "", *WHOLE.splitlines(), *table(HEADS, whole)],
        ["## Scaled down", "", *SCALED_DOWN.splitlines(), *table(HEADS, scaled_down)],
        ["## Not run yet", *table(["experiment", "published", "ours"], missing), *more],
        ["## Records", *curves],
    ]
    return "\n".join(line for section in sections for line in (*section, ""))


def table(heads: Sequence[str], rows: Sequence[str]) -> list[str]:
    """Lines of a table, after an empty one; or that there is nothing to show."""
    if not rows:
        return ["", "None."]
    return ["", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *rows]


def ensembles(records: list[Record], experiments: Path) -> list[str]:
    """The table of ensembles: their members differ by their seeds alone."""
    lines = [
        "",
        "## Ensembles",
        "",
        "The mean of the members' probabilities (`tools/train_ensemble.py`); the deviation is that over the members.",
        "",
        "| members | published | one, test accuracy | the best | the ensemble | gain over the best | epochs | record |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        accuracies = list(record["members"].values())
        experiment = read((experiments / f"{record['experiment']}.yaml").read_text(encoding="utf-8"))
        files = (file.read_text(encoding="utf-8") for file in sorted(experiments.glob("ensemble_*.yaml")))
        quoted = next((figures_of(text)[""] for text in files if f"runs/{record['experiment']}/" in text), "")
        cells = [
            f"{len(accuracies)} of {record['experiment']}{few_pictures(record)}{other_files(record)}",
            quoted,
            f"{100 * record['mean']:.2f} % ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else "",
            f"{100 * max(accuracies):.2f} %",
            f"**{100 * record['ensemble']:.2f} %**",
            f"{100 * (record['ensemble'] - max(accuracies)):+.2f}",
            trained(record, epochs_of(experiment)),
            f"[{record['name']}](records/ensembles/{quote(identity(record))}.json)"
            + changed(record)
            + changed_in_training(record)
            + changed_since(record, experiment),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if records else []


def linear(records: dict[str, Record], experiments: Path) -> list[str]:
    """The table of linear classifiers on the features of a network that was trained on something else.

    Args:
        records: by the names of their files.
        experiments: folder of the files that quote a published figure, for records of the same name.
    """
    figures = {
        f"{file.stem}.linear.json": figures_of(file.read_text(encoding="utf-8"))[""]
        for file in sorted(experiments.glob("features_*.yaml"))
    }
    lines = [
        "",
        "## Linear classifiers on features",
        "",
        "Logistic regression on what a layer of a trained network gives (`tools/extract_features.py`,",
        "`tools/train_linear.py`); C by cross-validation on the training rows. The deviation is that of a share of so",
        "many test pictures.",
        "",
        "| features | published | layer | pixels | values | training pictures | C | test rank-1 | rank-5 | record |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in records.items():
        features, test = record["features"], record["test"]
        deviation = (test["rank1"] * (1 - test["rank1"]) / test["samples"]) ** 0.5
        cells = [
            f"{features['backbone']} on {features['data'].rpartition('.')[2]}",
            figures.get(name, "none"),
            features["layer"],
            str(features["input_size"]),
            str(features["shape"][1]),
            str(record["training_samples"]),
            f"{record['C']:g}",
            f"**{100 * test['rank1']:.2f} %** ± {100 * deviation:.1f}",
            f"{100 * test['rank5']:.2f} %" if test["rank5"] is not None else "",
            f"[{Path(name).stem}](records/linear/{quote(name)})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name in sorted(figures.keys() - records.keys()):
        lines.append(f"| {name.partition('.')[0]} | {figures[name]} | no record | | | | | | | |")
    return lines


def row(runs: list[Record], quoted: str, experiment: dict[str, Any], flags: str = "") -> str:
    """A line of the table, of runs that differ by their seeds.

    Args:
        quoted: the published figure.
        flags: that it is of.
    """
    record, samples = runs[0], runs[0]["metrics"]["samples"]
    planned, pictures = epochs_of(experiment), pictures_of(record)
    epochs, few, since = trained(record, planned), few_pictures(record), changed_since(record, experiment)
    others = changed_in_training(record) or other_flags(record, flags)
    comparable = epochs == str(planned or record["epochs"]) and not few and not since and not others
    figure = FIGURE.search(quoted)
    on_validation = bool(figure) and figure[2] == "validation"
    if on_validation and any(run["validation"]["val/top1"] is None for run in runs):
        on_validation = comparable = False  # there was none
    measured, split = ("validation", "val") if on_validation else ("metrics", "test")
    values = [run[measured][f"{split}/top1"] for run in runs]
    mean = statistics.mean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
    else:
        deviation = (mean * (1 - mean) / (record["samples"]["val"] if on_validation else samples)) ** 0.5
    rank5 = [run[measured].get(f"{split}/top5") for run in runs]
    top5 = "" if None in rank5 else f"{100 * statistics.mean(rank5):.2f} %"
    speeds = [run["images_per_second"] for run in runs if run["images_per_second"]]  # early runs have none
    cells = [
        record["experiment"],
        quoted,
        f"**{100 * mean:.2f} %** ± {100 * deviation:.1f}" + " in validation" * on_validation,
        f"{100 * mean - float(figure[1]):+.2f}" if figure and comparable else "",
        top5,
        epochs,
        (few.removeprefix(", ") or f"{pictures}") + other_files(record),
        f"{statistics.median(speeds):.0f}" if speeds else "",
        f"{statistics.mean(run['seconds'] for run in runs) / 60:.0f} min",
        f"{len(runs)}: "
        + ", ".join(f"[{run['name']}](records/{quote(identity(run))}.json)" for run in runs)
        + changed(record)
        + changed_in_training(record)
        + since,
    ]
    return f"| {' | '.join(cells)} |"


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
        f"![Loss and accuracy over the epochs](records/{quote(identity(record))}.png)",
    ]


def identity(record: Record) -> str:
    """File name of a record, without its ending."""
    return f"{record['experiment']}-{record['name']}"
