"""A random walk over settings: each draw takes values at random from the ranges that the settings name."""

import difflib
import math
import random
from collections.abc import Mapping
from typing import Any

import yaml

from sweeps.space import Range, Values, parsed

ATTEMPTS = 100  # to draw at least one layer whose share is not 0


def space_of(ranges: list[str], settings: Mapping[str, Any]) -> dict[str, Values]:
    """What is drawn, by key.

    Raises:
        ValueError: there is none, one is no KEY=VALUES, or there is no such key (names near ones).
    """
    if not ranges:
        raise ValueError(
            "--walk draws from `ranges`, and the settings have none; add lines like `- step=log:0.001:0.1`"
        )
    space = dict(parsed(text) for text in ranges)
    for key in space:
        name, _, inner = key.partition(".")
        if name not in settings or isinstance(settings[name], dict) != bool(inner):
            near = difflib.get_close_matches(name, settings, n=3, cutoff=0.5) or list(settings)
            raise ValueError(f"ranges: {key} is no setting with values; near are {', '.join(near)}")
    return space


def draw(
    settings: Mapping[str, Any], space: Mapping[str, Values], seed: int, number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with values at random, which follow from seed and number, and these values by key.

    A layer whose share is 0 is left out; where none would be left, all is drawn anew.

    Raises:
        ValueError: no attempt leaves a layer.
    """
    chance = random.Random(f"{seed} {number}")
    for _ in range(ATTEMPTS):
        values = {key: _value(each, chance) for key, each in space.items()}
        drawn = {key: dict(each) if isinstance(each, dict) else each for key, each in settings.items()}
        for key, value in values.items():
            name, _, inner = key.partition(".")
            if inner:
                drawn[name][inner] = value
            else:
                drawn[name] = value
        layers = [name for name in drawn if name.endswith("layers") and drawn[name]]
        for name in layers:
            drawn[name] = {layer: share for layer, share in drawn[name].items() if share != 0}
        if all(drawn[name] for name in layers):
            return drawn, values
    raise ValueError(f"ranges: in {ATTEMPTS} draws no layer had a share other than 0; widen the ranges of the layers")


def caption(number: int, values: Mapping[str, Any]) -> str:
    """A line for the number and for each value, without the layers that are left out."""
    shown = {
        key: value for key, value in values.items() if not (key.partition(".")[0].endswith("layers") and value == 0)
    }
    return "\n".join([f"#{number:02d}", *(f"{value} {key.partition('.')[2] or key}" for key, value in shown.items())])


def _value(values: Values, chance: random.Random) -> Any:
    if not isinstance(values, Range):
        return yaml.safe_load(chance.choice(values.values))
    if values.whole and not values.log:
        return chance.randint(int(values.low), int(values.high))
    ends = (math.log(values.low), math.log(values.high)) if values.log else (values.low, values.high)
    drawn = chance.uniform(*ends)
    drawn = float(f"{math.exp(drawn) if values.log else drawn:.3g}")  # short enough for a caption
    drawn = min(max(drawn, values.low), values.high)  # from which the digits may have led
    return round(drawn) if values.whole else drawn
