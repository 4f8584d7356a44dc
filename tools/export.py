"""Export a trained network with its preprocessing inside; only a file that says what the network says is written.

python tools/export.py NETWORK FILE.onnx|FILE.pt2|FILE.safetensors [--check PICTURES [PICTURES ...]]

ONNX and torch.export files take pictures uint8 RGB (B, S, S, 3), any B, of the stored size S, and give probabilities
float32 (B, C); S and the names of the classes are in the file. A .safetensors file holds the weights, the
configuration and the preprocessing: tools take it in the place of a checkpoint. Needs `pip install -e '.[export]'`, of
torch.export alone nothing. --check compares on these pictures instead of noise.
"""

import io
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.whole_file import whole_file
from lightning_modules.saved import save_weights
from pictures import listed, named_picture
from predictor import Predictor
from terminal import command_line, plainly

TOLERANCE = 1e-4  # between probabilities
BATCH = 50
SUFFIXES = (".onnx", ".pt2", ".safetensors")
ANY_BATCH = {"images": {0: torch.export.Dim("batch", min=1)}}

Runner = Callable[[np.ndarray], np.ndarray]


def export_onnx(predictor: Predictor, file: Path) -> Runner:
    """Write the file, and give what runs it."""
    import onnx
    import onnxruntime

    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            predictor,
            (_example(predictor),),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=ANY_BATCH,
            verbose=False,
        )
    model = program.model_proto
    onnx.helper.set_model_props(model, _facts(predictor))
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def export_torch(predictor: Predictor, file: Path) -> Runner:
    """Write the file, and give what runs it."""
    program = torch.export.export(predictor, (_example(predictor),), dynamic_shapes=ANY_BATCH)
    content = io.BytesIO()  # where the disk is full, torch would end the process as it writes a file
    torch.export.save(program, content, extra_files={"facts.json": json.dumps(_facts(predictor))})
    file.write_bytes(content.getbuffer())
    module = torch.export.load(file).module()
    return lambda images: module(torch.from_numpy(images)).numpy()


def export_weights(network: str, file: Path) -> Runner:
    """Write the file, and give what runs it."""
    save_weights(network, file)
    predictor = Predictor.load(file)
    return lambda images: predictor(torch.from_numpy(images)).numpy()


def _example(predictor: Predictor) -> torch.Tensor:
    return torch.zeros(2, predictor.stored_size, predictor.stored_size, 3, dtype=torch.uint8)


def _facts(predictor: Predictor) -> dict[str, str]:
    return {"classes": json.dumps(predictor.classes), "stored_size": str(predictor.stored_size)}


def pictures_to_check(places: Sequence[str], size: int) -> np.ndarray:
    """Pictures uint8 ``(N, size, size, 3)``: those of files and folders, or noise where none is named."""
    if not places:
        return np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    return np.stack([named_picture(Path(place), size) for place in listed(places)])


@torch.inference_mode()
def largest_difference(predictor: Predictor, runner: Runner, images: np.ndarray) -> float:
    """The largest between two probabilities of the same class and picture; infinite where one is no number."""
    differences = [
        np.abs(predictor(torch.from_numpy(batch)).numpy() - runner(batch)).max()
        for batch in np.split(images, range(BATCH, len(images), BATCH))
    ]
    return float(np.nan_to_num(np.max(differences), nan=np.inf))


def main() -> None:
    """Export and check; until that is done, an earlier file stays as it is."""
    parser = command_line(__doc__)
    parser.add_argument("network", metavar="NETWORK", help="a run's folder or a checkpoint")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--check", nargs="+", default=[], metavar="PICTURES", help="files or folders")
    arguments = parser.parse_args()
    file = arguments.file
    with plainly(extra="export"):
        if file.suffix not in SUFFIXES:
            raise ValueError(f"{file} must end with .onnx, .pt2 or .safetensors")
        predictor = Predictor.load(arguments.network)
        images = pictures_to_check(arguments.check, predictor.stored_size)
        target = file.resolve()  # what a link leads to
        with whole_file(target) as partial, TemporaryDirectory(dir=target.parent) as folder:
            unproven = Path(folder, file.name)  # what writes and reads it goes by the suffix
            match file.suffix:
                case ".onnx":
                    runner = export_onnx(predictor, unproven)
                case ".pt2":
                    runner = export_torch(predictor, unproven)
                case ".safetensors":
                    runner = export_weights(arguments.network, unproven)
            difference = largest_difference(predictor, runner, images)
            if difference > TOLERANCE:
                raise ValueError(
                    f"what was exported differs by {difference:.1e} from the network, so {file} was not written; "
                    "export to another format"
                )
            unproven.rename(partial)
        kind = "given pictures" if arguments.check else "pictures of noise"
        print(
            f"{file}: {file.stat().st_size / 1e6:.1f} MB, largest difference {difference:.1e} on {len(images)} {kind}"
        )


if __name__ == "__main__":
    main()
