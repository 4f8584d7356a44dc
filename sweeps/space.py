"""What a sweep tries: lists and ranges of values of an experiment's keys, as texts that main.py takes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

RANGE = re.compile(r"(log:)?([^:,\[\]{}]+):([^:,\[\]{}]+)")
WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Choices:
    """Values one of which is taken."""

    values: tuple[str, ...]

    @property
    def extremes(self) -> tuple[str, ...]:
        """Those that must be valid, so that all are."""
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; whole ones if both are, logarithmically even if ``log``."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def extremes(self) -> tuple[str, ...]:
        """Those that must be valid, so that all are."""
        return as_text(self.low), as_text(self.high)


Values = Choices | Range


def parsed(text: str) -> tuple[str, Values]:
    """The key and the values of ``KEY=A,B,C``, ``KEY=LOW:HIGH`` or ``KEY=log:LOW:HIGH``.

    Raises:
        ValueError: it is none of these.
    """
    key, equals, values = text.partition("=")
    key = key.removeprefix("--")
    if not key or not equals or not values:
        raise ValueError(f"{text} is no KEY=VALUES, like model.optimizer.lr=0.01,0.1 or data.batch_size=16:128")
    if not (found := RANGE.fullmatch(values)):
        return key, Choices(tuple(listed(values)))
    log, *ends = found.groups()
    try:
        whole = all(WHOLE.fullmatch(end) for end in ends)
        low, high = (int(end) if whole else float(end) for end in ends)
    except ValueError:
        raise ValueError(f"{text} is no range: {' and '.join(ends)} are not both numbers") from None
    if not (-math.inf < low < high < math.inf) or (log and low <= 0):
        raise ValueError(f"{text} is no range: the first number must be the smaller{', and above 0' * bool(log)}")
    return key, Range(low, high, bool(log), whole)


def listed(text: str) -> list[str]:
    """What commas separate, but for those within brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    if not all(parts) or len(set(parts)) < len(parts):
        raise ValueError(f"{text}: each value once, and none empty")
    return parts


def as_text(value: str | float) -> str:
    """A value as a flag has it."""
    return value if isinstance(value, str) else repr(value)


def as_flags(values: dict[str, str]) -> list[str]:
    """Keys and values as flags of main.py."""
    return [word for key, value in values.items() for word in (f"--{key}", value)]


def number(text: str) -> float | None:
    """The number that a text stands for, if it does."""
    try:
        return float(text)
    except ValueError:
        return None


def short_names(keys: Sequence[str]) -> list[str]:
    """The last parts of keys, as many as tell them apart."""
    for parts in range(1, max(key.count(".") for key in keys) + 2):
        names = [".".join(key.split(".")[-parts:]) for key in keys]
        if len(set(names)) == len(names):
            return names
    return list(keys)
