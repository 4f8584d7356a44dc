"""What both tools do: settings from a YAML file and flags, one result or a walk over settings."""

from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from PIL import Image
from torch import Tensor

from cli import require_settings
from messages import Help, of_settings
from pictures import draw as draw_sheet
from pictures import named_picture, profile_of, require_new_folder, require_room
from predictor import default_device
from synthesis import walk
from synthesis.dream import DreamSettings
from synthesis.networks import NetworkSettings
from synthesis.result import Speed, write_result
from synthesis.step import Step
from synthesis.style import StyleSettings

Settings = TypeVar("Settings", DreamSettings, StyleSettings)
Steps = tuple[Iterable[Step], int, dict[str, bytes]]
"""The steps of a synthesis, how many there are at most, and the ICC profile of their pictures."""


def parser_of(kind: type[Settings], description: str) -> ArgumentParser:
    """Flags of a tool, and the keys of its YAML files."""
    parser = ArgumentParser(
        description=description, formatter_class=Help, exit_on_error=False, allow_abbrev=False, default_env=False
    )
    parser.add_argument("--config", action="config", help="a YAML file of settings; flags after it override them")
    parser.add_class_arguments(kind, None)
    parser.add_argument("--out", type=str, required=True, help="folder to write, which must be empty or not there")
    parser.add_argument("--save_every", type=int, default=0, help="keep the picture of every so many iterations")
    parser.add_argument("--walk", type=int, default=0, help="make so many pictures, with settings drawn from ranges")
    parser.add_argument("--device", default=default_device(), help="of torch")
    return parser


def run(
    kind: type[Settings],
    steps_of: Callable[[Settings, str], Steps],
    args: Sequence[str],
    description: str,
) -> None:
    """Make what the flags ask for.

    Args:
        kind: of the settings.
        steps_of: the steps of settings on a device.
        args: the flags.
        description: for ``--help``.

    Raises:
        ValueError: a flag or a setting is wrong, or a file is no picture.
        OSError: a file cannot be read or written.
    """
    parser = parser_of(kind, description)
    try:
        command = parser.parse_args(list(args))
        for file in command.config or []:
            require_settings(Path(file))
        settings = _settings(kind, command)
        if settings.network.checkpoint is not None:  # in a file of settings, too
            _refuse_replaced(command, args)
        if min(command.walk, command.save_every) < 0:
            raise ValueError("--walk and --save_every must be at least 0")
        require_new_folder(Path(command.out))
        if command.walk:
            _walk(parser, settings, steps_of, command)
        else:
            _, speed = _make(settings, steps_of, command, Path(command.out))
            print(f"{command.out}: {speed}")
    except ArgumentError as error:
        raise ValueError(of_settings(error, parser)) from error


def pixels_of(file: str, size: int | None) -> Tensor:
    """A picture file as float32 RGB ``(1, 3, H, W)``, 0..255, its longer side brought to a size if one is given.

    Raises:
        ValueError: it cannot be read, or the size is none.
    """
    if size is not None and size < 1:
        raise ValueError("--size and --style_size must be at least 1")
    array = named_picture(Path(file), None)
    if size is not None:
        scale = size / max(array.shape[:2])
        height, width = (max(1, round(side * scale)) for side in array.shape[:2])
        array = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC))
    return torch.tensor(array).permute(2, 0, 1)[None].float()


def profile_of_file(file: str) -> dict[str, bytes]:
    """The ICC profile of a picture file, if it is one of RGB; see ``profile_of``."""
    with Image.open(file) as image:
        return profile_of(image, "RGB")


def _settings(kind: type[Settings], command: Namespace) -> Settings:
    values = {field.name: command[field.name] for field in fields(kind)}
    network = NetworkSettings(**vars(command.network))
    if network.checkpoint is not None:
        network = replace(network, architecture=None, weights=None)
    return kind(**{**values, "network": network})


def _refuse_replaced(command: Namespace, args: Sequence[str]) -> None:
    """Refuse flags that a checkpoint takes the place of; those of a file are replaced."""
    given = {word.partition("=")[0] for word in args}
    for name in ("architecture", "weights"):
        if f"--network.{name}" in given and command.network[name] is not None:
            raise ValueError(
                f"--network.checkpoint takes the place of --network.{name}; leave that out, or add "
                "--network.checkpoint null"
            )


def _make(
    settings: Settings, steps_of: Callable[[Settings, str], Steps], command: Namespace, folder: Path
) -> tuple[np.ndarray, Speed]:
    """One result: its picture uint8 ``(H, W, 3)``, and how fast it went."""
    steps, total, profile = steps_of(settings, command.device)
    return write_result(folder, settings, steps, total, command.save_every, profile)


def _walk(
    parser: ArgumentParser, settings: Settings, steps_of: Callable[[Settings, str], Steps], command: Namespace
) -> None:
    """Draw all settings, then make a picture of each, then the sheet of those that were made, whatever ended that."""
    require_room(command.walk)
    plain = asdict(settings)
    space = walk.space_of(settings.ranges, plain)
    drawn = []
    for number in range(1, command.walk + 1):
        changed, values = walk.draw(plain, space, settings.seed_everything, number)
        checked = _settings(type(settings), parser.parse_object({**changed, "out": command.out}))
        drawn.append((checked, walk.caption(number, values)))
    _refuse_impossible([each for each, _ in drawn], steps_of, command.device)
    folder = Path(command.out)
    made: list[np.ndarray] = []
    try:
        for number, (each, _) in enumerate(drawn, start=1):
            made.append(_make(each, steps_of, command, folder / f"{number:02d}")[0])
    except ValueError as error:
        raise ValueError(f"draw {number}: {error}") from error
    finally:
        if made:
            count = f"{command.walk} draws" if len(made) == command.walk else f"{len(made)} of {command.walk} draws"
            sheet, titles = folder / "sheet.png", [title for _, title in drawn[: len(made)]]
            draw_sheet(made, titles, f"{count}, seed {settings.seed_everything}", sheet)
            print(f"{sheet}: {count}; one of them again, with changes: --config {folder}/NUMBER/settings.yaml")


def _refuse_impossible(drawn: Sequence[Settings], steps_of: Callable[[Settings, str], Steps], device: str) -> None:
    """Find out which draws cannot be made, before one takes its time.

    Raises:
        ValueError: there are some; names all, and says why of the first.
    """
    reasons = {}
    for number, settings in enumerate(drawn, start=1):
        try:
            steps_of(settings, device)
        except ValueError as error:
            reasons[number] = str(error)
    if reasons:
        numbers = ", ".join(map(str, reasons))
        raise ValueError(
            f"of {len(drawn)} draws these cannot be made, so none is: {numbers}; narrow --ranges, where their values "
            f"come from, or change what the first of them is told\ndraw {min(reasons)}: {reasons[min(reasons)]}"
        )
