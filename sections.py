"""An object as a section of a configuration describes it: the path of its class, and its arguments."""

from collections.abc import Sequence
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

Kind = TypeVar("Kind")


def built(kind: type[Kind], name: str, settings: dict[str, Any] | None, flags: Sequence[str] = ()) -> Kind:
    """The object that a section describes.

    Args:
        kind: what its class must be, or derive from.
        name: of the section, with which the flags begin that change it: ``--data.batch_size``.
        settings: the section, ``class_path`` and ``init_args``; None where the flags tell all.
        flags: changes.

    Raises:
        argparse.ArgumentError: there is no such class or argument, or it cannot have such a value.
    """
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_subclass_arguments(kind, name, required=True, fail_untyped=False)  # as LightningCLI does
    section = [f"--{name}={yaml.safe_dump(settings, default_flow_style=True)}"] if settings else []
    return getattr(parser.instantiate(parser.parse_args([*section, *flags])), name)
