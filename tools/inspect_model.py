"""What a network is made of: index, name, kind, output shape, parameters of each layer, and whether it trains.

python tools/inspect_model.py experiments/EXPERIMENT.yaml [flags of main.py]
python tools/inspect_model.py --run FOLDER

Layers are those without parts of their own, in the order in which a picture passes them. A name can be given to
callbacks.Unfreeze, and its beginning names a block.
"""

import sys
import tempfile
from pathlib import Path

from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import Unfreeze, run_folder
from cli import CLI, experiment
from lightning_modules import Classifier, Network
from lightning_modules.layer_output import layers_passed
from lightning_modules.shapes import on_shapes
from terminal import command_line, plainly, screen


def layers_of(model: Network) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, module and output shape, without the batch, of each layer in the order of use; found on shapes alone.

    Raises:
        ValueError: it is no classifier.
    """
    if not isinstance(model, Classifier):
        raise ValueError(f"a {type(model).__name__} is no classifier, whose layers one picture passes in turn")
    with layers_passed(model.eval()) as passed:
        on_shapes(model, 1, 3, model.image_size, model.image_size)
    return [(name, model.get_submodule(name), shape[1:]) for name, shape in passed]


def frozen_names(cli: CLI) -> set[str]:
    """Parameters that do not train in the first epoch."""
    for callback in cli.trainer.callbacks:
        if isinstance(callback, Unfreeze):
            callback.on_fit_start(cli.trainer, cli.model)
    return {name for name, parameter in cli.model.named_parameters() if not parameter.requires_grad}


def grouped(number: int) -> str:
    """With a space between thousands."""
    return f"{number:,}".replace(",", " ")


def table_of(cli: CLI) -> Table:
    """A row for each layer, and the sums."""
    frozen = frozen_names(cli)
    total = sum(parameter.numel() for parameter in cli.model.parameters())
    training = total - sum(p.numel() for name, p in cli.model.named_parameters() if name in frozen)
    title = f"{type(cli.model).__name__}: {grouped(total)} parameters, {grouped(training)} of them train"
    table = Table("", "name", "kind", "output", "parameters", "", title=title)
    for index, (name, module, shape) in enumerate(layers_of(cli.model)):
        own = [f"{name}.{each}" for each, _ in module.named_parameters()]
        count = sum(parameter.numel() for parameter in module.parameters())
        state = "" if not own else "frozen" if set(own) <= frozen else "trains"
        size = grouped(count) if count else ""
        table.add_row(str(index), name, type(module).__name__, "x".join(map(str, shape)), size, state)
    for column in (0, 4):
        table.columns[column].justify = "right"
    return table


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("config", nargs="?", type=Path, metavar="EXPERIMENT.yaml")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of a run")
    arguments, flags = parser.parse_known_args()
    if (arguments.config is None) == (arguments.run is None):
        parser.error("give an experiment's YAML file, or a run's folder with --run")
    with plainly():
        config = arguments.config or run_folder.config_of(arguments.run)
        with tempfile.TemporaryDirectory() as folder:
            table = table_of(experiment(config, flags, Path(folder)))
        screen(width=160).print(table)


if __name__ == "__main__":
    main()
