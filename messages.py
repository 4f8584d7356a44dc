"""What a user reads besides results: errors in at most five lines, and no warning that nobody can act on."""

import argparse
import difflib
import errno
import inspect
import logging
import os
import re
import sys
import warnings
from pkgutil import resolve_name

import torch
from jsonargparse import ArgumentParser, DefaultHelpFormatter

UNHELPFUL = (
    "LightningCLI's args parameter",
    "`isinstance(treespec, LeafSpec)` is deprecated",
    "\n    Dump of a value that does not round-trip",  # a tuple in the resolved configuration
    "You are using a custom batch sampler",
    "It is recommended to use `self.log(",  # metrics are reduced before they are logged
    "The number of training batches (",  # is smaller than log_every_n_steps: every epoch is logged
    "The '.*dataloader' does not have many workers",
    "You're resuming from a checkpoint that ended before the epoch ended",  # the datamodule goes on where it stopped
    "You passed in a `val_dataloader` but have no `validation_step`",  # a generator has nothing to validate
    "Checkpoint directory .* exists and is not empty",
    "`ModelCheckpoint(monitor=",  # is not there yet: validation comes in a later epoch
)
IGNORED = r"Argument\(s\) .* not valid for transform"  # what albumentations only warns of

MAX_LINES, MAX_WIDTH = 5, 300

# Of a failed union, jsonargparse names every branch; these lines tell nothing that the others do not.
NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:|Given value type: |Given value: (NestedArg|Namespace|\[|\{)"
    r"|Expected a <class 'NoneType'>|Subclass types expect|a (class path|dict) |Not a valid subclass"
    r"|Import path .* does not correspond|Expected a path but|$"
)


GO_ON = "A training goes on from its last checkpoint: main.py fit --continue FOLDER"
ROOM = f"make room on that disk, then give the command again. {GO_ON}"
NO_FOLDER = "a file stands where a folder is needed; choose another folder"
DISK = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "the system limits the size of files there (`ulimit -f`)",
    errno.EROFS: "choose a folder that can be written; packed sets go to --data.root, runs to the current folder",
    errno.EACCES: "its permissions do not allow that; change them, or choose another folder",
    errno.EPERM: "its permissions do not allow that; change them, or choose another folder",
    errno.EIO: f"look after the disk. {GO_ON}",
    errno.ESTALE: f"the file was replaced or its server was restarted. {GO_ON}",
    errno.EEXIST: NO_FOLDER,
    errno.ENOTDIR: NO_FOLDER,
    errno.EISDIR: "name a file",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n 65536`",
}
FORMS = {"list": "'[A, B]'", "dict": "'{NAME: 1.0}'"}
MEMORY = f"take a smaller --data.batch_size, or fewer --data.num_workers. {GO_ON}"


class Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The parser's help, with the lines of its epilog kept."""


def quieten() -> logging.Logger:
    """Silence the libraries' unhelpful words, and let a setting that one would ignore be an error.

    Gives the program's own log, which prints what it is told.
    """
    warnings.filterwarnings("error", IGNORED)
    for text in UNHELPFUL:
        warnings.filterwarnings("ignore", text if ".*" in text else re.escape(text))
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda r: "Tip:" not in r.getMessage())
    log = logging.getLogger("litvision")
    log.setLevel(logging.DEBUG)
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.INFO)
    log.handlers = [console]
    return log


def message(error: Exception, memory: str = MEMORY) -> str:
    """The error's text without what only a developer of the libraries needs.

    Args:
        memory: what to do where it is not enough.
    """
    text = _meaning(error, memory) or str(error) or repr(error)
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    if "Original Traceback" in text:  # raised in a worker process, with its traceback as the text
        lines = [re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1])]
    told: list[str] = []
    for line in dict.fromkeys(line for line in lines if not NOISE.match(line)):
        line = re.sub(r"""^(Parser key "(.+)"|Problem with given class_path '(.+)'):$""", r"\2\3:", line)
        line = re.sub(r"^Type typing.Callable.* callable class: ", "", line)
        if told and told[-1].endswith(":"):  # a place, and what is wrong there
            told[-1] += " " + line
        else:
            told.append(line)
    if told and told[-1].endswith(":"):  # and all that is said of the place is noise
        told[-1] += " " + next((line for line in lines if line.startswith("Import path")), lines[-1])
    told = told[: MAX_LINES - 1]
    if isinstance(error, argparse.ArgumentError):
        told.append(_remedy(text))
    told = told or [repr(error)]
    return "\n".join(["error: " + told[0][:MAX_WIDTH], *("  " + line[:MAX_WIDTH] for line in told[1:])])


def of_settings(error: argparse.ArgumentError, parser: ArgumentParser) -> str:
    """What is wrong with a tool's flags or YAML file, with settings near a name that its parser does not know."""
    text = re.sub(r'Parser key "(.+)":\s*', r"\1: ", str(error))
    unknown = re.search(r"(?:unrecognized arguments: --|[Oo]ption '|[Kk]ey ')([\w.]+)", text)
    if not unknown:
        form = re.search(r"Expected a <class '(list|dict)'>", text)
        return f"{text}; write it like {FORMS[form[1]]}" if form else text
    near = difflib.get_close_matches(unknown[1], parser.get_defaults().keys(), n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(near)}?" if near else "--help lists all"
    return f"there is no setting {unknown[1]}; {remedy}"


def _meaning(error: Exception, memory: str) -> str | None:
    """What a full disk, too little memory, the end of a loader process or a batch of one means; None for others."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        place = f"{error.filename} cannot be opened or written" if error.filename else "a file cannot be written"
        return f"{place}: {os.strerror(error.errno).lower()}; {DISK[error.errno]}"
    if (
        isinstance(error, MemoryError)
        or "MemoryError" in text
        or "out of memory" in text
        or "can't allocate memory" in text
    ):
        wanted = re.search(r"(allocate|allocated) ([\d.]+ \w+)", text)
        return f"memory is not enough{f' for {wanted[2]} more' if wanted else ''}; {memory}"
    if "Expected more than 1 value per channel" in text:
        return "BatchNorm cannot train on a single picture; take a --data.batch_size of at least 2 for each process"
    ends = r"DataLoader worker \(pid\S* ([\d, ]+)\) (?:is killed by signal: (\w+ ?\w*)|exited)"
    if ended := re.search(ends, f"{error.__cause__} {text}"):  # the cause may know the signal
        return f"loader process {ended[1]} {_what_killed(ended[2])}"
    return None


def _what_killed(signal: str | None) -> str:
    """How a loader process ended, and what to do about it."""
    if signal == "Bus error":
        return (
            "read what is not there: a shard was cut short meanwhile (tools/shards.py verify), or the shared memory "
            f"/dev/shm is full (fewer --data.num_workers). {GO_ON}"
        )
    if signal in (None, "Killed"):
        return f"was killed, as the system does when memory runs out, or ended by itself; {MEMORY}"
    return f"ended with {signal}; --data.num_workers 0 does without. {GO_ON}"


def _remedy(text: str) -> str:
    """Names that were probably meant, for an option or a class that is not there."""
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        owners = re.findall(r"class_path[ =]'([\w.]+)'", text[: found.start()] + text[found.end() :].partition("\n")[0])
        wanted, known = found[1], ["seed_everything", "model", "data", "trainer"]
        if owners:
            known = list(inspect.signature(resolve_name(owners[-1])).parameters)
    elif found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        wanted, known = found[2], [name for name in vars(resolve_name(found[1])) if name[0].isupper()]
    elif found := re.search(r'optimizer":.*Expected a dot import path string: (\w+)', text, re.DOTALL):
        wanted, known = found[1], [name for name in vars(torch.optim) if name[0].isupper() and name != "Optimizer"]
    else:
        return "`--help` lists the flags, `--data.help datamodules.CIFAR10` those of a class"
    names = {name.lower(): name for name in known}
    near = [names[name] for name in difflib.get_close_matches(wanted.lower(), names, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(known)}"
