"""A record beside its experiment's file: what was trained less, or otherwise, than the file says now."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from datamodules import ImageDataModule

PUBLISHED = re.compile(r"Published(?: with (--[^:]+))?: (.*?)\.?$", re.MULTILINE)
FIGURE = re.compile(r"([\d.]+) % (test|validation) accuracy")
SAME_EXPERIMENT = re.compile(  # flags beside which a published figure still says what to expect
    r"(data\.(validate_on_test|resident)|trainer\.(accelerator|devices|num_nodes|strategy|precision))\b"
    r"|trainer\.callbacks\+ callbacks\.(ChannelsLast|Compile)$"
)
FEWER_BATCHES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")
TOLD_ELSEWHERE = ("then", "seed_everything", "trainer.max_epochs", "trainer.limit_train_batches")

Record = dict[str, Any]


def without_seed(record: Record) -> str:
    """The command that runs with other seeds share."""
    return re.sub(r" --seed_everything[ =]\d+", "", record["command"])


class Flag(NamedTuple):
    """A flag: its name, with a ``+`` where it appends to a list, its value, and both as they were typed."""

    name: str
    value: str
    typed: str


def flags_of(command: str) -> Iterator[Flag]:
    """The flags of a command, under one name each: ``--model.depth`` may have ``init_args`` in it."""
    words = ["--config" if word == "-c" else word for word in shlex.split(command)]
    for word, following in pairwise([*words, "--"]):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            alone = bool(equals) or following.startswith("--")
            typed = shlex.join([word] if alone else [word, following])
            name = "model.optimizer.lr" if name == "lr" else name.replace(".init_args", "")
            yield Flag(name, value if alone else following, typed)


def trained(record: Record, planned: int | None) -> str:
    """The epochs of a run, in bold where they, or their batches, are fewer than the experiment says."""
    if not is_shortened(record, planned):
        return str(record["epochs"])
    share = record["config"]["trainer"].get("limit_train_batches")
    of_all = f" of {planned}" * bool(planned)
    part = f", of {share} batches" * bool(share and (share < 1 or isinstance(share, int)))
    return f"**shortened: {record['epochs']}{of_all}{part}**"


def is_shortened(record: Record, planned: int | None) -> bool:
    """Whether there were fewer epochs, where a number is planned, or fewer batches in them."""
    limits = (record["config"]["trainer"].get(name) or 1.0 for name in FEWER_BATCHES)
    return record["epochs"] < (planned or 0) or any(limit != 1 or isinstance(limit, int) for limit in limits)


def epochs_of(experiment: dict[str, Any]) -> int | None:
    """How many an experiment's file plans; None where steps or hours end the training."""
    return experiment["trainer"].get("max_epochs")


def figures_of(experiment: str) -> dict[str, str]:
    """The published figures that an experiment's file quotes, by the flags that they are of; its own is of none."""
    quoted = PUBLISHED.findall(experiment.replace("\n# ", "\n"))
    return {"": "none"} | {flags or "": figure for flags, figure in quoted}


def flags_with_figure(figures: dict[str, str], command: str) -> str:
    """The flags in a command that have a published figure."""
    given = values_of(command)
    return next((flags for flags in figures if flags and values_of(flags) <= given), "")


def values_of(command: str) -> set[tuple[str, str]]:
    """The names and values of the flags in a command, however they were typed."""
    return {(flag.name, flag.value) for flag in flags_of(command)}


def is_whole(record: Record, experiment: dict[str, Any]) -> bool:
    """Whether a run had all that the experiment's file says."""
    return not is_shortened(record, epochs_of(experiment)) and not has_few_pictures(record)


def has_few_pictures(record: Record) -> bool:
    """Whether clearly fewer than the data set has; some are lost where those that cannot be read are left out."""
    official = data_set(record).official_samples
    return bool(official) and pictures_of(record) < 0.99 * official


def pictures_of(record: Record) -> int:
    """How many there were, in all splits."""
    samples = record["samples"]
    twice = samples["val"] if record["config"]["data"]["init_args"]["validate_on_test"] else 0
    return sum(samples.values()) - twice


def changed(record: Record) -> str:
    """The settings that a command gives besides how much is trained."""
    flags = " ".join(flag.typed for flag in told_flags(record))
    return f" with `{flags}`" if flags else ""


def told_flags(record: Record) -> list[Flag]:
    """The flags of a run that no other column tells."""
    own = ("config", record["experiment"])
    given = [flag for flag in flags_of(record["command"]) if flag.name not in TOLD_ELSEWHERE]
    return [flag for flag in given if (flag.name, Path(flag.value).stem) != own]


def other_flags(record: Record, flags: str) -> list[Flag]:
    """Those that make another experiment of it than a published figure is of.

    Args:
        flags: that the figure is of.
    """
    told = [flag for flag in told_flags(record) if (flag.name, flag.value) not in values_of(flags)]
    return [flag for flag in told if not SAME_EXPERIMENT.match(f"{flag.name} {flag.value}")]


def changed_in_training(record: Record) -> str:
    """The settings that changed where a run was continued, whatever they are at its end."""
    names = ", ".join(f"`{name.replace('.init_args', '')}`" for name in record.get("changed") or ())  # early: none told
    return f", **{names} changed in training**" if names else ""


def recipe_of(experiment: dict[str, Any], record: Record) -> tuple[str, str, str, str, str, int]:
    """What the runs of a row share."""
    settings = changed(record), changed_in_training(record), changed_since(record, experiment)
    return *settings, other_files(record), trained(record, epochs_of(experiment)), pictures_of(record)


def changed_since(record: Record, experiment: dict[str, Any]) -> str:
    """The settings of an experiment's file, as it is, that a run had not, for all that its command says."""
    file = {section: experiment[section] for section in ("model", "data", "trainer") if section in experiment}
    given = [*(flag.name for flag in flags_of(record["command"])), "trainer.max_epochs"]
    longer = [name.removesuffix("+") for name in given if name.endswith("+")]
    names = dict.fromkeys(name.replace(".init_args", "") for name in unlike(file, record["config"], longer))
    names = [name for name in names if not any(name == flag or name.startswith(f"{flag}.") for flag in given)]
    return f", **before {', '.join(f'`{name}`' for name in names)}**" if names else ""


def unlike(asked: Any, had: Any, longer: Sequence[str] = (), name: str = "") -> Iterator[str]:
    """Names of what is asked for in a configuration that has something else there, or nothing.

    Args:
        longer: names of the lists to which the configuration may add.
    """
    if isinstance(asked, dict):
        had = {str(key): value for key, value in had.items()} if isinstance(had, dict) else {}
        for key, value in asked.items():
            yield from unlike(value, had.get(str(key)), longer, f"{name}.{key}".lstrip("."))
    elif isinstance(asked, list) and isinstance(had, list) and (len(asked) == len(had) or name in longer):
        for one, other in zip_longest(asked, had[: len(asked)]):
            yield from unlike(one, other, longer, name)
    elif asked != had:
        yield name


def few_pictures(record: Record) -> str:
    """How many pictures and classes there were, where these are not all pictures."""
    if not has_few_pictures(record):
        return ""
    classes, official = record.get("classes"), data_set(record).official_classes  # early runs do not say
    fewer = f", {classes} of {official} classes" if classes and official and classes < official else ""
    return f", **{pictures_of(record)} of {data_set(record).official_samples}{fewer}**"


def other_files(record: Record) -> str:
    """What is known of the pictures where the data set's files have checksums, and these were not found."""
    official = record.get("official")  # early records do not say
    if official or not data_set(record).official_files:
        return ""
    return ", **files not checked**" if official is None else ", **not the published files**"


def data_set(record: Record) -> type[ImageDataModule]:
    """What a run was trained on."""
    return resolve_name(record["config"]["data"]["class_path"])
